//! Plants bugs into kernels' PTX and counts those that the simulator reports.
//!
//! ```text
//!   bundle ──record──▶ Subject: kernel + launches ──kinds──▶ mutants ──judge──▶ verdicts ──report──▶ score
//!   hand-written PTX ──▲
//! ```
//!
//! In: kernels and launches of them. Out: for every planted bug, whether the simulator reported it, whether the
//! results gave it away, or why it survived.
//! Holds: the originals are clean under every schedule before a mutant is judged; a mutant counts as one that
//! changes behaviour unless it is shown that it does not ([`judge::Verdict`]); what was not run is counted.

mod flow;
pub mod handwritten;
pub mod judge;
pub mod kinds;
mod probe;
mod record;
mod report;
mod same;
mod subject;

pub use judge::{Campaign, Done, Verdict};
pub use record::{RecordOptions, record};
pub use report::Report;
pub use subject::{Case, Left, Pointer, Region, Setting, Subject};

use mcc_sim::SimError;

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the PTX of kernel `{kernel}` does not parse: {message}")]
    Ptx { kernel: String, message: String },
    #[error("the module has no kernel `{0}`")]
    NoKernel(String),
    #[error(transparent)]
    Bundle(#[from] mcc_bundle::BundleError),
    #[error(transparent)]
    Runtime(#[from] mcc_runtime::RuntimeError),
    #[error("the bundle's kernels could not be recorded: {0}")]
    Record(String),
    #[error("kernel `{kernel}` is not clean as it is ({setting}, {case}): {source}")]
    Unclean {
        kernel: String,
        setting: String,
        case: String,
        source: Box<SimError>,
    },
    #[error("kernel `{kernel}` leaves other results under another schedule ({setting}, {case})")]
    Unstable {
        kernel: String,
        setting: String,
        case: String,
    },
}
