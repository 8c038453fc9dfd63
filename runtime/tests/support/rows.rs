//! A bundle of two hand-written kernels: rows of a table, plus a bias.

use mcc_bundle::{
    BufferId, BufferKind, Bundle, DType, Dim, DimDecl, Entry, Expr, KernelId, Manifest, Param,
    ParamSource, SCHEMA_VERSION, Step, TokenizerInfo, WeightParam,
};

use crate::parts::{buffer, kernel, plain, port, sym, target, view};

pub const ROWS: usize = 10;
pub const WIDTH: usize = 8;

/// One block a row, one thread a column: `out[r, c] = table[index[r], c]`.
const GATHER: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry gather_rows(
    .param .u32 stride,
    .param .u64 table,
    .param .u64 index,
    .param .u64 out
)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<12>;
    .reg .f32 %f<2>;
    ld.param.u32 %r1, [stride];
    ld.param.u64 %rd1, [table];
    ld.param.u64 %rd2, [index];
    ld.param.u64 %rd3, [out];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %rd4, %r2, 4;
    add.s64 %rd5, %rd2, %rd4;
    ld.global.u32 %r4, [%rd5];
    mad.lo.s32 %r5, %r4, %r1, %r3;
    mul.wide.u32 %rd6, %r5, 4;
    add.s64 %rd7, %rd1, %rd6;
    ld.global.f32 %f1, [%rd7];
    mad.lo.s32 %r6, %r2, 8, %r3;
    mul.wide.u32 %rd8, %r6, 4;
    add.s64 %rd9, %rd3, %rd8;
    st.global.f32 [%rd9], %f1;
    ret;
}
";

/// One thread an element of 32-thread blocks: `out[i] = a[i] + b[i]` for `i < rows * width`.
pub const ADD: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry add_rows(
    .param .u64 a,
    .param .u64 b,
    .param .u64 out,
    .param .u32 rows,
    .param .u32 width
)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<12>;
    .reg .f32 %f<4>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [out];
    ld.param.u32 %r1, [rows];
    ld.param.u32 %r2, [width];
    mul.lo.s32 %r3, %r1, %r2;
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r4, 32, %r5;
    setp.ge.u32 %p1, %r6, %r3;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r6, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.rn.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
";

/// `out[r] = table[index[r]] + bias[r]`, for up to 16 rows.
pub fn bundle() -> Bundle {
    use DType::{F32, I32};
    let (r, w) = (sym("R"), Dim::Const(WIDTH as u64));
    let extent = |operand, axis| Expr::Extent { operand, axis };
    let pointer = |operand| Param::Pointer { operand };
    let kernels = vec![
        kernel(
            "gather_rows",
            &[
                ("table", F32, 2, false),
                ("index", I32, 1, false),
                ("out", F32, 2, true),
            ],
            extent(1, 0),
            WIDTH as u32,
            vec![
                Param::Stride {
                    operand: 0,
                    axis: 0,
                },
                pointer(0),
                pointer(1),
                pointer(2),
            ],
        ),
        kernel(
            "add_rows",
            &[
                ("a", F32, 2, false),
                ("b", F32, 2, false),
                ("out", F32, 2, true),
            ],
            Expr::CeilDiv(Box::new(Expr::Mul(vec![extent(0, 0), extent(0, 1)])), 32),
            32,
            vec![
                pointer(0),
                pointer(1),
                pointer(2),
                Param::Extent {
                    operand: 0,
                    axis: 0,
                },
                Param::Extent {
                    operand: 0,
                    axis: 1,
                },
            ],
        ),
    ];
    let rows = |id| view(id, F32, &[r.clone(), w.clone()], &[WIDTH as u64, 1]);
    let table_shape = [Dim::Const(ROWS as u64), w.clone()];
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        compiler: "test".to_owned(),
        target: target(),
        model: "rows".to_owned(),
        dims: vec![DimDecl {
            name: "R".to_owned(),
            min: 0,
            max: 16,
        }],
        buffers: vec![
            buffer("table", BufferKind::Weight, 512),
            buffer("index", BufferKind::Input, 256),
            buffer("bias", BufferKind::Input, 512),
            buffer("rows", BufferKind::Temp { offset: 256 }, 512),
            buffer("out", BufferKind::Output, 512),
        ],
        mesh: None,
        arena_bytes: 768,
        params: vec![WeightParam {
            name: "table".to_owned(),
            ty: plain(F32, &table_shape),
            source: ParamSource::Tensor("embed".to_owned()),
            data: BufferId(0),
            scales: None,
        }],
        kernels,
        entries: vec![Entry {
            name: "lookup".to_owned(),
            inputs: vec![
                port("index", I32, std::slice::from_ref(&r), 1),
                port("bias", F32, &[r.clone(), w.clone()], 2),
            ],
            outputs: vec![port("out", F32, &[r.clone(), w.clone()], 4)],
            steps: vec![
                Step {
                    kernel: KernelId(0),
                    label: "gather".to_owned(),
                    operands: vec![
                        view(0, F32, &table_shape, &[WIDTH as u64, 1]),
                        view(1, I32, std::slice::from_ref(&r), &[1]),
                        rows(3),
                    ],
                },
                Step {
                    kernel: KernelId(1),
                    label: "add".to_owned(),
                    operands: vec![rows(3), rows(2), rows(4)],
                },
            ],
        }],
        tokenizer: TokenizerInfo::default(),
    };
    Bundle::new(
        manifest,
        vec![GATHER.to_owned(), ADD.to_owned()],
        vec![None, None],
    )
    .expect("sound")
}
