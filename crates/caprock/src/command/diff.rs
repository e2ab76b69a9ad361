//! `caprock diff`: how two configurations differ, with contents as a unified difference.

use anyhow::anyhow;
use camino::Utf8Path;
use kube::Api;
use model::api::MachineConfig;
use model::diff::{self, Difference};
use model::update::Version;

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output;
use crate::side::{self, Side};

pub(crate) async fn run(args: cli::Diff) -> Result<(), Failure> {
    let from = read(&args.from, &args).await?;
    let to = read(&args.to, &args).await?;
    let found = diff::between(&from, &to);
    Ok(output::value(args.output, &found, |found| text(found))?)
}

/// A file, a directory, or else a MachineConfig on the server.
async fn read(what: &str, args: &cli::Diff) -> Result<Version, Failure> {
    let path = Utf8Path::new(what);
    if what == "-" || path.exists() {
        return Ok(Side::read(path, args.pool.as_deref())?.version);
    }
    if what.contains('/') || what.ends_with(".yaml") || what.ends_with(".json") {
        return Err(refused(anyhow!("there is no file `{what}`")));
    }
    let configs: Api<MachineConfig> = Api::all(client(&args.cluster).await?);
    match configs.get_opt(what).await? {
        Some(config) => side::version(&config),
        None => Err(refused(anyhow!(
            "`{what}` is no file, no directory and no MachineConfig on the server"
        ))),
    }
}

fn text(found: &[Difference]) -> String {
    if found.is_empty() {
        return "no difference\n".to_owned();
    }
    found.iter().map(ToString::to_string).collect()
}
