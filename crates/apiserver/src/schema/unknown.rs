//! Finding fields that the schema does not know, with a guess what was meant.

use serde_json::Value;

use super::{Schema, child};

/// Problems reported per object at most.
const MAX_REPORTED: usize = 50;

impl Schema {
    /// `unknown field "spec.pausd" (did you mean "paused"?)` for every field that pruning would drop.
    pub(crate) fn unknown_fields(&self, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.look(value, "", true, &mut found);
        found
    }

    fn look(&self, value: &Value, path: &str, whole_object: bool, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let root = whole_object || self.embedded;
                for (name, value) in map {
                    if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                        continue;
                    }
                    match self.field(name) {
                        Some(schema) => schema.look(value, &child(path, name), false, found),
                        None if self.keeps_unknown() => {}
                        None if found.len() < MAX_REPORTED => {
                            let guess = closest(name, self.properties.keys())
                                .map(|guess| format!(" (did you mean {guess:?}?)"))
                                .unwrap_or_default();
                            found.push(format!("unknown field {:?}{guess}", child(path, name)));
                        }
                        None => {}
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter().enumerate() {
                        schema.look(item, &format!("{path}[{index}]"), false, found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The known name that is most like `name`, if one is like it at all.
pub(crate) fn closest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Option<&'a String> {
    const ALIKE: f64 = 0.8;
    known
        .map(|candidate| {
            let similarity = strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
            (similarity, candidate)
        })
        .filter(|(similarity, _)| *similarity >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
