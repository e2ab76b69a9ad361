//! Names for what a step gives, made of everything that decides it. Pure.
//!
//! A key begins with the chain of layers that the step stands on, not with the steps that made them: when a step
//! runs again and gives the same layer, what follows is still found. Times of input files, where they lie, and
//! values of secrets are not in a key.

use oci::Digest;
use serde::Serialize;

use crate::state::Action;

/// Changes when the same step would give another layer than before.
const FORMAT: u32 = 3;

/// What decides the result of a step.
#[derive(Debug, Serialize)]
pub(crate) struct Inputs<'a> {
    /// The chain of layers below; `None` for an empty root.
    pub(crate) chain: Option<Digest>,
    /// `os/architecture[/variant]`.
    pub(crate) platform: &'a str,
    /// What times become, in seconds since 1970.
    pub(crate) epoch: i64,
    /// Times of packages are replaced too.
    pub(crate) clamp: bool,
    pub(crate) action: &'a Action,
    /// Content of files from outside, and chains that files come from, in the order of the action.
    pub(crate) files: Vec<Option<Digest>>,
}

/// The key of a step.
pub(crate) fn key(inputs: &Inputs<'_>) -> Digest {
    let text = serde_json::to_vec(&(FORMAT, inputs)).expect("the types serialise to JSON");
    Digest::of(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CopyAction, CopySource, Unpack};

    #[test]
    fn every_input_counts() {
        let mkdir = |path: &str| Action::Mkdir {
            path: path.into(),
            user: String::new(),
        };
        let copy = |chown: Option<&str>| {
            Action::Copy(CopyAction {
                unpack: Unpack::None,
                from: None,
                sources: vec![CopySource::Path("a".into())],
                dest: "/a".into(),
                chown: chown.map(str::to_string),
                chmod: None,
                exclude: vec![],
                parents: false,
            })
        };
        let (a, b) = (mkdir("/a"), mkdir("/b"));
        let (c, d) = (copy(None), copy(Some("1")));
        let base = |action| Inputs {
            chain: None,
            platform: "linux/amd64",
            epoch: 0,
            clamp: false,
            action,
            files: vec![],
        };
        let digest = Digest::of(b"x");
        let all = [
            base(&a),
            base(&b),
            base(&c),
            base(&d),
            Inputs {
                chain: Some(digest),
                ..base(&a)
            },
            Inputs {
                platform: "linux/arm64",
                ..base(&a)
            },
            Inputs {
                epoch: 1,
                ..base(&a)
            },
            Inputs {
                clamp: true,
                ..base(&a)
            },
            Inputs {
                files: vec![Some(digest)],
                ..base(&a)
            },
            Inputs {
                files: vec![None],
                ..base(&a)
            },
        ];
        let keys: std::collections::BTreeSet<_> = all.iter().map(key).collect();
        assert_eq!(keys.len(), all.len());
        assert_eq!(key(&base(&a)), key(&base(&mkdir("/a"))));
    }
}
