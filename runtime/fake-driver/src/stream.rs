//! Streams: queues of work (CUDA driver API, Stream Management).
//!
//! In: work from copies, launches and graphs. Out: the work, run when something waits for it ([`crate::exec`]).
//! Holds: a stream that is capturing queues nothing; its work becomes nodes of a graph.

use std::collections::VecDeque;
use std::ffi::{c_int, c_uint};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::abi::{CUresult, DevicePtr, Handle};
use crate::codes::{self, Answer};
use crate::launch::Launch;
use crate::state::{CONTEXT, Driver, RELEASE, call, given, put};

/// See the module.
#[derive(Default)]
pub struct Stream {
    pub queue: VecDeque<Work>,
    /// A kernel that never ends is running.
    pub hung: bool,
    /// Destroyed while it had work; goes when that is done.
    pub destroyed: bool,
    /// The capture that it takes part in, and the nodes on which its next work depends.
    pub capture: Option<(u64, Vec<Handle>)>,
}

/// One piece of work.
#[derive(Clone)]
pub enum Work {
    Upload {
        to: DevicePtr,
        from: Source,
        bytes: usize,
    },
    Download {
        /// Pinned memory of the host.
        to: usize,
        from: DevicePtr,
        bytes: usize,
    },
    Copy {
        to: DevicePtr,
        from: DevicePtr,
        bytes: usize,
    },
    Fill {
        to: DevicePtr,
        byte: u8,
        bytes: usize,
    },
    Kernel(Arc<Launch>),
    /// Reaches a point that others wait for.
    Record(Arc<Point>),
    Wait(Arc<Point>),
}

/// Where an upload takes its bytes.
#[derive(Clone)]
pub enum Source {
    /// Pinned memory, read when the copy runs.
    Pinned(usize),
    /// Other memory, read at the call.
    Staged(Arc<[u8]>),
}

/// A place in a stream's work.
#[derive(Debug)]
pub struct Point {
    pub stream: Handle,
    /// When it was reached.
    pub reached: OnceLock<Instant>,
}

impl Point {
    pub fn new(stream: Handle) -> Arc<Self> {
        Arc::new(Self {
            stream,
            reached: OnceLock::new(),
        })
    }

    pub fn is_reached(&self) -> bool {
        self.reached.get().is_some()
    }
}

impl Work {
    /// Whether it may use these bytes of device memory; of kernels nobody knows.
    pub fn may_touch(&self, at: u64, bytes: u64) -> bool {
        let meets = |start: u64, len: usize| start < at + bytes && at < start + len as u64;
        match *self {
            Self::Upload { to, bytes, .. } | Self::Fill { to, bytes, .. } => meets(to, bytes),
            Self::Download { from, bytes, .. } => meets(from, bytes),
            Self::Copy { to, from, bytes } => meets(to, bytes) || meets(from, bytes),
            Self::Kernel(_) => true,
            Self::Record(_) | Self::Wait(_) => false,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    out: *mut Handle,
    flags: c_uint,
    _priority: c_int,
) -> CUresult {
    call(c"cuStreamCreateWithPriority", CONTEXT, |d| {
        given(out)?;
        // CU_STREAM_DEFAULT and CU_STREAM_NON_BLOCKING. A priority out of range is clamped.
        if flags > 1 {
            return Err(codes::INVALID_VALUE);
        }
        let handle = d.fresh();
        d.streams.insert(handle, Stream::default());
        // SAFETY: the caller's place for the result.
        unsafe { put(out, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(handle: Handle) -> CUresult {
    call(c"cuStreamDestroy_v2", RELEASE, |d| {
        let stream = d.stream(handle)?;
        if let Some((capture, _)) = stream.capture.take() {
            d.invalidate(capture);
            d.complain("a stream was destroyed while it was capturing".to_owned());
        }
        // Work that was submitted is done all the same.
        match d.streams.get_mut(&handle) {
            Some(stream) if stream.hung || !stream.queue.is_empty() => stream.destroyed = true,
            _ => drop(d.streams.remove(&handle)),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(handle: Handle) -> CUresult {
    call(c"cuStreamQuery", CONTEXT, |d| {
        d.not_capturing(handle)?;
        if d.stream(handle)?.idle() {
            return Ok(());
        }
        d.advance(handle);
        Err(d.sticky.unwrap_or(codes::NOT_READY))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(handle: Handle) -> CUresult {
    call(c"cuStreamSynchronize", CONTEXT, |d| {
        d.not_capturing(handle)?;
        d.stream(handle)?;
        d.finish(handle)
    })
}

impl Stream {
    pub fn idle(&self) -> bool {
        self.queue.is_empty() && !self.hung
    }
}

impl Driver {
    /// A live stream. The default stream is refused: the program under test makes its own, so null is a mistake.
    pub fn stream(&mut self, handle: Handle) -> Answer<&mut Stream> {
        let found = self.streams.get_mut(&handle).filter(|s| !s.destroyed);
        found.ok_or(codes::INVALID_HANDLE)
    }

    /// A call that a capturing stream does not allow ends its capture (CUDA programming guide, Prohibited and
    /// Unhandled Operations).
    pub fn not_capturing(&mut self, handle: Handle) -> Answer {
        match self.stream(handle)?.capture {
            None => Ok(()),
            Some((capture, _)) => {
                self.invalidate(capture);
                Err(codes::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Queues work, or makes it a node of the stream's capture.
    pub fn submit(&mut self, handle: Handle, work: Work) -> Answer {
        match self.stream(handle)?.capture.take() {
            None => {
                self.stream(handle)?.queue.push_back(work);
                Ok(())
            }
            Some((capture, after)) => {
                let added = self.add_node(capture, work, &after);
                let after = match added {
                    Ok(node) => vec![node],
                    Err(_) => after,
                };
                self.stream(handle)?.capture = Some((capture, after));
                added.map(|_| ())
            }
        }
    }
}
