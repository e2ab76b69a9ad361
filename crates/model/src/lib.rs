//! API types and every decision made from them; no I/O, no async, no clock.

pub mod api;
pub mod condition;
pub mod keys;
