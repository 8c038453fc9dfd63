//! A model with weights on the fake driver: the same numbers as simulated, and every failing call told.

use std::path::Path;

use mcc_bundle::DimValues;
use mcc_runtime::{Device, Model, RuntimeError};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::fake::Driver;
use crate::rows::{ROWS, WIDTH, bundle};
use crate::{open, simulated};

fn checkpoint(dir: &Path) {
    let values: Vec<u8> = (0..ROWS * WIDTH)
        .flat_map(|i| half::bf16::from_f32(i as f32 / 8.0).to_le_bytes())
        .collect();
    let view = TensorView::new(Dtype::BF16, vec![ROWS, WIDTH], &values).expect("sizes fit");
    let bytes = safetensors::serialize([("embed", view)], None).expect("serialises");
    std::fs::write(dir.join("model.safetensors"), bytes).expect("writes");
}

/// Loads, and looks rows up until the steps are a graph whose nodes change.
fn run(device: Box<dyn Device>, checkpoint: &Path) -> Result<Vec<Vec<u8>>, RuntimeError> {
    let mut model = Model::load(device, bundle())?;
    model.load_weights(checkpoint, &mut |_| ())?;
    let mut outputs = Vec::new();
    for index in [&[7][..], &[0, 9, 3], &[0, 9, 4], &[2; 16], &[]] {
        let dims = DimValues::from([("R".to_owned(), index.len() as u64)]);
        let rows: Vec<u8> = index.iter().flat_map(|i: &i32| i.to_le_bytes()).collect();
        let bias = 1.5f32.to_le_bytes().repeat(index.len() * WIDTH);
        let inputs = [("index", &rows[..]), ("bias", &bias[..])];
        outputs.append(&mut model.execute("lookup", &dims, &inputs, &["out"], 0)?);
    }
    Ok(outputs)
}

#[test]
fn a_model_on_the_fake_driver() {
    Driver::default().run("model::a_model_on_the_fake_driver", |fake| {
        let dir = tempfile::tempdir().expect("a folder");
        checkpoint(dir.path());
        let expected = run(simulated(), dir.path()).expect("runs");
        let attempt = || run(open()?, dir.path());
        assert_eq!(attempt().expect("runs"), expected);
        fake.reset();
        assert_eq!(attempt().expect("runs"), expected);
        let calls = fake.calls();
        assert!(
            calls.iter().any(|call| call == "cuGraphLaunch"),
            "{calls:?}"
        );
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));

        // Out of memory at each call, and a lost device at each.
        for (code, stays) in [(2, false), (719, true)] {
            for (n, call) in (1..).zip(&calls) {
                let at = format!("call {n}, {call}, failing with {code}");
                fake.reset();
                fake.fail(n, code);
                match attempt() {
                    Ok(got) => assert_eq!(got, expected, "{at}"),
                    Err(err) => assert!(err.to_string().contains(call), "{at}: {err}"),
                }
                assert_eq!((fake.fail_none(), fake.live("")), (0, 0), "{at}");
                assert_eq!(fake.complaints(), Vec::<String>::new(), "{at}");
                match attempt() {
                    Ok(got) => assert!(got == expected && !stays, "{at}: again"),
                    Err(err) => assert!(stays, "{at}: again: {err}"),
                }
            }
        }
    });
}
