//! `caprock render`: the rendered MachineConfig of each pool in some manifests, without a server.

use std::io::Read;

use anyhow::{Context, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use kube::ResourceExt;
use model::api::{MachineConfig, MachineConfigPool};
use model::manifest::{self, Object};
use model::render::{self, Defaults};

use crate::cli;
use crate::exit::{Failure, refused};
use crate::output::{self, Format};

/// Longest manifest that is read.
const MAX_BYTES: u64 = 16 << 20;

pub(crate) fn run(args: &cli::Render) -> Result<(), Failure> {
    let mut pools: Vec<MachineConfigPool> = Vec::new();
    let mut configs: Vec<MachineConfig> = Vec::new();
    for (name, text) in read_all(&args.filename)? {
        let objects = manifest::parse(&text)
            .map_err(|error| refused(anyhow!(error).context(format!("`{name}` is not valid"))))?;
        for object in objects {
            match object {
                Object::MachineConfigPool(pool) => pools.push(*pool),
                Object::MachineConfig(config) => configs.push(*config),
                // Neither makes a difference to what is rendered.
                _ => {}
            }
        }
    }
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
        let result = render::render(pool, &configs, &Defaults::default());
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

/// The texts of files, of the manifests in directories, and of standard input, each with its name.
fn read_all(paths: &[Utf8PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        if path == "-" {
            texts.push((
                "standard input".to_owned(),
                bounded(std::io::stdin(), "standard input")?,
            ));
        } else if path.is_dir() {
            let mut files = Vec::new();
            for entry in path
                .read_dir_utf8()
                .with_context(|| format!("failed to read `{path}`"))?
            {
                let file = entry?.into_path();
                if matches!(file.extension(), Some("yaml" | "yml" | "json")) && file.is_file() {
                    files.push(file);
                }
            }
            files.sort();
            for file in files {
                texts.push((file.to_string(), read(&file)?));
            }
        } else {
            texts.push((path.to_string(), read(path)?));
        }
    }
    Ok(texts)
}

fn read(path: &Utf8Path) -> Result<String, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|error| refused(anyhow!(error).context(format!("failed to open `{path}`"))))?;
    bounded(file, path.as_str())
}

fn bounded(reader: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    reader
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("failed to read `{name}`"))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refused(anyhow!(
            "`{name}` is longer than {MAX_BYTES} bytes"
        )));
    }
    Ok(text)
}
