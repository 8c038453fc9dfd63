//! Ranks of simulated nodes, and launches of kernels on all of them, which run as queues: a rank goes on as soon as it can.

use std::collections::BTreeMap;

use mcc_ir::exchange::ExpertGroup;
use mcc_ir::kernel::{Extent, KernelConfig, Layout};
use mcc_ir::program::{Expr, Param};
use mcc_sim::{
    Completion, Death, Gpu, GpuConfig, Launch, LaunchConfig, Module, Queue, World, launch_queues,
};

use crate::harness::{Plane, compile};

/// An operand in a rank's memory.
#[derive(Clone, Debug)]
pub struct Value {
    pub address: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
    /// Bytes of an element.
    pub element: u64,
}

/// A launch that waits to be run.
struct Pending {
    name: String,
    config: LaunchConfig,
    /// Of each rank.
    params: Vec<Vec<u8>>,
}

/// What ranks write into and what tells them of each other, on each rank.
type Meeting = (Vec<Value>, Vec<Value>);

/// Ranks of one group.
pub struct Bench {
    pub group: ExpertGroup,
    pub world: World,
    modules: BTreeMap<String, Vec<Module>>,
    /// By range.
    meetings: BTreeMap<String, Meeting>,
    pending: Vec<Pending>,
    /// Where kernels say what they waited for, on each rank.
    status: Vec<u64>,
    /// Changes a kernel's text before it is loaded: a bug to be found.
    pub bug: Option<Bug>,
}

/// From a kernel's name and text to another text.
pub type Bug = Box<dyn Fn(&str, &str) -> String>;

impl Bench {
    pub fn new(group: ExpertGroup, completion: Completion, check: bool) -> Self {
        Self::on(group, completion, check, 0)
    }

    /// On one host thread: the same order at every run.
    pub fn repeatable(group: ExpertGroup, completion: Completion, check: bool) -> Self {
        Self::on(group, completion, check, 1)
    }

    fn on(group: ExpertGroup, completion: Completion, check: bool, threads: usize) -> Self {
        let config = GpuConfig {
            sms: 132,
            global_bytes: 4 << 30,
            completion,
            check,
            threads,
            instruction_limit: Some(200_000_000),
            ..GpuConfig::default()
        };
        let world = World::new(group.nodes, group.gpus, &config);
        let place = |rank| world.gpu(rank).alloc(16, 16).expect("memory");
        Self {
            status: (0..world.ranks()).map(place).collect(),
            group,
            world,
            modules: BTreeMap::new(),
            meetings: BTreeMap::new(),
            pending: Vec::new(),
            bug: None,
        }
    }

    fn gpu(&self, rank: usize) -> &Gpu {
        self.world.gpu(rank)
    }

    pub fn ranks(&self) -> usize {
        self.world.ranks()
    }

    /// Memory for an operand of a kernel; `tokens` is the extent `T`.
    pub fn alloc(&self, rank: usize, config: &KernelConfig, name: &str, tokens: usize) -> Value {
        let spec = config
            .operand_specs()
            .into_iter()
            .find(|s| s.decl.name == name)
            .unwrap_or_else(|| panic!("{}: no operand {name}", config.name()));
        let shape: Vec<u64> = spec
            .extents
            .iter()
            .map(|e| match *e {
                Extent::Fixed(n) => n,
                Extent::Free("T") => tokens as u64,
                Extent::Times(k, "T") => k * tokens as u64,
                Extent::Free(other) | Extent::Times(_, other) => panic!("{name}: extent {other}"),
            })
            .collect();
        let element = spec.decl.dtype.bytes();
        let mut strides = vec![1; shape.len()];
        if spec.layout == Layout::Scales {
            let [.., rows, groups] = shape[..] else {
                panic!("{name}: scales of one axis")
            };
            let n = shape.len();
            strides[n - 1] = rows.next_multiple_of(4) + 4;
            if n == 3 {
                strides[0] = strides[2] * groups;
            }
        } else {
            for axis in (1..shape.len()).rev() {
                let unit = if spec.layout == Layout::Rows {
                    16 / element
                } else {
                    1
                };
                strides[axis - 1] = (strides[axis] * shape[axis]).next_multiple_of(unit);
            }
        }
        let span: u64 = shape
            .iter()
            .zip(&strides)
            .map(|(n, s)| n.saturating_sub(1) * s)
            .sum();
        let address = self
            .gpu(rank)
            .alloc(((span + 1) * element).max(16), 256)
            .expect("memory");
        Value {
            address,
            shape,
            strides,
            element,
        }
    }

    /// An operand with contents, row-major.
    pub fn put(
        &self,
        rank: usize,
        config: &KernelConfig,
        name: &str,
        t: usize,
        p: &Plane,
    ) -> Value {
        let value = self.alloc(rank, config, name, t);
        let bytes = p.bytes();
        let size = value.element as usize;
        for (at, chunk) in places(&value).zip(bytes.chunks_exact(size)) {
            self.gpu(rank)
                .write(value.address + at, chunk)
                .expect("allocated");
        }
        value
    }

    /// Contents of an operand, row-major.
    pub fn get(&self, rank: usize, config: &KernelConfig, name: &str, value: &Value) -> Plane {
        let specs = config.operand_specs();
        let spec = specs.iter().find(|s| s.decl.name == name).expect("operand");
        let size = value.element as usize;
        let mut bytes = Vec::new();
        for at in places(value) {
            let mut element = vec![0; size];
            self.gpu(rank)
                .read(value.address + at, &mut element)
                .expect("allocated");
            bytes.extend(element);
        }
        Plane::of(spec.decl.dtype, &bytes)
    }

    /// The range of the `Exchange` buffer and the `World` buffer of a kernel, on each rank: made once, used by all
    /// launches that share it.
    fn meeting(&mut self, config: &KernelConfig) -> Option<Meeting> {
        let range = config.exchange()?;
        let key = format!("{range:?}");
        if let Some(found) = self.meetings.get(&key) {
            return Some(found.clone());
        }
        let addresses = self.world.symmetric(range.bytes()).expect("memory");
        let exchanges: Vec<Value> = addresses
            .into_iter()
            .map(|address| Value {
                address,
                shape: vec![range.bytes() / 4],
                strides: vec![1],
                element: 4,
            })
            .collect();
        let worlds = (0..self.ranks())
            .map(|rank| {
                let mut words = vec![rank as i32, self.ranks() as i32, 0, 0];
                for (peer, exchange) in exchanges.iter().enumerate() {
                    let gpus = self.group.gpus as usize;
                    let near = peer / gpus == rank / gpus;
                    let address = if near { exchange.address } else { 0 };
                    words.extend([address as u32 as i32, (address >> 32) as i32]);
                }
                self.put(rank, config, "world", 0, &Plane::I32(words))
            })
            .collect();
        self.meetings.insert(key.clone(), (exchanges, worlds));
        self.meetings.get(&key).cloned()
    }

    /// Queues a kernel on all ranks; `operands` by name.
    pub fn push(&mut self, config: &KernelConfig, operands: &[BTreeMap<&'static str, Value>]) {
        let code = compile(config);
        if !self.modules.contains_key(&code.name) {
            let ptx = match &self.bug {
                Some(bug) => bug(&code.name, &code.ptx),
                None => code.ptx.clone(),
            };
            let load = |rank| {
                let loaded = self.gpu(rank).load_module(&ptx);
                let module = loaded.unwrap_or_else(|e| panic!("{}: {e}", code.name));
                if let Some((at, _)) = module.global("mcc_status") {
                    let status = self.status[rank].to_le_bytes();
                    self.gpu(rank).write(at, &status).expect("a global");
                }
                module
            };
            let modules = (0..self.ranks()).map(load).collect();
            self.modules.insert(code.name.clone(), modules);
        }
        let meeting = self.meeting(config);
        let modules = &self.modules[&code.name];
        let specs = config.operand_specs();
        let mut params = Vec::new();
        for rank in 0..self.ranks() {
            let values: Vec<Value> = specs
                .iter()
                .map(|spec| match (spec.decl.name, &meeting) {
                    ("exchange", Some((exchanges, _))) => exchanges[rank].clone(),
                    ("world", Some((_, worlds))) => worlds[rank].clone(),
                    (name, _) => operands[rank]
                        .get(name)
                        .unwrap_or_else(|| panic!("{}: no {name}", code.name))
                        .clone(),
                })
                .collect();
            let layout = modules[rank].param_layout(&code.name).expect("loaded");
            let mut bytes = vec![0; layout.last().map_or(0, |(at, size)| at + size)];
            for (param, (at, size)) in code.launch.params.iter().zip(&layout) {
                let word = match param {
                    Param::Pointer { operand } => values[*operand].address,
                    Param::Extent { operand, axis } => values[*operand].shape[*axis],
                    Param::Stride { operand, axis } => values[*operand].strides[*axis],
                    Param::TensorMap { .. } => panic!("{}: a tensor map", code.name),
                };
                bytes[*at..at + size].copy_from_slice(&word.to_le_bytes()[..*size]);
            }
            params.push(bytes);
        }
        let grid = code.launch.grid.clone().map(|e| match e {
            Expr::Const(n) => n as u32,
            other => panic!("{}: grid {other:?}", code.name),
        });
        self.pending.push(Pending {
            name: code.name,
            config: LaunchConfig {
                grid,
                block: [code.launch.block, 1, 1],
                cluster: code.launch.cluster,
                dynamic_smem: code.launch.smem_bytes,
                programmatic: code.launch.programmatic,
            },
            params,
        });
    }

    /// What a rank's kernel said that it waited for, and for whom, before it gave up.
    pub fn waited(&self, rank: usize) -> Option<(u32, usize)> {
        let mut words = [0; 16];
        let read = self.gpu(rank).read(self.status[rank], &mut words);
        read.expect("allocated");
        let word = u64::from_le_bytes(words[..8].try_into().expect("eight bytes"));
        (word >> 48 == 0x4d43)
            .then_some(((word >> 32) as u32 & 0xffff, (word >> 16) as usize & 0xffff))
    }

    /// Runs what is queued; what became of each rank, with the launch that failed.
    pub fn run(&mut self, dies: &[Option<Death>]) -> Vec<Result<(), (usize, String)>> {
        let pending = std::mem::take(&mut self.pending);
        let queue = |rank: usize| Queue {
            launches: pending
                .iter()
                .map(|p| Launch {
                    gpu: self.gpu(rank),
                    module: &self.modules[&p.name][rank],
                    kernel: &p.name,
                    config: p.config,
                    params: &p.params[rank],
                })
                .collect(),
            dies: dies.get(rank).copied().flatten(),
        };
        let queues: Vec<Queue<'_>> = (0..self.ranks()).map(queue).collect();
        launch_queues(&queues)
            .unwrap_or_else(|e| panic!("{e}"))
            .into_iter()
            .map(|r| r.map(|_| ()).map_err(|e| (e.launch, e.to_string())))
            .collect()
    }

    /// The same where nothing may fail.
    pub fn run_well(&mut self, case: &str) {
        let results = self.run(&[]);
        let failed: Vec<String> = results
            .into_iter()
            .enumerate()
            .filter_map(|(rank, r)| {
                let waited = self.waited(rank);
                Some(format!("rank {rank}: {} {waited:?}", r.err()?.1))
            })
            .collect();
        assert!(failed.is_empty(), "{case}:\n{}", failed.join("\n"));
    }
}

/// Byte offsets of a value's elements in row-major order.
fn places(value: &Value) -> impl Iterator<Item = u64> + use<> {
    let mut at = vec![0];
    for (extent, stride) in value.shape.iter().zip(&value.strides) {
        at = at
            .iter()
            .flat_map(|at| (0..*extent).map(move |i| at + i * stride))
            .collect();
    }
    let element = value.element;
    at.into_iter().map(move |at| at * element)
}
