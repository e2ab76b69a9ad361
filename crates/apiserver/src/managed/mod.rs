//! Managed fields: who set which field, and what server-side apply makes of it.
//!
//! Every write records the fields it set for its manager. An apply additionally refuses to change fields of
//! others (unless forced), and removes fields that its manager applied before but no longer mentions.

mod apply;
mod entries;
mod set;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use apply::apply;
pub(crate) use entries::{Entries, Writer};
