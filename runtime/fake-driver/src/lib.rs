//! A `libcuda.so.1` for machines without a GPU: the CUDA driver API over the simulated device.
//!
//! ```text
//!   program under test ──dlopen──► libcuda.so.1 (this crate)
//!      cu* calls                     strict checks ─► queues, graphs, memory ─► mcc-sim
//!      mcc_fake_* calls              failures, settings, counts
//! ```
//!
//! It is an instrument for tests, never shipped and never selected on its own. It is as strict as the driver
//! API's documentation allows, and stricter where programs would otherwise be right by luck:
//!
//! - Work runs as late as the API allows: at a call that waits for it, one piece a query. A staging slot that is
//!   reused too early, or an event wait that is missing, gives wrong data every time.
//! - Fresh memory holds ones in every bit, which are NaNs in every floating-point type.
//! - Handles are never given out twice and never pointers: a stale one is always found.
//! - What hardware tolerates or hangs on is kept as a complaint, which tests read.
//!
//! A failed kernel is sticky as on hardware. `control.rs` has the knobs: which call fails and how, what the device
//! is, in which order streams run; `settings.rs` says how the environment sets them.

mod abi;
mod codes;
mod context;
mod control;
mod copy;
mod event;
mod exec;
mod graph;
mod launch;
mod memory;
mod module;
mod settings;
mod state;
mod stream;
mod tensor_map;
#[cfg(test)]
mod tests;
mod virtual_memory;
