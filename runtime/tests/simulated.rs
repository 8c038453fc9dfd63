//! A bundle of hand-written kernels on the simulated device, from the checkpoint to the output.

use std::path::Path;

use mcc_bundle::{
    Buffer, BufferId, BufferKind, Bundle, DType, Dim, DimDecl, DimValues, Entry, Expr, Hardware,
    Kernel, KernelId, LaunchSpec, Manifest, Operand, Param, ParamSource, Port, SCHEMA_VERSION,
    Step, Target, TokenizerInfo, Type, View, WeightParam, Work,
};
use mcc_runtime::{DeviceKind, DeviceOptions, Model, RuntimeError, WeightError, open_device};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const ROWS: usize = 10;
const WIDTH: usize = 8;

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
const ADD: &str = "
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

fn bundle() -> Bundle {
    use DType::{F32, I32};
    let (r, w) = (
        Dim::Sym {
            factor: 1,
            name: "R".to_owned(),
        },
        Dim::Const(WIDTH as u64),
    );
    let kernel =
        |name: &str, operands: &[(&str, DType, usize, bool)], grid, block, params| Kernel {
            name: name.to_owned(),
            family: name.to_owned(),
            config: serde_json::Value::Null,
            operands: operands
                .iter()
                .map(|&(name, dtype, rank, written)| Operand {
                    name: name.to_owned(),
                    dtype,
                    rank,
                    written,
                })
                .collect(),
            launch: LaunchSpec {
                grid: [grid, Expr::Const(1), Expr::Const(1)],
                block,
                cluster: [1, 1, 1],
                smem_bytes: 0,
                params,
                programmatic: false,
                work: Work::default(),
            },
            resources: None,
            ptx_sha256: String::new(),
            cubin_sha256: None,
        };
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
    let buffer = |name: &str, kind, bytes| Buffer {
        name: name.to_owned(),
        kind,
        bytes,
    };
    let view = |id: u32, offset, dtype, shape: &[Dim], strides: &[u64]| View {
        buffer: BufferId(id),
        offset,
        dtype,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
    };
    let rows = |id| view(id, 0, F32, &[r.clone(), w.clone()], &[WIDTH as u64, 1]);
    let port = |name: &str, dtype, shape: &[Dim], id| Port {
        name: name.to_owned(),
        ty: Type {
            dtype,
            shape: shape.to_vec(),
            scale: None,
        },
        buffer: BufferId(id),
    };
    let table_shape = [Dim::Const(ROWS as u64), w.clone()];
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        compiler: "test".to_owned(),
        target: Target {
            name: "h800".to_owned(),
            arch: "sm_90a".to_owned(),
            sms: 132,
            ptx_isa: "8.0".to_owned(),
            hardware: Hardware::default(),
        },
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
        arena_bytes: 768,
        params: vec![WeightParam {
            name: "table".to_owned(),
            ty: Type {
                dtype: F32,
                shape: table_shape.to_vec(),
                scale: None,
            },
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
                        view(0, 0, F32, &table_shape, &[WIDTH as u64, 1]),
                        view(1, 0, I32, std::slice::from_ref(&r), &[1]),
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

/// Multiples of 1/8, which BF16 holds exactly.
fn table(row: usize, col: usize) -> f32 {
    (row * WIDTH + col) as f32 / 8.0
}

fn checkpoint(dir: &Path) {
    let values: Vec<u8> = (0..ROWS)
        .flat_map(|row| {
            (0..WIDTH).flat_map(move |col| half::bf16::from_f32(table(row, col)).to_le_bytes())
        })
        .collect();
    let view = TensorView::new(Dtype::BF16, vec![ROWS, WIDTH], &values).expect("sizes fit");
    let bytes = safetensors::serialize([("embed", view)], None).expect("serialises");
    std::fs::write(dir.join("model.safetensors"), bytes).expect("writes");
}

fn load(bundle: Bundle) -> Result<Model, RuntimeError> {
    Model::load(
        open_device(DeviceKind::Sim, &DeviceOptions::default())?,
        bundle,
    )
}

fn lookup(model: &mut Model, index: &[i32]) -> Result<Vec<f32>, RuntimeError> {
    let dims = DimValues::from([("R".to_owned(), index.len() as u64)]);
    let bytes: Vec<u8> = index.iter().flat_map(|i| i.to_le_bytes()).collect();
    let bias: Vec<u8> = (0..index.len() * WIDTH)
        .flat_map(|i| (100.0 + i as f32).to_le_bytes())
        .collect();
    let out = model
        .execute(
            "lookup",
            &dims,
            &[("index", &bytes), ("bias", &bias)],
            &["out"],
            0,
        )?
        .remove(0);
    Ok(out
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

#[test]
fn weights_kernels_and_outputs() {
    let dir = tempfile::tempdir().expect("a folder");
    checkpoint(dir.path());
    let path = dir.path().join("rows.mccb");
    bundle().write(&path).expect("writes");
    let mut model = load(Bundle::read(&path).expect("reads")).expect("loads");
    assert!(matches!(
        lookup(&mut model, &[1]),
        Err(RuntimeError::NoWeights)
    ));
    model.load_weights(dir.path(), &mut |_| ()).expect("loads");
    assert_eq!(model.stats().weight_bytes, (ROWS * WIDTH * 4) as u64);

    for index in [&[7][..], &[0, 9, 3, 3, 1], &[2; 16], &[]] {
        let got = lookup(&mut model, index).expect("runs");
        let expected: Vec<f32> = (0..index.len() * WIDTH)
            .map(|i| table(index[i / WIDTH] as usize, i % WIDTH) + 100.0 + i as f32)
            .collect();
        assert_eq!(got, expected, "rows {index:?}");
    }
    let stats = model.stats().kernels["add_rows"];
    assert_eq!((stats.launches, stats.skipped), (3, 1));
    assert!(stats.instructions > 0);
}

#[test]
fn faults_name_the_step() {
    let dir = tempfile::tempdir().expect("a folder");
    checkpoint(dir.path());
    let mut model = load(bundle()).expect("loads");
    model.load_weights(dir.path(), &mut |_| ()).expect("loads");
    let err = lookup(&mut model, &[1 << 28]).expect_err("out of bounds");
    assert!(
        matches!(&err, RuntimeError::Step { step, .. } if step == "gather"),
        "{err}"
    );
    assert!(err.to_string().contains("ld.global.f32 %f1"), "{err}");
}

#[test]
fn parameters_are_compared_with_the_ptx() {
    let mut wrong = bundle();
    wrong.ptx[1] = ADD
        .replace(".param .u32 width", ".param .u64 width")
        .replace("ld.param.u32 %r2", "ld.param.u64 %rd8");
    let err = load(wrong).err().expect("refused");
    assert!(
        matches!(&err, RuntimeError::ParamLayout { kernel, .. } if kernel == "add_rows"),
        "{err}"
    );
    let mut wrong = bundle();
    wrong.ptx[0] = "not PTX".to_owned();
    assert!(matches!(load(wrong), Err(RuntimeError::Device(_))));
}

#[test]
fn a_failed_load_can_be_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut model = load(bundle()).expect("loads");
    let err = model
        .load_weights(dir.path(), &mut |_| ())
        .expect_err("nothing there");
    assert!(
        matches!(err, RuntimeError::Weights(WeightError::NoCheckpoint { .. })),
        "{err}"
    );
    assert!(matches!(
        lookup(&mut model, &[1]),
        Err(RuntimeError::NoWeights)
    ));
    checkpoint(dir.path());
    model.load_weights(dir.path(), &mut |_| ()).expect("loads");
    assert_eq!(lookup(&mut model, &[0]).expect("runs")[1], 0.125 + 101.0);
}
