//! Modules, functions and global variables (CUDA driver API, Module Management).
//!
//! In: PTX text. Out: functions that can be launched. A cubin is refused with the code that the settings name:
//! nothing here runs machine code. Only one that starts with [`FAKE_CUBIN`] loads: PTX text follows.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use mcc_sim::Demands;

use crate::abi::{CUresult, DevicePtr, Handle};
use crate::codes::{self, Answer};
use crate::launch::{SHARED_BYTES, SHARED_BYTES_OPTIN};
use crate::settings::Settings;
use crate::state::{
    CONTEXT, Driver, RELEASE_UNCAPTURED, UNCAPTURED, call, given, put, put_if, text,
};

/// See the module.
pub const FAKE_CUBIN: &[u8; 12] = b"\x7fELFmcc-fake";

pub struct Module {
    code: mcc_sim::Module,
    /// Version of the PTX, 10 x major + minor.
    ptx: c_int,
    functions: BTreeMap<String, Handle>,
}

pub struct Function {
    pub module: Handle,
    pub code: mcc_sim::Module,
    pub name: String,
    pub layout: Vec<(usize, usize)>,
    pub demands: Demands,
    pub static_shared: u32,
    /// Attributes that can be set.
    pub max_dynamic: u32,
    pub non_portable: bool,
    carveout: c_int,
    scheduling: c_int,
    ptx: c_int,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    out: *mut Handle,
    image: *const c_void,
    count: c_uint,
    options: *const c_uint,
    values: *mut *mut c_void,
) -> CUresult {
    call(c"cuModuleLoadDataEx", UNCAPTURED, |d| {
        given(out)?;
        given(image)?;
        // SAFETY: the caller's lists have `count` entries.
        let mut log = unsafe { Log::of(count, options, values) }?;
        // SAFETY: an image is machine code, which is longer than that, or text with a NUL behind it.
        let source = unsafe { ptx_of(image) }.ok_or(d.settings.cubin)?;
        match d.load(source) {
            Ok(module) => {
                let handle = d.fresh();
                d.modules.insert(handle, module);
                log.write("");
                // SAFETY: the caller's place for the result.
                unsafe { put(out, handle) }
            }
            Err((code, what)) => {
                log.write(&what);
                Err(code)
            }
        }
    })
}

/// The PTX text of an image.
///
/// # Safety
/// Machine code, or a text with a NUL behind it.
unsafe fn ptx_of(image: *const c_void) -> Option<String> {
    let bytes: *const u8 = image.cast();
    // A text may be shorter than the magic number: compare up to the first difference.
    let starts_with = |magic: &[u8]| {
        let mut same = magic.iter().enumerate();
        // SAFETY: byte `i` is read only after those before it, none of them NUL, were as expected.
        same.all(|(i, &byte)| unsafe { bytes.add(i).read() } == byte)
    };
    let start = if starts_with(FAKE_CUBIN) {
        FAKE_CUBIN.len()
    } else if starts_with(b"\x7fELF") || starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        return None;
    } else {
        0
    };
    // SAFETY: by the caller's promise.
    let text = unsafe { CStr::from_ptr(bytes.add(start).cast()) };
    Some(text.to_string_lossy().into_owned())
}

/// Where the messages of the compiler inside of the driver go (`CUjit_option`).
struct Log {
    /// Pairs of a buffer and its size, of information and of errors.
    buffers: [(*mut u8, usize); 2],
    /// Where the number of bytes written goes.
    sizes: [*mut *mut c_void; 2],
}

/// `CU_JIT_INFO_LOG_BUFFER`; its size is the next, then follow those of errors.
const INFO_LOG: c_uint = 3;
/// `CU_JIT_NUM_OPTIONS` of CUDA 12.4.
const OPTIONS: c_uint = 34;

impl Log {
    /// # Safety
    /// Both lists have `count` entries, and those that name buffers and sizes are true.
    unsafe fn of(count: c_uint, options: *const c_uint, values: *mut *mut c_void) -> Answer<Self> {
        let mut log = Self {
            buffers: [(std::ptr::null_mut(), 0); 2],
            sizes: [std::ptr::null_mut(); 2],
        };
        if count == 0 {
            return Ok(log);
        }
        given(options)?;
        given(values.cast_const())?;
        for i in 0..count as usize {
            // SAFETY: by the caller's promise.
            let (option, value) = unsafe { (options.add(i).read(), values.add(i)) };
            // SAFETY: as above.
            let given = unsafe { value.read() };
            match option {
                OPTIONS.. => return Err(codes::INVALID_VALUE),
                INFO_LOG | 5 => log.buffers[usize::from(option == 5)].0 = given.cast(),
                4 | 6 => {
                    let which = usize::from(option == 6);
                    // The value itself is the size, in its lower half.
                    log.buffers[which].1 = given as usize & 0xffff_ffff;
                    log.sizes[which] = value;
                }
                _ => {}
            }
        }
        Ok(log)
    }

    /// Writes the errors; there is no information.
    fn write(&mut self, errors: &str) {
        for (which, text) in ["", errors].into_iter().enumerate() {
            let (buffer, room) = self.buffers[which];
            let bytes = text.as_bytes();
            let len = bytes.len().min(room.saturating_sub(1));
            if !buffer.is_null() && room > 0 {
                // SAFETY: the caller's buffer has `room` bytes, of which `len + 1` are written.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, len);
                    buffer.add(len).write(0);
                }
            }
            if !self.sizes[which].is_null() {
                // SAFETY: an entry of the caller's list.
                unsafe { self.sizes[which].write(std::ptr::without_provenance_mut(len)) };
            }
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(handle: Handle) -> CUresult {
    call(c"cuModuleUnload", RELEASE_UNCAPTURED, |d| {
        let module = d.modules.remove(&handle).ok_or(codes::INVALID_HANDLE)?;
        for function in module.functions.values() {
            d.functions.remove(function);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    out: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    call(c"cuModuleGetFunction", CONTEXT, |d| {
        given(out)?;
        // SAFETY: the caller's string.
        let name = unsafe { text(name) }?;
        let function = d.function_of(module, name)?;
        // SAFETY: the caller's place for the result.
        unsafe { put(out, function) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    at: *mut DevicePtr,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    call(c"cuModuleGetGlobal_v2", CONTEXT, |d| {
        // SAFETY: the caller's string.
        let name = unsafe { text(name) }?;
        let module = d.modules.get(&module).ok_or(codes::INVALID_HANDLE)?;
        let (address, size) = module.code.global(&name).ok_or(codes::NOT_FOUND)?;
        // SAFETY: the caller's places for the results, of which either may be null.
        unsafe {
            put_if(at, address);
            put_if(bytes, size as usize);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    call(c"cuFuncGetParamInfo", CONTEXT, |d| {
        given(offset)?;
        let function = d.functions.get(&function).ok_or(codes::INVALID_HANDLE)?;
        let slot = function.layout.get(index).ok_or(codes::INVALID_VALUE)?;
        // SAFETY: the caller's places for the results; the size may be null.
        unsafe {
            put_if(size, slot.1);
            put(offset, slot.0)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    out: *mut c_int,
    attribute: c_uint,
    function: Handle,
) -> CUresult {
    call(c"cuFuncGetAttribute", CONTEXT, |d| {
        let (major, minor) = d.settings.cc;
        let f = d.functions.get(&function).ok_or(codes::INVALID_HANDLE)?;
        let cluster = |axis: usize| f.demands.cluster.map_or(0, |c| c[axis] as c_int);
        let value = match attribute {
            0 => f.demands.max_threads.unwrap_or(1024) as c_int,
            1 => f.static_shared as c_int,
            // Constant and local bytes, and the cache mode.
            2 | 3 | 7 => 0,
            // The simulator allocates no registers: the most that this many threads can have.
            4 => (65536 / f.demands.max_threads.unwrap_or(1024).max(257)) as c_int,
            5 => f.ptx,
            6 => 10 * major + minor,
            8 => f.max_dynamic as c_int,
            9 => f.carveout,
            10 => c_int::from(f.demands.cluster.is_some()),
            11..=13 => cluster(attribute as usize - 11),
            14 => c_int::from(f.non_portable),
            15 => f.scheduling,
            _ => return Err(codes::INVALID_VALUE),
        };
        // SAFETY: the caller's place for the result.
        unsafe { put(out, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: c_uint,
    value: c_int,
) -> CUresult {
    call(c"cuFuncSetAttribute", CONTEXT, |d| {
        let f = d.functions.get_mut(&function);
        let f = f.ok_or(codes::INVALID_HANDLE)?;
        match (attribute, value) {
            (8, 0..) if value as u32 + f.static_shared <= SHARED_BYTES_OPTIN => {
                f.max_dynamic = value as u32;
            }
            (9, -1..=100) => f.carveout = value,
            (14, 0 | 1) => f.non_portable = value == 1,
            (15, 0..=2) => f.scheduling = value,
            _ => return Err(codes::INVALID_VALUE),
        }
        Ok(())
    })
}

impl Driver {
    fn load(&mut self, source: String) -> Result<Module, (CUresult, String)> {
        let ptx = check_ptx(&source, &self.settings)?;
        let code = self
            .gpu()
            .load_module(&source)
            .map_err(|err| (codes::INVALID_PTX, err.to_string()))?;
        Ok(Module {
            code,
            ptx,
            functions: BTreeMap::new(),
        })
    }

    fn function_of(&mut self, handle: Handle, name: String) -> Answer<Handle> {
        let fresh = self.fresh();
        let module = self.modules.get_mut(&handle);
        let module = module.ok_or(codes::INVALID_HANDLE)?;
        if let Some(&known) = module.functions.get(&name) {
            return Ok(known);
        }
        let missing = |_| codes::NOT_FOUND;
        let static_shared = module.code.static_smem(&name).map_err(missing)?;
        let function = Function {
            module: handle,
            code: module.code.clone(),
            layout: module.code.param_layout(&name).map_err(missing)?,
            demands: module.code.demands(&name).map_err(missing)?,
            static_shared,
            max_dynamic: SHARED_BYTES.saturating_sub(static_shared),
            non_portable: false,
            carveout: -1,
            scheduling: 0,
            ptx: module.ptx,
            name: name.clone(),
        };
        module.functions.insert(name, fresh);
        self.functions.insert(fresh, function);
        Ok(fresh)
    }
}

/// Newest PTX version that a driver reads: 1000 x major + 10 x minor, and 10 x major + minor (PTX ISA, Release Notes).
const PTX_OF_DRIVER: [(i32, c_int); 13] = [
    (11000, 70),
    (11080, 78),
    (12000, 80),
    (12010, 81),
    (12020, 82),
    (12030, 83),
    (12040, 84),
    (12050, 85),
    (12060, 85),
    (12070, 86),
    (12080, 87),
    (12090, 88),
    (13000, 90),
];

/// The version of a text that the driver and the device take.
fn check_ptx(source: &str, settings: &Settings) -> Result<c_int, (CUresult, String)> {
    let bad = |what: &str| (codes::INVALID_PTX, format!("ptxas fatal: {what}"));
    let directive = |name: &str| {
        let mut lines = source.lines().map(str::trim_start);
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let version = directive(".version").and_then(|v| v.split_once('.'));
    let number = |text: &str| text.split_whitespace().next()?.parse::<c_int>().ok();
    let version = version.and_then(|(a, b)| Some(10 * number(a)? + number(b)?));
    let version = version.ok_or_else(|| bad("the text has no .version"))?;
    let newest = PTX_OF_DRIVER
        .iter()
        .rfind(|(driver, _)| *driver <= settings.version)
        .map_or(0, |(_, ptx)| *ptx);
    if version > newest {
        let what = format!("PTX {version} is newer than {newest}, the newest of this driver");
        return Err((codes::UNSUPPORTED_PTX_VERSION, what));
    }
    let target = directive(".target").and_then(|t| t.split([',', ' ']).next());
    let target = target.and_then(|t| t.strip_prefix("sm_"));
    let target = target.ok_or_else(|| bad("the text has no .target"))?;
    let (digits, specific) = match target.strip_suffix('a') {
        Some(digits) => (digits, true),
        None => (target, false),
    };
    let device = 10 * settings.cc.0 + settings.cc.1;
    let wanted: c_int = digits.parse().map_err(|_| bad("an unknown .target"))?;
    if wanted > device || (specific && wanted != device) {
        return Err(bad(&format!(
            "the text is for sm_{target}, the device is sm_{device}"
        )));
    }
    Ok(version)
}
