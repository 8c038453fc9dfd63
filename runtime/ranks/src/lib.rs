//! How the ranks of a model find each other.
//!
//! In: the variables that a launcher sets, and what all ranks must agree on. Out: a [`Party`]: every rank knows every
//! other, all run the same bundle on the same mesh, and all hold the same token (NVSHMEM's unique id, where there is
//! one). Holds: within the time-out every rank has either joined or a typed error that says which ranks are missing or
//! differ; nothing waits for ever.
//!
//! ```text
//! torchrun ┐
//! srun     ├─ variables ─► Identity ─► meet ─► Party ─► barrier, barrier, ..
//! mpirun   ┘                           rank 0 listens, the others come to it
//! ```
//!
//! Needs no GPU, and no library of the launcher.

mod error;
mod hosts;
mod launcher;
mod meeting;
mod message;
mod party;

pub use error::{LaunchError, MeetError};
pub use launcher::{Identity, Launcher, Place};
pub use meeting::{Options, Terms, meet};
pub use message::Peer;
pub use party::Party;
