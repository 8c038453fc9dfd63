//! One rank's program against many: what `distribute` makes computes what its input does, and says what it cannot make.

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_ir::eval::{self, Dims, Rank, Rng, Step, Tensor, Values};
use mcc_ir::{DType, Module, Op, ParamSource};
use mcc_passes::distribute::{Kind, Options, distribute};
use mcc_passes::egraph::{self, optimize};
use mcc_passes::target::Target;
use mcc_passes::{PassError, lower, select};

const EXPERTS: usize = 8;
const TOP_K: usize = 2;
const TOKENS: u64 = 6;

/// A routed layer in BF16, weights at the end.
const PLAIN: &str = r#"mir 1
model "plain"
dim T: 1..=6
param @l.gate_up: bf16[8, 256, 128] = stack(tensor("0"), tensor("1"), tensor("2"), tensor("3"), tensor("4"), tensor("5"), tensor("6"), tensor("7"))
param @l.down: bf16[8, 128, 128] = stack(tensor("0"), tensor("1"), tensor("2"), tensor("3"), tensor("4"), tensor("5"), tensor("6"), tensor("7"))
entry @step(x: bf16[T, 128], experts: i32[T, 2], weights: f32[T, 2]) {
  %0, %1, %2 = dispatch %x, %experts {n_experts = 8} : bf16[2*T, 128], i32[9], i32[T, 2]
  %3 = grouped_matmul %0, @l.gate_up, %1 {out = bf16, promote = 128} : bf16[2*T, 256]
  %4 = swiglu %3 : bf16[2*T, 128]
  %5 = grouped_matmul %4, @l.down, %1 {out = bf16, promote = 128} : bf16[2*T, 128]
  %6 = combine %5, %2, %weights : bf16[T, 128]
  return y = %6
}
"#;

/// The same in FP8, rows weighted before the second product; offsets and slots of another dispatch than rows, as the
/// optimiser may leave it.
const FUSED: &str = r#"mir 1
model "fused"
dim T: 1..=6
param @l.gate_up: e4m3[8, 256, 128]/f32[128x128] = stack(tensor("0"), tensor("1"), tensor("2"), tensor("3"), tensor("4"), tensor("5"), tensor("6"), tensor("7"))
param @l.down: e4m3[8, 128, 128]/f32[128x128] = stack(tensor("0"), tensor("1"), tensor("2"), tensor("3"), tensor("4"), tensor("5"), tensor("6"), tensor("7"))
entry @step(x: bf16[T, 128], experts: i32[T, 2], weights: f32[T, 2]) {
  %0 = quantize %x : e4m3[T, 128]/f32[1x128]
  %1, %2, %3 = dispatch %x, %experts {n_experts = 8} : bf16[2*T, 128], i32[9], i32[T, 2]
  %4, %5, %6 = dispatch %0, %experts {n_experts = 8} : e4m3[2*T, 128]/f32[1x128], i32[9], i32[T, 2]
  %7 = row_weights %6, %weights : f32[2*T]
  %8 = grouped_matmul_swiglu_scale_quantize %4, @l.gate_up, %2, %7 {promote = 128} : e4m3[2*T, 128]/f32[1x128]
  %9 = grouped_matmul %8, @l.down, %5 {out = bf16, promote = 128} : bf16[2*T, 128]
  %10 = combine_sum %9, %3 : bf16[T, 128]
  return y = %10
}
"#;

fn module(text: &str, mesh: &str) -> Module {
    let mut module: Module = text.parse().unwrap_or_else(|e| panic!("{e}"));
    module.mesh = Some(mesh.parse().unwrap());
    mcc_ir::verify(&module).unwrap();
    module
}

fn options(kind: Kind) -> Options {
    Options {
        kind,
        channels: 2,
        ..Options::default()
    }
}

fn params(module: &Module) -> Values {
    let mut rng = Rng::new(3);
    let make = |param: &mcc_ir::Param| {
        let shape: Vec<usize> = param
            .ty
            .shape
            .iter()
            .map(|d| d.as_const().unwrap() as usize)
            .collect();
        let tensor = match param.ty.dtype {
            DType::BF16 => rng.bf16(&shape, 0.1),
            _ => rng.weight(&shape, 0.1),
        };
        (param.name.clone(), tensor.unwrap())
    };
    module.params.iter().map(make).collect()
}

/// Inputs of each rank; some have no tokens.
fn inputs(ranks: usize, used: usize) -> Vec<Values> {
    let mut rng = Rng::new(17);
    let of_rank = |rank: usize| {
        let t = (rank * 5 + 2) % (TOKENS as usize + 1) * usize::from(rank != 1);
        let pairs = (0..t * TOP_K).map(|pair| {
            let (t, s) = (pair / TOP_K, pair % TOP_K);
            ((rank * 3 + t * 5 + s * (used - 1)) % used) as i32
        });
        Values::from([
            (
                "experts".into(),
                Tensor::i32(&[t, TOP_K], pairs.collect()).unwrap(),
            ),
            ("x".into(), rng.bf16(&[t, 128], 1.0).unwrap()),
            ("weights".into(), rng.f32(&[t, TOP_K], 1.0).unwrap()),
        ])
    };
    (0..ranks).map(of_rank).collect()
}

fn on_ranks(module: &Module, whole: &Values, inputs: &[Values]) -> Vec<Tensor> {
    let dims = Dims::new();
    let slots = EXPERTS / inputs.len();
    let params: Vec<Values> = (0..inputs.len())
        .map(|rank| {
            let share = |w: &Tensor| w.rows(rank * slots, slots).unwrap();
            whole
                .iter()
                .map(|(name, w)| (name.clone(), share(w)))
                .collect()
        })
        .collect();
    let mut states = vec![Values::new(); inputs.len()];
    let mut ranks: Vec<Rank<'_>> = inputs
        .iter()
        .zip(&params)
        .zip(&mut states)
        .map(|((inputs, params), states)| Rank {
            dims: &dims,
            inputs,
            params,
            states,
        })
        .collect();
    let outputs = eval::run_ranks(module, "step", &mut ranks).unwrap_or_else(|e| panic!("{e}"));
    outputs
        .into_iter()
        .map(|mut out| out.remove("y").unwrap())
        .collect()
}

fn alone(module: &Module, params: &Values, inputs: &Values) -> Tensor {
    let step = Step {
        module,
        entry: "step",
        dims: &Dims::new(),
        inputs,
        params,
    };
    let mut out = eval::run(step, &mut Values::new()).unwrap_or_else(|e| panic!("{e}"));
    out.remove("y").unwrap()
}

const MESHES: [&str; 4] = [
    "nodes=1,gpus=2,ep=2",
    "nodes=1,gpus=4,ep=4",
    "nodes=2,gpus=2,ep=4",
    "nodes=2,gpus=4,ep=8",
];

#[test]
fn one_hop_on_many_ranks_has_the_bits_of_one() {
    for text in [PLAIN, FUSED] {
        for mesh in MESHES {
            let one = module(text, mesh);
            let many = distribute(&one, &options(Kind::Direct)).unwrap();
            let (params, ranks) = (params(&one), many.mesh.unwrap().ep as usize);
            for used in [EXPERTS, 3] {
                let inputs = inputs(ranks, used);
                let mut one = one.clone();
                one.dims[0].min = 0;
                for (out, inputs) in on_ranks(&many, &params, &inputs).iter().zip(&inputs) {
                    assert_eq!(*out, alone(&one, &params, inputs));
                }
            }
        }
    }
}

/// A token's two rows are rounded to BF16 three times (rank, node, end) where one rank rounds their sum once: each is off
/// by a share of at most `(1 + 2^-8)^3 (1 + 2^-24)^8 - 1`. What one row adds is what the layer gives when the other's
/// weight is 0; that result is rounded once itself, which the last factor allows for.
#[test]
fn two_hops_on_many_ranks_are_within_their_roundings_of_one() {
    for text in [PLAIN, FUSED] {
        for mesh in MESHES {
            let mut one = module(text, mesh);
            let many = distribute(&one, &options(Kind::TwoHop)).unwrap();
            one.dims[0].min = 0;
            let (params, ranks) = (params(&one), many.mesh.unwrap().ep as usize);
            let inputs = inputs(ranks, EXPERTS);
            let unit = 1.0 + 2f64.powi(-8);
            let bound = (unit.powi(3) * (1.0 + 2f64.powi(-24)).powi(8) - 1.0) * unit + unit - 1.0;
            for (out, inputs) in on_ranks(&many, &params, &inputs).iter().zip(&inputs) {
                let whole = alone(&one, &params, inputs).to_f64();
                // FP8 rows are quantised with their weights, so that of these no part is left out.
                let parts: Vec<Vec<f64>> = (0..TOP_K)
                    .map(|slot| {
                        let mut inputs = inputs.clone();
                        let weights = inputs["weights"].as_float().unwrap().iter().enumerate();
                        let only = weights.map(|(i, w)| if i % TOP_K == slot { *w } else { 0.0 });
                        let shape = inputs["weights"].shape().to_vec();
                        let only = Tensor::f32(&shape, only.collect()).unwrap();
                        inputs.insert("weights".into(), only);
                        alone(&one, &params, &inputs).to_f64()
                    })
                    .collect();
                for (i, (got, want)) in out.to_f64().iter().zip(&whole).enumerate() {
                    let size: f64 = parts.iter().map(|part| part[i].abs()).sum();
                    assert!((got - want).abs() <= bound * size, "{got} for {want}");
                }
            }
        }
    }
}

#[test]
fn a_rank_holds_its_share_and_takes_part_without_tokens() {
    let one = module(PLAIN, "nodes=2,gpus=4,ep=4");
    let many = distribute(&one, &Options::default()).unwrap();
    assert_eq!(many.dims[0].min, 0);
    let down = many.param("l.down").unwrap();
    assert_eq!(down.ty.to_string(), "bf16[2, 128, 128]");
    let ParamSource::Experts {
        layer,
        slots,
        parts,
    } = &down.source
    else {
        panic!("{:?}", down.source);
    };
    assert_eq!((*layer, *slots, parts.len()), (0, 2, 8));
    // Four ranks share the experts, which are on one of the nodes.
    let graph = &many.entries[0];
    let sent = graph
        .topo()
        .into_iter()
        .find_map(|node| match graph.op(node) {
            Op::DispatchTwoHop {
                nodes,
                gpus,
                tokens,
                capacity,
                ..
            } => Some((*nodes, *gpus, *tokens, *capacity)),
            _ => None,
        });
    assert_eq!(sent, Some((1, 4, 6, 128)));
    let text = many.to_string();
    assert_eq!(text.parse::<Module>().unwrap(), many);
    assert_eq!(
        distribute(&module(PLAIN, "nodes=2,gpus=4,ep=1"), &Options::default())
            .unwrap()
            .entries,
        one.entries
    );
}

fn refused(text: &str, mesh: &str) -> String {
    let error = distribute(&module(text, mesh), &Options::default());
    error.expect_err("refused").to_string()
}

#[test]
fn what_cannot_be_spread_is_refused_with_numbers_and_a_way_out() {
    let error = refused(PLAIN, "nodes=1,gpus=3,ep=3");
    assert!(
        error.contains("8 experts do not divide over ep = 3 ranks"),
        "{error}"
    );
    assert!(error.contains("choose an ep that divides 8"), "{error}");
    let error = refused(PLAIN, "nodes=1,gpus=8,ep=4,tp=2");
    assert!(
        error.contains("2 ranks would share each projection"),
        "{error}"
    );
    let rows_out = PLAIN.replace("return y = %6", "return y = %6, rows = %0");
    let error = refused(&rows_out, "nodes=1,gpus=2,ep=2");
    assert!(
        error.contains("it leaves the entry, and is spread over ranks"),
        "{error}"
    );
    let derived = PLAIN
        .replace("return y = %6", "%7 = slice %0 {axis = 1, start = 0, len = 64} : bf16[2*T, 64]\n  %8 = concat %7, %7 {axis = 0} : bf16[4*T, 64]\n  return y = %6, z = %8");
    assert!(refused(&derived, "nodes=1,gpus=2,ep=2").contains("spread over ranks"));
    let whole = PLAIN.replace(
        "return y = %6",
        "%7 = slice @l.down {axis = 0, start = 0, len = 1} : bf16[1, 128, 128]\n  return y = %6, w = %7",
    );
    let error = refused(&whole, "nodes=1,gpus=2,ep=2");
    assert!(error.contains("this op reads all of it"), "{error}");
    let unstacked = PLAIN.replace("@l.down: bf16[8, 128, 128] = stack(tensor(\"0\"), tensor(\"1\"), tensor(\"2\"), tensor(\"3\"), tensor(\"4\"), tensor(\"5\"), tensor(\"6\"), tensor(\"7\"))", "@l.down: bf16[8, 128, 128] = tensor(\"all\")");
    let error = refused(&unstacked, "nodes=1,gpus=2,ep=2");
    assert!(error.contains("not told apart by its recipe"), "{error}");
}

#[test]
fn programs_meet_in_one_exchange_with_a_range_for_each_form() {
    let target = Target::load("h800").unwrap();
    for (kind, launches) in [(Kind::TwoHop, 6), (Kind::Direct, 8)] {
        let many = distribute(&module(FUSED, "nodes=2,gpus=4,ep=8"), &options(kind)).unwrap();
        let program =
            lower(&many, &target, &select::Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let families: Vec<&str> = program.entries[0]
            .steps
            .iter()
            .map(|step| program.kernels[step.kernel.0 as usize].config.family())
            .collect();
        assert_eq!(families.len(), launches, "{families:?}");
        assert_eq!(program.mesh, many.mesh);
        let kinds = program.buffers.iter().map(|b| b.kind);
        use mcc_ir::program::BufferKind;
        let meeting = kinds
            .filter(|kind| matches!(kind, BufferKind::Exchange | BufferKind::World { ranks: 8 }));
        assert_eq!(meeting.count(), 2);
        program.verify().unwrap();
        let again = mcc_ir::program::Program::from_json(&program.to_json().unwrap()).unwrap();
        assert_eq!(again, program);
    }
    let huge = module(
        &FUSED.replace("1..=6", "1..=33554432"),
        "nodes=2,gpus=4,ep=8",
    );
    let huge = distribute(&huge, &options(Kind::TwoHop)).unwrap();
    let error = lower(&huge, &target, &select::Options::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`h800` has") && error.contains("capacity"),
        "{error}"
    );
    let few = Options {
        capacity: Some(4096),
        ..options(Kind::TwoHop)
    };
    let few = distribute(&module(FUSED, "nodes=2,gpus=4,ep=8"), &few).unwrap();
    assert!(
        few.to_string().contains("capacity = 128"),
        "no more than can come"
    );
    let whole = module(FUSED, "nodes=2,gpus=4,ep=8");
    let error = lower(&whole, &target, &select::Options::default());
    assert!(matches!(error, Err(PassError::Mesh { .. })));
}

/// Layers of the published model, with steps of 128 tokens: a dense one and three with experts.
fn published() -> Module {
    let config = Config {
        num_hidden_layers: 4,
        first_k_dense_replace: 1,
        yarn: None,
        ..Config::v3(Limits {
            max_step_tokens: 128,
            max_context: 4096,
        })
    };
    deepseek_v3(&config).unwrap()
}

#[test]
fn the_published_model_becomes_programs_of_32_ranks() {
    let target = Target::load("h800").unwrap();
    let mut module = published();
    module.mesh = Some("nodes=4,gpus=8,ep=32".parse().unwrap());
    let (module, _) = optimize(&module, &target, &egraph::Options::default()).unwrap();
    let many = distribute(&module, &Options::default()).unwrap();
    let expert = |param: &&mcc_ir::Param| matches!(param.source, ParamSource::Experts { .. });
    let mut layers: Vec<u64> = many
        .params
        .iter()
        .filter(expert)
        .filter_map(|param| match param.source {
            ParamSource::Experts { layer, .. } => Some(layer),
            _ => None,
        })
        .collect();
    layers.sort_unstable();
    // Gate and up, and down, of each of three layers, eight experts a rank.
    assert_eq!(layers, [0, 0, 1, 1, 2, 2]);
    assert!(
        many.params
            .iter()
            .filter(expert)
            .all(|p| p.ty.shape[0] == 8.into())
    );
    let program =
        lower(&many, &target, &select::Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let families = |entry: usize| {
        let steps = program.entries[entry].steps.iter();
        let config = steps.map(|step| &program.kernels[step.kernel.0 as usize].config);
        config.map(|config| config.family()).collect::<Vec<_>>()
    };
    let count = |entry, family: &str| families(entry).iter().filter(|f| **f == family).count();
    let of = |name: &str| program.entries.iter().position(|e| e.name == name).unwrap();
    for (name, family) in [
        ("prefill", "two_hop_dispatch"),
        ("prefill", "two_hop_combine"),
        ("decode", "direct_dispatch_send"),
        ("decode", "direct_combine_receive"),
    ] {
        assert_eq!(count(of(name), family), 3, "{family} in {name}");
    }
    // FP8 travels: codes and scales, 7472 bytes a message.
    assert!(
        program
            .kernels
            .iter()
            .any(|kernel| kernel.name.contains("two_hop_dispatch_w7168_quant"))
    );
}
