//! The trained checkpoint through the CUDA driver API: modules, tensor maps, uploads, graphs and a cache that
//! grows, on a driver that runs kernels in the simulator and streams as late as the API allows.
//!
//! Nothing here says that a GPU computes the same; it says that the runtime asks the driver for the same work
//! that it asks the simulated device for.

use std::path::{Path, PathBuf};
use std::{env, fs};

use mcc::pack::pack;
use mcc_bundle::Bundle;
use mcc_runtime::{
    Device, DeviceKind, DeviceOptions, GenerateOptions, LogitRows, Model, Sampling, SimDevice,
    generate, open_device,
};
use serde_json::{Value, json};

use crate::sources::{tiny_built, tiny_dir};

#[path = "../../runtime/fake-driver/tests/support/mod.rs"]
mod fake;

/// Variables that tell the child processes where the bundle and the expected result are.
const BUNDLE: &str = "MCC_TEST_BUNDLE";
const EXPECTED: &str = "MCC_TEST_EXPECTED";

/// What a run gives: the tokens, and the bits of the prompt's logits.
fn run(device: Box<dyn Device>, bundle: &Path) -> Value {
    let bundle = Bundle::read(bundle).unwrap_or_else(|e| panic!("{e}"));
    let mut model = Model::load(device, bundle).unwrap_or_else(|e| panic!("{e}"));
    model
        .load_weights(tiny_dir(), &mut |_| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let reference = tiny_dir().join("reference/reference.json");
    let reference: Value =
        serde_json::from_str(&fs::read_to_string(reference).expect("the reference")).expect("JSON");
    let prompts = reference["prompts"].as_array().expect("a list");
    let mut session = model.session().expect("a text model");
    let runs = prompts.iter().take(2).enumerate().map(|(i, prompt)| {
        let tokens: Vec<i32> = serde_json::from_value(prompt["ids"].clone()).expect("ids");
        session.reset().unwrap_or_else(|e| panic!("{e}"));
        let options = GenerateOptions {
            max_tokens: 12,
            // Two prefill steps with the same number of tokens, then others.
            chunk: Some(4),
            sampling: Sampling {
                // One greedy, one sampled.
                temperature: 0.7 * i as f32,
                top_p: 0.9,
                seed: 5,
            },
            eos: Vec::new(),
            prompt_logits: LogitRows::All,
        };
        let run = generate(&mut session, &tokens, &options, &mut |_| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let bits: Vec<u32> = run.prompt_logits.iter().map(|x| x.to_bits()).collect();
        json!({ "tokens": run.tokens, "logits": bits })
    });
    Value::Array(runs.collect())
}

#[test]
fn the_driver_gives_the_tokens_of_the_simulated_device() {
    let dir = tempfile::tempdir().expect("a folder");
    let bundle = dir.path().join("tiny.mccb");
    let expected = dir.path().join("expected.json");
    // The children find both where the parent has put them: they need not compile again.
    if env::var_os(BUNDLE).is_none() {
        let (source, built) = tiny_built();
        pack(source, built)
            .expect("packs")
            .write(&bundle)
            .expect("writes");
        let device = SimDevice::new(&DeviceOptions::default());
        fs::write(&expected, run(Box::new(device), &bundle).to_string()).expect("writes");
    }
    for order in ["late", "eager", "random:3"] {
        let driver = fake::Driver {
            settings: &format!("order={order}"),
            without: &[],
        };
        let variables = [(BUNDLE, bundle.as_path()), (EXPECTED, expected.as_path())];
        let name = "cuda::the_driver_gives_the_tokens_of_the_simulated_device";
        driver.run_with(name, &variables, |fake| {
            let path = |name| PathBuf::from(env::var_os(name).expect("the parent sets it"));
            let expected = fs::read_to_string(path(EXPECTED)).expect("the parent wrote it");
            let device = open_device(DeviceKind::Cuda(0), &DeviceOptions::default())
                .unwrap_or_else(|e| panic!("{e}"));
            let found = run(device, &path(BUNDLE)).to_string();
            assert!(found == expected, "other tokens or logits");
            assert_eq!(fake.live(""), 0, "everything was given back");
            assert_eq!(fake.complaints(), Vec::<String>::new());
        });
    }
}
