//! Random models through the whole compiler, against the evaluator.
//!
//! In: a seed. A small well-typed model is drawn from the layers that model authors use, with a random checkpoint. It is
//! optimised, lowered, compiled, and run on the simulated device. Out: whether both hold:
//!
//! - the optimised graph evaluates as the author's: to the same bits, or, for the half of the models that allow other
//!   roundings, to values as near as roundings are;
//! - the device computes what the optimised graph means, up to the BF16 neighbours that kernels may give behind norms
//!   and activations, and to the neighbouring codes that these can turn into.
//!
//! The same seed is the same model, checkpoint and input on every machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use mcc_bundle::TokenizerInfo;
use mcc_dsl::layers::{Experts, Mlp, linear, mlp, routed_experts};
use mcc_dsl::{
    Freedom, Model as Draft, Module, Param, Routing, Tensor as Value, bf16, f32, fp8_weight, stack,
    tensor,
};
use mcc_ir::eval::{self, Data, Rng, Step, Tensor, Values, materialize};
use mcc_ir::{DType, Op, ParamSource, Type};
use mcc_runtime::{DeviceOptions, Model, SimDevice};
use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype, SafeTensorError};

use crate::error::Error;
use crate::pack::pack;
use crate::source::Source;
use crate::stages::{self, BuildOptions};

/// Channels of the residual stream.
const WIDTH: u64 = 256;
/// Tokens of a step at most.
const TOKENS: u64 = 16;
/// How far two roundings of one model may be apart, in the Frobenius norm: what quantising activations costs by itself
/// (0.02 to 0.04 for a layer, `docs/model.md`), for a handful of layers.
const NEAR: f64 = 0.08;

/// What was found out about one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Ops of the author's graph and of the optimised one.
    pub ops: (usize, usize),
    /// Distance of the optimised graph from the author's; 0 means the same bits.
    pub optimiser: f64,
    /// Distance of the device from the optimised graph.
    pub device: f64,
    /// What is wrong, if anything.
    pub wrong: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} ops -> {}, optimiser {:.5}, device {:.5}",
            self.seed, self.ops.0, self.ops.1, self.optimiser, self.device
        )?;
        match &self.wrong {
            Some(wrong) => write!(f, ": {wrong}"),
            None => Ok(()),
        }
    }
}

/// Draws the model of a seed and checks it.
///
/// # Errors
/// When a stage of the compiler or the device refuses the model, which none should.
pub fn check(seed: u64) -> Result<Outcome, Error> {
    let module = model(seed)?;
    let checkpoint = checkpoint(&module, seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let tokens = 1 + rng.below(TOKENS as usize);
    let x = rng
        .bf16(&[tokens, WIDTH as usize], 1.0)
        .map_err(|e| bug(e.to_string()))?;

    let source = Source {
        module,
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    };
    let options = BuildOptions {
        target: "h100".into(),
        optimize: true,
        cubins: false,
        dump: None,
    };
    let built = stages::run(&source, &options, None, &mut |_, _, _| {})?;
    let before = evaluate(&source.module, &checkpoint, &x)?;
    let after = evaluate(&built.graph, &checkpoint, &x)?;
    let bundle = pack(&source, &built)?;
    let device = run(bundle, &checkpoint, &x)?;

    let routed = |module: &Module| {
        let entries = module.entries.iter();
        entries
            .flat_map(|e| e.topo().into_iter().map(|id| e.op(id).clone()))
            .any(|op| matches!(op, Op::Route { .. }))
    };
    let may_differ = routed(&source.module);
    let mut outcome = Outcome {
        seed,
        ops: (ops(&source.module), ops(&built.graph)),
        optimiser: 0.0,
        device: 0.0,
        wrong: None,
    };
    for (name, want) in &after {
        let own = distance(&before[name], want, may_differ);
        outcome.optimiser = outcome.optimiser.max(own);
        outcome.device = outcome
            .device
            .max(distance(&device[name], want, may_differ));
    }
    let exact = source.module.allow == Freedom::EXACT;
    let same = before == after;
    if exact && !same {
        outcome.wrong = Some("the optimiser changed bits that it must not change".to_owned());
    } else if !is_near(outcome.optimiser) {
        outcome.wrong = Some("the optimised graph computes something else".to_owned());
    } else if !is_near(outcome.device) {
        outcome.wrong = Some("the device computes something else than the graph".to_owned());
    }
    Ok(outcome)
}

/// No for NaN as well.
fn is_near(distance: f64) -> bool {
    distance <= NEAR
}

fn bug(what: String) -> Error {
    Error::Usage(format!("compiler bug: a random model is not sound: {what}"))
}

fn ops(module: &Module) -> usize {
    let entries = module.entries.iter();
    let count = |e: &mcc_ir::Graph| e.topo().iter().filter(|id| !e.op(**id).is_leaf()).count();
    entries.map(count).sum()
}

/// A model of two to five layers over `[T, 256]`, with an output for the last value and for one on the way.
fn model(seed: u64) -> Result<Module, Error> {
    let mut rng = Rng::new(seed);
    let m = Draft::new(&format!("fuzz-{seed}"));
    if rng.below(2) == 1 {
        m.allow(Freedom::ALL);
    }
    let t = m.dim("T", 1..=TOKENS);
    m.entry("run", |e| {
        let x = e.input("x", bf16((&t, WIDTH)));
        let mut values = vec![x];
        for at in 0..2 + rng.below(4) {
            let scope = Scope { m: &m, layer: at };
            let x = values[values.len() - 1 - rng.below(values.len().min(2))].clone();
            let y = scope.layer(&mut rng, &x);
            // A residual, or what the layer gives by itself.
            let sum = match rng.below(4) {
                0 => y,
                1 => y + &values[0],
                2 => x + y,
                _ => y + &x,
            };
            values.push(sum);
        }
        e.output("y", &values[values.len() - 1]);
        e.output("z", &values[1 + rng.below(values.len() - 1)]);
    });
    m.finish().map_err(Error::from)
}

/// Where a layer declares its parameters.
struct Scope<'a> {
    m: &'a Draft,
    layer: usize,
}

impl Scope<'_> {
    fn param(&self, name: &str, ty: Type, source: impl Fn(&str) -> ParamSource) -> Param {
        let name = format!("l{}.{name}", self.layer);
        self.m.param(&name, ty, source(&name))
    }

    fn weight(&self, name: &str, n: u64, k: u64, fp8: bool) -> Param {
        let ty = if fp8 {
            fp8_weight((n, k))
        } else {
            bf16((n, k))
        };
        self.param(name, ty, |name| tensor(name))
    }

    /// One of the layers that models are made of, `[T, 256]` to `[T, 256]`. Most begin with a norm, as models do.
    fn layer(&self, rng: &mut Rng, x: &Value) -> Value {
        let fp8 = rng.below(4) > 0;
        let norm = self.param("norm", bf16((WIDTH,)), |name| tensor(name));
        let normed = x.rms_norm(&norm, 1e-6);
        let h = match rng.below(4) {
            0 => x.clone(),
            _ => normed.clone(),
        };
        match rng.below(6) {
            0 => normed,
            1 => linear(&h, &self.weight("w", WIDTH, WIDTH, fp8)),
            // Two products of one value; the columns of one of them cut in two.
            2 => {
                let wide = linear(&h, &self.weight("wide", 2 * WIDTH, WIDTH, fp8));
                let (a, b) = (wide.slice(1, 0..WIDTH), wide.slice(1, WIDTH..2 * WIDTH));
                let other = linear(&h, &self.weight("other", WIDTH, WIDTH, fp8));
                a.rms_norm(&norm, 1e-6) + b + other
            }
            3 => mlp(&h, &self.mlp(rng, fp8)),
            4 => routed_experts(&h, &self.experts(rng, fp8)),
            // A shared expert beside routed ones.
            _ => {
                let shared = self.mlp(rng, fp8);
                mlp(&h, &shared) + routed_experts(&h, &self.experts(rng, fp8))
            }
        }
    }

    fn mlp(&self, rng: &mut Rng, fp8: bool) -> Mlp {
        let inner = 128 * (1 + rng.below(3) as u64);
        Mlp {
            gate: self.weight("gate", inner, WIDTH, fp8),
            up: self.weight("up", inner, WIDTH, fp8),
            down: self.weight("down", WIDTH, inner, fp8),
        }
    }

    fn experts(&self, rng: &mut Rng, fp8: bool) -> Experts {
        let experts = 8 * (1 + rng.below(2) as u64);
        let inner = 128;
        let stacked = |name: &str, n: u64, k: u64| {
            let shape = (experts, n, k);
            let ty = if fp8 { fp8_weight(shape) } else { bf16(shape) };
            let each = |name: &str| stack((0..experts).map(|e| tensor(format!("{name}.{e}"))));
            self.param(name, ty, each)
        };
        Experts {
            router: self.weight("router", experts, WIDTH, false),
            bias: self.param("bias", f32((experts,)), |name| tensor(name)),
            mlp: Mlp {
                gate: stacked("experts.gate", inner, WIDTH),
                up: stacked("experts.up", inner, WIDTH),
                down: stacked("experts.down", WIDTH, inner),
            },
            n_experts: experts as u32,
            routing: Routing {
                top_k: 2,
                n_group: 2,
                topk_group: 1 + rng.below(2) as u32,
                scaling: 1.5,
                normalize: rng.below(2) == 1,
            },
        }
    }
}

/// Random tensors for every tensor that the model's parameters are made of.
fn checkpoint(module: &Module, seed: u64) -> BTreeMap<String, Tensor> {
    let mut rng = Rng::new(seed ^ 0xc0de);
    let mut tensors = BTreeMap::new();
    for param in &module.params {
        let extents = param.ty.shape.iter().filter_map(mcc_ir::Dim::as_const);
        let shape: Vec<usize> = extents.map(|n| n as usize).collect();
        let (names, shape): (Vec<&String>, &[usize]) = match &param.source {
            ParamSource::Tensor(name) => (vec![name], &shape),
            ParamSource::Stack(parts) => {
                let names = parts.iter().filter_map(|part| match part {
                    ParamSource::Tensor(name) => Some(name),
                    _ => None,
                });
                (names.collect(), &shape[1..])
            }
            _ => continue,
        };
        for name in names {
            let made = match param.ty.dtype {
                DType::E4M3 => rng.weight(shape, 0.1),
                DType::F32 => rng.f32(shape, 0.1),
                _ if shape.len() == 1 => rng.bf16(shape, 1.0),
                _ => rng.bf16(shape, 0.1),
            };
            tensors.extend(made.ok().map(|made| (name.clone(), made)));
        }
    }
    tensors
}

/// The outputs of `run` by the evaluator.
fn evaluate(
    module: &Module,
    checkpoint: &BTreeMap<String, Tensor>,
    x: &Tensor,
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let params = module.params.iter().map(|param| {
        let made = materialize(&param.source, &|name| checkpoint.get(name).cloned());
        Ok((param.name.clone(), made.map_err(|e| bug(e.to_string()))?))
    });
    let params: Values = params.collect::<Result<_, Error>>()?;
    let inputs = Values::from([("x".into(), x.clone())]);
    let step = Step {
        module,
        entry: "run",
        dims: &eval::Dims::new(),
        inputs: &inputs,
        params: &params,
    };
    let outputs = eval::run(step, &mut Values::new()).map_err(|e| bug(e.to_string()))?;
    let floats = |tensor: &Tensor| tensor.as_float().unwrap_or_default().to_vec();
    let named = outputs
        .iter()
        .map(|(name, value)| (name.to_string(), floats(value)));
    Ok(named.collect())
}

/// The outputs of `run` by the simulated device.
fn run(
    bundle: mcc_bundle::Bundle,
    checkpoint: &BTreeMap<String, Tensor>,
    x: &Tensor,
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let dir = tempfile::tempdir().map_err(Error::io("create", Path::new("a temporary folder")))?;
    let file = dir.path().join("model.safetensors");
    write(checkpoint, &file).map_err(|e| bug(e.to_string()))?;
    let mut model = Model::load(Box::new(SimDevice::new(&DeviceOptions::default())), bundle)?;
    model.load_weights(dir.path(), &mut |_| {})?;
    let dims = [("T".to_owned(), x.shape()[0] as u64)]
        .into_iter()
        .collect();
    let bytes = halves(x.as_float().unwrap_or_default());
    let names = ["y", "z"];
    let outputs = model.execute("run", &dims, &[("x", &bytes)], &names, 0)?;
    let values = |bytes: Vec<u8>| {
        let halves = bytes.as_chunks::<2>().0.iter();
        halves
            .map(|half| f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16))
            .collect()
    };
    let named = names.into_iter().zip(outputs);
    Ok(named
        .map(|(name, bytes)| (name.to_owned(), values(bytes)))
        .collect())
}

/// BF16 values as bytes: the upper halves of their bits.
fn halves(values: &[f32]) -> Vec<u8> {
    let halves = values.iter().map(|v| (v.to_bits() >> 16) as u16);
    halves.flat_map(u16::to_le_bytes).collect()
}

/// Writes the checkpoint as published ones are: scales of FP8 codes beside them.
fn write(checkpoint: &BTreeMap<String, Tensor>, file: &Path) -> Result<(), SafeTensorError> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, value) in checkpoint {
        let shape = value.shape().to_vec();
        match value.data() {
            Data::F32(v) => tensors.push((name.clone(), Dtype::F32, shape, floats(v))),
            Data::Bf16(v) => tensors.push((name.clone(), Dtype::BF16, shape, halves(v))),
            Data::I32(_) => {}
            Data::Scaled(s) => {
                let of_scales = eval::scale_shape(&shape, s.block);
                let scales = format!("{name}_scale_inv");
                tensors.push((scales, Dtype::F32, of_scales, floats(&s.scales)));
                tensors.push((name.clone(), Dtype::F8_E4M3, shape, s.codes.clone()));
            }
        }
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    serialize_to_file(views, None, file)
}

/// `|a - b| / |b|` in the Frobenius norm. Behind a router one row of eight does not count: where two experts are all but
/// equally good a rounding chooses between them.
fn distance(a: &[f32], b: &[f32], routed: bool) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let rows = a.chunks(WIDTH as usize).zip(b.chunks(WIDTH as usize));
    let mut off: Vec<(f64, f64)> = rows
        .map(|(a, b)| {
            let pairs = a.iter().zip(b);
            let apart = pairs
                .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
                .sum();
            (apart, b.iter().map(|b| square(f64::from(*b))).sum())
        })
        .collect();
    let ratio = |row: &(f64, f64)| row.0 / row.1.max(f64::MIN_POSITIVE);
    off.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    if routed {
        off.truncate(off.len() - off.len().div_ceil(8));
    }
    let (apart, size) = off
        .iter()
        .fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    if apart == 0.0 {
        0.0
    } else {
        (apart / size).sqrt()
    }
}
