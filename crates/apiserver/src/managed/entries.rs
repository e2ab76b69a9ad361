//! `metadata.managedFields`: one entry per manager and way of writing.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::set::FieldSet;
use super::walk;
use crate::resources::metadata::timestamp;
use crate::schema::Schema;

/// Entries of updates at most; older ones are put together.
const MAX_UPDATES: usize = 10;
/// The manager that gets what does not fit.
const ANCIENT: &str = "ancient-changes";

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) api_version: String,
    /// `status`, or empty.
    pub(crate) subresource: &'static str,
    pub(crate) now: Timestamp,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) apply: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries(pub(super) Vec<Entry>);

impl Entry {
    pub(super) fn new(writer: &Writer, apply: bool) -> Self {
        Self {
            manager: writer.manager.clone(),
            apply,
            api_version: writer.api_version.clone(),
            subresource: writer.subresource.into(),
            time: timestamp(writer.now),
            fields: FieldSet::default(),
        }
    }

    pub(super) fn is_by(&self, writer: &Writer, apply: bool) -> bool {
        self.apply == apply
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (apply || self.api_version == writer.api_version)
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let apply = match value["operation"].as_str()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            apply,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_json(&value["fieldsV1"])?,
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }
}

impl Entries {
    /// The entries of an object; none if they are malformed.
    pub(crate) fn of(object: &Value) -> Self {
        let listed = object["metadata"]["managedFields"].as_array();
        let listed = listed.map_or(&[][..], Vec::as_slice);
        Self(
            listed
                .iter()
                .map(Entry::parse)
                .collect::<Option<_>>()
                .unwrap_or_default(),
        )
    }

    /// The entries a write starts from: those the client sent along, which it may have edited, else the
    /// object's own.
    pub(crate) fn sent(proposed: &Value, old: Option<&Value>) -> Self {
        let listed = proposed["metadata"]["managedFields"].as_array();
        match listed.map(Vec::as_slice) {
            // How clients ask to forget all managers.
            Some([only]) if only.as_object().is_some_and(serde_json::Map::is_empty) => {
                Self::default()
            }
            Some([_, ..]) => Self::of(proposed),
            _ => old.map(Self::of).unwrap_or_default(),
        }
    }

    /// What `metadata.managedFields` holds.
    pub(crate) fn to_json(&self) -> Value {
        self.0.iter().map(Entry::to_json).collect()
    }

    /// Records an update that made `new` of `old`.
    pub(crate) fn record_update(
        &mut self,
        writer: &Writer,
        old: Option<&Value>,
        new: &Value,
        schema: &Schema,
    ) {
        let all = |_: &str| true;
        let before = old.map_or_else(|| json!({}), |old| walk::tracked(old, all));
        let after = walk::tracked(new, all);
        let difference = walk::compare(&before, &after, Some(schema));
        if difference.set.is_empty() && difference.removed.is_empty() {
            return;
        }
        let lost = difference.set.union(&difference.removed);
        let mut found = false;
        for entry in &mut self.0 {
            if entry.is_by(writer, false) {
                found = true;
                let fields = entry
                    .fields
                    .minus(&difference.removed)
                    .union(&difference.set);
                if fields != entry.fields {
                    entry.fields = fields;
                    entry.time = timestamp(writer.now);
                }
            } else {
                entry.fields = entry.fields.minus(&lost);
            }
        }
        if !found {
            let mut entry = Entry::new(writer, false);
            entry.fields = difference.set;
            self.0.push(entry);
        }
        self.tidy();
    }

    /// Drops empty entries, and puts the oldest updates together if there are many.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.0.sort_by(|a, b| {
            let order = |entry: &Entry| (!entry.apply, entry.time.clone(), entry.manager.clone());
            order(a).cmp(&order(b))
        });
        while self.0.iter().filter(|entry| !entry.apply).count() > MAX_UPDATES {
            let updates = |entry: &Entry| !entry.apply;
            let Some(first) = self.0.iter().position(updates) else {
                return;
            };
            let oldest = self.0.remove(first);
            let next = &mut self.0[first];
            next.fields = next.fields.union(&oldest.fields);
            next.manager = ANCIENT.into();
        }
    }
}
