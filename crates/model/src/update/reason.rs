//! Why something is done to a node, as data: object, field, path or unit.

use std::fmt;

use serde::Serialize;

/// Why something is done: a change, and the policy that says what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Name of the MachineConfig that asks for it; of the rendered one where it is not known which.
    pub object: String,
    /// The field of that object.
    pub field: &'static str,
    /// The path, when it is about a file, directory or link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The unit, when it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What changes, in words.
    pub change: String,
    /// Path or unit of the node disruption policy that asks for this, when one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What exactly makes the change unsafe without a drain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.change)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details.join("; "))?;
        }
        Ok(())
    }
}

/// Several reasons as one text: the first, and how many more there are.
pub(super) fn brief(reasons: &[Reason]) -> String {
    match reasons {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
