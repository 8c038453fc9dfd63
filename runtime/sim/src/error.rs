//! What can go wrong, and for whom.
//!
//! A [`SimError`] is one of: PTX that cannot be read or uses something that the
//! simulator lacks; a launch or an argument that a Hopper GPU would refuse; or
//! a fault of the running kernel, which names the kernel, the PTX line, the
//! block, the warp and the lane.

use std::fmt;

use thiserror::Error;

use crate::check::Race;

#[derive(Debug, Clone, PartialEq, Error)]
pub enum SimError {
    #[error("the PTX cannot be read: {message}")]
    BadPtx { message: String },
    #[error(
        "kernel `{kernel}`, PTX line {line}: `{text}`: {what} is not supported by the simulator"
    )]
    Unsupported {
        kernel: String,
        line: u32,
        text: String,
        what: String,
    },
    #[error("kernel `{kernel}`, PTX line {line}: `{text}`: {message}")]
    Invalid {
        kernel: String,
        line: u32,
        text: String,
        message: String,
    },
    #[error("the module has no kernel `{name}`; it has {known}")]
    NoKernel { name: String, known: String },
    #[error("kernel `{kernel}` cannot be launched: {message}")]
    Launch { kernel: String, message: String },
    #[error("device memory: {0}")]
    Memory(String),
    #[error("tensor map: {0}")]
    TensorMap(String),
    /// As [`Death`](crate::Death) asked for.
    #[error("killed in launch {launch} of its queue, after {instructions} warp instructions")]
    Killed { launch: usize, instructions: u64 },
    #[error(transparent)]
    Fault(Box<Fault>),
    #[error(transparent)]
    Deadlock(Box<Deadlock>),
}

/// An instruction that failed at run time.
#[derive(Debug, Clone, PartialEq, Error)]
#[error(
    "kernel `{kernel}`, PTX line {line}: `{text}`: {kind} (block {}, warp {warp}{})",
    triple(*block),
    lane_text(*lane, *thread)
)]
pub struct Fault {
    pub kernel: String,
    /// 1-based line of the PTX text, and what stands there.
    pub line: u32,
    pub text: String,
    pub block: [u32; 3],
    pub warp: u32,
    pub lane: Option<u32>,
    pub thread: Option<[u32; 3]>,
    pub kind: FaultKind,
}

fn triple(v: [u32; 3]) -> String {
    format!("({}, {}, {})", v[0], v[1], v[2])
}

fn lane_text(lane: Option<u32>, thread: Option<[u32; 3]>) -> String {
    match (lane, thread) {
        (Some(l), Some(t)) => format!(", lane {l}, thread {}", triple(t)),
        _ => String::new(),
    }
}

#[derive(Debug, Clone, PartialEq, Error)]
pub enum FaultKind {
    #[error("{bytes} bytes at {space} address {address:#x} are out of bounds{hint}")]
    OutOfBounds {
        space: &'static str,
        address: u64,
        bytes: u64,
        hint: String,
    },
    #[error("{space} address {address:#x} is not aligned to {align} bytes")]
    Misaligned {
        space: &'static str,
        address: u64,
        align: u64,
    },
    #[error(
        "shared address {address:#x} belongs to block {} of the cluster, which has exited",
        triple(*block)
    )]
    Exited { address: u64, block: [u32; 3] },
    #[error("trap")]
    Trap,
    #[error(
        "the instruction needs all threads {of} together, but lanes {active:#010x} of {expected:#010x} execute it"
    )]
    Divergent {
        of: &'static str,
        active: u32,
        expected: u32,
    },
    #[error("mbarrier at shared address {address:#x}: {message}")]
    Mbarrier { address: u64, message: String },
    #[error("tensor map: {0}")]
    TensorMap(String),
    #[error("matrix descriptor {descriptor:#018x}: {message}")]
    Descriptor { descriptor: u64, message: String },
    #[error(
        "{space} address {address:#x} is touched before griddepcontrol.wait, while an earlier launch may still run"
    )]
    EarlyAccess { space: &'static str, address: u64 },
    #[error(
        "a thread of a programmatic launch ends without griddepcontrol.wait: the next launch would take all earlier ones for ended"
    )]
    NoGridWait,
    #[error("{0}")]
    Race(Box<Race>),
    #[error("more than {0} warp instructions were executed")]
    InstructionLimit(u64),
    #[error("{0}")]
    Illegal(String),
}

/// No warp can run and nothing is in flight.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadlock {
    pub kernel: String,
    pub waits: Vec<BlockedWarp>,
    /// Blocks that have not started, because those that have never end.
    pub not_started: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BlockedWarp {
    /// The device among those that were launched together.
    pub device: usize,
    pub block: [u32; 3],
    pub warp: u32,
    pub lanes: u32,
    pub line: u32,
    pub text: String,
    /// What the warp waits for: the barrier, the mbarrier's address and phase.
    pub reason: String,
}

impl std::error::Error for Deadlock {}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel `{}` is dead-locked:", self.kernel)?;
        // A whole CTA is enough to see the cycle.
        let several = self.waits.iter().any(|w| w.device > 0);
        for w in self.waits.iter().take(32) {
            f.write_str("\n  ")?;
            if several {
                write!(f, "device {}, ", w.device)?;
            }
            write!(
                f,
                "block {}, warp {}, lanes {:#010x}, PTX line {}: `{}`: {}",
                triple(w.block),
                w.warp,
                w.lanes,
                w.line,
                w.text,
                w.reason
            )?;
        }
        if self.waits.len() > 32 {
            write!(f, "\n  and {} more", self.waits.len() - 32)?;
        }
        if self.not_started > 0 {
            write!(
                f,
                "\n  {} blocks have not started, because the resident ones never end",
                self.not_started
            )?;
        }
        Ok(())
    }
}

/// A fault before the interpreter has added where it happened.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub lane: Option<u32>,
    /// The instruction, when it is not the one that runs now.
    pub pc: Option<u32>,
    pub kind: FaultKind,
}

pub(crate) type Exec<T> = Result<T, Box<Trouble>>;

pub(crate) fn trouble(lane: Option<u32>, kind: FaultKind) -> Box<Trouble> {
    Box::new(Trouble {
        lane,
        pc: None,
        kind,
    })
}

pub(crate) fn illegal(message: impl Into<String>) -> Box<Trouble> {
    trouble(None, FaultKind::Illegal(message.into()))
}
