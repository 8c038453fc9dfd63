//! A text model of two hand-written kernels, which every device runs: the next token is the sum of all tokens, each
//! times its place from 1, modulo the vocabulary.

use mcc_bundle::{
    Buffer, BufferKind, Bundle, DType, Dim, Entry, Expr, KernelId, Manifest, Param, SCHEMA_VERSION,
    Step, TokenizerInfo,
};

use crate::parts::{TEXT_INPUTS, buffer, dim, kernel, port, sym, target, text_inputs, view};

pub const VOCAB: u64 = 32;
pub const CONTEXT: u64 = 200;
pub const CHUNK: u64 = 130;

/// One thread a token: `cache[positions[t]] = tokens[t]`.
const REMEMBER: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry remember(
    .param .u64 tokens,
    .param .u64 positions,
    .param .u64 cache,
    .param .u32 count
)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<12>;
    ld.param.u64 %rd1, [tokens];
    ld.param.u64 %rd2, [positions];
    ld.param.u64 %rd3, [cache];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r2, 32, %r3;
    setp.ge.u32 %p1, %r4, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r4, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    ld.global.u32 %r5, [%rd5];
    ld.global.u32 %r6, [%rd6];
    mul.wide.u32 %rd7, %r6, 4;
    add.s64 %rd8, %rd3, %rd7;
    st.global.u32 [%rd8], %r5;
DONE:
    ret;
}
";

/// One block a row, one thread a word of the vocabulary: the logit of the expected token is 2, of others 0.
pub const PREDICT: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry predict(
    .param .u64 cache,
    .param .u64 positions,
    .param .u64 rows,
    .param .u64 logits,
    .param .u64 next
)
{
    .reg .pred %p<4>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<20>;
    ld.param.u64 %rd1, [cache];
    ld.param.u64 %rd2, [positions];
    ld.param.u64 %rd3, [rows];
    ld.param.u64 %rd4, [logits];
    ld.param.u64 %rd5, [next];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd6, %r1, 4;
    add.s64 %rd7, %rd3, %rd6;
    ld.global.u32 %r3, [%rd7];
    mul.wide.u32 %rd8, %r3, 4;
    add.s64 %rd9, %rd2, %rd8;
    ld.global.u32 %r4, [%rd9];
    mov.u32 %r5, 0;
    mov.u32 %r6, 0;
LOOP:
    mul.wide.u32 %rd10, %r5, 4;
    add.s64 %rd11, %rd1, %rd10;
    ld.global.u32 %r7, [%rd11];
    add.s32 %r5, %r5, 1;
    mad.lo.s32 %r6, %r7, %r5, %r6;
    setp.le.u32 %p1, %r5, %r4;
    @%p1 bra LOOP;
    and.b32 %r8, %r6, 31;
    setp.eq.u32 %p2, %r8, %r2;
    selp.b32 %r9, 0x40000000, 0, %p2;
    mad.lo.s32 %r10, %r1, 32, %r2;
    mul.wide.u32 %rd12, %r10, 4;
    add.s64 %rd13, %rd4, %rd12;
    st.global.u32 [%rd13], %r9;
    add.s64 %rd14, %rd5, %rd6;
    @%p2 st.global.u32 [%rd14], %r8;
    ret;
}
";

/// The model.
pub fn bundle() -> Bundle {
    use DType::{F32, I32};
    let rows = |operand| Expr::Extent { operand, axis: 0 };
    let pointer = |operand| Param::Pointer { operand };
    let kernels = vec![
        kernel(
            "remember",
            &[
                ("tokens", I32, 1, false),
                ("positions", I32, 1, false),
                ("cache", I32, 1, true),
            ],
            Expr::CeilDiv(Box::new(rows(0)), 32),
            32,
            vec![
                pointer(0),
                pointer(1),
                pointer(2),
                Param::Extent {
                    operand: 0,
                    axis: 0,
                },
            ],
        ),
        kernel(
            "predict",
            &[
                ("cache", I32, 1, false),
                ("positions", I32, 1, false),
                ("row_token", I32, 1, false),
                ("x", I32, 1, false),
                ("logits", F32, 2, true),
                ("out", I32, 1, true),
            ],
            rows(2),
            32,
            vec![pointer(0), pointer(1), pointer(2), pointer(4), pointer(5)],
        ),
    ];
    let buffer = |name: &str, kind, bytes: u64| buffer(name, kind, bytes.next_multiple_of(256));
    let mut buffers: Vec<Buffer> = TEXT_INPUTS
        .iter()
        .map(|name| buffer(name, BufferKind::Input, 4 * CHUNK))
        .collect();
    buffers.push(buffer("cache", BufferKind::State, 4 * CONTEXT));
    buffers.push(buffer("logits", BufferKind::Output, 4 * VOCAB * CHUNK));
    buffers.push(buffer("next", BufferKind::Output, 4 * CHUNK));
    let vector = |id, dtype, dim: &str| view(id, dtype, &[sym(dim)], &[1]);
    let steps = vec![
        Step {
            kernel: KernelId(0),
            label: "remember".to_owned(),
            operands: vec![
                vector(0, I32, "T"),
                vector(1, I32, "T"),
                vector(6, I32, "C"),
            ],
        },
        Step {
            kernel: KernelId(1),
            label: "predict".to_owned(),
            operands: vec![
                vector(6, I32, "C"),
                vector(1, I32, "T"),
                vector(2, I32, "R"),
                // What the rows count.
                vector(0, I32, "T"),
                view(7, F32, &[sym("R"), Dim::Const(VOCAB)], &[VOCAB, 1]),
                vector(8, I32, "R"),
            ],
        },
    ];
    let entry = |name: &str| Entry {
        name: name.to_owned(),
        inputs: text_inputs(),
        outputs: vec![
            port("logits", F32, &[sym("R"), Dim::Const(VOCAB)], 7),
            port("next", I32, &[sym("R")], 8),
        ],
        steps: steps.clone(),
    };
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        compiler: "test".to_owned(),
        target: target(),
        model: "counting".to_owned(),
        dims: vec![dim("T", CHUNK), dim("C", CONTEXT), dim("R", CHUNK)],
        buffers,
        mesh: None,
        arena_bytes: 0,
        params: Vec::new(),
        kernels,
        entries: vec![entry("prefill"), entry("decode")],
        tokenizer: TokenizerInfo::default(),
    };
    let ptx = vec![REMEMBER.to_owned(), PREDICT.to_owned()];
    Bundle::new(manifest, ptx, vec![None, None]).expect("sound")
}
