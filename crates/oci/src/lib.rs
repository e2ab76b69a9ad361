//! Digests, manifests, blob store; registry client and embedded registry server.
