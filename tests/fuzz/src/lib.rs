//! What must hold for any input: no panic, no hang, no more memory than the
//! budget. The bodies of the fuzz targets in `fuzz/` and of the time-boxed
//! runs in this crate's tests.
//!
//! ```text
//!   bytes ──Source──▶ choices ──mutate, generate──▶ PTX, launch ──targets──▶ no panic
//! ```
//!
//! A target takes bytes and returns nothing; what it finds is a panic. The
//! same bytes do the same everywhere. [`watch`] is for tests: it catches the
//! panic, watches the clock, and says which input it was.

pub mod corpus;
pub mod generate;
pub mod launch;
pub mod mutate;
pub mod source;
pub mod targets;
pub mod watch;
