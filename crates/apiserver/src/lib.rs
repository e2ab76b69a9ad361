//! Kubernetes-compatible API for one machine: CRDs, list and watch, patch, storage.
