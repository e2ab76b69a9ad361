//! Node agent: observes the host, stages images, applies configuration, verifies, reports.
