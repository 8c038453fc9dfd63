//! The trained checkpoint through the CUDA driver API: modules, tensor maps, uploads, graphs and a cache that
//! grows, on a driver that runs kernels in the simulator and streams as late as the API allows.
//!
//! Nothing here says that a GPU computes the same; it says that the runtime asks the driver for the same work
//! that it asks the simulated device for. A driver is chosen when a process starts, so that the runs on it are
//! child processes of the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use mcc::pack::pack;
use mcc_bundle::Bundle;
use mcc_runtime::{
    Device, DeviceKind, DeviceOptions, GenerateOptions, LogitRows, Model, Sampling, SimDevice,
    generate, open_device,
};
use serde_json::{Value, json};

use crate::sources::{tiny_built, tiny_dir};

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

/// Builds the driver and gives the folder with its `libcuda.so.1`.
fn driver(dir: &Path) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "-p", "mcc-fake-driver", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the driver does not build: {said}");
    let library = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "mcc_fake_driver")
        .filter_map(|message| Some(message["filenames"][0].as_str()?.to_owned()))
        .next()
        .expect("a library");
    std::os::unix::fs::symlink(library, dir.join("libcuda.so.1")).expect("a link");
    dir.to_owned()
}

#[test]
fn the_driver_gives_the_tokens_of_the_simulated_device() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, built) = tiny_built();
    let bundle = dir.path().join("tiny.mccb");
    pack(source, built)
        .expect("packs")
        .write(&bundle)
        .expect("writes");
    let expected = run(Box::new(SimDevice::new(&DeviceOptions::default())), &bundle);

    let libraries = driver(dir.path());
    for order in ["late", "eager", "random:3"] {
        let out = dir.path().join("run.json");
        let child = Command::new(env::current_exe().expect("this test"))
            .args(["cuda::on_the_driver", "--exact", "--ignored", "--nocapture"])
            .env("LD_LIBRARY_PATH", &libraries)
            .env("MCC_FAKE_CUDA", format!("order={order}"))
            .env("MCC_TEST_BUNDLE", &bundle)
            .env("MCC_TEST_OUT", &out)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{order}: {said}");
        let found: Value =
            serde_json::from_slice(&fs::read(&out).expect("its result")).expect("JSON");
        fs::remove_file(&out).expect("it was there");
        assert!(found == expected, "{order}: other tokens or logits");
    }
}

#[test]
#[ignore = "a child process of the test above, which names its driver and its bundle"]
fn on_the_driver() {
    let path = |name| PathBuf::from(env::var_os(name).expect("the parent test sets it"));
    let device = open_device(DeviceKind::Cuda(0), &DeviceOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let result = run(device, &path("MCC_TEST_BUNDLE"));
    fs::write(path("MCC_TEST_OUT"), result.to_string()).expect("writes");
}
