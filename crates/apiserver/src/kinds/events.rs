//! Events in their two shapes: `v1` as stored, and `events.k8s.io/v1`.

use serde_json::{Map, Value, json};

/// Pairs of a field in `events.k8s.io/v1` and the same field in `v1`.
const RENAMED: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) fn prepare(event: &mut Value) {
    if event["type"].as_str().is_none_or(str::is_empty) {
        event["type"] = json!("Normal");
    }
}

/// From `events.k8s.io/v1`.
pub(super) fn to_core(event: Value) -> Value {
    let mut event = rename(event, RENAMED.iter().map(|(new, old)| (*new, *old)));
    event["apiVersion"] = json!("v1");
    event
}

/// To `events.k8s.io/v1`.
pub(super) fn from_core(event: Value) -> Value {
    let mut event = rename(event, RENAMED.iter().map(|(new, old)| (*old, *new)));
    event["apiVersion"] = json!("events.k8s.io/v1");
    event
}

fn rename(event: Value, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    let Value::Object(mut fields) = event else {
        return event;
    };
    let mut renamed = Map::new();
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            renamed.insert(to.into(), value);
        }
    }
    fields.append(&mut renamed);
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_hold_the_same() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "note": "n", "regarding": {"kind": "Node"}, "reason": "R", "action": "A",
            "reportingController": "c", "reportingInstance": "i", "deprecatedCount": 2,
        });
        let core = to_core(new.clone());
        assert_eq!(core["message"], "n");
        assert_eq!(core["involvedObject"]["kind"], "Node");
        assert_eq!(core["apiVersion"], "v1");
        assert_eq!(from_core(core), new);
    }
}
