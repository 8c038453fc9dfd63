//! Runs kernels of a PTX file on the simulated device, as a launch file says.
//!
//! ```text
//!   launch.json ──file──▶ LaunchFile ──data──▶ buffers ─┐
//!                                    ──pack──▶ params  ─┼─run─▶ mcc_sim ──▶ Report
//!   kernel.ptx  ──mcc_ptx──▶ kernels and parameters    ─┘                  outputs
//! ```
//!
//! `mcc sim` and `mccrt sim` are [`cli::SimFlags`]. Whatever is wrong with the
//! input is an [`InputError`] that says where; whatever the kernel does wrong
//! is in the [`Report`]. docs/simulator.md has the launch file's reference.

mod approx;
pub mod cli;
mod compare;
mod data;
mod dtype;
mod error;
mod file;
mod fill;
mod json;
mod output;
mod pack;
mod report;
mod run;
mod timeline;

pub use approx::Approximation;
pub use compare::{Comparison, Difference, Mismatch};
pub use error::InputError;
pub use file::LaunchFile;
pub use output::Written;
pub use report::{Finding, LaunchReport, Report, Run};
pub use run::{Options, Schedules, run};
pub use timeline::to_json as timeline_json;
