//! Bundles go to a file and back unchanged; damaged and hostile ones end in an error that names the damage.

use mcc_bundle::{
    Buffer, BufferId, BufferKind, Bundle, BundleError, DType, Dim, DimDecl, Entry, Expr, Hardware,
    Kernel, KernelId, LaunchSpec, Manifest, Operand, Param, ParamSource, Port, SCHEMA_VERSION,
    ScaleBlock, Step, Target, TokenizerInfo, Type, Unit, View, WeightParam, Work, Yarn,
};

fn dim(text: &str) -> Dim {
    text.parse().expect("a dim")
}

fn buffer(name: &str, kind: BufferKind, bytes: u64) -> Buffer {
    Buffer {
        name: name.to_owned(),
        kind,
        bytes,
    }
}

fn view(buffer: u32, dtype: DType, shape: &[Dim], strides: &[u64]) -> View {
    View {
        buffer: BufferId(buffer),
        offset: 0,
        dtype,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
    }
}

/// One of everything: a scaled weight, a generated table, a state, a temporary, and two steps.
fn manifest() -> Manifest {
    let (t, w) = (dim("T"), Dim::Const(128));
    let operand = |name: &str, dtype, rank, written| Operand {
        name: name.to_owned(),
        dtype,
        rank,
        written,
    };
    let kernel = |name: &str| Kernel {
        name: name.to_owned(),
        family: "gather".to_owned(),
        config: serde_json::json!({ "width": 128, "scale": 0.1 }),
        operands: vec![
            operand("table", DType::E4m3, 2, false),
            operand("index", DType::I32, 1, false),
            operand("out", DType::Bf16, 2, true),
        ],
        launch: LaunchSpec {
            grid: [
                Expr::Min(vec![
                    Expr::Sms,
                    Expr::CeilDiv(
                        Box::new(Expr::Extent {
                            operand: 1,
                            axis: 0,
                        }),
                        4,
                    ),
                ]),
                Expr::Const(1),
                Expr::Const(1),
            ],
            block: 128,
            cluster: [1, 1, 1],
            smem_bytes: 4096,
            params: vec![
                Param::Extent {
                    operand: 1,
                    axis: 0,
                },
                Param::TensorMap {
                    operand: 0,
                    box_dims: vec![128, 8],
                    swizzle: 128,
                    axes: mcc_bundle::MapAxes::Rows,
                },
                Param::Pointer { operand: 1 },
                Param::Pointer { operand: 2 },
                Param::Stride {
                    operand: 2,
                    axis: 0,
                },
            ],
            programmatic: name == "gather_b",
            work: Work {
                unit: Unit::Fp8,
                flops: Expr::Const(0),
                bytes: Expr::Sub(Box::new(Expr::Const(64)), Box::new(Expr::Const(1))),
            },
        },
        resources: None,
        ptx_sha256: String::new(),
        cubin_sha256: None,
    };
    let step = |kernel, out| Step {
        kernel: KernelId(kernel),
        label: "embed".to_owned(),
        operands: vec![
            view(0, DType::E4m3, &[Dim::Const(200), w.clone()], &[128, 1]),
            view(3, DType::I32, std::slice::from_ref(&t), &[1]),
            view(out, DType::Bf16, &[t.clone(), w.clone()], &[128, 1]),
        ],
    };
    let port = |name: &str, dtype, shape: &[Dim], buffer| Port {
        name: name.to_owned(),
        ty: Type {
            dtype,
            shape: shape.to_vec(),
            scale: None,
        },
        buffer: BufferId(buffer),
    };
    Manifest {
        schema: SCHEMA_VERSION,
        compiler: "0.1.0".to_owned(),
        target: Target {
            name: "h800".to_owned(),
            arch: "sm_90a".to_owned(),
            sms: 132,
            ptx_isa: "8.0".to_owned(),
            hardware: Hardware::default(),
        },
        model: "test".to_owned(),
        dims: vec![DimDecl {
            name: "T".to_owned(),
            min: 1,
            max: 64,
        }],
        buffers: vec![
            buffer("embed", BufferKind::Weight, 25600),
            buffer("embed.scales", BufferKind::Weight, 256),
            buffer("rope", BufferKind::Weight, 64 * 2 * 2 * 4),
            buffer("tokens", BufferKind::Input, 256),
            buffer("hidden", BufferKind::Temp { offset: 256 }, 64 * 256),
            buffer("out", BufferKind::Output, 64 * 256),
            buffer("cache", BufferKind::State, 256),
        ],
        mesh: None,
        arena_bytes: 64 * 256 + 256,
        params: vec![
            WeightParam {
                name: "embed".to_owned(),
                ty: Type {
                    dtype: DType::E4m3,
                    shape: vec![Dim::Const(200), w.clone()],
                    scale: Some(ScaleBlock {
                        rows: 128,
                        cols: 128,
                    }),
                },
                source: ParamSource::Tensor("model.embed".to_owned()),
                data: BufferId(0),
                scales: Some(BufferId(1)),
            },
            WeightParam {
                name: "rope".to_owned(),
                ty: Type {
                    dtype: DType::F32,
                    shape: vec![Dim::Const(64), Dim::Const(2), Dim::Const(2)],
                    scale: None,
                },
                source: ParamSource::RopeTable {
                    dim: 4,
                    theta: 10000.1,
                    positions: 64,
                    yarn: Some(Yarn {
                        factor: 4.000_000_000_000_001,
                        original: 256.0,
                        beta_fast: 32.0,
                        beta_slow: 1.0,
                        mscale: 0.707,
                        mscale_all_dim: 0.1 + 0.2,
                    }),
                },
                data: BufferId(2),
                scales: None,
            },
        ],
        kernels: vec![kernel("gather_a"), kernel("gather_b")],
        entries: vec![Entry {
            name: "prefill".to_owned(),
            inputs: vec![port("tokens", DType::I32, std::slice::from_ref(&t), 3)],
            outputs: vec![port("out", DType::Bf16, &[t.clone(), w.clone()], 5)],
            steps: vec![step(0, 4), step(1, 5)],
        }],
        tokenizer: TokenizerInfo {
            bos: Some(0),
            eos: vec![1],
        },
    }
}

fn bundle() -> Bundle {
    let ptx = vec![
        ".version 8.0 // a".repeat(100),
        ".version 8.0 // b".repeat(50),
    ];
    let mut bundle = Bundle::new(
        manifest(),
        ptx,
        vec![None, Some(vec![0x7f, b'E', b'L', b'F'])],
    )
    .expect("sound");
    bundle.tokenizer = Some("{\"model\": \"ü\"}".to_owned());
    bundle.graph = Some("mir 1\n".to_owned());
    bundle
}

#[test]
fn round_trip_and_determinism() {
    let bundle = bundle();
    let bytes = bundle.to_bytes().expect("encodes");
    let again = Bundle::from_bytes(&bytes).expect("decodes");
    assert_eq!(again, bundle);
    assert_eq!(again.to_bytes().expect("encodes"), bytes);
    // Floats of a recipe come back bit for bit, which equality above covers; see that they are not trivial.
    let ParamSource::RopeTable {
        yarn: Some(yarn), ..
    } = &again.manifest.params[1].source
    else {
        panic!("a table")
    };
    assert_eq!(yarn.mscale_all_dim.to_bits(), (0.1_f64 + 0.2).to_bits());
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.mccb");
    bundle().write(&path).expect("writes");
    bundle().write(&path).expect("overwrites");
    assert_eq!(Bundle::read(&path).expect("reads"), bundle());

    let missing = dir.path().join("no/such/folder/model.mccb");
    assert!(matches!(
        bundle().write(&missing),
        Err(BundleError::Write { .. })
    ));
    assert!(matches!(
        bundle().write(dir.path()),
        Err(BundleError::Write { .. })
    ));
    let mut wrong = bundle();
    wrong.manifest.arena_bytes = 0;
    assert!(matches!(
        wrong.write(dir.path().join("wrong.mccb")),
        Err(BundleError::Manifest(_))
    ));
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert_eq!(left, ["model.mccb"]);
    assert!(matches!(
        Bundle::read(missing),
        Err(BundleError::Read { .. })
    ));
}

#[test]
fn damage_is_named() {
    let bytes = bundle().to_bytes().expect("encodes");
    assert!(matches!(
        Bundle::from_bytes(b""),
        Err(BundleError::NotABundle)
    ));
    assert!(matches!(
        Bundle::from_bytes(b"PK\x03\x04 and more"),
        Err(BundleError::NotABundle)
    ));

    let mut newer = bytes.clone();
    newer[4] = 9;
    assert!(matches!(
        Bundle::from_bytes(&newer),
        Err(BundleError::WrongVersion {
            what: "format",
            found: 9,
            needed: 1
        })
    ));
    for cut in [4, 10, 30, 60, bytes.len() / 2, bytes.len() - 1] {
        assert!(
            matches!(
                Bundle::from_bytes(&bytes[..cut]),
                Err(BundleError::Truncated { .. })
            ),
            "cut at {cut}"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(
        Bundle::from_bytes(&longer),
        Err(BundleError::TrailingBytes { extra: 1 })
    ));

    // The last bytes of the file are the second kernel's cubin.
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    match Bundle::from_bytes(&damaged) {
        Err(BundleError::CorruptSection { section, .. }) => {
            assert_eq!(section, "cubin/gather_b.cubin")
        }
        other => panic!("{other:?}"),
    }
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert!(matches!(
        Bundle::from_bytes(&damaged),
        Err(BundleError::CorruptHeader { .. })
    ));

    let mut schema = bundle();
    schema.manifest.schema = SCHEMA_VERSION + 1;
    assert!(matches!(schema.to_bytes(), Err(BundleError::Manifest(_))));
    // A text that the manifest does not vouch for.
    let mut swapped = bundle();
    swapped.ptx.swap(0, 1);
    match Bundle::from_bytes(&swapped.to_bytes().expect("encodes")) {
        Err(BundleError::CorruptSection { section, .. }) => assert_eq!(section, "ptx/gather_a.ptx"),
        other => panic!("{other:?}"),
    }
    let mut short = bundle();
    short.ptx.pop();
    assert!(matches!(
        Bundle::from_bytes(&short.to_bytes().expect("encodes")),
        Err(BundleError::MissingSection { section }) if section == "ptx/gather_b.ptx"
    ));
}

#[test]
fn every_damaged_byte_is_noticed() {
    let bytes = bundle().to_bytes().expect("encodes");
    let mut damaged = bytes.clone();
    for i in 0..bytes.len() {
        damaged[i] ^= 0x41;
        assert!(Bundle::from_bytes(&damaged).is_err(), "byte {i}");
        damaged[i] = bytes[i];
    }
}

/// What a mutation must be refused with, as a part of the message.
type Mutation = (&'static str, fn(&mut Manifest));

#[test]
fn contradictions_are_refused() {
    let mutations: &[Mutation] = &[
        ("declared twice", |m| m.dims.push(m.dims[0].clone())),
        ("are empty", |m| m.dims[0].min = 65),
        ("32 bits", |m| m.dims[0].max = 1 << 40),
        ("not a name", |m| m.dims[0].name = "T*2".to_owned()),
        ("positive multiple of 256", |m| m.buffers[3].bytes = 100),
        ("positive multiple of 256", |m| m.buffers[6].bytes = 0),
        ("behind the arena", |m| {
            m.buffers[4].kind = BufferKind::Temp { offset: 512 }
        }),
        ("behind the arena", |m| {
            m.buffers[4].kind = BufferKind::Temp {
                offset: u64::MAX - 255,
            }
        }),
        ("together overflow", |m| m.arena_bytes = u64::MAX),
        ("second parameter", |m| {
            m.params[1].name = "embed".to_owned()
        }),
        ("named dim", |m| m.params[1].ty.shape[0] = dim("T")),
        ("have scales", |m| m.params[0].ty.scale = None),
        ("no scales", |m| m.params[0].scales = None),
        ("does not exist", |m| m.params[0].data = BufferId(99)),
        ("not a weight", |m| m.params[0].data = BufferId(3)),
        ("filled twice", |m| m.params[0].scales = Some(BufferId(0))),
        ("cannot hold it", |m| m.params[1].data = BufferId(1)),
        ("cannot hold it", |m| {
            m.params[1].ty.shape = vec![Dim::Const(u64::MAX); 3]
        }),
        ("cannot hold it", |m| {
            m.params[0].ty.scale = Some(ScaleBlock { rows: 0, cols: 128 })
        }),
        ("no parameter fills", |m| {
            m.params.remove(1);
        }),
        ("levels deep", |m| {
            for _ in 0..40 {
                let inner = m.params[0].source.clone();
                m.params[0].source = ParamSource::Transpose(Box::new(inner));
            }
        }),
        ("no tensors", |m| {
            m.params[0].source = ParamSource::Concat(vec![])
        }),
        ("of no rows", |m| {
            let src = Box::new(m.params[0].source.clone());
            m.params[0].source = ParamSource::HeadRows {
                src,
                heads: 1,
                start: u64::MAX,
                len: 2,
            };
        }),
        ("impossible size", |m| {
            m.params[1].source = ParamSource::RopeTable {
                dim: 3,
                theta: 1e4,
                positions: 4,
                yarn: None,
            };
        }),
        ("second kernel", |m| {
            m.kernels[1].name = "gather_a".to_owned()
        }),
        ("not a name", |m| {
            m.kernels[1].name = "../../etc/passwd".to_owned()
        }),
        ("block of 0 threads", |m| m.kernels[0].launch.block = 0),
        ("cluster of shape", |m| {
            m.kernels[0].launch.cluster = [u32::MAX; 3]
        }),
        ("operand 7 of 3", |m| {
            m.kernels[0]
                .launch
                .params
                .push(Param::Pointer { operand: 7 })
        }),
        ("no axis 1", |m| {
            m.kernels[0].launch.params[0] = Param::Extent {
                operand: 1,
                axis: 1,
            }
        }),
        ("a box of 1 axes", |m| {
            m.kernels[0].launch.params[1] = Param::TensorMap {
                operand: 0,
                box_dims: vec![128],
                swizzle: 0,
                axes: mcc_bundle::MapAxes::Rows,
            };
        }),
        ("must be 1 to 256", |m| {
            m.kernels[0].launch.params[1] = Param::TensorMap {
                operand: 0,
                box_dims: vec![128, 0],
                swizzle: 0,
                axes: mcc_bundle::MapAxes::Rows,
            };
        }),
        ("swizzle of 48", |m| {
            m.kernels[0].launch.params[1] = Param::TensorMap {
                operand: 0,
                box_dims: vec![16, 8],
                swizzle: 48,
                axes: mcc_bundle::MapAxes::Rows,
            };
        }),
        ("under a swizzle", |m| {
            m.kernels[0].launch.params[1] = Param::TensorMap {
                operand: 0,
                box_dims: vec![128, 8],
                swizzle: 64,
                axes: mcc_bundle::MapAxes::Rows,
            };
        }),
        ("last axis is strided", |m| {
            let view = &mut m.entries[0].steps[0].operands[0];
            view.shape[1] = Dim::Const(2);
            view.strides[1] = 64;
        }),
        ("grid x: division by zero", |m| {
            m.kernels[0].launch.grid[0] = Expr::CeilDiv(Box::new(Expr::Const(1)), 0);
        }),
        ("grid y: operand 9 has no axis 0", |m| {
            m.kernels[1].launch.grid[1] = Expr::Extent {
                operand: 9,
                axis: 0,
            };
        }),
        ("grid z: the value does not fit", |m| {
            m.kernels[1].launch.grid[2] = Expr::Mul(vec![Expr::Const(u64::MAX), Expr::Sms]);
        }),
        ("work flops: the value does not fit", |m| {
            // Zero at the upper bounds, and no value below them.
            let rows = Expr::Extent {
                operand: 1,
                axis: 0,
            };
            let less = Expr::Sub(Box::new(Expr::Const(64)), Box::new(rows));
            m.kernels[0].launch.work.flops = Expr::Mul(vec![Expr::Const(u64::MAX), less]);
        }),
        ("work bytes: operand 0 has no axis 7", |m| {
            m.kernels[1].launch.work.bytes = Expr::Extent {
                operand: 0,
                axis: 7,
            };
        }),
        ("second entry", |m| m.entries.push(m.entries[0].clone())),
        ("second port", |m| {
            let port = m.entries[0].inputs[0].clone();
            m.entries[0].inputs.push(port);
        }),
        ("expected Input", |m| {
            m.entries[0].inputs[0].buffer = BufferId(5)
        }),
        ("its buffer has", |m| {
            m.entries[0].inputs[0].ty.shape = vec![dim("2*T")]
        }),
        ("not declared", |m| {
            m.entries[0].inputs[0].ty.shape = vec![dim("Q")]
        }),
        ("not declared", |m| {
            m.entries[0].inputs[0].ty.shape = vec![Dim::Sym {
                factor: u64::MAX,
                name: "T".to_owned(),
            }];
        }),
        ("kernel 5 does not exist", |m| {
            m.entries[0].steps[0].kernel = KernelId(5)
        }),
        ("2 operands", |m| {
            m.entries[0].steps[0].operands.pop();
        }),
        ("is e4m3 of rank 2", |m| {
            m.entries[0].steps[0].operands[0].dtype = DType::Bf16
        }),
        ("strides for", |m| {
            m.entries[0].steps[0].operands[0].strides.push(1)
        }),
        ("reaches behind", |m| {
            m.entries[0].steps[0].operands[0].offset = 1
        }),
        ("reaches behind", |m| {
            m.entries[0].steps[0].operands[0].strides[0] = u64::MAX
        }),
        ("multiple of the element size", |m| {
            m.entries[0].steps[0].operands[2].offset = 1
        }),
        ("which is Weight", |m| {
            m.entries[0].steps[0].operands[2].buffer = BufferId(0)
        }),
        ("which is Input", |m| {
            m.entries[0].steps[0].operands[2].buffer = BufferId(3)
        }),
    ];
    manifest().validate().expect("sound before");
    for (expected, mutate) in mutations {
        let mut wrong = manifest();
        mutate(&mut wrong);
        let message = match wrong.validate() {
            Err(err) => err.to_string(),
            Ok(()) => panic!("accepted, expected: {expected}"),
        };
        assert!(
            message.contains(expected),
            "`{message}` does not say `{expected}`"
        );
    }
}

/// Replaces every number and string of the manifest's JSON in turn: validation must never panic.
#[test]
fn hostile_manifests_never_panic() {
    fn count(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => items.iter().map(count).sum(),
            serde_json::Value::Object(fields) => fields.values().map(count).sum(),
            _ => 1,
        }
    }
    fn replace(value: &mut serde_json::Value, n: &mut usize, with: &serde_json::Value) {
        match value {
            serde_json::Value::Array(items) => {
                items.iter_mut().for_each(|item| replace(item, n, with))
            }
            serde_json::Value::Object(fields) => fields
                .values_mut()
                .for_each(|field| replace(field, n, with)),
            leaf => {
                if *n == 0 {
                    *leaf = with.clone();
                }
                *n = n.wrapping_sub(1);
            }
        }
    }
    let json = serde_json::to_value(manifest()).expect("JSON");
    let (mut refused, leaves) = (0, count(&json));
    for i in 0..leaves {
        for with in [
            serde_json::json!(0),
            serde_json::json!(1),
            serde_json::json!(u32::MAX),
            serde_json::json!(u64::MAX),
            serde_json::json!("T"),
            serde_json::json!("18446744073709551615*T"),
        ] {
            let mut hostile = json.clone();
            replace(&mut hostile, &mut i.clone(), &with);
            match serde_json::from_value::<Manifest>(hostile) {
                Ok(manifest) => refused += usize::from(manifest.validate().is_err()),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        leaves > 100 && refused > leaves * 3,
        "{refused} of {leaves} leaves"
    );
}
