//! `caprock install`: applies what Caprock is on a cluster and waits until it runs.

mod apply;
mod objects;
mod pods;
mod ready;
mod uninstall;

use anyhow::anyhow;
use model::ownership::Found;
use tokio::time::Instant;

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output::{self, Format};
use crate::ownership::look;
use apply::Cluster;
use objects::Choice;

pub(crate) use uninstall::run as uninstall;

/// The namespace of the parts.
const SYSTEM: &str = "caprock-system";

pub(crate) async fn run(args: cli::Install) -> Result<(), Failure> {
    let mut objects = objects::chosen(&Choice {
        image: &args.image,
        builder_image: args.builder_image.as_deref(),
        pull_secrets: &args.image_pull_secret,
        builders: args.builders,
        builder_mode: args.builder_mode,
        with: &args.with,
    })
    .map_err(refused)?;
    if args.print {
        return print(args.output, &objects);
    }
    let deadline = Instant::now() + args.timeout.unsigned_abs();
    let client = client(&args.cluster).await?;
    if look(&client).await?.operator != Found::Absent {
        objects.retain(objects::stands_beside_another_operator);
        output::words(
            "this cluster has the Machine Config Operator: its definitions stay as they are, the conversion webhook is left \
             out, and Caprock looks on until `caprock takeover`\n",
        );
    }
    let mut cluster = Cluster::new(client.clone());
    for object in &objects {
        if cluster.apply(object).await? {
            output::words(&format!("applied {}\n", objects::name(object)));
        }
    }
    if args.no_wait {
        return Ok(());
    }
    ready::wait(&client, &objects, deadline).await?;
    output::words("Caprock is ready\n");
    Ok(())
}

fn print(format: Format, objects: &[serde_json::Value]) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
            output::result(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        }
        Format::Yaml => {
            let documents = objects.iter().map(output::yaml);
            output::result(&documents.collect::<Result<Vec<_>, _>>()?.join("---\n"))?;
        }
        Format::Text => {
            return Err(refused(anyhow!(
                "`-o text`: objects are printed as `yaml` or `json`"
            )));
        }
    }
    Ok(())
}
