//! CEL: the rules of custom kinds (`x-kubernetes-validations`), and the expressions of admission policies.
//!
//! Rules are compiled when a definition is read, checked for their types when it is written, and evaluated when an object
//! is written. Neither trusts its
//! input: rules are bounded in length and depth and compiled on a thread with a large stack, and an evaluation
//! that could take too many steps for the object at hand is refused instead of begun.

mod compile;
mod convert;
mod evaluate;
mod expression;
mod kind;
mod library;
mod quantity;
mod signatures;

pub(crate) use cel::Value as Evaluated;
pub(crate) use compile::CompiledRule;
pub(crate) use evaluate::check;
pub(crate) use expression::{Expression, Given, Known, Returns, Run, words};
pub(crate) use typed::check_types;

#[cfg(test)]
mod tests;
mod typed;
mod types;
