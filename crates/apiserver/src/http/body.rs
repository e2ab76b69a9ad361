//! Request bodies: bounded, JSON, and with a note of every key that is given twice.

use std::fmt;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::protobuf::{self, ProtobufError};
use crate::schema::child;
use crate::status::ApiError;

/// Bytes of a request body at most, as in Kubernetes.
pub(crate) const MAX_BODY: usize = 3 << 20;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Reads the whole body.
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY)),
        Err(error) => Err(ApiError::bad_request(format!(
            "cannot read the request body: {error}"
        ))),
    }
}

/// The media type without parameters; JSON if the client did not say.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    match text.split(';').next().map(str::trim) {
        None | Some("") => "application/json".into(),
        Some(media_type) => media_type.to_ascii_lowercase(),
    }
}

/// A parsed document.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// `duplicate field "spec.paused"`, once per repeated key.
    pub(crate) duplicates: Vec<String>,
}

/// Parses a body that is an object of the API: JSON, or Kubernetes protobuf for the kinds that we can read.
pub(crate) fn parse_object(media_type: &str, bytes: &[u8]) -> Result<Document, ApiError> {
    const SUPPORTED: &[&str] = &["application/json", "application/yaml", PROTOBUF];
    match media_type {
        "application/json" => parse(bytes),
        "application/yaml" => parse_yaml(bytes),
        PROTOBUF => match protobuf::decode(bytes) {
            Ok(value) => Ok(Document {
                value,
                duplicates: Vec::new(),
            }),
            Err(ProtobufError::Unsupported { .. }) => {
                Err(ApiError::unsupported_media_type(&SUPPORTED[..2]))
            }
            Err(ProtobufError::Malformed) => Err(ApiError::bad_request(
                "the request body is not valid Kubernetes protobuf",
            )),
        },
        _ => Err(ApiError::unsupported_media_type(SUPPORTED)),
    }
}

/// Parses YAML, of which JSON is a part. Depth and the work of aliases are bounded by the parser; a repeated key is an
/// error there.
pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<Document, ApiError> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return parse(bytes);
    }
    let malformed = |error: &dyn fmt::Display| {
        ApiError::bad_request(format!("the request body is not valid YAML: {error}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(&error))?;
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| malformed(&error))?;
    Ok(Document {
        value,
        duplicates: Vec::new(),
    })
}

/// Parses JSON; nesting is bounded by the parser.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ApiError> {
    let mut duplicates = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let seed = Node {
        path: "",
        duplicates: &mut duplicates,
    };
    let value = seed
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|error| {
            ApiError::bad_request(format!("the request body is not valid JSON: {error}"))
        })?;
    Ok(Document { value, duplicates })
}

struct Node<'a> {
    path: &'a str,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            let seed = Node {
                path: &path,
                duplicates: self.duplicates,
            };
            match access.next_element_seed(seed)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = child(self.path, &key);
            let value = access.next_value_seed(Node {
                path: &path,
                duplicates: self.duplicates,
            })?;
            if map.insert(key, value).is_some() {
                self.duplicates.push(format!("duplicate field {path:?}"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_keys_are_noted_and_the_last_wins() {
        let text = r#"{"a": 1, "b": {"c": [{"d": 1, "d": 2}]}, "a": 3}"#;
        let document = parse(text.as_bytes()).unwrap();
        assert_eq!(document.value, json!({"a": 3, "b": {"c": [{"d": 2}]}}));
        assert_eq!(
            document.duplicates,
            [r#"duplicate field "b.c[0].d""#, r#"duplicate field "a""#]
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse(text.as_bytes()).is_err());
    }
}
