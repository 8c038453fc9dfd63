//! The trained checkpoint with its experts spread over simulated ranks, against the same checkpoint on one.
//!
//! One hop gives the bits of one rank: rows are multiplied where they are and summed where they came from, in the order
//! of slots. Two hops round a token's sum for each GPU and each node, so that logits differ by what some more BF16
//! roundings make: the limit is the one that [`crate::e2e`] has for sums in another order.

use std::time::Duration;

use mcc::import::LimitOptions;
use mcc::pack::pack;
use mcc::source::{self, Source};
use mcc_bundle::Bundle;
use mcc_passes::distribute::{Kind, Options};
use mcc_runtime::{
    Checkpoint, DeviceOptions, GenerateOptions, Generation, LogitRows, Model, Sampling, SimCluster,
    SimDevice, generate, generate_on_ranks,
};
use mcc_sim::{Completion, GpuConfig};

use crate::sources::{build, build_over, tiny_dir};

/// Tokens of a step, few so that the simulated blocks are.
const STEP: u64 = 16;

fn tiny() -> Source {
    let limits = LimitOptions {
        max_step_tokens: Some(STEP),
        max_context: Some(64),
        ..LimitOptions::default()
    };
    source::read(&tiny_dir(), limits).unwrap_or_else(|e| panic!("{e}"))
}

fn prompts() -> Vec<Vec<i32>> {
    vec![
        vec![0, 42, 79, 260, 511, 17],
        (100..120).collect(),
        vec![0, 300, 301],
    ]
}

fn options() -> GenerateOptions {
    GenerateOptions {
        max_tokens: 3,
        chunk: None,
        sampling: Sampling::default(),
        eos: Vec::new(),
        prompt_logits: LogitRows::All,
    }
}

fn alone(source: &Source) -> Vec<Generation> {
    let bundle = pack(source, &build(source, false, None)).expect("packs");
    let device = SimDevice::new(&DeviceOptions::default());
    let mut model = Model::load(Box::new(device), bundle).unwrap_or_else(|e| panic!("{e}"));
    model
        .load_weights(tiny_dir(), &mut |_| {})
        .unwrap_or_else(|e| panic!("{e}"));
    let mut session = model.session().unwrap_or_else(|e| panic!("{e}"));
    let each = |prompt: &Vec<i32>| {
        session.reset().unwrap_or_else(|e| panic!("{e}"));
        generate(&mut session, prompt, &options(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"))
    };
    prompts().iter().map(each).collect()
}

fn over(source: &Source, mesh: &str, kind: Kind) -> Bundle {
    let ranks = Options {
        kind,
        channels: 2,
        ..Options::default()
    };
    let mesh = mesh.parse().unwrap_or_else(|e| panic!("{e}"));
    let built = build_over(source, Some(mesh), ranks, false, None);
    pack(source, &built).expect("packs")
}

fn on_ranks(bundle: &Bundle, completion: Completion, check: bool) -> Vec<Generation> {
    let mesh = bundle.manifest.mesh.expect("a mesh");
    let config = GpuConfig {
        completion,
        check,
        global_bytes: 1 << 30,
        ..GpuConfig::default()
    };
    let cluster = SimCluster::with_config(mesh.nodes, mesh.gpus, &config, Duration::from_secs(300));
    let checkpoint = Checkpoint::open(tiny_dir()).unwrap_or_else(|e| panic!("{e}"));
    let load = |rank, device| {
        let mut model = Model::load(device, bundle.clone())?;
        let share = model.share_of(rank, None);
        model.load_share(&checkpoint, &share, &mut |_| ())?;
        Ok(model)
    };
    let done = generate_on_ranks(&cluster, load, &prompts(), &options());
    done.unwrap_or_else(|e| panic!("{e}")).0
}

/// `|a - b| / |b|` in the Frobenius norm.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.map(square).sum::<f64>();
    let difference = sum(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / sum(&mut b.iter().map(|b| f64::from(*b)))).sqrt()
}

/// Three prompts on two to eight ranks: in each step some ranks have no tokens.
///
/// Between nodes the checkers are off. They ask for `nvshmem_quiet` before the next layer's rows are staged where the last
/// one's were; the kernel relies on the rows having come back.
#[test]
fn one_hop_gives_the_bits_of_one_rank() {
    let source = tiny();
    let one = alone(&source);
    for (mesh, check) in [
        ("nodes=1,gpus=2,ep=2", true),
        ("nodes=1,gpus=4,ep=4", true),
        ("nodes=2,gpus=2,ep=4", false),
        ("nodes=2,gpus=4,ep=8", false),
    ] {
        let many = on_ranks(&over(&source, mesh, Kind::Direct), Completion::Early, check);
        for (many, one) in many.iter().zip(&one) {
            assert_eq!(many.tokens, one.tokens, "{mesh}");
            assert!(many.prompt_logits == one.prompt_logits, "{mesh}");
        }
    }
}

#[test]
fn two_hops_give_the_tokens_of_one_rank() {
    let source = tiny();
    let one = alone(&source);
    for mesh in [
        "nodes=1,gpus=2,ep=2",
        "nodes=2,gpus=2,ep=4",
        "nodes=2,gpus=4,ep=8",
    ] {
        let bundle = over(&source, mesh, Kind::TwoHop);
        let many = on_ranks(&bundle, Completion::Early, true);
        for (many, one) in many.iter().zip(&one) {
            assert_eq!(many.tokens, one.tokens, "{mesh}");
            let off = distance(&many.prompt_logits, &one.prompt_logits);
            assert!(off < 0.06, "{mesh}: {off}");
        }
        // Every order of delivery gives the same bits.
        if bundle.manifest.mesh.expect("a mesh").ranks() == 4 {
            let again = on_ranks(&bundle, Completion::Random(7), true);
            let same = |(a, b): (&Generation, &Generation)| a.prompt_logits == b.prompt_logits;
            assert!(again.iter().zip(&many).all(same), "{mesh}");
        }
    }
}
