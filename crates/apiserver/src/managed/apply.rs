//! Server-side apply.

use serde_json::{Value, json};

use super::entries::{Entries, Entry, Writer};
use super::set::FieldSet;
use super::walk;
use crate::resources::metadata::timestamp;
use crate::schema::Schema;
use crate::status::Cause;

/// What an apply leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) entries: Entries,
}

/// Applies `configuration` for `writer` to `live`, which is `None` if the object does not exist yet. `tracked` says
/// which fields of the object this endpoint is about. The error lists the fields that others own.
pub(crate) fn apply(
    live: Option<&Value>,
    configuration: &Value,
    writer: &Writer,
    force: bool,
    schema: &Schema,
    tracked: impl Fn(&str) -> bool,
) -> Result<Applied, Vec<Cause>> {
    let wanted = walk::tracked(configuration, &tracked);
    let owned = walk::fields_of(&wanted, Some(schema));
    let mut entries = live.map(Entries::of).unwrap_or_default();

    let before = walk::tracked(live.unwrap_or(&json!({})), &tracked);
    let merged = walk::merge(&before, &wanted, Some(schema));
    let changed = walk::compare(&before, &merged, Some(schema)).set;
    let mut conflicts = Vec::new();
    for entry in entries.0.iter_mut().filter(|e| !e.is_by(writer, true)) {
        let contested = entry.fields.intersection(&owned).intersection(&changed);
        if contested.is_empty() {
            continue;
        }
        if force {
            entry.fields = entry.fields.minus(&contested);
        } else {
            conflicts.extend(
                contested
                    .paths()
                    .into_iter()
                    .map(|path| conflict(entry, path)),
            );
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }

    let previous = entries.0.iter().find(|e| e.is_by(writer, true));
    let mut result = merged;
    if let Some(previous) = previous {
        let others = entries.0.iter().filter(|e| !e.is_by(writer, true));
        let kept = others.fold(owned.clone(), |kept, entry| kept.union(&entry.fields));
        let gone = previous.fields.minus(&kept);
        walk::remove(&mut result, &gone, &kept, Some(schema));
    }
    record(&mut entries, writer, owned);
    Ok(Applied {
        object: put_back(live, configuration, result, &tracked),
        entries,
    })
}

fn record(entries: &mut Entries, writer: &Writer, owned: FieldSet) {
    match entries.0.iter_mut().find(|e| e.is_by(writer, true)) {
        Some(entry) => {
            if entry.fields != owned {
                entry.fields = owned;
                entry.time = timestamp(writer.now);
            }
            entry.api_version.clone_from(&writer.api_version);
        }
        None => {
            let mut entry = Entry::new(writer, true);
            entry.fields = owned;
            entries.0.push(entry);
        }
    }
    entries.tidy();
}

/// The whole object: tracked fields from `result`, everything else as it was or, if new, as it was sent.
fn put_back(
    live: Option<&Value>,
    configuration: &Value,
    result: Value,
    tracked: impl Fn(&str) -> bool,
) -> Value {
    let mut object = live.unwrap_or(configuration).clone();
    let identity = configuration["metadata"].clone();
    let Some(fields) = object.as_object_mut() else {
        return result;
    };
    fields.retain(|name, _| {
        matches!(name.as_str(), "apiVersion" | "kind" | "metadata") || !tracked(name)
    });
    for name in ["apiVersion", "kind"] {
        if let Some(value) = configuration.get(name) {
            fields.insert(name.into(), value.clone());
        }
    }
    let Value::Object(result) = result else {
        return object;
    };
    if tracked("metadata")
        && let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
    {
        for name in ["labels", "annotations", "finalizers", "ownerReferences"] {
            metadata.remove(name);
        }
    }
    for (name, value) in result {
        if name != "metadata" {
            fields.insert(name, value);
            continue;
        }
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        for (name, value) in value.as_object().into_iter().flatten() {
            metadata[name] = value.clone();
        }
    }
    // What a client says about the object it means is checked later.
    for name in ["resourceVersion", "uid"] {
        if let Some(value) = identity.get(name) {
            object["metadata"][name] = value.clone();
        }
    }
    object
}

fn conflict(entry: &Entry, path: String) -> Cause {
    let subresource = match entry.subresource.as_str() {
        "" => String::new(),
        name => format!(" with subresource {name:?}"),
    };
    let using = if entry.apply {
        String::new()
    } else {
        format!(" using {}", entry.api_version)
    };
    Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {:?}{subresource}{using}", entry.manager),
        field: path,
    }
}
