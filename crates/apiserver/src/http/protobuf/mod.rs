//! Kubernetes protobuf bodies, read only: `kubectl create configmap`, `create namespace` and the like send them.
//!
//! A body is an envelope that names its kind, around a message whose fields a table translates to JSON.
//! Answers are always JSON, which every client accepts.

mod kinds;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use kinds::Kind::{
    Blobs, Bytes, Flag, Int, IntOrText, Message, MessageList, Text, TextList, Texts, Time,
};
use kinds::{ENVELOPE, Field, Kind, fields_of};

/// First bytes of every body.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages at most.
const MAX_DEPTH: usize = 16;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtobufError {
    /// The client should send JSON.
    #[error("{api_version} {kind} cannot be read as protobuf")]
    Unsupported { api_version: String, kind: String },
    #[error("malformed protobuf")]
    Malformed,
}

/// The JSON of a body.
pub(super) fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Malformed)?;
    let envelope = Value::Object(message(body, ENVELOPE, 0).ok_or(ProtobufError::Malformed)?);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&envelope["typeMeta"]["apiVersion"]);
    let kind = text(&envelope["typeMeta"]["kind"]);
    let Some(fields) = fields_of(&api_version, &kind) else {
        return Err(ProtobufError::Unsupported { api_version, kind });
    };
    // The table gave base64 for bytes; the raw message is the one place that wants them back.
    let raw = STANDARD
        .decode(text(&envelope["raw"]))
        .map_err(|_| ProtobufError::Malformed)?;
    let mut object = message(&raw, fields, 0).ok_or(ProtobufError::Malformed)?;
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

/// One raw field: a number, or bytes.
enum Raw<'a> {
    Number(u64),
    Slice(&'a [u8]),
}

fn message(mut bytes: &[u8], fields: &[Field], depth: usize) -> Option<Map<String, Value>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut map = Map::new();
    while !bytes.is_empty() {
        let (number, raw) = next(&mut bytes)?;
        let Some((_, name, kind)) = fields.iter().find(|(known, ..)| *known == number) else {
            continue;
        };
        let entry = map.entry(*name).or_insert(Value::Null);
        put(entry, *kind, raw, depth)?;
    }
    // An absent time is an empty message.
    map.retain(|_, value| !value.is_null());
    Some(map)
}

fn put(entry: &mut Value, kind: Kind, raw: Raw<'_>, depth: usize) -> Option<()> {
    match (kind, raw) {
        // Numbers are two's complement.
        (Int, Raw::Number(number)) => *entry = json!(number as i64),
        (IntOrText, Raw::Slice(bytes)) => {
            const PARTS: &[Field] = &[(1, "type", Int), (2, "int", Int), (3, "text", Text)];
            let parts = message(bytes, PARTS, depth + 1)?;
            let text = parts.get("type") == Some(&json!(1));
            let value = parts.get(if text { "text" } else { "int" }).cloned();
            *entry = value.unwrap_or(if text { json!("") } else { json!(0) });
        }
        (Flag, Raw::Number(number)) => *entry = json!(number != 0),
        (Text, Raw::Slice(bytes)) => *entry = json!(std::str::from_utf8(bytes).ok()?),
        (Bytes, Raw::Slice(bytes)) => *entry = json!(STANDARD.encode(bytes)),
        (Time, Raw::Slice(bytes)) => *entry = time(bytes)?,
        (Message(fields), Raw::Slice(bytes)) => {
            *entry = Value::Object(message(bytes, fields, depth + 1)?);
        }
        (MessageList(fields), Raw::Slice(bytes)) => {
            let item = Value::Object(message(bytes, fields, depth + 1)?);
            push(entry, item);
        }
        (TextList, Raw::Slice(bytes)) => push(entry, json!(std::str::from_utf8(bytes).ok()?)),
        (Texts | Blobs, Raw::Slice(bytes)) => {
            let value = if matches!(kind, Texts) { Text } else { Bytes };
            let pair = message(bytes, &[(1, "key", Text), (2, "value", value)], depth + 1)?;
            let key = pair.get("key").and_then(Value::as_str).unwrap_or_default();
            entry[key] = pair.get("value").cloned().unwrap_or(json!(""));
        }
        _ => return None,
    }
    Some(())
}

fn push(entry: &mut Value, item: Value) {
    match entry {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// Seconds and nanoseconds; null for none.
fn time(bytes: &[u8]) -> Option<Value> {
    let parts = message(bytes, &[(1, "seconds", Int), (2, "nanos", Int)], 0)?;
    let part = |name: &str| parts.get(name).and_then(Value::as_i64).unwrap_or(0);
    let (seconds, nanos) = (part("seconds"), i32::try_from(part("nanos")).ok()?);
    if seconds == 0 && nanos == 0 {
        return Some(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).ok()?;
    let format = if nanos == 0 {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    };
    Some(json!(time.strftime(format).to_string()))
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Raw<'a>)> {
    let tag = varint(bytes)?;
    let raw = match tag & 7 {
        0 => Raw::Number(varint(bytes)?),
        1 => Raw::Slice(take(bytes, 8)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Raw::Slice(take(bytes, length)?)
        }
        5 => Raw::Slice(take(bytes, 4)?),
        _ => return None,
    };
    Some((tag >> 3, raw))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let time = field(8, &[]);
        let metadata = [
            field(1, b"s"),
            time,
            field(11, &[field(1, b"k"), field(2, b"v")].concat()),
        ];
        let data = [field(1, b"a"), field(2, &[0, 255])].concat();
        let raw = [
            field(1, &metadata.concat()),
            field(2, &data),
            vec![5 << 3, 1],
        ]
        .concat();
        assert_eq!(
            decode(&body("v1", "Secret", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "s", "labels": {"k": "v"}},
                "data": {"a": "AP8="}, "immutable": true,
            })
        );
    }

    #[test]
    fn bad_bodies_are_refused() {
        let unsupported = decode(&body("v1", "Widget", b"")).unwrap_err();
        assert_eq!(
            unsupported.to_string(),
            "v1 Widget cannot be read as protobuf"
        );
        let whole = body("v1", "ConfigMap", &field(1, &field(1, b"name")));
        let read = decode(&whole);
        assert!(read.is_ok());
        for length in 0..whole.len() {
            assert_ne!(decode(&whole[..length]), read, "{length}");
        }
        assert_eq!(decode(b"{}"), Err(ProtobufError::Malformed));
        let endless = [MAGIC, &[0xff; 20]].concat();
        assert_eq!(decode(&endless), Err(ProtobufError::Malformed));
    }
}
