//! Events (CUDA driver API, Event Management).
//!
//! An event names the point at which it was last recorded: waiting for it waits for that point, also when the
//! event is recorded again or destroyed before the wait is over.

use std::ffi::c_uint;
use std::sync::Arc;

use crate::abi::{CUresult, Handle};
use crate::codes::{self, Answer};
use crate::state::{CONTEXT, Driver, RELEASE, UNCAPTURED, call, given, put};
use crate::stream::{Point, Work};

/// See the module.
pub struct Event {
    timing: bool,
    recorded: Recorded,
}

#[derive(Clone)]
enum Recorded {
    Never,
    At(Arc<Point>),
    /// In a capture, after these nodes.
    Captured(u64, Vec<Handle>),
}

/// `CU_EVENT_DISABLE_TIMING`; `CU_EVENT_BLOCKING_SYNC` is 1.
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut Handle, flags: c_uint) -> CUresult {
    call(c"cuEventCreate", CONTEXT, |d| {
        given(out)?;
        if flags & !3 != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let handle = d.fresh();
        let event = Event {
            timing: flags & DISABLE_TIMING == 0,
            recorded: Recorded::Never,
        };
        d.events.insert(handle, event);
        // SAFETY: the caller's place for the result.
        unsafe { put(out, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(handle: Handle) -> CUresult {
    call(c"cuEventDestroy_v2", RELEASE, |d| {
        let known = d.events.remove(&handle);
        known.map(|_| ()).ok_or(codes::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(handle: Handle, stream: Handle) -> CUresult {
    call(c"cuEventRecord", CONTEXT, |d| {
        d.event(handle)?;
        let recorded = match &d.stream(stream)?.capture {
            Some((capture, after)) => Recorded::Captured(*capture, after.clone()),
            None => {
                let point = Point::new(stream);
                d.submit(stream, Work::Record(Arc::clone(&point)))?;
                Recorded::At(point)
            }
        };
        if let Some(event) = d.events.get_mut(&handle) {
            event.recorded = recorded;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(handle: Handle) -> CUresult {
    call(c"cuEventQuery", UNCAPTURED, |d| {
        let Some(point) = d.point(handle)? else {
            return Ok(());
        };
        if point.is_reached() {
            return Ok(());
        }
        d.advance(point.stream);
        Err(d.sticky.unwrap_or(codes::NOT_READY))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(handle: Handle) -> CUresult {
    call(c"cuEventSynchronize", UNCAPTURED, |d| {
        match d.point(handle)? {
            Some(point) => d.finish_point(&point),
            None => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(out: *mut f32, start: Handle, end: Handle) -> CUresult {
    call(c"cuEventElapsedTime", CONTEXT, |d| {
        given(out)?;
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([start, end]) {
            let timing = d.event(handle)?.timing;
            let point = d.point(handle)?.filter(|_| timing);
            let point = point.ok_or(codes::INVALID_HANDLE)?;
            *time = point.reached.get().copied();
        }
        let [Some(from), Some(to)] = times else {
            return Err(codes::NOT_READY);
        };
        // Negative when the events ran the other way round.
        let ahead = to.saturating_duration_since(from).as_secs_f32();
        let behind = from.saturating_duration_since(to).as_secs_f32();
        // SAFETY: the caller's place for the result.
        unsafe { put(out, (ahead - behind) * 1e3) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(
    stream: Handle,
    handle: Handle,
    flags: c_uint,
) -> CUresult {
    call(c"cuStreamWaitEvent", CONTEXT, |d| {
        // CU_EVENT_WAIT_EXTERNAL is for graphs that wait for others' events.
        if flags != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let recorded = d.event(handle)?.recorded.clone();
        let capture = d.stream(stream)?.capture.as_ref().map(|(c, _)| *c);
        match (recorded, capture) {
            (Recorded::Never, _) => Ok(()),
            (Recorded::At(point), None) => d.submit(stream, Work::Wait(point)),
            (Recorded::At(_), Some(capture)) => {
                d.invalidate(capture);
                Err(codes::STREAM_CAPTURE_ISOLATION)
            }
            (Recorded::Captured(of, _), _) if !d.captures.contains_key(&of) => {
                Err(codes::CAPTURED_EVENT)
            }
            (Recorded::Captured(of, after), None) => {
                d.stream(stream)?.capture = Some((of, after));
                Ok(())
            }
            (Recorded::Captured(of, after), Some(capture)) if of == capture => {
                if let Some((_, nodes)) = &mut d.stream(stream)?.capture {
                    nodes.extend(after);
                    nodes.sort_unstable();
                    nodes.dedup();
                }
                Ok(())
            }
            (Recorded::Captured(of, _), Some(capture)) => {
                d.invalidate(of);
                d.invalidate(capture);
                Err(codes::STREAM_CAPTURE_MERGE)
            }
        }
    })
}

impl Driver {
    fn event(&self, handle: Handle) -> Answer<&Event> {
        self.events.get(&handle).ok_or(codes::INVALID_HANDLE)
    }

    /// Where an event was recorded outside of any capture.
    fn point(&mut self, handle: Handle) -> Answer<Option<Arc<Point>>> {
        match &self.event(handle)?.recorded {
            Recorded::Never => Ok(None),
            Recorded::At(point) => Ok(Some(Arc::clone(point))),
            Recorded::Captured(capture, _) => {
                let capture = *capture;
                self.invalidate(capture);
                Err(codes::CAPTURED_EVENT)
            }
        }
    }
}
