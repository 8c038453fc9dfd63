//! A bundle of hand-written kernels on the simulated device, from the checkpoint to the output.

#[path = "support/parts.rs"]
mod parts;
#[path = "support/rows.rs"]
mod rows;

use std::path::Path;

use mcc_bundle::{Bundle, DimValues};
use mcc_runtime::{DeviceKind, DeviceOptions, Model, RuntimeError, WeightError, open_device};
use rows::{ADD, ROWS, WIDTH, bundle};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

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
