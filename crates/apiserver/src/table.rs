//! Server-side printing: `meta.k8s.io` Tables.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Column, Columns, Version};

/// How much of each object a table row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

/// A table's column definitions.
pub(crate) fn headers(version: &Version) -> Value {
    let definition = |name: &str, kind: &str, format: &str, description: &str, priority: i64| {
        json!({
            "name": name, "type": kind, "format": format, "description": description,
            "priority": priority,
        })
    };
    match &version.columns {
        Columns::Paths(columns) => {
            let name = "Name must be unique within a namespace.";
            std::iter::once(definition("Name", "string", "name", name, 0))
                .chain(
                    columns.iter().map(|c| {
                        definition(&c.name, &c.kind, &c.format, &c.description, c.priority)
                    }),
                )
                .collect()
        }
        Columns::Code { header, .. } => header
            .iter()
            .map(|h| {
                let format = if h.name == "Name" { "name" } else { "" };
                definition(h.name, h.kind, format, "", h.priority)
            })
            .collect(),
    }
}

/// One row.
pub(crate) fn row(
    version: &Version,
    object: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let cells = match &version.columns {
        Columns::Paths(columns) => std::iter::once(object["metadata"]["name"].clone())
            .chain(columns.iter().map(|column| cell(column, object, now)))
            .collect(),
        Columns::Code { row, .. } => row(object, now),
    };
    let mut row = json!({"cells": cells});
    match include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => row["object"] = partial(object, "meta.k8s.io/v1"),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// Only the metadata of an object.
pub(crate) fn partial(object: &Value, api_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": api_version,
        "metadata": object["metadata"],
    })
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = column.path.find(object);
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "integer" => match first {
            Value::Number(number) => number
                .as_i64()
                .or_else(|| number.as_f64().map(|float| float as i64))
                .map_or(Value::Null, Value::from),
            _ => Value::Null,
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "number" | "boolean" => Value::Null,
        "date" => json!(age_of(first, now)),
        _ => match first {
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        },
    }
}

/// The time since a timestamp, as `kubectl` writes it.
pub(crate) fn age_of(timestamp: &Value, now: Timestamp) -> String {
    match timestamp.as_str().map(str::parse::<Timestamp>) {
        Some(Ok(then)) => human_duration(now.as_second() - then.as_second()),
        Some(Err(_)) => "<invalid>".into(),
        None => "<unknown>".into(),
    }
}

/// Two units at most, the second only while it matters.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => pair(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => pair(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => pair(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => pair(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations_read_as_in_kubectl() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (8 * 86_400, "8d"),
            (730 * 86_400, "2y"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
