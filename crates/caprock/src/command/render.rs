//! `caprock render`: the rendered MachineConfig of each pool in some manifests, without a server.

use anyhow::anyhow;
use kube::ResourceExt;
use model::render;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::manifests::Manifests;
use crate::output::{self, Format};

pub(crate) fn run(args: &cli::Render) -> Result<(), Failure> {
    let Manifests {
        mut pools,
        configs,
        defaults,
        ..
    } = Manifests::read(&args.filename)?;
    let defaults = defaults.unwrap_or_default();
    pools.retain(|pool| {
        args.pool
            .as_ref()
            .is_none_or(|name| pool.name_any() == *name)
    });
    if pools.is_empty() {
        return Err(refused(match &args.pool {
            Some(name) => anyhow!("the manifests have no MachineConfigPool `{name}`"),
            None => anyhow!("the manifests have no MachineConfigPool"),
        }));
    }
    let mut rendered = Vec::new();
    for pool in &pools {
        let result = render::render(pool, &configs, &defaults);
        rendered.push(result.map(|rendered| rendered.config).map_err(|error| {
            refused(anyhow!(error).context(format!("cannot render pool `{}`", pool.name_any())))
        })?);
    }
    let text = match (args.output, rendered.as_slice()) {
        (Format::Json, [only]) => serde_json::to_string_pretty(only)? + "\n",
        (Format::Json, several) => serde_json::to_string_pretty(several)? + "\n",
        (Format::Yaml | Format::Text, several) => several
            .iter()
            .map(output::yaml)
            .collect::<Result<Vec<_>, _>>()?
            .join("---\n"),
    };
    Ok(output::result(&text)?)
}
