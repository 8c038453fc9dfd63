//! Owners of the driver's handles: each releases its handle when it is dropped.
//!
//! In: a context. Out: streams, events, memory, modules and graphs that release themselves.
//! Holds: a handle is made only by its constructor here and owned once; its context lives at least as long.
//! Before an owner is dropped no work may use its handle any more: the device waits first.

use core::ffi::{CStr, c_int, c_uint, c_void};
use core::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{
    CUdeviceptr, CUevent, CUevent_flags, CUfunction, CUgraph, CUgraphExec, CUjit_option,
    CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1,
    CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType, CUmodule,
    CUstream, CUstream_flags,
};

use super::context::Context;
use super::failure::{Failure, call};
use super::symbols::Api;

/// `CU_MEMHOSTALLOC_DEVICEMAP`: the GPU may address it.
const HOST_MAPPED: c_uint = 2;

/// A handle and how it is released.
pub(super) trait Handle: Copy {
    /// Gives it back.
    ///
    /// # Safety
    /// The handle is live, its context current, and nothing uses it any more.
    unsafe fn release(self, api: &Api) -> c_uint;
}

/// Owns a handle.
pub(super) struct Owned<H: Handle> {
    context: Rc<Context>,
    raw: H,
}

impl<H: Handle> Owned<H> {
    fn new(context: &Rc<Context>, raw: H) -> Self {
        Self {
            context: Rc::clone(context),
            raw,
        }
    }

    /// The handle; it stays live as long as the owner.
    pub const fn raw(&self) -> H {
        self.raw
    }
}

impl<H: Handle> Drop for Owned<H> {
    fn drop(&mut self) {
        let raw = self.raw;
        // SAFETY: the owner had the handle for itself, and the module's rule is that no work uses it.
        self.context.release(|api| unsafe { raw.release(api) });
    }
}

/// Implements [`Handle`] with one call of the driver.
macro_rules! released_by {
    ($($handle:ty, $name:ident($this:ident => $($arg:expr),*);)*) => {$(
        impl Handle for $handle {
            unsafe fn release(self, api: &Api) -> c_uint {
                let $this = self;
                // SAFETY: the caller's promise is what the driver asks for.
                unsafe { (api.$name)($($arg),*) }
            }
        }
    )*};
}

/// Device memory of its own.
#[derive(Clone, Copy)]
pub(super) struct Memory(pub CUdeviceptr);

/// Page-locked host memory.
#[derive(Clone, Copy)]
pub(super) struct Pinned(pub *mut u8);

/// Reserved addresses and how many.
#[derive(Clone, Copy)]
pub(super) struct Addresses(pub CUdeviceptr, pub usize);

/// Memory without an address.
#[derive(Clone, Copy)]
pub(super) struct Physical(CUmemGenericAllocationHandle);

/// Addresses that have memory and how many.
#[derive(Clone, Copy)]
pub(super) struct Mapping(CUdeviceptr, usize);

released_by! {
    Memory, cuMemFree_v2(this => this.0);
    Pinned, cuMemFreeHost(this => this.0.cast());
    Addresses, cuMemAddressFree(this => this.0, this.1);
    Physical, cuMemRelease(this => this.0);
    Mapping, cuMemUnmap(this => this.0, this.1);
    CUmodule, cuModuleUnload(this => this);
    CUstream, cuStreamDestroy_v2(this => this);
    CUevent, cuEventDestroy_v2(this => this);
    CUgraph, cuGraphDestroy(this => this);
    CUgraphExec, cuGraphExecDestroy(this => this);
}

impl Owned<Memory> {
    /// Allocates device memory; the address is a multiple of 256.
    pub fn alloc(context: &Rc<Context>, bytes: usize) -> Result<Self, Failure> {
        let mut address = 0;
        // SAFETY: writes one address.
        unsafe { call!(context.api(), cuMemAlloc_v2(&raw mut address, bytes)) }?;
        Ok(Self::new(context, Memory(address)))
    }
}

impl Owned<Pinned> {
    /// Allocates page-locked memory that the GPU can address, too.
    pub fn alloc(context: &Rc<Context>, bytes: usize) -> Result<Self, Failure> {
        let mut host: *mut c_void = ptr::null_mut();
        // SAFETY: writes one pointer.
        unsafe {
            call!(
                context.api(),
                cuMemHostAlloc(&raw mut host, bytes, HOST_MAPPED)
            )
        }?;
        Ok(Self::new(context, Pinned(host.cast())))
    }

    /// Where the GPU sees it.
    pub fn device_address(&self) -> Result<CUdeviceptr, Failure> {
        let mut address = 0;
        let host = self.raw.0.cast();
        // SAFETY: the memory was allocated as mapped and is live; writes one address.
        unsafe {
            call!(
                self.context.api(),
                cuMemHostGetDevicePointer_v2(&raw mut address, host, 0)
            )
        }?;
        Ok(address)
    }
}

/// Device memory of this context's device, for the calls of virtual memory management.
fn properties(context: &Context) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: location(context),
        win32HandleMetaData: ptr::null_mut(),
        allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn location(context: &Context) -> CUmemLocation {
    CUmemLocation {
        type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: context.device(),
    }
}

/// The unit of physical memory, in bytes.
pub(super) fn granularity(context: &Context) -> Result<usize, Failure> {
    let properties = properties(context);
    let mut bytes = 0;
    let least = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    // SAFETY: writes one number and reads the properties.
    unsafe {
        call!(
            context.api(),
            cuMemGetAllocationGranularity(&raw mut bytes, &raw const properties, least)
        )
    }?;
    Ok(bytes)
}

impl Owned<Addresses> {
    /// Reserves addresses; `bytes` is a multiple of the granularity.
    pub fn reserve(context: &Rc<Context>, bytes: usize) -> Result<Self, Failure> {
        let mut address = 0;
        // SAFETY: writes one address.
        unsafe {
            call!(
                context.api(),
                cuMemAddressReserve(&raw mut address, bytes, 0, 0, 0)
            )
        }?;
        Ok(Self::new(context, Addresses(address, bytes)))
    }
}

/// Memory at reserved addresses; it is unmapped before it is released.
pub(super) struct Page {
    _mapping: Owned<Mapping>,
    _memory: Owned<Physical>,
}

impl Page {
    /// Backs addresses of a reservation that have no memory yet; address and size are multiples of the granularity.
    pub fn map(context: &Rc<Context>, address: CUdeviceptr, bytes: usize) -> Result<Self, Failure> {
        let api = context.api();
        let properties = properties(context);
        let mut memory = 0;
        // SAFETY: writes one handle and reads the properties.
        unsafe {
            call!(
                api,
                cuMemCreate(&raw mut memory, bytes, &raw const properties, 0)
            )
        }?;
        let memory = Owned::new(context, Physical(memory));
        // SAFETY: the memory is live and of this size; addresses that are not reserved, or mapped, are refused.
        unsafe { call!(api, cuMemMap(address, bytes, 0, memory.raw.0, 0)) }?;
        let mapping = Owned::new(context, Mapping(address, bytes));
        let access = CUmemAccessDesc {
            location: location(context),
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the range is the mapping's; reads one description.
        unsafe { call!(api, cuMemSetAccess(address, bytes, &raw const access, 1)) }?;
        Ok(Self {
            _mapping: mapping,
            _memory: memory,
        })
    }
}

impl Owned<CUstream> {
    /// Makes a stream that does not wait for the legacy one; lower numbers are more urgent.
    pub fn create(context: &Rc<Context>, priority: c_int) -> Result<Self, Failure> {
        let mut stream = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: writes one handle.
        unsafe {
            call!(
                context.api(),
                cuStreamCreateWithPriority(&raw mut stream, flags, priority)
            )
        }?;
        Ok(Self::new(context, stream))
    }
}

impl Owned<CUevent> {
    /// Makes an event; only those with a time can be subtracted, and they cost more.
    pub fn create(context: &Rc<Context>, timing: bool) -> Result<Self, Failure> {
        let flags = if timing {
            CUevent_flags::CU_EVENT_DEFAULT
        } else {
            CUevent_flags::CU_EVENT_DISABLE_TIMING
        };
        let mut event = ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe {
            call!(
                context.api(),
                cuEventCreate(&raw mut event, flags as c_uint)
            )
        }?;
        Ok(Self::new(context, event))
    }

    /// Marks what was given to a stream so far.
    pub fn record(&self, stream: CUstream) -> Result<(), Failure> {
        // SAFETY: both handles are live: streams live as long as the device.
        unsafe { call!(self.context.api(), cuEventRecord(self.raw, stream)) }
    }

    /// Makes later work of a stream wait for the mark.
    pub fn hold(&self, stream: CUstream) -> Result<(), Failure> {
        // SAFETY: both handles are live.
        unsafe { call!(self.context.api(), cuStreamWaitEvent(stream, self.raw, 0)) }
    }
}

impl Owned<CUmodule> {
    /// Loads code. The image is a whole ELF file, or PTX with a zero at its end.
    ///
    /// # Safety
    /// The driver finds the end of the image by itself: an ELF's own sizes must lie inside of it.
    pub unsafe fn load(
        context: &Rc<Context>,
        image: *const c_void,
        options: &mut [CUjit_option],
        values: &mut [*mut c_void],
    ) -> Result<Self, Failure> {
        let count = options.len().min(values.len()) as c_uint;
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        let mut module = ptr::null_mut();
        // SAFETY: the caller vouches for the image; both arrays have `count` entries.
        unsafe {
            call!(
                context.api(),
                cuModuleLoadDataEx(&raw mut module, image, count, options, values)
            )
        }?;
        Ok(Self::new(context, module))
    }

    /// Finds a kernel; it lives as long as the module.
    pub fn function(&self, name: &CStr) -> Result<CUfunction, Failure> {
        let mut function = ptr::null_mut();
        // SAFETY: the module is live; writes one handle and reads the name.
        unsafe {
            call!(
                self.context.api(),
                cuModuleGetFunction(&raw mut function, self.raw, name.as_ptr())
            )
        }?;
        Ok(function)
    }

    /// Finds a variable: its address and size.
    pub fn global(&self, name: &CStr) -> Result<(CUdeviceptr, usize), Failure> {
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: the module is live; writes an address and a size, and reads the name.
        unsafe {
            call!(
                self.context.api(),
                cuModuleGetGlobal_v2(&raw mut address, &raw mut bytes, self.raw, name.as_ptr())
            )
        }?;
        Ok((address, bytes))
    }
}

impl Owned<CUgraph> {
    /// Takes over a graph that a capture has ended with.
    ///
    /// # Safety
    /// The graph is live and nobody else destroys it.
    pub unsafe fn adopt(context: &Rc<Context>, graph: CUgraph) -> Self {
        Self::new(context, graph)
    }
}

impl Owned<CUgraphExec> {
    /// Makes a graph ready to run.
    pub fn instantiate(context: &Rc<Context>, graph: &Owned<CUgraph>) -> Result<Self, Failure> {
        let mut exec = ptr::null_mut();
        // SAFETY: the graph is live; writes one handle.
        unsafe {
            call!(
                context.api(),
                cuGraphInstantiateWithFlags(&raw mut exec, graph.raw, 0)
            )
        }?;
        Ok(Self::new(context, exec))
    }
}
