//! A simulated Hopper device that runs PTX text.
//!
//! ```text
//!   PTX ──mcc_ptx──▶ Module ──decode──▶ Kernel ──exec──▶ memory, or a fault
//!                                          ▲
//!            grid of CTAs: clusters on host threads, warps in turn
//! ```
//!
//! It runs what any compiler wrote and is told nothing of its intent. Results
//! are those of an H100 bit for bit where the hardware's arithmetic is known
//! ([`numerics::wgmma`] says what is measured and what is inferred); the
//! `.approx` functions are correctly rounded ([`numerics::approx`]); time is
//! counted in instructions. Memory operations take effect in program order;
//! asynchronous ones when [`Completion`] says. With [`GpuConfig::check`] the
//! order of all accesses is held against the memory model, and what only
//! happened to go well is a fault ([`Race`]).
//!
//! What a program does wrong ends in a [`SimError`] that names the PTX line and
//! the thread.

#![forbid(unsafe_code)]

mod check;
mod decode;
mod error;
mod exec;
mod isa;
mod launch;
mod mbarrier;
mod memory;
mod network;
pub mod numerics;
mod pace;
mod resident;
mod schedule;
mod simd;
mod tensor_map;
mod tma;
mod trace;
mod world;

pub use check::{Other, Place, Race, Rule};
pub use error::{BlockedWarp, Deadlock, Fault, FaultKind, SimError};
pub use launch::{
    Completion, Demands, Gpu, GpuConfig, Launch, LaunchConfig, LaunchStats, Module, Queue,
    QueueError, launch_queues, launch_together,
};
pub use resident::Death;
pub use tensor_map::{Swizzle, TensorElem, TensorMap};
pub use trace::{
    ClusterTrace, LaunchTrace, TraceEngine, TraceEvent, TraceKind, TraceLimits, TracePoint,
    TraceWait,
};
pub use world::{Traffic, World};
