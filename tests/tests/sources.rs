//! What the tests build: the trained tiny checkpoint and the published DeepSeek-V3's shapes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mcc::import::LimitOptions;
use mcc::source::{self, Source};
use mcc::stages::{self, BuildOptions, Built, Emit};
use mcc_bundle::TokenizerInfo;
use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::{Mesh, Module};
use mcc_passes::distribute;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The trained checkpoint.
pub fn tiny_dir() -> PathBuf {
    root().join("examples/tiny-v3")
}

pub fn tiny() -> Source {
    source::read(&tiny_dir(), LimitOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// The published 671B model with this many of its 61 layers; the first three are dense.
pub fn published(layers: u64) -> Module {
    published_in(layers, true)
}

/// The same with FP8 or BF16 weights.
fn published_in(layers: u64, fp8_weights: bool) -> Module {
    let limits = Limits {
        max_step_tokens: 4096,
        max_context: 163_840,
    };
    let config = Config {
        num_hidden_layers: layers,
        fp8_weights,
        ..Config::v3(limits)
    };
    deepseek_v3(&config).unwrap_or_else(|e| panic!("{e}"))
}

pub fn source(module: Module) -> Source {
    Source {
        module,
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    }
}

/// Builds up to a stage, or completely.
pub fn build(source: &Source, cubins: bool, last: Option<Emit>) -> Built {
    build_over(source, None, distribute::Options::default(), cubins, last)
}

/// The same for the ranks of a mesh.
pub fn build_over(
    source: &Source,
    mesh: Option<Mesh>,
    ranks: distribute::Options,
    cubins: bool,
    last: Option<Emit>,
) -> Built {
    let options = BuildOptions {
        target: "h100".to_owned(),
        mesh,
        ranks,
        optimize: true,
        cubins,
        dump: None,
    };
    stages::run(source, &options, last, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// The tiny model, built once without cubins.
pub fn tiny_built() -> &'static (Source, Built) {
    static BUILT: OnceLock<(Source, Built)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = tiny();
        let built = build(&source, false, None);
        (source, built)
    })
}

/// Kernels of the tiny and of the published model, the latter also with BF16 weights, each once. A kernel does
/// not depend on how many layers use it: four layers of the published model have all of them.
pub fn kernels() -> Vec<KernelConfig> {
    let [fp8, bf16] =
        [true, false].map(|fp8| build(&source(published_in(4, fp8)), false, Some(Emit::Program)));
    let mut all: Vec<KernelConfig> = Vec::new();
    for program in [&tiny_built().1.program, &fp8.program, &bf16.program] {
        for kernel in &program.as_ref().expect("a program").kernels {
            if !all.contains(&kernel.config) {
                all.push(kernel.config.clone());
            }
        }
    }
    all
}
