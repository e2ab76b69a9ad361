//! Containerfile to OCI image; the only crate that executes RUN.
