//! What proves a GPU host: everything is checked against the simulated device, and timed beside its peers.
//!
//! In: a device, bundles, seeds. Out: reports that a person reads and a program compares.
//! Holds: nothing here needs a compiler; a check that did not run is named as skipped, never as passed.
//!
//! ```text
//! contents.rs  what a kit's folder holds ──► plan.rs  which steps ──► orchestrate.rs  one process each (child.rs)
//!                                                                         │
//!      facts, expected, repeat, sanitize, vectors/: what a step does      ▼
//!                              report/: one page, plots ◄── results.rs  one JSON document
//! ```

pub mod child;
pub mod clock;
pub mod contents;
pub mod expected;
pub mod facts;
pub mod orchestrate;
pub mod plan;
pub mod repeat;
pub mod report;
pub mod results;
pub mod sanitize;
pub mod vectors;
