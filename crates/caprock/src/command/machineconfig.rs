//! `caprock machineconfig`: files and units as a MachineConfig, so that nobody encodes them by hand.

use anyhow::{Context, anyhow};
use camino::Utf8Path;
use model::api::{MachineConfig, MachineConfigSpec};
use model::ignition::{self, Config, Contents, MAX_CONTENT_BYTES, Node, NodeKind, Unit};
use model::{keys, problem};

use crate::cli;
use crate::exit::{Failure, refused};
use crate::manifests::bytes;
use crate::output;

pub(crate) fn run(args: &cli::MachineConfigFrom) -> Result<(), Failure> {
    let config = Config {
        nodes: args.file.iter().map(file).collect::<Result<_, _>>()?,
        units: args.unit.iter().map(unit).collect::<Result<_, _>>()?,
        ..Config::default()
    };
    let config = ignition::to_value(&config);
    // Read as the render will: it knows which paths, names and texts nodes take.
    ignition::parse(&config).map_err(|problems| {
        refused(anyhow!(
            "MachineConfig `{}`: {}",
            args.name,
            problem::summary(&problems)
        ))
    })?;
    let mut object = MachineConfig::new(
        &args.name,
        MachineConfigSpec {
            config: Some(config),
            ..MachineConfigSpec::default()
        },
    );
    object.metadata.labels = Some([(keys::ROLE.to_owned(), args.pool.clone())].into());
    Ok(output::value(args.output, &object, |_| String::new())?)
}

fn file(from: &cli::FileFrom) -> Result<Node, Failure> {
    Ok(Node {
        path: from.path.clone(),
        user: None,
        group: None,
        kind: NodeKind::File {
            contents: Some(Contents::Inline(read(&from.source)?)),
            mode: from.mode,
        },
    })
}

fn unit(from: &cli::UnitFrom) -> Result<Unit, Failure> {
    let contents = match &from.source {
        None => None,
        Some(source) => Some(
            String::from_utf8(read(source)?)
                .with_context(|| format!("`{source}` is no text"))
                .map_err(refused)?,
        ),
    };
    Ok(Unit {
        name: from.name.clone(),
        contents,
        enabled: Some(true),
        ..Unit::default()
    })
}

fn read(source: &Utf8Path) -> Result<Vec<u8>, Failure> {
    bytes(source, MAX_CONTENT_BYTES as u64)
}
