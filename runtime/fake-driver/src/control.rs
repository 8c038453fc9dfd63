//! What tests ask and set (`mcc_fake_*`).
//!
//! Found by name in the same library; the C types are below. None of these calls is counted.

use std::ffi::{CStr, c_char, c_int};

use crate::abi::CUresult;
use crate::settings::{Failure, Order};
use crate::state::{self, with};

/// Forgets everything, as a new process would; settings are those of the environment.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_reset() {
    state::reset();
}

/// Changes a setting ([`crate::settings`]); -1 when there is none of this name, or the value is wrong.
///
/// # Safety
/// Both are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcc_fake_set(key: *const c_char, value: *const c_char) -> c_int {
    // SAFETY: by the caller's promise.
    let texts = unsafe { (state::text(key), state::text(value)) };
    let (Ok(key), Ok(value)) = texts else {
        return -1;
    };
    with(|d| match d.settings.set(&key, &value) {
        Ok(()) => {
            if let Order::Random(seed) = d.settings.order {
                d.reseed(seed);
            }
            0
        }
        Err(what) => {
            d.complain(what);
            -1
        }
    })
}

/// Makes the n-th call from now on fail; the next one is number 1.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_fail(nth: u64, code: CUresult) {
    with(|d| {
        let nth = d.calls.len() as u64 + nth;
        d.settings.failures.push(Failure {
            call: None,
            nth,
            code,
        });
    });
}

/// Takes back all failures that have not happened; how many these were.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_fail_none() -> u64 {
    with(|d| std::mem::take(&mut d.settings.failures).len() as u64)
}

/// Driver calls so far.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_calls() -> u64 {
    with(|d| d.calls.len() as u64)
}

/// Name of a call, counted from 0; null when there were not as many.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_call_name(index: u64) -> *const c_char {
    with(|d| {
        let name = usize::try_from(index).ok().and_then(|i| d.calls.get(i));
        name.map_or(std::ptr::null(), |name| name.as_ptr())
    })
}

/// Kernels that have run.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_kernels() -> u64 {
    with(|d| d.kernels)
}

/// Pieces of work that are queued.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_pending() -> u64 {
    with(|d| d.streams.values().map(|s| s.queue.len() as u64).sum())
}

/// Objects of a kind that were not given back: `context`, `memory`, `pinned`, `reservation`, `physical`, `mapping`,
/// `module`, `stream`, `event`, `capture`, `graph`, `graph_exec`; of all kinds for an empty name. -1 when there is
/// no such kind.
///
/// # Safety
/// NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcc_fake_live(kind: *const c_char) -> i64 {
    // SAFETY: by the caller's promise.
    let kind = unsafe { state::text(kind) };
    let count = kind.ok().and_then(|kind| with(|d| d.live(&kind)));
    count.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1)
}

/// Complaints so far: what hardware would tolerate or hang on, but nobody should do.
#[unsafe(no_mangle)]
pub extern "C" fn mcc_fake_complaints() -> u64 {
    with(|d| d.complaints.len() as u64)
}

/// A complaint as text, counted from 0: at most `room` bytes of it, with a NUL behind it. Its length.
///
/// # Safety
/// `out` has `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcc_fake_complaint(index: u64, out: *mut c_char, room: usize) -> usize {
    let text = with(|d| {
        let text = usize::try_from(index)
            .ok()
            .and_then(|i| d.complaints.get(i));
        text.cloned().unwrap_or_default()
    });
    // SAFETY: by the caller's promise.
    unsafe { write(&text, out, room) }
}

/// What the simulator said about the kernel that failed, as [`mcc_fake_complaint`].
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcc_fake_fault(out: *mut c_char, room: usize) -> usize {
    let text = with(|d| d.fault.clone());
    // SAFETY: by the caller's promise.
    unsafe { write(&text, out, room) }
}

/// # Safety
/// `out` has `room` bytes.
unsafe fn write(text: &str, out: *mut c_char, room: usize) -> usize {
    let len = text.len().min(room.saturating_sub(1));
    if !out.is_null() && room > 0 {
        // SAFETY: by the caller's promise; `len + 1` is at most `room`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), len);
            out.add(len).write(0);
        }
    }
    text.len()
}

/// A name as text, for messages.
pub fn shown(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
