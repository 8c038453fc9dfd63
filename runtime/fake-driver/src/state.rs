//! The one driver of the process, and the gate through which every call goes.
//!
//! In: a call's name, what it needs, and what it does. Out: a code. The gate counts the call, lets it fail where a
//! test asked for that, and checks what all calls share: initialisation, a current context, sticky errors, and
//! captures that forbid it. Holds: calls run one at a time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcc_sim::{Gpu, GpuConfig};

use crate::abi::{CUresult, Handle};
use crate::codes::{self, Answer};
use crate::control::shown;
use crate::event::Event;
use crate::graph::{Capture, Graph, GraphExec};
use crate::memory::{Allocation, Pinned};
use crate::module::{Function, Module};
use crate::settings::{Order, Settings};
use crate::stream::Stream;
use crate::virtual_memory::{Mapping, Physical, Reservation};

/// What a call needs before it does anything.
#[derive(Clone, Copy)]
pub struct Needs {
    /// `cuInit` was called.
    init: bool,
    /// A context is current in the calling thread.
    context: bool,
    /// It gives something back. A driver does that even while it reports an earlier failure, so that a test of
    /// failures can tell a leak from a call that was never made.
    release: bool,
    /// It is one of the calls that a capture in global mode forbids (`cuThreadExchangeStreamCaptureMode`).
    no_capture: bool,
}

/// Works at any time.
pub const NOTHING: Needs = Needs {
    init: false,
    context: false,
    release: false,
    no_capture: false,
};
pub const INIT: Needs = Needs {
    init: true,
    ..NOTHING
};
pub const CONTEXT: Needs = Needs {
    context: true,
    ..INIT
};
/// A current context and no capture.
pub const UNCAPTURED: Needs = Needs {
    no_capture: true,
    ..CONTEXT
};
pub const RELEASE: Needs = Needs {
    release: true,
    ..CONTEXT
};
pub const RELEASE_UNCAPTURED: Needs = Needs {
    release: true,
    ..UNCAPTURED
};
/// Gives a primary context back: works without a current one.
pub const RELEASE_CONTEXT: Needs = Needs {
    release: true,
    ..INIT
};

/// Everything that the driver knows.
pub struct Driver {
    pub settings: Settings,
    /// Calls so far, the latest last.
    pub calls: Vec<&'static CStr>,
    counts: BTreeMap<&'static CStr, u64>,
    /// What hardware would tolerate or hang on, in words.
    pub complaints: Vec<String>,
    /// The code that every later call gives, and what the simulator said.
    pub sticky: Option<CUresult>,
    pub fault: String,
    pub initialised: bool,
    /// Primary contexts that are retained: handle and count, by device.
    pub contexts: BTreeMap<i32, (Handle, u64)>,
    gpu: Option<Arc<Gpu>>,
    next: Handle,
    random: u64,
    /// Kernels that have run.
    pub kernels: u64,
    pub memory: BTreeMap<u64, Allocation>,
    pub pinned: BTreeMap<usize, Pinned>,
    pub reservations: BTreeMap<u64, Reservation>,
    pub physical: BTreeMap<u64, Physical>,
    pub mappings: BTreeMap<u64, Mapping>,
    pub modules: BTreeMap<Handle, Module>,
    pub functions: BTreeMap<Handle, Function>,
    pub streams: BTreeMap<Handle, Stream>,
    pub events: BTreeMap<Handle, Event>,
    pub captures: BTreeMap<u64, Capture>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub execs: BTreeMap<Handle, GraphExec>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    /// The context that is current in this thread, or 0.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// Runs `f` on the driver; the first call makes it.
pub fn with<T>(f: impl FnOnce(&mut Driver) -> T) -> T {
    let mut guard: MutexGuard<'_, Option<Driver>> =
        DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    f(guard.get_or_insert_with(|| Driver::new(Settings::from_env())))
}

/// Starts anew, as a fresh process would.
pub fn reset() {
    let mut guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let next = guard.as_ref().map(|d| d.next);
    let mut driver = Driver::new(Settings::from_env());
    // Handles from before stay unknown.
    driver.next = next.unwrap_or(driver.next);
    *guard = Some(driver);
    CURRENT.set(0);
}

/// The gate: see the module.
pub fn call(name: &'static CStr, needs: Needs, f: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    call_or(name, needs, |_| (), f)
}

/// [`call`] for calls of which a part happens even when they fail by a test's wish, or after a sticky error.
pub fn call_or(
    name: &'static CStr,
    needs: Needs,
    injected: impl FnOnce(&mut Driver),
    f: impl FnOnce(&mut Driver) -> Answer,
) -> CUresult {
    with(|d| {
        let answer = d.gate(name, needs, injected, f);
        if d.settings.order == Order::Eager {
            d.run_everything();
        }
        answer.err().unwrap_or(codes::SUCCESS)
    })
}

impl Driver {
    fn new(settings: Settings) -> Self {
        let random = match settings.order {
            Order::Random(seed) => seed,
            _ => 0,
        };
        Self {
            settings,
            calls: Vec::new(),
            counts: BTreeMap::new(),
            complaints: Vec::new(),
            sticky: None,
            fault: String::new(),
            initialised: false,
            contexts: BTreeMap::new(),
            gpu: None,
            next: 0xfa4e_0000_0000,
            random,
            kernels: 0,
            memory: BTreeMap::new(),
            pinned: BTreeMap::new(),
            reservations: BTreeMap::new(),
            physical: BTreeMap::new(),
            mappings: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            execs: BTreeMap::new(),
        }
    }

    fn gate(
        &mut self,
        name: &'static CStr,
        needs: Needs,
        injected: impl FnOnce(&mut Driver),
        f: impl FnOnce(&mut Driver) -> Answer,
    ) -> Answer {
        let failure = self.count(name);
        let ready = (!needs.init || self.initialised)
            && (!needs.context || self.current_context().is_some());
        if let Some(code) = failure {
            if codes::is_sticky(code) {
                self.fail(
                    code,
                    format!("{} was made to fail with {code}", shown(name)),
                );
            }
            if needs.release && ready {
                // The failure that the test asked for is reported, not what the release says.
                let _ = f(self);
            } else {
                injected(self);
            }
            return Err(code);
        }
        if needs.init && !self.initialised {
            return Err(codes::NOT_INITIALIZED);
        }
        if !ready {
            return Err(codes::INVALID_CONTEXT);
        }
        if let (Some(code), true) = (self.sticky, needs.init) {
            if needs.release {
                let _ = f(self);
            } else {
                injected(self);
            }
            return Err(code);
        }
        if needs.no_capture && self.forbidden_by_capture() {
            return Err(codes::STREAM_CAPTURE_UNSUPPORTED);
        }
        if matches!(self.settings.order, Order::Random(_)) && needs.context {
            for _ in 0..self.next_random() % 4 {
                self.run_something();
            }
        }
        f(self)
    }

    /// Counts a call; the code with which it is to fail.
    fn count(&mut self, name: &'static CStr) -> Option<CUresult> {
        self.calls.push(name);
        let count = self.counts.entry(name).or_default();
        *count += 1;
        let (total, count) = (self.calls.len() as u64, *count);
        let at = self.settings.failures.iter().position(|f| match &f.call {
            Some(call) => call.as_bytes() == name.to_bytes() && f.nth == count,
            None => f.nth == total,
        })?;
        Some(self.settings.failures.swap_remove(at).code)
    }

    /// The context that is current in the calling thread and retained.
    pub fn current_context(&self) -> Option<Handle> {
        let current = CURRENT.get();
        self.is_context(current).then_some(current)
    }

    pub fn is_context(&self, handle: Handle) -> bool {
        self.contexts.values().any(|&(known, _)| known == handle)
    }

    pub fn set_current(handle: Handle) {
        CURRENT.set(handle);
    }

    /// The device behind all contexts, made at its first use.
    pub fn gpu(&mut self) -> Arc<Gpu> {
        let settings = &self.settings;
        let make = || {
            Arc::new(Gpu::new(GpuConfig {
                name: settings.name.clone(),
                sms: settings.sms,
                // This crate accounts for memory itself: pinned and mapped memory count, too.
                global_bytes: u64::MAX,
                threads: settings.threads,
                completion: settings.completion,
                instruction_limit: settings.limit,
                ..GpuConfig::default()
            }))
        };
        Arc::clone(self.gpu.get_or_insert_with(make))
    }

    /// A handle that was never given out.
    pub fn fresh(&mut self) -> Handle {
        self.next += 64;
        self.next
    }

    /// Makes an error sticky; the first one stays.
    pub fn fail(&mut self, code: CUresult, what: String) {
        if self.sticky.is_some() {
            return;
        }
        if self.settings.verbose {
            eprintln!("fake driver: {code}: {what}");
        }
        self.sticky = Some(code);
        self.fault = what;
        for stream in self.streams.values_mut() {
            stream.queue.clear();
        }
    }

    /// Keeps what a test should see and a program cannot.
    pub fn complain(&mut self, what: String) {
        if self.settings.verbose {
            eprintln!("fake driver: {what}");
        }
        self.complaints.push(what);
    }

    pub fn next_random(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn reseed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// How many objects of a kind were not given back.
    pub fn live(&self, kind: &str) -> Option<usize> {
        let streams = self.streams.values().filter(|s| !s.destroyed).count();
        let kinds = [
            ("context", self.contexts.len()),
            ("memory", self.memory.len()),
            ("pinned", self.pinned.len()),
            ("reservation", self.reservations.len()),
            (
                "physical",
                self.physical.values().filter(|p| p.held).count(),
            ),
            ("mapping", self.mappings.len()),
            ("module", self.modules.len()),
            ("stream", streams),
            ("event", self.events.len()),
            ("capture", self.captures.len()),
            ("graph", self.graphs.len()),
            ("graph_exec", self.execs.len()),
        ];
        if kind.is_empty() {
            return Some(kinds.iter().map(|(_, n)| n).sum());
        }
        kinds.iter().find(|(k, _)| *k == kind).map(|&(_, n)| n)
    }
}

/// Writes a result.
///
/// # Safety
/// `out` is null, which is refused, or a place for a `T`.
pub unsafe fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return Err(codes::INVALID_VALUE);
    }
    // SAFETY: by the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// As [`put`]; null is no fault.
pub unsafe fn put_if<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: by the caller's promise.
        unsafe { out.write(value) };
    }
}

/// Refuses null before anything is done.
pub fn given<T>(pointer: *const T) -> Answer {
    if pointer.is_null() {
        Err(codes::INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// A string of the caller.
///
/// # Safety
/// `text` is null, which is refused, or NUL-terminated.
pub unsafe fn text(text: *const c_char) -> Answer<String> {
    given(text)?;
    // SAFETY: by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(text.to_string_lossy().into_owned())
}
