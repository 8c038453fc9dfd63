//! What proves a GPU host: everything is checked against the simulated device, and timed beside its peers.
//!
//! In: a device, bundles, seeds. Out: reports that a person reads and a program compares.
//! Holds: nothing here needs a compiler; a check that did not run is named as skipped, never as passed.

pub mod vectors;
