//! Reconcile loops: render, build, pool, node.
