//! Recipes against element-by-element formulations, and checkpoints that are not what they should be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::bf16;
use mcc_bundle::{
    BufferId, DType, Dim, Hardware, Manifest, ParamSource, ScaleBlock, Target, TokenizerInfo, Type,
    WeightParam,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::error::DeviceError;
use crate::sampling::SplitMix64;

/// Memory and nothing else; buffer `i` begins at `i << 32`.
#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let buffer = self.0.entry(address >> 32).or_default();
        assert_eq!(
            buffer.len() as u64,
            address & 0xffff_ffff,
            "pieces follow one another"
        );
        buffer.extend_from_slice(bytes);
        Ok(())
    }
}

type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// Reproducible bytes; as E4M3 they have no NaN.
fn codes(seed: u64, n: usize) -> Vec<u8> {
    (0..n as u64)
        .map(|i| SplitMix64::new(seed).bits(i) as u8)
        .map(|c| if c & 0x7f == 0x7f { 0x30 } else { c })
        .collect()
}

/// Positive scales that are no powers of two.
fn scales(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64)
        .map(|i| 0.001 + SplitMix64::new(seed).at(i))
        .collect()
}

fn bytes_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bytes_bf16(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
        .collect()
}

fn fp8(
    name: &'static str,
    scale_name: &'static str,
    seed: u64,
    rows: usize,
    cols: usize,
) -> [Tensor; 2] {
    let (r, c) = (rows.div_ceil(128), cols.div_ceil(128));
    [
        (
            name,
            Dtype::F8_E4M3,
            vec![rows, cols],
            codes(seed, rows * cols),
        ),
        (
            scale_name,
            Dtype::F32,
            vec![r, c],
            bytes_f32(&scales(seed + 1, r * c)),
        ),
    ]
}

fn write(path: &Path, tensors: &[Tensor]) {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, data)| {
            (
                *name,
                TensorView::new(*dtype, shape.clone(), data).expect("sizes fit"),
            )
        })
        .collect();
    fs::write(
        path,
        safetensors::serialize(views, None).expect("serialises"),
    )
    .expect("writes");
}

fn checkpoint(tensors: &[Tensor]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write(&dir.path().join("model.safetensors"), tensors);
    dir
}

fn tensor(name: &str) -> ParamSource {
    ParamSource::Tensor(name.to_owned())
}

fn manifest(dtype: DType, shape: &[u64], source: ParamSource) -> Manifest {
    let scaled = dtype == DType::E4m3;
    Manifest {
        schema: mcc_bundle::SCHEMA_VERSION,
        compiler: String::new(),
        target: Target {
            name: "h800".to_owned(),
            arch: "sm_90a".to_owned(),
            sms: 132,
            ptx_isa: "8.0".to_owned(),
            hardware: Hardware::default(),
        },
        model: "test".to_owned(),
        dims: Vec::new(),
        buffers: Vec::new(),
        mesh: None,
        arena_bytes: 0,
        params: vec![WeightParam {
            name: "p".to_owned(),
            ty: Type {
                dtype,
                shape: shape.iter().map(|&n| Dim::Const(n)).collect(),
                scale: scaled.then_some(ScaleBlock {
                    rows: 128,
                    cols: 128,
                }),
            },
            source,
            data: BufferId(0),
            scales: scaled.then_some(BufferId(1)),
        }],
        kernels: Vec::new(),
        entries: Vec::new(),
        tokenizer: TokenizerInfo::default(),
    }
}

/// Codes and scales that loading writes.
fn load_param(
    dir: &Path,
    dtype: DType,
    shape: &[u64],
    source: ParamSource,
) -> Result<(Vec<u8>, Vec<u8>), WeightError> {
    load_share(dir, dtype, shape, source, &Share::default())
}

fn load_share(
    dir: &Path,
    dtype: DType,
    shape: &[u64],
    source: ParamSource,
    share: &Share,
) -> Result<(Vec<u8>, Vec<u8>), WeightError> {
    let mut memory = Memory::default();
    let manifest = manifest(dtype, shape, source);
    let mut last = None;
    let bytes = load(
        &manifest,
        &|id| u64::from(id.0) << 32,
        &mut |address, bytes| memory.write(address, bytes),
        &Checkpoint::open(dir)?,
        share,
        &mut |p| {
            last = Some((p.done, p.total, p.bytes));
        },
    )?;
    assert_eq!(last, Some((1, 1, bytes)));
    let mut take = |buffer| memory.0.remove(&buffer).unwrap_or_default();
    let (data, scales) = (take(0), take(1));
    assert_eq!(bytes, (data.len() + scales.len()) as u64);
    Ok((data, scales))
}

/// `bf16(code * scale)` of a matrix, element by element.
fn naive_dequant(codes: &[u8], scales: &[f32], cols: usize) -> Vec<f32> {
    let scale_cols = cols.div_ceil(128);
    (0..codes.len())
        .map(|i| {
            let (row, col) = (i / cols, i % cols);
            bf16::from_f32(e4m3_to_f32(codes[i]) * scales[row / 128 * scale_cols + col / 128])
                .to_f32()
        })
        .collect()
}

#[test]
fn tensors_as_stored() {
    let values: Vec<f32> = scales(5, 12);
    let mut tensors = vec![
        ("norm", Dtype::F32, vec![12], bytes_f32(&values)),
        ("embed", Dtype::BF16, vec![3, 4], bytes_bf16(&values)),
    ];
    tensors.extend(fp8("w", "w_scale_inv", 7, 192, 200));
    let dir = checkpoint(&tensors);
    let load = |dtype, shape: &[u64], name| {
        load_param(dir.path(), dtype, shape, tensor(name)).expect("loads")
    };
    assert_eq!(load(DType::F32, &[12], "norm").0, bytes_f32(&values));
    assert_eq!(load(DType::Bf16, &[12], "norm").0, bytes_bf16(&values));
    assert_eq!(load(DType::Bf16, &[3, 4], "embed").0, bytes_bf16(&values));
    let rounded: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
    assert_eq!(load(DType::F32, &[3, 4], "embed").0, bytes_f32(&rounded));
    let (data, scale) = load(DType::E4m3, &[192, 200], "w");
    assert_eq!(
        (data, scale),
        (codes(7, 192 * 200), bytes_f32(&scales(8, 4)))
    );
}

/// Of four experts the checkpoint has the last two, as a host may that has only its own.
#[test]
fn a_rank_reads_of_the_experts_what_it_holds() {
    let mut tensors = Vec::new();
    tensors.extend(fp8("c", "c_scale_inv", 30, 128, 130));
    tensors.extend(fp8("d", "d_scale_inv", 40, 128, 130));
    let dir = checkpoint(&tensors);
    let source = ParamSource::Experts {
        layer: 0,
        slots: 2,
        parts: ["a", "b", "c", "d"].map(tensor).into(),
    };
    let shape = [2, 128, 130];
    let load = |rank| {
        let share = Share::new(rank, None);
        load_share(dir.path(), DType::E4m3, &shape, source.clone(), &share)
    };
    let (data, scale) = load(1).expect("has its experts");
    assert_eq!(data, [30, 40].map(|seed| codes(seed, 128 * 130)).concat());
    assert_eq!(
        scale,
        bytes_f32(&[31, 41].map(|seed| scales(seed, 2)).concat())
    );
    let missing = |error| matches!(error, WeightError::MissingTensor { name, .. } if name == "a");
    assert!(load(0).is_err_and(missing));
    // Before a bundle is written the checkpoint is held against all ranks' needs.
    let params = manifest(DType::E4m3, &shape, source.clone()).params;
    let whole = Checkpoint::open(dir.path()).expect("opens");
    assert!(whole.check(&params).is_err_and(missing));
}

#[test]
fn concatenated_and_stacked_experts() {
    let mut tensors = Vec::new();
    tensors.extend(fp8("a", "a_scale_inv", 10, 128, 130));
    tensors.extend(fp8("b", "b_scale_inv", 20, 72, 130));
    tensors.extend(fp8("c", "c_scale_inv", 30, 128, 130));
    tensors.extend(fp8("d", "d_scale_inv", 40, 72, 130));
    let dir = checkpoint(&tensors);
    let pair = |x, y| ParamSource::Concat(vec![tensor(x), tensor(y)]);
    let source = ParamSource::Stack(vec![pair("a", "b"), pair("c", "d")]);
    let (data, scale) =
        load_param(dir.path(), DType::E4m3, &[2, 200, 130], source.clone()).expect("loads");
    let all: Vec<u8> = [(10, 128), (20, 72), (30, 128), (40, 72)]
        .map(|(s, n)| codes(s, n * 130))
        .concat();
    assert_eq!(data, all);
    let all_scales: Vec<f32> = [11, 21, 31, 41].map(|seed| scales(seed, 2)).concat();
    assert_eq!(scale, bytes_f32(&all_scales));

    // The same, dequantised: scales of the second matrix must not be taken from the first.
    let (data, _) = load_param(
        dir.path(),
        DType::Bf16,
        &[2, 200, 130],
        ParamSource::Dequant(Box::new(source)),
    )
    .expect("loads");
    let naive: Vec<f32> = (0..2)
        .flat_map(|e| naive_dequant(&all[e * 26000..][..26000], &all_scales[e * 4..][..4], 130))
        .collect();
    assert_eq!(data, bytes_bf16(&naive));

    // 72 rows end inside a scale block, so nothing may follow them.
    let err =
        load_param(dir.path(), DType::E4m3, &[200, 130], pair("b", "a")).expect_err("refused");
    assert!(
        matches!(err, WeightError::Recipe { .. }) && err.to_string().contains("multiple of 128"),
        "{err}"
    );
}

#[test]
fn heads_dequantised_and_transposed() {
    // Three heads of 100 rows each, of which the last 40 are taken; 130 columns have a partial scale block.
    let dir = checkpoint(&fp8("kv", "kv_scale_inv", 50, 300, 130));
    let dense = naive_dequant(&codes(50, 300 * 130), &scales(51, 6), 130);
    let rows = ParamSource::HeadRows {
        src: Box::new(ParamSource::Dequant(Box::new(tensor("kv")))),
        heads: 3,
        start: 60,
        len: 40,
    };
    let (data, _) =
        load_param(dir.path(), DType::Bf16, &[3, 40, 130], rows.clone()).expect("loads");
    let naive = |head: usize, row: usize, col: usize| dense[(head * 100 + 60 + row) * 130 + col];
    let expected: Vec<f32> = (0..3)
        .flat_map(|h| (0..40).flat_map(move |r| (0..130).map(move |c| (h, r, c))))
        .map(|(h, r, c)| naive(h, r, c))
        .collect();
    assert_eq!(data, bytes_bf16(&expected));

    let (data, _) = load_param(
        dir.path(),
        DType::Bf16,
        &[3, 130, 40],
        ParamSource::Transpose(Box::new(rows)),
    )
    .expect("loads");
    let expected: Vec<f32> = (0..3)
        .flat_map(|h| (0..130).flat_map(move |c| (0..40).map(move |r| (h, r, c))))
        .map(|(h, r, c)| naive(h, r, c))
        .collect();
    assert_eq!(data, bytes_bf16(&expected));

    // Codes and scales transposed apart are the transposed matrix.
    let transposed = ParamSource::Transpose(Box::new(tensor("kv")));
    let (data, scale) =
        load_param(dir.path(), DType::E4m3, &[130, 300], transposed).expect("loads");
    let scale: Vec<f32> = scale
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let back = naive_dequant(&data, &scale, 300);
    assert!((0..300).all(|r| (0..130).all(|c| back[c * 300 + r] == dense[r * 130 + c])));
}

#[test]
fn generated_tables() {
    let dir = checkpoint(&[("unused", Dtype::F32, vec![1], vec![0; 4])]);
    let source = ParamSource::RopeTable {
        dim: 8,
        theta: 10000.0,
        positions: 5,
        yarn: None,
    };
    let (data, _) = load_param(dir.path(), DType::F32, &[5, 4, 2], source).expect("loads");
    assert_eq!(data, bytes_f32(&rope_table(8, 10000.0, 5, None)));
}

#[test]
fn shards_by_index() {
    let dir = tempfile::tempdir().expect("a folder");
    let one = bytes_f32(&[1.0, 2.0]);
    write(
        &dir.path().join("one.safetensors"),
        &[("a", Dtype::F32, vec![1, 2], one.clone())],
    );
    write(
        &dir.path().join("two.safetensors"),
        &[("b", Dtype::F32, vec![1, 2], one.clone())],
    );
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(
        &index,
        r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#,
    )
    .expect("writes");
    let source = ParamSource::Concat(vec![tensor("a"), tensor("b")]);
    let (data, _) = load_param(dir.path(), DType::F32, &[2, 2], source).expect("loads");
    assert_eq!(data, [one.clone(), one].concat());

    let cases = [
        (
            r#"{"weight_map": {"a": "gone.safetensors"}}"#,
            "not in the directory",
        ),
        (
            r#"{"weight_map": {"a": "../one.safetensors"}}"#,
            "not a file name",
        ),
        (
            r#"{"weight_map": {"c": "one.safetensors"}}"#,
            "does not have it",
        ),
        (r#"{"weights": {}}"#, "not an index"),
        ("{", "not an index"),
    ];
    for (text, expected) in cases {
        fs::write(&index, text).expect("writes");
        let err = Checkpoint::open(dir.path()).expect_err(expected);
        assert!(
            matches!(err, WeightError::BadIndex { .. }) && err.to_string().contains(expected),
            "{err}"
        );
    }
}

#[test]
fn damaged_checkpoints() {
    assert!(matches!(
        Checkpoint::open("/no/such/dir"),
        Err(WeightError::NoDirectory { .. })
    ));
    let empty = tempfile::tempdir().expect("a folder");
    assert!(matches!(
        Checkpoint::open(empty.path()),
        Err(WeightError::NoCheckpoint { .. })
    ));

    let dir = checkpoint(&fp8("w", "w_scale_inv", 1, 16, 16));
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).expect("reads");
    for cut in [0, 4, 20, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("writes");
        let err = Checkpoint::open(dir.path()).expect_err("truncated");
        assert!(
            matches!(err, WeightError::Corrupt { .. }),
            "cut at {cut}: {err}"
        );
    }
    let mut damaged = whole.clone();
    // The header begins behind its length.
    damaged[8] = b'!';
    fs::write(&path, &damaged).expect("writes");
    assert!(matches!(
        Checkpoint::open(dir.path()),
        Err(WeightError::Corrupt { .. })
    ));
}

#[test]
fn tensors_that_do_not_fit() {
    let mut tensors = vec![
        (
            "model.layers.0.norm.weight",
            Dtype::F32,
            vec![4],
            vec![0; 16],
        ),
        ("ids", Dtype::I64, vec![2], vec![0; 16]),
        ("bare", Dtype::F8_E4M3, vec![2, 2], vec![0; 4]),
        ("odd", Dtype::F8_E4M3, vec![200, 2], vec![0; 400]),
        ("odd_scale_inv", Dtype::F32, vec![1, 1], vec![0; 4]),
        ("half", Dtype::F8_E4M3, vec![2, 2], vec![0; 4]),
        ("half_scale_inv", Dtype::BF16, vec![1, 1], vec![0; 2]),
    ];
    tensors.extend(fp8("w", "w_scale_inv", 1, 16, 16));
    let dir = checkpoint(&tensors);
    // Headers alone tell as much.
    let checkpoint = Checkpoint::open(dir.path()).expect("opens");
    let fits = manifest(DType::E4m3, &[16, 16], tensor("w"));
    assert!(checkpoint.check(&fits.params).is_ok());
    let wrong = manifest(DType::E4m3, &[16, 32], tensor("w"));
    assert!(matches!(
        checkpoint.check(&wrong.params),
        Err(WeightError::WrongShape { .. })
    ));
    let refuse = |dtype, shape: &[u64], source| {
        load_param(dir.path(), dtype, shape, source).expect_err("refused")
    };

    let err = refuse(DType::F32, &[4], tensor("model.layers.0.norm.wait"));
    assert!(matches!(err, WeightError::MissingTensor { .. }));
    let text = err.to_string();
    assert!(
        text.contains("closest: model.layers.0.norm.weight") && text.contains("model.safetensors"),
        "{text}"
    );

    let err = refuse(DType::F32, &[5], tensor("model.layers.0.norm.weight"));
    assert!(
        err.to_string().contains("expected shape [5], found [4]"),
        "{err}"
    );
    let err = refuse(DType::E4m3, &[2, 2], tensor("bare"));
    assert!(
        matches!(&err, WeightError::MissingScales { name, .. } if name == "bare"),
        "{err}"
    );
    assert!(matches!(
        refuse(DType::E4m3, &[200, 2], tensor("odd")),
        WeightError::WrongShape { .. }
    ));
    assert!(matches!(
        refuse(DType::E4m3, &[2, 2], tensor("half")),
        WeightError::WrongDtype { .. }
    ));
    assert!(matches!(
        refuse(DType::I32, &[2], tensor("ids")),
        WeightError::WrongDtype { .. }
    ));
    // FP8 is not turned into BF16 on the quiet, nor the other way round.
    assert!(matches!(
        refuse(DType::Bf16, &[16, 16], tensor("w")),
        WeightError::WrongDtype { .. }
    ));
    let norm = "model.layers.0.norm.weight";
    assert!(matches!(
        refuse(DType::E4m3, &[4, 1], tensor(norm)),
        WeightError::WrongDtype { .. }
    ));

    let boxed = |name: &str| Box::new(tensor(name));
    let misfits = [
        ParamSource::Dequant(boxed(norm)),
        ParamSource::Transpose(boxed(norm)),
        ParamSource::Concat(vec![tensor(norm), tensor("w")]),
        ParamSource::Stack(vec![tensor(norm), tensor("w")]),
        ParamSource::HeadRows {
            src: boxed("w"),
            heads: 2,
            start: 0,
            len: 8,
        },
        ParamSource::HeadRows {
            src: boxed(norm),
            heads: 2,
            start: 0,
            len: 1,
        },
        ParamSource::HeadRows {
            src: Box::new(ParamSource::Dequant(boxed("w"))),
            heads: 2,
            start: 1,
            len: 8,
        },
    ];
    for source in misfits {
        let err = refuse(DType::F32, &[1], source.clone());
        assert!(
            matches!(err, WeightError::Recipe { .. }),
            "{source:?}: {err}"
        );
    }
}
