//! What is known of an expression's type before it runs: CEL's types, with objects as their schema describes them.

use std::fmt;

use super::convert::escape;
use crate::schema::{Additional, Schema, Type};

/// A static type. What cannot be told is [`Kind::Dyn`], with which everything fits.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind<'s> {
    Dyn,
    /// A type without parameters, by its name in CEL.
    Plain(&'static str),
    List(Box<Kind<'s>>),
    Map(Box<Kind<'s>>),
    Optional(Box<Kind<'s>>),
    /// An object with the fields of a schema; `whole`: of a Kubernetes object.
    Object(Described<'s>),
    /// `metadata`, of which rules see the names alone.
    Metadata,
}

/// A schema, compared by place: no two nodes of a tree are the same type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described<'s> {
    schema: &'s Schema,
    whole: bool,
}

impl PartialEq for Described<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.schema, other.schema)
    }
}

pub(super) const BOOL: Kind<'static> = Kind::Plain("bool");
pub(super) const INT: Kind<'static> = Kind::Plain("int");
pub(super) const STRING: Kind<'static> = Kind::Plain("string");

impl<'s> Kind<'s> {
    /// The type of values that a schema describes, as they are given to rules.
    pub(super) fn of(schema: &'s Schema, whole: bool) -> Self {
        let Some(kind) = schema.kind else {
            return Self::Dyn;
        };
        match kind {
            Type::Boolean => BOOL,
            Type::Integer => INT,
            Type::Number => Self::Plain("double"),
            Type::String => match schema.limits.format.as_deref() {
                Some("date-time") => Self::Plain("timestamp"),
                Some("duration") => Self::Plain("duration"),
                Some("byte") => Self::Plain("bytes"),
                _ => STRING,
            },
            Type::Array => {
                let items = schema.items.as_deref();
                Self::list(items.map_or(Self::Dyn, |items| Self::of(items, false)))
            }
            Type::Object => match &schema.additional {
                Some(Additional::Any) => Self::Map(Box::new(Self::Dyn)),
                Some(Additional::Schema(values)) if schema.properties.is_empty() => {
                    Self::Map(Box::new(Self::of(values, false)))
                }
                _ => Self::Object(Described {
                    schema,
                    whole: whole || schema.embedded,
                }),
            },
        }
    }

    pub(super) fn list(items: Self) -> Self {
        Self::List(Box::new(items))
    }

    pub(super) fn optional(value: Self) -> Self {
        match value {
            Self::Optional(_) => value,
            value => Self::Optional(Box::new(value)),
        }
    }

    /// The type of a field, or what is wrong with asking for it.
    pub(super) fn field(&self, name: &str) -> Result<Self, String> {
        let undefined = || Err(format!("undefined field '{name}'"));
        match self {
            Self::Dyn => Ok(Self::Dyn),
            Self::Map(values) => Ok((**values).clone()),
            Self::Optional(value) => Ok(Self::optional(value.field(name)?)),
            Self::Metadata => match name {
                "name" | "generateName" => Ok(STRING),
                _ => undefined(),
            },
            Self::Object(described) => {
                match name {
                    "apiVersion" | "kind" if described.whole => return Ok(STRING),
                    "metadata" if described.whole => return Ok(Self::Metadata),
                    _ => {}
                }
                let plain = described.schema.plain_names;
                let is_meant = |known: &str| match plain {
                    true => known == name,
                    false => escape(known) == name,
                };
                let mut properties = described.schema.properties.iter();
                match properties.find(|(known, _)| is_meant(known)) {
                    Some((_, schema)) => Ok(Self::of(schema, false)),
                    None => undefined(),
                }
            }
            Self::Plain(_) | Self::List(_) => {
                Err(format!("type '{self}' does not support field selection"))
            }
        }
    }

    /// Whether a value of this type may be where `wanted` is expected.
    pub(super) fn fits(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::Plain("null_type"), _) | (_, Self::Plain("null_type")) => true,
            (Self::List(a), Self::List(b))
            | (Self::Map(a), Self::Map(b))
            | (Self::Optional(a), Self::Optional(b)) => a.fits(b),
            // Literals of maps are compared with objects field by field.
            (
                Self::Object(_) | Self::Metadata | Self::Map(_),
                Self::Object(_) | Self::Metadata | Self::Map(_),
            ) => true,
            (a, b) => a == b,
        }
    }

    /// What is one or the other.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Self::list(a.join(*b)),
            (Self::Optional(a), Self::Optional(b)) => Self::optional(a.join(*b)),
            (a, b) if a == b => a,
            _ => Self::Dyn,
        }
    }

    /// The element of a loop over this, with its index or key where a loop has both.
    pub(super) fn elements(&self) -> Option<(Self, Self)> {
        match self {
            Self::Dyn => Some((Self::Dyn, Self::Dyn)),
            Self::List(items) => Some((INT, (**items).clone())),
            Self::Map(values) => Some((STRING, (**values).clone())),
            Self::Object(_) | Self::Metadata => Some((STRING, Self::Dyn)),
            Self::Plain(_) | Self::Optional(_) => None,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Plain("int" | "uint" | "double"))
    }
}

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Plain(name) => f.write_str(name),
            Self::List(items) => write!(f, "list({items})"),
            Self::Map(values) => write!(f, "map(string, {values})"),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::Object(_) | Self::Metadata => f.write_str("object"),
        }
    }
}
