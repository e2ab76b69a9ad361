//! Which units start at boot, decided in the root that they are to start in: with `systemctl --root`, a unit that only
//! the new image has can be enabled before that image ever ran.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use model::ignition::Unit;
use model::update::Version;

use super::ConfigureError;
use super::entries::{Entry, UNITS};
use crate::command::{Command, CommandError};
use crate::root::{Found, Keep, Root, RootError};
use crate::state::Enablement;

/// The image's own part of [`UNITS`], where ostree keeps it.
const IMAGE_UNITS: &str = "/usr/etc/systemd/system";
/// Folders in which systemd finds units, the strongest first.
const UNIT_FOLDERS: [&str; 5] = [
    UNITS,
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator",
];

fn is_enabled(unit: &Unit) -> bool {
    unit.enabled == Some(true) && !unit.masked()
}

/// Looks for every unit that is to be enabled, in the root and among what is to be written to it.
pub(super) fn check(
    root: &Root,
    wanted: &BTreeMap<Utf8PathBuf, Entry>,
    to: &Version,
) -> Result<(), ConfigureError> {
    for unit in to.ignition.units.iter().filter(|unit| is_enabled(unit)) {
        let mut is_there = false;
        for name in names(&unit.name) {
            is_there |= wanted.contains_key(&Utf8Path::new(UNITS).join(name));
        }
        if !is_there && !exists(root, &unit.name)? {
            return Err(ConfigureError::MissingUnit {
                unit: unit.name.clone(),
                config: to.name.clone(),
            });
        }
    }
    Ok(())
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

/// Enables what should be, and lets what no config decides any more start as it did before.
pub(super) fn enable(
    root: &Root,
    from: &[&Version],
    to: &Version,
    originals: &BTreeMap<String, Enablement>,
) -> Result<(), ConfigureError> {
    let enabled = to.ignition.units.iter().filter(|unit| is_enabled(unit));
    let enabled = enabled.map(|unit| unit.name.clone());
    // Links of an earlier text of the unit go, those of the present one come. An instance's text is its template's,
    // which `reenable` would take in its place.
    let (instances, units): (Vec<String>, Vec<String>) =
        enabled.partition(|name| name.contains('@'));
    systemctl(root, "reenable", &units)?;
    systemctl(root, "enable", &instances)?;
    for name in undecided(from, to) {
        if let Some(original) = originals.get(&name) {
            give_back(root, &name, original)?;
        }
    }
    Ok(())
}

/// Units whose start some version decided and `to` leaves alone.
fn undecided(from: &[&Version], to: &Version) -> BTreeSet<String> {
    let decided = |version: &Version, name: &str| {
        let unit = version.ignition.unit(name);
        unit.is_some_and(|unit| unit.enabled.is_some())
    };
    from.iter()
        .flat_map(|version| &version.ignition.units)
        .filter(|unit| unit.enabled.is_some() && !decided(to, &unit.name))
        .map(|unit| unit.name.clone())
        .collect()
}

/// Links that start each unit before the first config decides about it. Those of the image are not kept: they come back
/// as the image of that time has them.
pub(super) fn take(
    root: &Root,
    to: &Version,
    originals: &mut BTreeMap<String, Enablement>,
) -> Result<(), RootError> {
    for unit in to
        .ignition
        .units
        .iter()
        .filter(|unit| unit.enabled.is_some())
    {
        if originals.contains_key(&unit.name) {
            continue;
        }
        let links = links(root, UNITS, &unit.name)?;
        let original = match links == self::links(root, IMAGE_UNITS, &unit.name)? {
            true => Enablement::Image,
            false => Enablement::Links(links),
        };
        originals.insert(unit.name.clone(), original);
    }
    Ok(())
}

/// Lets a unit start by the links that it had.
fn give_back(root: &Root, unit: &str, original: &Enablement) -> Result<(), RootError> {
    let wanted = match original {
        Enablement::Image => links(root, IMAGE_UNITS, unit)?,
        Enablement::Links(links) => links.clone(),
    };
    for path in links(root, UNITS, unit)?.keys() {
        if !wanted.contains_key(path) {
            let path = Utf8Path::new(UNITS).join(path);
            root.remove(&path)?;
            if let Some(folder) = path.parent().filter(|folder| *folder != UNITS) {
                root.remove(folder)?;
            }
        }
    }
    for (path, target) in wanted {
        let link = Found::Link {
            target,
            uid: 0,
            gid: 0,
        };
        let path = Utf8Path::new(UNITS).join(path);
        if root.stage(&path, &link, &Keep::Present)? {
            root.put(&path)?;
        }
    }
    Ok(())
}

/// Links below a folder of units that start a unit or give it another name: path in the folder, and target.
fn links(
    root: &Root,
    folder: &str,
    unit: &str,
) -> Result<BTreeMap<Utf8PathBuf, String>, RootError> {
    let folder = Utf8Path::new(folder);
    let mut places = Vec::new();
    for name in root.names(folder)? {
        let name = Utf8PathBuf::from(name);
        if matches!(name.extension(), Some("wants" | "requires" | "upholds")) {
            let inside = root.names(&folder.join(&name))?;
            places.extend(inside.iter().map(|link| name.join(link)));
        } else {
            places.push(name);
        }
    }
    let mut links = BTreeMap::new();
    for place in places {
        if let Found::Link { target, .. } = root.find(&folder.join(&place))?
            && target != "/dev/null"
            && (place.file_name() == Some(unit) || Utf8Path::new(&target).file_name() == Some(unit))
        {
            links.insert(place, target);
        }
    }
    Ok(links)
}

/// Whether the root has the unit, or the template of which it is an instance. A mask is no unit.
fn exists(root: &Root, name: &str) -> Result<bool, RootError> {
    for name in names(name) {
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

/// The unit's own name, and that of the template of which it is an instance.
fn names(name: &str) -> impl Iterator<Item = String> {
    let template = name
        .split_once('@')
        .and_then(|(prefix, rest)| Some(format!("{prefix}@.{}", rest.rsplit_once('.')?.1)))
        .filter(|template| template != name);
    [Some(name.to_owned()), template].into_iter().flatten()
}

fn systemctl(root: &Root, verb: &str, units: &[String]) -> Result<(), CommandError> {
    if units.is_empty() {
        return Ok(());
    }
    // A deployment is found below `/ostree`, which is a link. systemctl reads drop-ins by their real paths, and refuses those
    // that are not below the root that it was given. It says itself what is wrong with a root that is not there.
    let path = root.path();
    let real = path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned());
    Command::new("systemctl")
        .arg(format!("--root={real}"))
        .args(["--quiet", verb, "--"])
        .args(units)
        .run()
        .map(drop)
}
