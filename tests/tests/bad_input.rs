//! Whatever is wrong with an input is said in words that name it, and nothing is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use mcc::cli::Cli;
use mcc::pack::pack;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sources::{tiny_built, tiny_dir};

/// Runs a command that must fail; its message must have all of `words`.
fn fails(args: &[&str], words: &[&str]) {
    let cli = Cli::try_parse_from(std::iter::once("mcc").chain(args.iter().copied()))
        .unwrap_or_else(|e| panic!("{args:?}: {e}"));
    let Err(error) = mcc::cli::run(cli) else {
        panic!("{args:?} did not fail; expected a message with {words:?}");
    };
    let message = error.to_string();
    for word in words {
        assert!(
            message.contains(word),
            "{args:?}: no `{word}` in: {message}"
        );
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// A place for outputs that must stay empty.
struct Output(TempDir);

impl Output {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> String {
        self.0.path().join("out.mccb").display().to_string()
    }

    fn assert_empty(&self) {
        let left: Vec<PathBuf> = fs::read_dir(self.0.path())
            .expect("is there")
            .map(|e| e.expect("an entry").path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn build_fails(source: &Path, words: &[&str]) {
    let output = Output::new();
    fails(
        &[
            "build",
            &source.display().to_string(),
            "--no-cubin",
            "-o",
            &output.file(),
        ],
        words,
    );
    output.assert_empty();
}

/// A copy of the tiny checkpoint with a changed config.
fn checkpoint(config: impl FnOnce(&mut Value)) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(tiny_dir().join("config.json")).expect("the tiny config");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    config(&mut value);
    fs::write(dir.path().join("config.json"), value.to_string()).expect("writes");
    dir
}

#[test]
fn configs_of_other_models_are_refused_by_field_and_value() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 13] = [
        (
            |c| c["architectures"] = json!(["LlamaForCausalLM"]),
            &["architectures", "LlamaForCausalLM", "DeepseekV3ForCausalLM"],
        ),
        (
            |c| c["model_type"] = json!("deepseek_v2"),
            &["model_type", "deepseek_v2"],
        ),
        (
            |c| c["quantization_config"]["quant_method"] = json!("gptq"),
            &["quant_method", "gptq", "fp8"],
        ),
        (
            |c| c["quantization_config"]["weight_block_size"] = json!([64, 64]),
            &["weight_block_size", "[128,128]"],
        ),
        (
            |c| c["quantization_config"]["scale_fmt"] = json!("ue8m0"),
            &["scale_fmt", "ue8m0"],
        ),
        (
            |c| c["hidden_act"] = json!("gelu"),
            &["hidden_act", "gelu", "silu"],
        ),
        (
            |c| c["scoring_func"] = json!("softmax"),
            &["scoring_func", "softmax", "sigmoid"],
        ),
        (
            |c| c["topk_method"] = json!("greedy"),
            &["topk_method", "greedy", "noaux_tc"],
        ),
        (
            |c| c["rope_scaling"]["type"] = json!("linear"),
            &["rope", "linear", "yarn"],
        ),
        (
            |c| c["attention_bias"] = json!(true),
            &["attention_bias", "true"],
        ),
        (
            |c| c["hidden_size"] = json!("wide"),
            &["hidden_size", "wide"],
        ),
        (
            |c| {
                c.as_object_mut().expect("an object").remove("kv_lora_rank");
            },
            &["kv_lora_rank", "missing"],
        ),
        (
            |c| c["rope_scaling"]["long_factor"] = json!([1.0]),
            &["long_factor"],
        ),
    ];
    for (change, words) in cases {
        build_fails(checkpoint(change).path(), words);
    }
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("config.json"), "{ \"architectures\": ").expect("writes");
    build_fails(dir.path(), &["config.json", "JSON"]);
}

/// Header and data of a safetensors file.
fn split(file: &[u8]) -> (Value, &[u8]) {
    let (length, rest) = file.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).expect("JSON"), data)
}

fn join(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

#[test]
fn damaged_weights_are_found_before_a_bundle_is_written() {
    let whole = fs::read(tiny_dir().join("model.safetensors")).expect("the tiny weights");
    let edited = |edit: &dyn Fn(&mut Value)| {
        let (mut header, data) = split(&whole);
        edit(&mut header);
        join(&header, data)
    };
    let name = "model.layers.1.self_attn.o_proj.weight";
    let renamed = edited(&|h| {
        let tensors = h.as_object_mut().expect("an object");
        let tensor = tensors.remove(name).expect("the tensor");
        tensors.insert(format!("{name}s"), tensor);
    });
    let turned = edited(&|h| h["lm_head.weight"]["shape"] = json!([256, 1024]));
    let other_type = edited(&|h| h["model.norm.weight"]["dtype"] = json!("F16"));
    let mut corrupt = whole.clone();
    corrupt[8] = b'!';
    let mut endless = whole.clone();
    endless[..8].fill(0xff);
    let cases: [(&[u8], &[&str]); 7] = [
        (&renamed, &["no tensor", name]),
        (&turned, &["lm_head", "shape [1024, 256]", "[256, 1024]"]),
        (&other_type, &["model.norm.weight", "F16"]),
        (&whole[..whole.len() / 2], &["model.safetensors", "damaged"]),
        (&whole[..5], &["model.safetensors", "damaged"]),
        (&corrupt, &["model.safetensors", "damaged"]),
        (&endless, &["model.safetensors", "damaged"]),
    ];
    for (bytes, words) in cases {
        let dir = checkpoint(|_| {});
        fs::write(dir.path().join("model.safetensors"), bytes).expect("writes");
        build_fails(dir.path(), words);
    }
}

#[test]
fn mistakes_in_a_graph_are_placed_by_line_and_column() {
    let cases: [(&str, &[&str]); 5] = [
        // Unknown op on line 5, column 8.
        (
            "mir 1\nmodel \"m\"\ndim T: 1..=4\nentry @f(x: bf16[T, 256]) {\n  %0 = frobnicate %x : bf16[T, 256]\n  return y = %0\n}\n",
            &["5:8", "frobnicate"],
        ),
        // The printed type is not the inferred one.
        (
            "mir 1\nmodel \"m\"\ndim T: 1..=4\nentry @f(x: bf16[T, 256]) {\n  %0 = quantize %x : bf16[T, 256]\n  return y = %0\n}\n",
            &["5:", "e4m3"],
        ),
        // An operand of the wrong type.
        (
            "mir 1\nmodel \"m\"\ndim T: 1..=4\nentry @f(x: i32[T]) {\n  %0 = quantize %x : e4m3[T]/f32[1x128]\n  return y = %0\n}\n",
            &["5:", "bf16"],
        ),
        // An operand that is not there.
        (
            "mir 1\nmodel \"m\"\ndim T: 1..=4\nentry @f(x: bf16[T, 256]) {\n  %0 = add %x, %y : bf16[T, 256]\n  return y = %0\n}\n",
            &["5:16", "%y"],
        ),
        ("mir 2\nmodel \"m\"\n", &["1:", "2"]),
    ];
    for (text, words) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bad.mir");
        fs::write(&path, text).expect("writes");
        build_fails(&path, &[words, &["bad.mir"]].concat());
    }
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    build_fails(&dir.path().join("nowhere"), &["cannot read", "nowhere"]);
    build_fails(dir.path(), &["config.json", "Cargo.toml"]);
    let text = dir.path().join("notes.txt");
    fs::write(&text, "hello").expect("writes");
    build_fails(&text, &["notes.txt", ".mir"]);
    fails(
        &["inspect", "nowhere.mccb"],
        &["cannot read", "nowhere.mccb"],
    );
    let output = Output::new();
    fails(
        &[
            "build",
            &tiny_dir().display().to_string(),
            "--target",
            "h900",
            "-o",
            &output.file(),
        ],
        &["h900", "h100"],
    );
    output.assert_empty();
}

#[test]
fn outputs_that_cannot_be_written_are_named_and_leave_nothing() {
    let output = Output::new();
    let missing = output
        .0
        .path()
        .join("missing/out.mccb")
        .display()
        .to_string();
    let source = tiny_dir().display().to_string();
    fails(
        &["build", &source, "--no-cubin", "-o", &missing],
        &["cannot write", "missing/out.mccb"],
    );
    output.assert_empty();
    // A folder in place of the file.
    let folder = output.0.path().join("folder");
    fs::create_dir(&folder).expect("creates");
    fails(
        &[
            "build",
            &source,
            "--no-cubin",
            "-o",
            &folder.display().to_string(),
        ],
        &["cannot write", "folder"],
    );
    fs::remove_dir(&folder).expect("it is still an empty folder");
    output.assert_empty();
    fails(
        &["build", &source, "--emit", "graph", "-o", &missing],
        &["missing/out.mccb"],
    );
    output.assert_empty();
}

#[test]
fn bundles_that_are_none_or_damaged_are_refused() {
    let (source, built) = tiny_built();
    let good = pack(source, built)
        .expect("packs")
        .to_bytes()
        .expect("encodes");
    let changed = |at: usize, by: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= by;
        bytes
    };
    let cases: [(Vec<u8>, &[&str]); 7] = [
        (changed(0, 1), &["not an mcc bundle"]),
        (changed(4, 0x60), &["version", "build the bundle again"]),
        (changed(20, 1), &["corrupt"]),
        (changed(good.len() / 2, 0x10), &["corrupt"]),
        (good[..good.len() - 7].to_vec(), &["truncated"]),
        ([&good[..], b"more"].concat(), &["4 bytes"]),
        (Vec::new(), &["bundle"]),
    ];
    let weights = tiny_dir().display().to_string();
    for (bytes, words) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bad.mccb");
        fs::write(&path, bytes).expect("writes");
        let path = path.display().to_string();
        let all = [words, &["bad.mccb"]].concat();
        fails(&["inspect", &path], &all);
        fails(
            &["run", &path, "--weights", &weights, "--prompt", "In"],
            &all,
        );
    }
}

#[test]
fn requests_that_do_not_fit_the_bundle_are_refused() {
    let (source, built) = tiny_built();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tiny.mccb");
    pack(source, built)
        .expect("packs")
        .write(&path)
        .expect("writes");
    let bundle = path.display().to_string();
    let weights = tiny_dir().display().to_string();
    let output = Output::new();
    let logits = output
        .0
        .path()
        .join("logits.safetensors")
        .display()
        .to_string();
    let run = |prompt: &str, more: &[&str], words: &[&str]| {
        let args = [
            &[
                "run",
                &bundle,
                "--weights",
                &weights,
                "--prompt",
                prompt,
                "--logits",
                &logits,
            ],
            more,
        ]
        .concat();
        fails(&args, words);
        output.assert_empty();
    };
    run(
        &"In the beginning God created the heaven and the earth. ".repeat(200),
        &[],
        &["do not fit the context", "1024"],
    );
    run("", &[], &["empty"]);
    run("In", &["--temperature", "nan"], &["temperature"]);
    run("In", &["--top-p", "1.5"], &["top_p", "1.5"]);
    run("In", &["--chunk", "100000"], &["100000"]);
    run("In", &["--device", "abacus"], &["abacus", "sim"]);
    fails(
        &["run", &bundle, "--weights", "nowhere", "--prompt", "In"],
        &["nowhere"],
    );
    fails(
        &[
            "eval",
            &bundle,
            "--weights",
            &weights,
            "--text",
            "nowhere.txt",
        ],
        &["nowhere.txt"],
    );
}

#[test]
fn what_explain_is_asked_and_does_not_know_is_answered_with_what_it_knows() {
    let tiny = tiny_dir().display().to_string();
    let ask = |flags: &[&str], words: &[&str]| {
        let mut args = vec!["explain", &tiny];
        args.extend(flags);
        fails(&args, words);
    };
    ask(
        &["--why-not", "fuse"],
        &["no rule `fuse`", "fuse-norm-quantize"],
    );
    ask(
        &["--entry", "train"],
        &["no entry `train`", "prefill, decode"],
    );
    ask(
        &["--layer", "layers.9"],
        &["no layer `layers.9`", "layers.3"],
    );
    ask(&["--dims", "X=1"], &["--dims X=1", "T, C, R"]);
    ask(&["--dims", "T=0"], &["`T` lies in 1..="]);
    ask(&["--dims", "train.T=1"], &["no such entry"]);
    ask(&["--dims", "T"], &["for example T=4096"]);
    ask(&["--target", "no/such.json"], &["no/such.json"]);
    fails(&["explain"], &["a model, or a matrix product"]);
    let mesh = Cli::try_parse_from(["mcc", "explain", &tiny, "--mesh", "nodes=4,gpus=8,ep=24"]);
    let error = mesh.expect_err("24 ranks do not tile 32").to_string();
    assert!(error.contains("must divide the 32 ranks"), "{error}");
}

#[test]
fn a_model_whose_ranks_would_share_projections_is_explained_and_not_built() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ranks.mir");
    let text = "mir 1\nmodel \"ranks\"\nmesh nodes = 2, gpus = 8, ep = 16, tp = 2, dp = 8\ndim T: 1..=16\n\
        entry @main(x: bf16[T, 256]) {\n  %0 = quantize %x : e4m3[T, 256]/f32[1x128]\n  return q = %0\n}\n";
    fs::write(&path, text).expect("writes");
    build_fails(
        &path,
        &["2 ranks would share each projection", "build with tp=1"],
    );
    let page = dir.path().join("page.html");
    let args = [
        "mcc",
        "explain",
        &path.display().to_string(),
        "--html",
        &page.display().to_string(),
    ]
    .map(str::to_owned);
    mcc::cli::run(Cli::try_parse_from(args).expect("parses")).expect("explains");
    let page = fs::read_to_string(page).expect("is written");
    assert!(page.starts_with("<!doctype html>") && page.contains("nodes = 2, gpus = 8"));
}
