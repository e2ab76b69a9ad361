//! The `caprock` binary: command line and wiring.

fn main() {}
