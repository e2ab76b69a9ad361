//! `caprock crds`: the CustomResourceDefinitions, to install on a cluster.

use crate::cli;
use crate::exit::Failure;
use crate::output::{self, Format};

pub(crate) fn run(args: &cli::Crds) -> Result<(), Failure> {
    let crds = model::api::crds();
    match args.output {
        Format::Json => output::result(&format!(
            "{}\n",
            serde_json::to_string_pretty(&list(&crds))?
        ))?,
        Format::Yaml | Format::Text => {
            let documents = crds
                .iter()
                .map(output::yaml)
                .collect::<Result<Vec<_>, _>>()?;
            output::result(&documents.join("---\n"))?;
        }
    }
    Ok(())
}

/// One object for programs that read a single JSON value; `kubectl apply -f -` takes it too.
fn list<T: serde::Serialize>(items: &[T]) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})
}
