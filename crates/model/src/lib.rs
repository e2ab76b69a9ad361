//! API types and every decision made from them; no I/O, no async, no clock.

pub mod api;
pub mod build_log;
pub mod build_state;
pub mod condition;
pub mod diff;
pub mod drain;
pub mod drift;
pub mod explain;
pub mod health;
pub mod ignition;
pub mod image_check;
pub mod keys;
pub mod layering;
pub mod ledger;
pub mod manifest;
pub mod node;
pub mod pool;
pub mod pool_status;
pub mod problem;
pub mod provision;
pub mod pull_spec;
pub mod render;
pub mod rollout;
pub mod selector;
pub mod trial;
pub mod update;
