//! Comments that ask not to be told.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// What comments ask not to be told.
pub(super) struct Silenced {
    everywhere: BTreeSet<String>,
    /// By the line that follows the comment.
    lines: BTreeMap<u32, BTreeSet<String>>,
}

impl Silenced {
    pub(super) fn read(text: &str) -> Silenced {
        let mut silenced = Silenced {
            everywhere: BTreeSet::new(),
            lines: BTreeMap::new(),
        };
        let mut top = true;
        let mut pending: BTreeSet<String> = BTreeSet::new();
        for (number, line) in (1u32..).zip(text.lines()) {
            let line = line.trim();
            let Some(comment) = line.strip_prefix('#') else {
                top &= line.is_empty();
                if !line.is_empty() && !pending.is_empty() {
                    silenced.lines.insert(number, std::mem::take(&mut pending));
                }
                continue;
            };
            if let Some(ids) = comment.trim().strip_prefix("lint ignore=") {
                let ids = ids.split(',').map(|id| id.trim().to_string());
                match top {
                    true => silenced.everywhere.extend(ids),
                    false => pending.extend(ids),
                }
            }
        }
        silenced
    }

    pub(super) fn covers(&self, finding: &Finding) -> bool {
        let here = self.lines.get(&finding.at.line);
        self.everywhere.contains(finding.id) || here.is_some_and(|ids| ids.contains(finding.id))
    }
}
