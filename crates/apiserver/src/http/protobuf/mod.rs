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
    Blobs, Bytes, Flag, GivenFlag, GivenInt, Int, IntOrText, Message, MessageList, Text, TextList,
    Texts, Time,
};
use kinds::{ENVELOPE, Field, Kind, Readable, readable};

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
    let envelope = Value::Object(WHOLE.message(body, ENVELOPE, 0)?);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&envelope["typeMeta"]["apiVersion"]);
    let kind = text(&envelope["typeMeta"]["kind"]);
    let Some(Readable { fields, partial }) = readable(&api_version, &kind) else {
        return Err(ProtobufError::Unsupported { api_version, kind });
    };
    // The table gave base64 for bytes; the raw message is the one place that wants them back.
    let raw = STANDARD
        .decode(text(&envelope["raw"]))
        .map_err(|_| ProtobufError::Malformed)?;
    let mut object = match (Reader { partial }).message(&raw, fields, 0) {
        Err(Stop::Unknown) => return Err(ProtobufError::Unsupported { api_version, kind }),
        read => read?,
    };
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

/// One raw field: a number, or bytes.
enum Raw<'a> {
    Number(u64),
    Slice(&'a [u8]),
}

/// Why reading ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Malformed,
    /// There is something that would be lost.
    Unknown,
}

impl From<Stop> for ProtobufError {
    fn from(_: Stop) -> Self {
        Self::Malformed
    }
}

struct Reader {
    /// Unknown fields are refused, and zeros are left out unless they were given.
    partial: bool,
}

const WHOLE: Reader = Reader { partial: false };

impl Reader {
    fn message(
        &self,
        mut bytes: &[u8],
        fields: &[Field],
        depth: usize,
    ) -> Result<Map<String, Value>, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Malformed);
        }
        let mut map = Map::new();
        while !bytes.is_empty() {
            let (number, raw) = next(&mut bytes).ok_or(Stop::Malformed)?;
            let Some((_, name, kind)) = fields.iter().find(|(known, ..)| *known == number) else {
                if self.partial && !says_nothing(&raw, depth) {
                    return Err(Stop::Unknown);
                }
                continue;
            };
            let entry = map.entry(*name).or_insert(Value::Null);
            self.put(entry, *kind, raw, depth)?;
        }
        // An absent time is an empty message.
        map.retain(|_, value| !value.is_null());
        Ok(map)
    }

    fn put(&self, entry: &mut Value, kind: Kind, raw: Raw<'_>, depth: usize) -> Result<(), Stop> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Stop::Malformed);
        match (kind, raw) {
            (Int | Flag, Raw::Number(0)) if self.partial => {}
            (Text, Raw::Slice([])) if self.partial => {}
            // Numbers are two's complement.
            (Int | GivenInt, Raw::Number(number)) => *entry = json!(number as i64),
            (IntOrText, Raw::Slice(bytes)) => {
                const PARTS: &[Field] = &[(1, "type", Int), (2, "int", Int), (3, "text", Text)];
                let parts = WHOLE.message(bytes, PARTS, depth + 1)?;
                let text = parts.get("type") == Some(&json!(1));
                let value = parts.get(if text { "text" } else { "int" }).cloned();
                *entry = value.unwrap_or(if text { json!("") } else { json!(0) });
            }
            (Flag | GivenFlag, Raw::Number(number)) => *entry = json!(number != 0),
            (Text, Raw::Slice(bytes)) => *entry = json!(text(bytes)?),
            (Bytes, Raw::Slice(bytes)) => *entry = json!(STANDARD.encode(bytes)),
            (Time, Raw::Slice(bytes)) => *entry = time(bytes)?,
            (Message(fields), Raw::Slice(bytes)) => {
                *entry = Value::Object(self.message(bytes, fields, depth + 1)?);
            }
            (MessageList(fields), Raw::Slice(bytes)) => {
                let item = Value::Object(self.message(bytes, fields, depth + 1)?);
                push(entry, item);
            }
            (TextList, Raw::Slice(bytes)) => push(entry, json!(text(bytes)?)),
            (Texts | Blobs, Raw::Slice(bytes)) => {
                let value = if matches!(kind, Texts) { Text } else { Bytes };
                let fields = [(1, "key", Text), (2, "value", value)];
                let pair = WHOLE.message(bytes, &fields, depth + 1)?;
                let key = pair.get("key").and_then(Value::as_str).unwrap_or_default();
                entry[key] = pair.get("value").cloned().unwrap_or(json!(""));
            }
            _ => return Err(Stop::Malformed),
        }
        Ok(())
    }
}

/// Whether a field that is not known is zero all through: clients write such fields of which nothing was said.
fn says_nothing(raw: &Raw<'_>, depth: usize) -> bool {
    match *raw {
        Raw::Number(number) => number == 0,
        Raw::Slice(mut bytes) => {
            while !bytes.is_empty() {
                match next(&mut bytes) {
                    Some((_, inner)) if depth < MAX_DEPTH && says_nothing(&inner, depth + 1) => {}
                    _ => return false,
                }
            }
            true
        }
    }
}

fn push(entry: &mut Value, item: Value) {
    match entry {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// Seconds and nanoseconds; null for none.
fn time(bytes: &[u8]) -> Result<Value, Stop> {
    let parts = WHOLE.message(bytes, &[(1, "seconds", Int), (2, "nanos", Int)], 0)?;
    let part = |name: &str| parts.get(name).and_then(Value::as_i64).unwrap_or(0);
    let seconds = part("seconds");
    let nanos = i32::try_from(part("nanos")).map_err(|_| Stop::Malformed)?;
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| Stop::Malformed)?;
    let format = if nanos == 0 {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    };
    Ok(json!(time.strftime(format).to_string()))
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

    /// Only what `kubectl create` says of workloads can be read: more is refused, zeros are left out.
    #[test]
    fn of_workloads_nothing_is_lost_in_silence() {
        let container = [field(1, b"a"), field(2, b"image"), field(5, b"")].concat();
        let pod = field(2, &[field(2, &container), vec![11 << 3, 0]].concat());
        let spec = [vec![1 << 3, 0], field(3, &pod), field(4, &field(1, b""))].concat();
        let zero_status = field(3, &[8, 0, 16, 0]);
        let raw = [field(1, &field(1, b"web")), field(2, &spec), zero_status].concat();
        assert_eq!(
            decode(&body("apps/v1", "Deployment", &raw)).unwrap(),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {
                    "replicas": 0, "strategy": {},
                    "template": {"spec": {"containers": [{"name": "a", "image": "image"}]}},
                },
            })
        );
        let volumes = field(2, &field(3, &field(2, &field(1, &field(1, b"v")))));
        let refused = decode(&body("apps/v1", "Deployment", &volumes)).unwrap_err();
        assert!(
            matches!(refused, ProtobufError::Unsupported { .. }),
            "{refused}"
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
