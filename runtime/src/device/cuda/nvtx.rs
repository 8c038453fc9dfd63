//! Named ranges for profilers (NVTX).
//!
//! In: names. Out: ranges in the profiler's time line. Holds: where no profiler listens, a range costs one test.
//!
//! A profiler names its library in `NVTX_INJECTION64_PATH`. That library's `InitializeInjectionNvtx2` is given a
//! function that finds tables of function pointers by number, and writes its own functions into them (NVTX 3,
//! `nvtxTypes.h`). Where there is none, the older `libnvToolsExt.so.1` is taken when it is installed.

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::OnceLock;

use libloading::Library;

/// Names the profiler's library.
const INJECTION: &str = "NVTX_INJECTION64_PATH";

/// The library before version 3.
const OLD_LIBRARY: &str = "libnvToolsExt.so.1";

/// Version of the tables below.
const VERSION: u32 = 3;

/// `NVTX_ETID_CALLBACKS` and `NVTX_ETID_VERSIONINFO`.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;

/// Functions of each module with the unused number 0: none, CORE, CUDA, OPENCL, CUDART, CORE2, SYNC. A profiler
/// writes to all of them; only CORE's push and pop are called here.
const SIZES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
const LARGEST: usize = 16;

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

/// The profiler's functions.
#[derive(Clone, Copy)]
struct Ranges {
    push: Push,
    pop: Pop,
}

/// Ranges, when a profiler listens.
#[derive(Default)]
pub(super) struct Nvtx {
    ranges: Option<Ranges>,
    /// The name with its zero; used again.
    name: Vec<u8>,
}

impl Nvtx {
    /// Looks for a profiler, once in a process.
    pub fn find() -> Self {
        static RANGES: OnceLock<Option<Ranges>> = OnceLock::new();
        let ranges = *RANGES.get_or_init(|| injected().or_else(installed));
        Self {
            ranges,
            name: Vec::new(),
        }
    }

    pub fn push(&mut self, name: &str) {
        if let Some(ranges) = self.ranges {
            self.name.clear();
            self.name.extend(name.bytes().filter(|&byte| byte != 0));
            self.name.push(0);
            // SAFETY: the name ends with a zero; the profiler copies it.
            unsafe { (ranges.push)(self.name.as_ptr().cast()) };
        }
    }

    pub fn pop(&self) {
        if let Some(ranges) = self.ranges {
            // SAFETY: a pop without a push is allowed, and does nothing.
            unsafe { (ranges.pop)() };
        }
    }
}

/// The functions of the library that a profiler has named.
fn injected() -> Option<Ranges> {
    type Initialize = unsafe extern "C" fn(ExportTable) -> c_int;
    let path = std::env::var_os(INJECTION)?;
    // SAFETY: whoever set the variable asks for this library to run here.
    let library = unsafe { Library::new(path) }.ok()?;
    // SAFETY: this is the type that NVTX gives the function.
    let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
    let initialize = initialize.ok().map(|found| *found);
    // Its functions are called until the process ends.
    core::mem::forget(library);
    // SAFETY: as NVTX calls it: once, with the function that finds the tables.
    let accepted = unsafe { initialize?(export_table) };
    (accepted != 0).then(written).flatten()
}

/// What a profiler has written into the tables.
fn written() -> Option<Ranges> {
    let slot = |function: usize| {
        let found = SLOTS[CORE][function].load(Ordering::Acquire);
        (!found.is_null()).then_some(found)
    };
    let (push, pop) = (slot(RANGE_PUSH)?, slot(RANGE_POP)?);
    // SAFETY: NVTX says that these slots hold functions of these types.
    Some(unsafe {
        Ranges {
            push: core::mem::transmute::<*mut c_void, Push>(push),
            pop: core::mem::transmute::<*mut c_void, Pop>(pop),
        }
    })
}

/// The functions of the library before version 3.
fn installed() -> Option<Ranges> {
    // SAFETY: NVIDIA's library, which is made to be loaded by any process.
    let library = unsafe { Library::new(OLD_LIBRARY) }.ok()?;
    // SAFETY: these are the types that `nvToolsExt.h` gives the functions.
    let ranges = unsafe {
        let push = library.get::<Push>(b"nvtxRangePushA\0");
        let pop = library.get::<Pop>(b"nvtxRangePop\0");
        push.ok().zip(pop.ok()).map(|(push, pop)| Ranges {
            push: *push,
            pop: *pop,
        })
    };
    core::mem::forget(library);
    ranges
}

type ExportTable = unsafe extern "C" fn(u32) -> *const c_void;
type Slot = AtomicPtr<c_void>;

/// Where a profiler puts its functions, by module and number.
static SLOTS: [[Slot; LARGEST]; SIZES.len()] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; LARGEST] }; SIZES.len()];

/// Addresses of the slots, with a null at the end of each module.
struct Tables([[*const Slot; LARGEST + 1]; SIZES.len()]);

// SAFETY: the pointers are to statics.
unsafe impl Send for Tables {}
// SAFETY: as above; the table is not changed once it is made.
unsafe impl Sync for Tables {}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = [[ptr::null(); LARGEST + 1]; SIZES.len()];
        for ((table, slots), size) in tables.iter_mut().zip(&SLOTS).zip(SIZES) {
            // Number 0 is no function.
            for function in 1..size {
                table[function] = &raw const slots[function];
            }
        }
        Tables(tables)
    })
}

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    module_table: unsafe extern "C" fn(c_uint, *mut *const *const Slot, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    static CALLBACK_TABLE: Callbacks = Callbacks {
        bytes: size_of::<Callbacks>(),
        module_table,
    };
    static VERSION_TABLE: VersionInfo = VersionInfo {
        bytes: size_of::<VersionInfo>(),
        version: VERSION,
        reserved: 0,
        set_injection_version,
    };
    match id {
        CALLBACKS => (&raw const CALLBACK_TABLE).cast(),
        VERSION_INFO => (&raw const VERSION_TABLE).cast(),
        _ => ptr::null(),
    }
}

/// The table of a module and how many functions it has.
///
/// # Safety
/// Both pointers are null or may be written.
unsafe extern "C" fn module_table(
    module: c_uint,
    table: *mut *const *const Slot,
    size: *mut c_uint,
) -> c_int {
    let module = module as usize;
    if module == 0 || module >= SIZES.len() {
        return 0;
    }
    if !table.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *table = tables().0[module].as_ptr() };
    }
    if !size.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *size = SIZES[module] as c_uint };
    }
    1
}

/// A profiler says which version it was made for; nothing depends on it.
extern "C" fn set_injection_version(_version: u32) {}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;
    use core::sync::atomic::AtomicUsize;

    use super::*;

    /// Ranges that are open, and the length of all names.
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static NAMES: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn push(name: *const c_char) -> c_int {
        // SAFETY: the caller passes a name that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) };
        NAMES.fetch_add(name.to_bytes().len(), Ordering::Relaxed);
        OPEN.fetch_add(1, Ordering::Relaxed) as c_int
    }

    unsafe extern "C" fn pop() -> c_int {
        OPEN.fetch_sub(1, Ordering::Relaxed) as c_int
    }

    /// What a profiler's `InitializeInjectionNvtx2` does with the tables.
    #[test]
    fn a_profiler_finds_its_way_through_the_tables() {
        // SAFETY: pointers are read as NVTX says that they are laid out.
        unsafe {
            let version = &*export_table(VERSION_INFO).cast::<VersionInfo>();
            assert_eq!((version.bytes, version.version), (24, 3));
            let callbacks = &*export_table(CALLBACKS).cast::<Callbacks>();
            assert_eq!(callbacks.bytes, 16);
            assert!(export_table(2).is_null());

            for (module, functions) in SIZES.into_iter().enumerate() {
                let (mut table, mut size) = (ptr::null(), 0);
                let found =
                    (callbacks.module_table)(module as c_uint, &raw mut table, &raw mut size);
                assert_eq!(found != 0, module > 0);
                assert_eq!(size as usize, functions);
                for function in 1..functions {
                    assert!(!(*table.add(function)).is_null());
                }
                if module > 0 {
                    assert!((*table).is_null() && (*table.add(functions)).is_null());
                }
                if module == CORE {
                    let slot = |function: usize| &**table.add(function);
                    slot(RANGE_PUSH).store(push as *mut c_void, Ordering::Release);
                    slot(RANGE_POP).store(pop as *mut c_void, Ordering::Release);
                }
            }
        }
        let mut nvtx = Nvtx {
            ranges: written(),
            name: Vec::new(),
        };
        nvtx.push("decode");
        nvtx.push("a\0b");
        assert_eq!(NAMES.load(Ordering::Relaxed), 8);
        assert_eq!(OPEN.load(Ordering::Relaxed), 2);
        nvtx.pop();
        nvtx.pop();
        assert_eq!(OPEN.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_a_profiler_nothing_happens() {
        let mut nvtx = Nvtx::default();
        nvtx.push("prefill");
        nvtx.pop();
        assert!(nvtx.name.is_empty());
    }
}
