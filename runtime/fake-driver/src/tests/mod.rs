//! The exported functions, called as a program would. One driver serves the process, so tests take turns.

mod failures;
mod graphs;
mod memory;
mod modules;
mod streams;

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::{CUresult, DevicePtr, Handle, LaunchAttribute, LaunchConfig};
use crate::control::*;
use crate::{codes, context::*, copy::*, event::*, graph::*, launch::*, memory as mem};
use crate::{module::*, state, stream::*, tensor_map::*, virtual_memory::*};

static TURN: Mutex<()> = Mutex::new(());

/// `out[i] = in[i] + add` for `i < n`; `spin` waits for what never comes; `wild` writes nowhere; `stop` traps;
/// `big` has 1,024 bytes of static shared memory.
const PTX: &CStr = c"
.version 8.0
.target sm_90a
.address_size 64
.visible .global .align 8 .u64 mcc_status = 7;
.visible .entry add(.param .u64 to, .param .u64 from, .param .u32 n, .param .u32 add)
{
    .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [from];
    ld.param.u32 %r1, [n]; ld.param.u32 %r2, [add];
    mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    griddepcontrol.wait;
    setp.ge.s32 %p1, %r6, %r1;
    @%p1 bra DONE;
    mul.wide.s32 %rd3, %r6, 4;
    add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r7, [%rd5];
    add.s32 %r8, %r7, %r2;
    st.global.u32 [%rd4], %r8;
DONE: ret;
}
.visible .entry spin()
{
    .reg .pred %p<2>; .reg .b32 %r<3>;
    .shared .align 8 .b64 bar;
    mov.u32 %r1, bar;
    mbarrier.init.shared::cta.b64 [%r1], 2;
W:  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
    @!%p1 bra W;
    ret;
}
.visible .entry wild()
{
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 4096;
    st.global.u32 [%rd1], 1;
    ret;
}
.visible .entry stop()
{
    trap;
    ret;
}
.visible .entry big(.param .u64 to)
.reqntid 32
.reqnctapercluster 2
{
    .reg .b64 %rd<2>;
    .shared .align 8 .b8 room[1024];
    ld.param.u64 %rd1, [to];
    st.shared.u64 [room], %rd1;
    ret;
}
";

/// The driver for one test, freshly reset.
struct Fixture {
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    /// Nothing was called yet.
    fn bare() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        mcc_fake_reset();
        Self { _turn: turn }
    }

    /// A context is current.
    fn open() -> Self {
        let fixture = Self::bare();
        ok(unsafe { cuInit(0) });
        let mut context = 0;
        ok(unsafe { cuDevicePrimaryCtxRetain(&mut context, 0) });
        ok(unsafe { cuCtxSetCurrent(context) });
        fixture
    }

    fn set(&self, key: &str, value: &str) {
        assert_eq!(set(key, value), 0, "{key}={value}");
    }

    fn alloc(&self, bytes: usize) -> DevicePtr {
        let mut at = 0;
        ok(unsafe { mem::cuMemAlloc_v2(&mut at, bytes) });
        at
    }

    /// Pinned memory for `len` words.
    fn pinned(&self, len: usize) -> &'static mut [u32] {
        let mut at = null_mut();
        ok(unsafe { mem::cuMemHostAlloc(&mut at, 4 * len, 2) });
        // Lives until the driver is reset, after the test.
        unsafe { std::slice::from_raw_parts_mut(at.cast(), len) }
    }

    fn stream(&self) -> Handle {
        let mut stream = 0;
        ok(unsafe { cuStreamCreateWithPriority(&mut stream, 1, 0) });
        stream
    }

    fn event(&self) -> Handle {
        let mut event = 0;
        ok(unsafe { cuEventCreate(&mut event, 0) });
        event
    }

    fn module(&self) -> Handle {
        let mut module = 0;
        ok(unsafe { load(&mut module, PTX.as_ptr().cast()) });
        module
    }

    fn function(&self, module: Handle, name: &CStr) -> Handle {
        let mut function = 0;
        ok(unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) });
        function
    }

    /// Words of device memory, through a stream of its own.
    fn read(&self, at: DevicePtr, len: usize) -> Vec<u32> {
        let stream = self.stream();
        let mut out = vec![0u32; len];
        ok(unsafe { cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), at, 4 * len, stream) });
        ok(unsafe { cuStreamDestroy_v2(stream) });
        out
    }
}

unsafe fn load(module: *mut Handle, image: *const c_void) -> CUresult {
    unsafe { cuModuleLoadDataEx(module, image, 0, null(), null_mut()) }
}

fn set(key: &str, value: &str) -> i32 {
    let text = |t: &str| CString::new(t).expect("no NUL");
    unsafe { mcc_fake_set(text(key).as_ptr(), text(value).as_ptr()) }
}

fn live(kind: &CStr) -> i64 {
    unsafe { mcc_fake_live(kind.as_ptr()) }
}

fn complaints() -> Vec<String> {
    state::with(|d| d.complaints.clone())
}

#[track_caller]
fn ok(code: CUresult) {
    assert_eq!(code, codes::SUCCESS);
}

/// A launch of `add`, or of another kernel with its parameters; 32 threads a block.
struct Add {
    function: Handle,
    stream: Handle,
    to: DevicePtr,
    from: DevicePtr,
    n: u32,
    add: u32,
}

impl Add {
    fn launch(&self) -> CUresult {
        let blocks = self.n.div_ceil(32).max(1);
        launch(
            self.function,
            self.stream,
            blocks,
            32,
            0,
            &[],
            &self.params(),
        )
    }

    fn params(&self) -> [*const c_void; 4] {
        [
            (&raw const self.to).cast(),
            (&raw const self.from).cast(),
            (&raw const self.n).cast(),
            (&raw const self.add).cast(),
        ]
    }
}

fn launch(
    function: Handle,
    stream: Handle,
    grid: u32,
    block: u32,
    shared_bytes: u32,
    attrs: &[LaunchAttribute],
    params: &[*const c_void],
) -> CUresult {
    let config = LaunchConfig {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared_bytes,
        stream,
        attrs: attrs.as_ptr(),
        num_attrs: attrs.len() as u32,
    };
    let params = if params.is_empty() {
        null()
    } else {
        params.as_ptr()
    };
    unsafe { cuLaunchKernelEx(&config, function, params, null()) }
}

fn attribute(id: u32, words: [u32; 3]) -> LaunchAttribute {
    let mut value = [0; 8];
    value[0] = u64::from(words[0]) | u64::from(words[1]) << 32;
    value[1] = u64::from(words[2]);
    LaunchAttribute {
        id,
        pad: [0; 4],
        value,
    }
}
