//! Random models through the whole compiler, against the evaluator.
//!
//! In: a seed. It stands for a small well-typed model of the layers that model authors use, a random checkpoint, and
//! steps to run (`draw.rs`). The model is optimised, lowered, compiled, and run on the simulated device. Out: whether both
//! hold:
//!
//! - the optimised graph evaluates as the author's: to the same bits, or, where the author allows other roundings, to
//!   values as near as the roundings of both are;
//! - the device computes what the optimised graph means: bit for bit, or, behind ops whose order of operations is left
//!   open, as near as neighbouring BF16 values of these make it.
//!
//! How near that is depends on the graph, and is found by disturbing it (`spread.rs`).
//!
//! The same seed is the same model, checkpoint and input on every machine.

mod draw;
mod spread;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use mcc_bundle::{Bundle, TokenizerInfo};
use mcc_dsl::{Freedom, Module};
use mcc_ir::Op;
use mcc_ir::eval::{self, Rng, Tensor, Values, materialize, new_states};
use mcc_runtime::{Checkpoint, DeviceOptions, Model, SimDevice};

use self::draw::{Drawn, WIDTH, draw};
use self::spread::{Disturbed, Of, SLACK};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::pack::pack;
use crate::source::Source;
use crate::stages::{self, BuildOptions};

/// A distance, and what it may be at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// `|a - b| / |b|` in the Frobenius norm; of several outputs the one nearest to its bound.
    pub is: f64,
    /// What follows from the graph; 0 where bits must be equal.
    pub at_most: f64,
}

impl Distance {
    /// No for NaN as well.
    fn is_near(self) -> bool {
        self.is <= self.at_most
    }

    /// The one that is nearer to its bound, or further above it.
    fn worse(self, other: Self) -> Self {
        let share = |d: Self| match d {
            Self { is: 0.0, .. } => 0.0,
            Self { at_most: 0.0, .. } => f64::INFINITY,
            Self { is, at_most } => is / at_most,
        };
        if share(other) <= share(self) {
            self
        } else {
            other
        }
    }
}

/// What was found out about one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Ops of the author's graph and of the optimised one.
    pub ops: (usize, usize),
    /// The optimised graph from the author's.
    pub optimiser: Distance,
    /// The device from the optimised graph.
    pub device: Distance,
    /// Rows of outputs, and those that were compared: the others are of tokens between two experts.
    pub rows: (usize, usize),
    /// What is wrong, if anything.
    pub wrong: Option<&'static str>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, compared) = self.rows;
        write!(
            f,
            "seed {}: {} ops -> {}, optimiser {:.5} of {:.5}, device {:.5} of {:.5}, {compared} of {all} rows",
            self.seed,
            self.ops.0,
            self.ops.1,
            self.optimiser.is,
            self.optimiser.at_most,
            self.device.is,
            self.device.at_most,
        )?;
        match &self.wrong {
            Some(wrong) => write!(f, ": {wrong}"),
            None => Ok(()),
        }
    }
}

/// Checks models; kernels that they have in common are compiled once. Threads may share it.
pub struct Fuzzer {
    kernels: Kernels,
    /// Normal numbers, of which tensors are cut.
    bank: Vec<f32>,
}

impl Default for Fuzzer {
    fn default() -> Self {
        let mut rng = Rng::new(0);
        Self {
            kernels: Kernels::new(),
            bank: (0..1 << 18).map(|_| rng.normal()).collect(),
        }
    }
}

impl Fuzzer {
    /// Distinct kernels so far.
    #[must_use]
    pub fn kernels(&self) -> usize {
        self.kernels.len()
    }

    /// Checks the models of several seeds on so many threads, 0 for one on each core; `seen` gets each outcome when it is
    /// there, as [`Self::check`] gives it.
    pub fn check_all(
        &self,
        seeds: Range<u64>,
        threads: usize,
        mut seen: impl FnMut(u64, Result<Outcome, Error>),
    ) {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let next = AtomicU64::new(seeds.start);
        let (send, outcomes) = channel();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (next, send, seeds) = (&next, send.clone(), &seeds);
                scope.spawn(move || {
                    let own = || Some(next.fetch_add(1, Ordering::Relaxed));
                    for seed in std::iter::from_fn(own).take_while(|seed| seeds.contains(seed)) {
                        // Nobody listens any more when `seen` has panicked.
                        if send.send((seed, self.check(seed))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            for (seed, outcome) in outcomes {
                seen(seed, outcome);
            }
        });
    }

    /// Draws the model of a seed and checks it.
    ///
    /// # Errors
    /// When a stage of the compiler or the device refuses the model, which none should.
    pub fn check(&self, seed: u64) -> Result<Outcome, Error> {
        let Drawn {
            module,
            checkpoint,
            steps,
        } = draw(seed, &self.bank)?;
        let source = Source {
            module,
            tokenizer: None,
            special: TokenizerInfo::default(),
            warnings: Vec::new(),
            checkpoint: None,
        };
        let options = BuildOptions {
            target: "h100".into(),
            mesh: None,
            ranks: mcc_passes::distribute::Options::default(),
            optimize: true,
            cubins: false,
            dump: None,
        };
        let built = stages::run_with(&source, &options, None, &self.kernels, &mut |_, _, _| {})?;
        let evaluator = |module: &Module| Evaluator::new(module, &checkpoint, &steps, seed);
        let (before, after) = (evaluator(&source.module)?, evaluator(&built.graph)?);
        let (author, optimised) = (before.run()?, after.run()?);
        let device = run(pack(&source, &built)?, &checkpoint, &steps)?;

        let optimiser = if may_round(&source.module) {
            before
                .spread(&author, Of::Roundings)?
                .distance(&author, &optimised.outputs)
        } else {
            let same = author.outputs == optimised.outputs;
            let is = if same { 0.0 } else { f64::INFINITY };
            Distance { is, at_most: 0.0 }
        };
        let spread = after.spread(&optimised, Of::Kernels)?;
        let device = spread.distance(&optimised, &device);
        let wrong = match (optimiser.is_near(), device.is_near()) {
            (false, _) if optimiser.at_most == 0.0 => {
                Some("the optimiser changed bits that it must not change")
            }
            (false, _) => Some("the optimised graph computes something else"),
            (true, false) => Some("the device computes something else than the graph"),
            (true, true) => None,
        };
        Ok(Outcome {
            seed,
            ops: (ops(&source.module), ops(&built.graph)),
            optimiser,
            device,
            rows: spread.rows(),
            wrong,
        })
    }
}

fn bug(what: String) -> Error {
    Error::Usage(format!("compiler bug: a random model is not sound: {what}"))
}

fn ops(module: &Module) -> usize {
    let entries = module.entries.iter();
    let count = |e: &mcc_ir::Graph| e.topo().iter().filter(|id| !e.op(**id).is_leaf()).count();
    entries.map(count).sum()
}

/// Whether rules may round any op's result elsewhere.
fn may_round(module: &Module) -> bool {
    let any = |e: &mcc_ir::Graph| {
        let mut nodes = e.topo().into_iter();
        nodes.any(|id| {
            e.node(id)
                .marks
                .allow
                .is_some_and(|allow| allow != Freedom::EXACT)
        })
    };
    module.allow != Freedom::EXACT || module.entries.iter().any(any)
}

/// BF16 outputs by the number of their step and their name.
type Outputs = BTreeMap<(usize, String), Vec<f32>>;

/// An undisturbed evaluation.
struct Evaluated {
    outputs: Outputs,
    /// Logits and bias of each gate, in order.
    gates: Vec<[Tensor; 2]>,
}

/// A module in plain ops with all that its steps read.
struct Evaluator<'a> {
    module: Module,
    params: Values,
    steps: &'a [draw::Step],
    seed: u64,
}

impl<'a> Evaluator<'a> {
    fn new(
        module: &Module,
        checkpoint: &BTreeMap<String, Tensor>,
        steps: &'a [draw::Step],
        seed: u64,
    ) -> Result<Self, Error> {
        let entries = module.entries.iter().map(mcc_ir::Graph::in_plain_ops);
        let entries = entries.collect::<Result<_, _>>();
        let params = module.params.iter().map(|param| {
            let made = materialize(&param.source, &|name| checkpoint.get(name).cloned());
            Ok((param.name.clone(), made.map_err(|e| bug(e.to_string()))?))
        });
        Ok(Self {
            params: params.collect::<Result<_, Error>>()?,
            module: Module {
                entries: entries.map_err(|e| bug(e.to_string()))?,
                ..module.clone()
            },
            steps,
            seed,
        })
    }

    fn run(&self) -> Result<Evaluated, Error> {
        let mut gates = Vec::new();
        let mut look = |op: &Op, operands: &[&Tensor], _: &mut [Tensor]| {
            if let (Op::Route { .. }, [logits, bias]) = (op, operands) {
                gates.push([(*logits).clone(), (*bias).clone()]);
            }
        };
        let mut states = new_states(&self.module);
        let mut outputs = Outputs::new();
        for number in 0..self.steps.len() {
            outputs.extend(self.step(number, &mut states, &mut look)?);
        }
        Ok(Evaluated { outputs, gates })
    }

    fn step(
        &self,
        number: usize,
        states: &mut Values,
        after: &mut eval::After<'_>,
    ) -> Result<Outputs, Error> {
        let step = &self.steps[number];
        let outputs = eval::run_with(
            eval::Step {
                module: &self.module,
                entry: step.entry,
                dims: &step.dims,
                inputs: &step.inputs,
                params: &self.params,
            },
            states,
            after,
        );
        let outputs = outputs.map_err(|e| bug(e.to_string()))?;
        let floats = |tensor: &Tensor| tensor.as_float().unwrap_or_default().to_vec();
        let named = outputs.iter();
        Ok(named
            .map(|(name, value)| ((number, name.to_string()), floats(value)))
            .collect())
    }

    /// Disturbs the evaluation.
    fn spread(&self, base: &Evaluated, of: Of) -> Result<Spread, Error> {
        let mut gates = base.gates.iter().cloned();
        let mut states = new_states(&self.module);
        let (mut outputs, mut open, mut stained) = (Outputs::new(), Vec::new(), false);
        for (number, step) in self.steps.iter().enumerate() {
            let tokens = step.inputs.get("x").map_or(0, |x| x.shape()[0]);
            let seed = self.seed ^ (number as u64) << 32;
            let mut disturbed = Disturbed::new(of, seed, tokens, stained, &mut gates);
            let mut after = |op: &Op, operands: &[&Tensor], results: &mut [Tensor]| {
                disturbed.after(op, operands, results);
            };
            outputs.extend(self.step(number, &mut states, &mut after)?);
            stained = disturbed.stained;
            let rows = step.rows.iter().map(|row| disturbed.open[*row]).collect();
            open.push([disturbed.open, rows]);
        }
        Ok(Spread { outputs, open })
    }
}

/// Outputs of a disturbed evaluation.
struct Spread {
    outputs: Outputs,
    /// For each step which tokens are open, and which of the taken rows.
    open: Vec<[Vec<bool>; 2]>,
}

impl Spread {
    fn open(&self, key: &(usize, String)) -> &[bool] {
        let [tokens, taken] = &self.open[key.0];
        if key.1 == "taken" { taken } else { tokens }
    }

    /// All rows of outputs, and those that are compared.
    fn rows(&self) -> (usize, usize) {
        let of = |key| self.open(key).iter();
        let keys = || self.outputs.keys();
        let all = keys().map(|key| of(key).count()).sum();
        (
            all,
            keys()
                .map(|key| of(key).filter(|open| !**open).count())
                .sum(),
        )
    }

    /// How far outputs are from `base`, and how far they may be.
    fn distance(&self, base: &Evaluated, outputs: &Outputs) -> Distance {
        let mut worst = Distance::default();
        for (key, want) in &base.outputs {
            let apart = |from: &Outputs| match from.get(key) {
                Some(got) => distance(got, want, self.open(key)),
                None => f64::INFINITY,
            };
            let at_most = SLACK * apart(&self.outputs);
            worst = worst.worse(Distance {
                is: apart(outputs),
                at_most,
            });
        }
        worst
    }
}

/// The outputs of the steps by the simulated device.
fn run(
    bundle: Bundle,
    checkpoint: &BTreeMap<String, Tensor>,
    steps: &[draw::Step],
) -> Result<Outputs, Error> {
    let bytes = draw::safetensors(checkpoint).map_err(|e| bug(e.to_string()))?;
    let checkpoint = Checkpoint::from_bytes("random weights", bytes)?;
    // Models are checked on several threads; each has one.
    let options = DeviceOptions {
        threads: 1,
        ..DeviceOptions::default()
    };
    let mut model = Model::load(Box::new(SimDevice::new(&options)), bundle)?;
    model.load_checkpoint(&checkpoint, &mut |_| {})?;
    let mut outputs = Outputs::new();
    for (number, step) in steps.iter().enumerate() {
        let dims = step.dims.iter();
        let dims = dims.map(|(name, n)| (name.to_string(), *n)).collect();
        let inputs: Vec<(&str, Vec<u8>)> = step
            .inputs
            .iter()
            .map(|(name, value)| (name.as_str(), draw::bytes(value)))
            .collect();
        let inputs: Vec<(&str, &[u8])> = inputs
            .iter()
            .map(|(name, bytes)| (*name, bytes.as_slice()))
            .collect();
        let entry = model
            .manifest()
            .entries
            .iter()
            .find(|e| e.name == step.entry);
        let ports = entry.map_or(&[][..], |e| &e.outputs);
        let names: Vec<String> = ports.iter().map(|port| port.name.clone()).collect();
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let values = model.execute(step.entry, &dims, &inputs, &asked, 0)?;
        let floats = |bytes: Vec<u8>| {
            let halves = bytes.as_chunks::<2>().0.iter();
            halves
                .map(|half| f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16))
                .collect()
        };
        let named = names.into_iter().zip(values);
        outputs.extend(named.map(|(name, bytes)| ((number, name), floats(bytes))));
    }
    Ok(outputs)
}

/// `|a - b| / |b|` in the Frobenius norm over the rows of tokens that are not open.
fn distance(a: &[f32], b: &[f32], open: &[bool]) -> f64 {
    if a.len() != b.len() || b.len() != open.len() * WIDTH as usize {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let rows = a.chunks(WIDTH as usize).zip(b.chunks(WIDTH as usize));
    let (mut apart, mut size) = (0.0, 0.0);
    for ((a, b), _) in rows.zip(open).filter(|(_, open)| !**open) {
        for (a, b) in a.iter().zip(b) {
            apart += square(f64::from(*a) - f64::from(*b));
            size += square(f64::from(*b));
        }
    }
    if apart == 0.0 {
        0.0
    } else {
        (apart / size).sqrt()
    }
}
