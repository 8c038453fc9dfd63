//! The counting model on several ranks: in every step each rank tells every other one that it is there, and waits until
//! it has heard of all.

use mcc_bundle::{BufferKind, Bundle, DType, Dim, Expr, KernelId, Manifest, Param, Step};

use crate::counting;
use crate::parts::{buffer, kernel, view};

/// Exchange: `u64` steps so far, at 0; `u64 [ranks]` steps that each rank has come to, from byte 64 on. Lane r tells rank
/// r, by a store in its node and a signal to another one, and waits for it as compiled kernels wait.
const MEET: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .global .align 8 .u64 mcc_status;
.extern .func nvshmemx_signal_op (.param .b64 a, .param .b64 b, .param .b32 c, .param .b32 d);
.visible .entry meet(
    .param .u64 exchange,
    .param .u64 world
)
{
    .reg .pred %p<9>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<30>;
    ld.param.u64 %rd1, [exchange];
    ld.param.u64 %rd2, [world];
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];
    mov.u32 %r5, %tid.x;
    ld.global.u64 %rd3, [%rd1];
    add.s64 %rd3, %rd3, 1;
    bar.warp.sync 0xffffffff;
    setp.ne.u32 %p1, %r5, 0;
    @%p1 bra TELL;
    st.global.u64 [%rd1], %rd3;
TELL:
    setp.ge.u32 %p2, %r5, %r2;
    @%p2 bra DONE;
    mul.wide.u32 %rd4, %r5, 8;
    add.s64 %rd5, %rd2, %rd4;
    ld.global.u64 %rd6, [%rd5+16];
    mul.wide.u32 %rd7, %r1, 8;
    setp.eq.u64 %p3, %rd6, 0;
    @%p3 bra FAR;
    add.s64 %rd6, %rd6, %rd7;
    st.release.sys.global.u64 [%rd6+64], %rd3;
    bra WAIT;
FAR:
    add.s64 %rd8, %rd1, %rd7;
    add.s64 %rd8, %rd8, 64;
    add.u32 %r6, %r3, %r5;
    {
    .param .b64 p0; .param .b64 p1; .param .b32 p2; .param .b32 p3;
    st.param.b64 [p0], %rd8; st.param.b64 [p1], %rd3; st.param.b32 [p2], 9; st.param.b32 [p3], %r6;
    call.uni nvshmemx_signal_op, (p0, p1, p2, p3);
    }
WAIT:
    add.s64 %rd9, %rd1, %rd4;
    mov.u64 %rd10, %globaltimer;
AGAIN:
    ld.acquire.sys.global.u64 %rd11, [%rd9+64];
    setp.ge.u64 %p4, %rd11, %rd3;
    @%p4 bra DONE;
    mov.u64 %rd12, %globaltimer;
    sub.s64 %rd12, %rd12, %rd10;
    setp.le.s64 %p5, %rd12, 10000000000;
    @%p5 bra AGAIN;
    ld.global.u64 %rd13, [mcc_status];
    setp.eq.u64 %p6, %rd13, 0;
    @%p6 trap;
    shl.b32 %r7, %r5, 16;
    mov.u32 %r8, 0x4D430011;
    mov.b64 %rd14, {%r7, %r8};
    shl.b64 %rd15, %rd12, 16;
    cvt.u64.u32 %rd16, %r5;
    or.b64 %rd15, %rd15, %rd16;
    st.global.v2.b64 [%rd13], {%rd14, %rd15};
    trap;
DONE:
    ret;
}
";

/// The model, for groups of `ranks` ranks.
pub fn bundle(ranks: u32) -> Bundle {
    let Bundle {
        manifest,
        mut ptx,
        mut cubins,
        ..
    } = counting::bundle();
    let Manifest {
        mut dims,
        mut buffers,
        mut kernels,
        mut entries,
        ..
    } = manifest.clone();
    dims.iter_mut().for_each(|dim| dim.min = 0);
    let exchange = buffers.len() as u32;
    buffers.push(buffer("exchange", BufferKind::Exchange, 1024));
    buffers.push(buffer("world", BufferKind::World { ranks }, 1024));
    kernels.push(kernel(
        "meet",
        &[
            ("exchange", DType::I32, 1, true),
            ("world", DType::I32, 1, false),
        ],
        Expr::Const(1),
        32,
        vec![Param::Pointer { operand: 0 }, Param::Pointer { operand: 1 }],
    ));
    let words = |id| view(id, DType::I32, &[Dim::Const(256)], &[1]);
    for entry in &mut entries {
        // Between the other two, so that launches of all kinds surround it.
        entry.steps.insert(
            1,
            Step {
                kernel: KernelId(2),
                label: "meet".to_owned(),
                operands: vec![words(exchange), words(exchange + 1)],
            },
        );
    }
    ptx.push(MEET.to_owned());
    cubins.push(None);
    let manifest = Manifest {
        model: "meeting".to_owned(),
        dims,
        buffers,
        kernels,
        entries,
        ..manifest
    };
    Bundle::new(manifest, ptx, cubins).expect("sound")
}
