//! File tests, snapshots, conformance and invariants
