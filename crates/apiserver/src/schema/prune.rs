//! Dropping what the schema does not know.

use serde_json::Value;

use super::Schema;

impl Schema {
    /// Removes unknown fields, except where the schema preserves them. At the root of an object,
    /// `apiVersion`, `kind` and `metadata` always stay.
    pub(crate) fn prune(&self, value: &mut Value) {
        self.prune_node(value, true);
    }

    fn prune_node(&self, value: &mut Value, whole_object: bool) {
        match value {
            Value::Object(map) => {
                let root = whole_object || self.embedded;
                map.retain(|name, value| {
                    if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                        return true;
                    }
                    match self.field(name) {
                        Some(schema) => {
                            schema.prune_node(value, false);
                            true
                        }
                        None => self.keeps_unknown(),
                    }
                });
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for item in items {
                        schema.prune_node(item, false);
                    }
                }
            }
            _ => {}
        }
    }
}
