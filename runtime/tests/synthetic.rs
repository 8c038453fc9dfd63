//! Made-up weights and inputs: the same every time, in range, and different for different seeds.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/parts.rs"]
mod parts;
#[path = "support/rows.rs"]
mod rows;

use mcc_bundle::DimValues;
use mcc_runtime::{DeviceOptions, Model, SimDevice, synthetic_inputs};

fn lookup(seed: u64) -> Vec<f32> {
    let device = SimDevice::new(&DeviceOptions::default());
    let mut model = Model::load(Box::new(device), rows::bundle()).expect("loads");
    let mut names = Vec::new();
    model
        .load_synthetic(seed, &mut |progress| {
            names.push((progress.param.to_owned(), progress.bytes))
        })
        .expect("loads");
    let bytes = (rows::ROWS * rows::WIDTH * 4) as u64;
    assert_eq!(names, [("table".to_owned(), 0), (String::new(), bytes)]);
    let dims = DimValues::from([("R".to_owned(), rows::ROWS as u64)]);
    let index: Vec<u8> = (0..rows::ROWS as i32).flat_map(i32::to_le_bytes).collect();
    let bias = vec![0; rows::ROWS * rows::WIDTH * 4];
    let inputs: [(&str, &[u8]); 2] = [("index", &index), ("bias", &bias)];
    let out = model
        .execute("lookup", &dims, &inputs, &["out"], 0)
        .expect("runs")
        .remove(0);
    out.as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

#[test]
fn weights_follow_the_seed() {
    let table = lookup(1);
    assert_eq!(table, lookup(1));
    assert_ne!(table, lookup(2));
    // The variance is 1 / 8: 80 values lie within half and double of it, far more than five standard errors.
    let power: f32 = table.iter().map(|value| value * value).sum::<f32>() / table.len() as f32;
    assert!((0.0625..0.25).contains(&power), "{power}");
}

#[test]
fn indices_and_positions_are_in_range() {
    let bundle = counting::bundle();
    let manifest = &bundle.manifest;
    let dims: DimValues = [("T", 9), ("C", 40), ("R", 5)]
        .map(|(n, v)| (n.to_owned(), v))
        .into();
    let made = |seed| {
        synthetic_inputs(manifest, &manifest.entries[0], &dims, seed).expect("sizes are known")
    };
    let inputs = made(3);
    assert_eq!(inputs, made(3));
    assert_ne!(inputs, made(4));
    let ints = |name: &str| -> Vec<i32> {
        let (_, bytes) = inputs
            .iter()
            .find(|(port, _)| port == name)
            .expect("it is there");
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes))
            .collect()
    };
    assert_eq!(ints("positions"), (31..40).collect::<Vec<_>>());
    let rows = ints("rows");
    assert!(
        rows.len() == 5 && rows.iter().all(|row| (0..9).contains(row)),
        "{rows:?}"
    );
    assert_eq!(ints("tokens").len(), 9);

    let rows = rows::bundle();
    let dims = DimValues::from([("R".to_owned(), 16)]);
    let inputs =
        synthetic_inputs(&rows.manifest, &rows.manifest.entries[0], &dims, 1).expect("known");
    let index = inputs[0]
        .1
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| i32::from_le_bytes(*bytes));
    let index: Vec<i32> = index.collect();
    assert!(index.iter().all(|row| (0..10).contains(row)), "{index:?}");
    assert!(index.iter().any(|row| *row != index[0]), "{index:?}");
    assert_eq!(inputs[1].1.len(), 16 * rows::WIDTH * 4);
}
