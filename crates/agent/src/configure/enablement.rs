//! Which units start at boot, decided in the root that they are to start in: with `systemctl --root`, a unit that only
//! the new image has can be enabled before that image ever ran.

use camino::Utf8Path;
use model::ignition::Unit;
use model::update::Version;

use super::ConfigureError;
use crate::command::{Command, CommandError};
use crate::root::{Found, Root, RootError};

/// Folders in which systemd finds units, the strongest first.
const UNIT_FOLDERS: [&str; 5] = [
    super::entries::UNITS,
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator",
];

fn is_enabled(unit: &Unit) -> bool {
    unit.enabled == Some(true) && !unit.masked()
}

/// Disables what was enabled and is not any more, while its unit file, which says where its links are, still exists.
pub(super) fn disable(root: &Root, from: &[&Version], to: &Version) -> Result<(), ConfigureError> {
    let mut units = Vec::new();
    for unit in from
        .iter()
        .flat_map(|version| &version.ignition.units)
        .filter(|unit| is_enabled(unit))
    {
        let stays = to.ignition.unit(&unit.name).is_some_and(is_enabled);
        if !stays && !units.contains(&unit.name) && exists(root, &unit.name)? {
            units.push(unit.name.clone());
        }
    }
    for unit in to
        .ignition
        .units
        .iter()
        .filter(|unit| unit.enabled == Some(false))
    {
        if !units.contains(&unit.name) && exists(root, &unit.name)? {
            units.push(unit.name.clone());
        }
    }
    Ok(systemctl(root, "disable", &units)?)
}

/// Enables what should be, and gives back to the presets what no config decides any more.
pub(super) fn enable(root: &Root, from: &[&Version], to: &Version) -> Result<(), ConfigureError> {
    let mut enabled = Vec::new();
    for unit in to.ignition.units.iter().filter(|unit| is_enabled(unit)) {
        if !exists(root, &unit.name)? {
            return Err(ConfigureError::MissingUnit {
                unit: unit.name.clone(),
                config: to.name.clone(),
            });
        }
        enabled.push(unit.name.clone());
    }
    // Links of an earlier text of the unit go, those of the present one come. An instance's text is its template's,
    // which `reenable` would take in its place.
    let (instances, units): (Vec<String>, Vec<String>) =
        enabled.into_iter().partition(|name| name.contains('@'));
    systemctl(root, "reenable", &units)?;
    systemctl(root, "enable", &instances)?;
    let mut undecided = Vec::new();
    for unit in from.iter().flat_map(|version| &version.ignition.units) {
        let was_decided = unit.enabled.is_some() || unit.masked();
        let is_decided = to
            .ignition
            .unit(&unit.name)
            .is_some_and(|unit| unit.enabled.is_some() || unit.masked());
        if was_decided
            && !is_decided
            && !undecided.contains(&unit.name)
            && exists(root, &unit.name)?
        {
            undecided.push(unit.name.clone());
        }
    }
    Ok(systemctl(root, "preset", &undecided)?)
}

/// Whether the root has the unit, or the template of which it is an instance. A mask is no unit.
fn exists(root: &Root, name: &str) -> Result<bool, RootError> {
    let template = name
        .split_once('@')
        .and_then(|(prefix, rest)| Some(format!("{prefix}@.{}", rest.rsplit_once('.')?.1)))
        .filter(|template| template != name);
    for name in [Some(name.to_owned()), template].into_iter().flatten() {
        for folder in UNIT_FOLDERS {
            match root.find(&Utf8Path::new(folder).join(&name))? {
                Found::Nothing => {}
                Found::Link { target, .. } if target == "/dev/null" => return Ok(false),
                _ => return Ok(true),
            }
        }
    }
    Ok(false)
}

fn systemctl(root: &Root, verb: &str, units: &[String]) -> Result<(), CommandError> {
    if units.is_empty() {
        return Ok(());
    }
    Command::new("systemctl")
        .arg(format!("--root={}", root.path()))
        .args(["--quiet", verb, "--"])
        .args(units)
        .run()
        .map(drop)
}
