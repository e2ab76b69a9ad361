//! A YAML document with the place of everything in it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Place;

/// One value, and where it stands.
pub(super) type Located = Spanned<Tree>;

/// What is needed to find a field: scalars have no content here.
#[derive(Debug)]
pub(super) enum Tree {
    Scalar,
    List(Vec<Located>),
    Map(Vec<(Spanned<String>, Located)>),
}

/// The place of a field such as `spec.config.storage.files[0].path`, or of what comes nearest to it. A field is where its
/// name stands.
pub(super) fn place(root: &Located, field: &str) -> Place {
    let mut found = root.referenced;
    let (mut node, mut rest) = (root, field);
    loop {
        let step = match &node.value {
            Tree::Scalar => None,
            Tree::List(items) => index(rest).and_then(|(index, after)| {
                let item = items.get(index)?;
                Some((item.referenced, item, after))
            }),
            Tree::Map(entries) => {
                let rest = rest.strip_prefix('.').unwrap_or(rest);
                // Keys may have dots, as those of labels do: the longest that fits is meant.
                let fits = entries.iter().filter_map(|(key, value)| {
                    let after = rest.strip_prefix(key.value.as_str())?;
                    let ends = after.is_empty() || after.starts_with(['.', '[']);
                    ends.then_some((key, value, after))
                });
                fits.max_by_key(|(key, ..)| key.value.len())
                    .map(|(key, value, after)| (key.referenced, value, after))
            }
        };
        let Some((at, next, after)) = step else {
            return of(found);
        };
        found = at;
        (node, rest) = (next, after);
    }
}

pub(super) fn of(location: serde_saphyr::Location) -> Place {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    Place {
        line: number(location.line()),
        column: number(location.column()),
    }
}

/// `[3].x` as 3 and `.x`.
fn index(rest: &str) -> Option<(usize, &str)> {
    let (number, after) = rest.strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, after))
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}
