//! Whether a change of `registries.conf` may be made while pods run.
//!
//! Safe is what lets nothing be pulled from elsewhere than before without its digest being checked, and takes no source
//! away: a new registry whose mirrors serve digests only, and another such mirror at the end of a list. Everything else
//! may let a pod that restarts get another image, or none, and is named.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What is unsafe about going from one content to the other; a file that is not there is an empty one.
pub(crate) fn unsafe_changes(from: Option<&[u8]>, to: Option<&[u8]>) -> Vec<String> {
    let (from, to) = match (read(from), read(to)) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(why), _) => return vec![format!("what is there now cannot be judged: {why}")],
        (_, Err(why)) => return vec![format!("what comes cannot be judged: {why}")],
    };
    let mut found = Vec::new();
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for key in keys.into_iter().filter(|key| *key != "registry") {
        if from.get(key) != to.get(key) {
            found.push(format!("`{key}` changes"));
        }
    }
    let (before, after) = (registries(&from), registries(&to));
    for (name, registry) in &before {
        match after.get(name) {
            None => found.push(format!("registry `{name}` is removed")),
            Some(now) => compare(name, registry, now, &mut found),
        }
    }
    for (name, registry) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        let location = text_of(registry, "location");
        if is_true(registry, "blocked") {
            found.push(format!("registry `{name}` is new and blocked"));
        } else if is_true(registry, "insecure") {
            found.push(format!("registry `{name}` is new and insecure"));
        } else if !location.is_empty() && location != name {
            found.push(format!(
                "registry `{name}` is new and stands for `{location}`"
            ));
        } else if let Some(why) = loose(registry, mirrors(registry).iter()) {
            found.push(format!("registry `{name}` is new, {why}"));
        }
    }
    found
}

fn read(bytes: Option<&[u8]>) -> Result<Map<String, Value>, String> {
    let text =
        std::str::from_utf8(bytes.unwrap_or_default()).map_err(|_| "it is not UTF-8".to_owned())?;
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        format!("line {line} is not TOML")
    })
}

/// By the prefix that a registry stands for. Entries for the same one add to each other, so that order is all that
/// is lost.
fn registries(config: &Map<String, Value>) -> BTreeMap<String, Map<String, Value>> {
    let mut found = BTreeMap::new();
    for entry in config
        .get("registry")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let Some(entry) = entry.as_object() else {
            continue;
        };
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let name = text("prefix").or(text("location")).unwrap_or_default();
        let mut key = name.to_owned();
        while found.contains_key(&key) {
            key.push('*');
        }
        found.insert(key, entry.clone());
    }
    found
}

fn compare(
    name: &str,
    from: &Map<String, Value>,
    to: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for key in keys.into_iter().filter(|key| *key != "mirror") {
        if from.get(key) != to.get(key) && !is_default(from.get(key), to.get(key), name) {
            found.push(format!("`{key}` of registry `{name}` changes"));
        }
    }
    let (before, after) = (mirrors(from), mirrors(to));
    let kept = before
        .iter()
        .zip(&after)
        .take_while(|(a, b)| a == b)
        .count();
    if let Some(mirror) = before.get(kept) {
        let location = text_of(mirror, "location");
        let still = after
            .iter()
            .find(|mirror| text_of(mirror, "location") == location);
        found.push(match still {
            None => format!("mirror `{location}` of registry `{name}` is removed"),
            Some(now) if now == mirror => {
                format!("mirrors of registry `{name}` are tried in another order")
            }
            Some(_) => format!("mirror `{location}` of registry `{name}` changes"),
        });
    } else if after.len() > kept
        && let Some(why) = loose(to, after[kept..].iter())
    {
        found.push(format!("registry `{name}` has new mirrors, {why}"));
    }
}

/// Whether one side spells out what the other leaves to the default.
fn is_default(from: Option<&Value>, to: Option<&Value>, name: &str) -> bool {
    match (from, to) {
        (None, Some(value)) | (Some(value), None) => {
            *value == Value::Bool(false)
                || value
                    .as_str()
                    .is_some_and(|text| text.is_empty() || text == name)
        }
        _ => false,
    }
}

/// Why mirrors that are new may serve something else than before.
fn loose<'m>(
    registry: &Map<String, Value>,
    mut new: impl Iterator<Item = &'m Map<String, Value>> + Clone,
) -> Option<String> {
    let digests_only = is_true(registry, "mirror-by-digest-only");
    let serves_tags = |mirror: &Map<String, Value>| {
        !digests_only && text_of(mirror, "pull-from-mirror") != "digest-only"
    };
    let location = |mirror: &Map<String, Value>| text_of(mirror, "location").to_owned();
    let mut all = new.clone().peekable();
    if all.peek().is_none() {
        return Some("and has no mirror that serves digests only".to_owned());
    }
    if let Some(mirror) = new.clone().find(|mirror| serves_tags(mirror)) {
        return Some(format!(
            "and mirror `{}` may serve tags; set `mirror-by-digest-only = true`",
            location(mirror)
        ));
    }
    new.find(|mirror| is_true(mirror, "insecure"))
        .map(|mirror| format!("and mirror `{}` is insecure", location(mirror)))
}

/// With defaults left out, so that equal mirrors are equal.
fn mirrors(registry: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let all = registry.get("mirror").and_then(Value::as_array);
    let mirrors = all
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .cloned();
    mirrors
        .map(|mut mirror| {
            mirror.retain(|_, value| *value != Value::Bool(false));
            mirror
        })
        .collect()
}

fn text_of<'m>(map: &'m Map<String, Value>, key: &str) -> &'m str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}
