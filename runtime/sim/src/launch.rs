//! The device: memory, modules and launches.

mod queues;
mod together;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use mcc_ptx::{Init, Item, ItemId, Type, Variable};

use crate::check::Initialised;
use crate::decode;
use crate::error::SimError;
use crate::exec::state::{Env, Group};
use crate::isa::Kernel;
use crate::memory::Memory;
use crate::memory::cells::{self, Cells};
use crate::trace::{LaunchTrace, TraceLimits, Traces};
use crate::world::Fabric;

pub use queues::{Queue, QueueError, launch_queues};
pub use together::{Launch, launch_together};

/// When asynchronous work takes effect. A right program gives the same result
/// under each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// At its issue.
    Early,
    /// When nothing else can go on, or a thread waits for it. Accumulators of
    /// `wgmma` hold NaN until then.
    Late,
    /// Somewhere in between, repeatably.
    Random(u64),
}

#[derive(Debug, Clone)]
pub struct GpuConfig {
    pub name: String,
    pub sms: u32,
    pub global_bytes: u64,
    /// The most shared memory of one block, static and dynamic.
    pub smem_per_block_optin: u32,
    pub regs_per_sm: u32,
    /// Host threads; 0 takes as many as there are.
    pub threads: usize,
    pub completion: Completion,
    /// The most warp instructions of one cluster.
    pub instruction_limit: Option<u64>,
    /// The most of all clusters of a launch; checked when a cluster ends.
    pub launch_limit: Option<u64>,
    /// Whether to keep a time line of each launch, for [`Gpu::take_traces`].
    pub trace: Option<TraceLimits>,
    /// Whether races, missing fences and uses of what nothing has written are
    /// faults.
    pub check: bool,
}

impl Default for GpuConfig {
    /// An H100 SXM.
    fn default() -> GpuConfig {
        GpuConfig {
            name: "H100 (simulated)".into(),
            sms: 132,
            global_bytes: 80 << 30,
            smem_per_block_optin: 232_448,
            regs_per_sm: 65_536,
            threads: 0,
            completion: Completion::Early,
            instruction_limit: None,
            launch_limit: None,
            trace: None,
            check: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_smem: u32,
    /// On a GPU the launch would start before earlier ones have ended
    /// (programmatic stream serialisation). Here it does not, but every thread
    /// must execute `griddepcontrol.wait`, and touch global memory only then.
    pub programmatic: bool,
}

impl LaunchConfig {
    pub fn new(grid: u32, block: u32) -> LaunchConfig {
        LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            cluster: [1; 3],
            dynamic_smem: 0,
            programmatic: false,
        }
    }
}

/// Directives of a kernel: `.reqntid`, `.maxntid` and `.reqnctapercluster`
/// (PTX ISA 11.4 and 11.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demands {
    pub block: Option<[u32; 3]>,
    pub max_threads: Option<u64>,
    pub cluster: Option<[u32; 3]>,
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaunchStats {
    pub ctas: u64,
    pub warp_instructions: u64,
    pub wgmma: u64,
    pub wgmma_macs: u64,
    pub bulk_bytes: u64,
}

/// One simulated device.
pub struct Gpu {
    config: GpuConfig,
    memory: Arc<Memory>,
    pool: Option<rayon::ThreadPool>,
    /// State of finished CTAs, for the next launch.
    groups: Mutex<Vec<Group>>,
    /// Warp instructions of all launches so far.
    clock: AtomicU64,
    /// Which bytes have been written, when accesses are checked.
    initialised: Option<Arc<Initialised>>,
    /// Time lines of the launches so far.
    traces: Traces,
    /// The other devices, when it is one of a world.
    fabric: Option<Arc<Fabric>>,
}

/// Kernels of one PTX text, ready to run. Clones share them.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    kernels: Vec<Kernel>,
    lines: Vec<String>,
    memory: Arc<Memory>,
    globals: Vec<u64>,
    /// Name, address and size of the global variables.
    names: Vec<(String, u64, u64)>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for &g in &self.globals {
            // The address came from `alloc` and is freed once.
            let _ = self.memory.free(g);
        }
    }
}

impl Module {
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.inner.kernels.iter().map(|k| k.name.as_str())
    }

    /// (offset, size) of each parameter in the bytes that [`Gpu::launch`] takes.
    pub fn param_layout(&self, kernel: &str) -> Result<Vec<(usize, usize)>, SimError> {
        let k = self.kernel(kernel)?;
        Ok(k.params
            .iter()
            .map(|p| (p.offset as usize, p.size as usize))
            .collect())
    }

    /// Static shared memory of a kernel in bytes.
    pub fn static_smem(&self, kernel: &str) -> Result<u32, SimError> {
        Ok(self.kernel(kernel)?.static_smem)
    }

    /// Address and size of a global variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let mut known = self.inner.names.iter();
        known
            .find(|(n, ..)| n == name)
            .map(|&(_, at, bytes)| (at, bytes))
    }

    /// What a kernel's directives say of its launches.
    pub fn demands(&self, kernel: &str) -> Result<Demands, SimError> {
        let k = self.kernel(kernel)?;
        Ok(Demands {
            block: k.req_ntid,
            max_threads: k.max_threads,
            cluster: k.req_cluster,
        })
    }

    fn kernel(&self, name: &str) -> Result<&Kernel, SimError> {
        self.inner
            .kernels
            .iter()
            .find(|k| k.name == name)
            .ok_or_else(|| SimError::NoKernel {
                name: name.into(),
                known: self.kernels().collect::<Vec<_>>().join(", "),
            })
    }
}

impl Env<'_> {
    /// A line of the PTX text, for messages.
    pub fn text(&self, line: u32) -> String {
        self.lines
            .get((line as usize).wrapping_sub(1))
            .cloned()
            .unwrap_or_default()
    }
}

impl Gpu {
    pub fn new(config: GpuConfig) -> Gpu {
        let memory = Arc::new(Memory::new(config.global_bytes));
        // A pool that cannot be built leaves the global one.
        let pool = match config.threads {
            0 => None,
            n => rayon::ThreadPoolBuilder::new().num_threads(n).build().ok(),
        };
        Gpu {
            initialised: config.check.then(Arc::default),
            config,
            memory,
            pool,
            groups: Mutex::default(),
            clock: AtomicU64::new(0),
            traces: Traces::default(),
            fabric: None,
        }
    }

    /// Another device that sees the same memory: pointers of the one are valid
    /// on the other, with atomics of system scope, as between GPUs of one node.
    /// Each has bytes of its own to give. Whether accesses are checked is the
    /// same for all.
    pub fn peer(&self, config: GpuConfig) -> Gpu {
        let config = GpuConfig {
            check: self.config.check,
            ..config
        };
        let memory = self.memory.peer(config.global_bytes);
        self.beside(memory, config)
    }

    /// A device of another node, which runs together with this one; neither
    /// can touch the other's memory.
    pub(crate) fn on_node(&self, node: u32, config: GpuConfig) -> Gpu {
        let memory = self.memory.of_node(node, config.global_bytes);
        self.beside(memory, config)
    }

    fn beside(&self, memory: Memory, config: GpuConfig) -> Gpu {
        Gpu {
            memory: Arc::new(memory),
            initialised: self.initialised.clone(),
            ..Gpu::new(config)
        }
    }

    pub(crate) fn shared_memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    pub(crate) fn join_fabric(&mut self, fabric: &Arc<Fabric>) {
        self.fabric = Some(Arc::clone(fabric));
    }

    pub fn config(&self) -> &GpuConfig {
        &self.config
    }

    /// Zeroed device memory. Distinct allocations never touch.
    pub fn alloc(&self, bytes: u64, align: u64) -> Result<u64, SimError> {
        self.memory.alloc(bytes, align)
    }

    pub fn free(&self, addr: u64) -> Result<(), SimError> {
        self.memory.free(addr)
    }

    /// An allocation that can grow to `bytes` bytes and has none as yet.
    pub fn alloc_growing(&self, bytes: u64) -> Result<u64, SimError> {
        self.memory.alloc_growing(bytes)
    }

    /// Makes the first `bytes` bytes of a growing allocation usable; new ones
    /// are zero. An access beyond them faults.
    pub fn grow(&self, addr: u64, bytes: u64) -> Result<(), SimError> {
        self.memory.grow(addr, bytes)
    }

    /// Usable bytes of the allocation at `addr`.
    pub fn size_of(&self, addr: u64) -> Result<u64, SimError> {
        self.memory.size_of(addr)
    }

    /// Bytes of device memory in use, and bytes of the device.
    pub fn memory_used(&self) -> (u64, u64) {
        self.memory.used()
    }

    /// Memory of the host that kernels reach, too: its device address and its
    /// host address, valid until [`Gpu::free`].
    pub fn alloc_host(&self, bytes: u64) -> Result<(u64, *mut u8), SimError> {
        let (addr, host) = self.memory.alloc_host(bytes)?;
        if let Some(known) = &self.initialised {
            known.mark_whole(addr, bytes);
        }
        Ok((addr, host))
    }

    /// The host has written these bytes, by whatever way: the checkers take
    /// them for initialised.
    pub fn note_written(&self, addr: u64, len: u64) {
        if let Some(known) = &self.initialised {
            known.mark(addr, len);
        }
    }

    /// Addresses of which parts can be mapped; the size is a multiple of 64 KiB.
    pub fn reserve(&self, bytes: u64, align: u64) -> Result<u64, SimError> {
        let addr = self.memory.reserve(bytes, align)?;
        // What is mapped there is written through host pointers.
        if let Some(known) = &self.initialised {
            known.mark_whole(addr, bytes);
        }
        Ok(addr)
    }

    /// Gives up a reservation and what is mapped in it.
    pub fn unreserve(&self, addr: u64) -> Result<(), SimError> {
        self.memory.unreserve(addr)
    }

    /// Lets kernels and copies touch whole pages of a reservation.
    pub fn map(&self, addr: u64, len: u64) -> Result<(), SimError> {
        self.memory.map(addr, len)
    }

    /// Takes them away; the bytes stay, see [`Gpu::reserved`].
    pub fn unmap(&self, addr: u64, len: u64) -> Result<(), SimError> {
        self.memory.unmap(addr, len)
    }

    /// Where the bytes of a reservation are, mapped or not; valid until
    /// [`Gpu::unreserve`].
    pub fn reserved(&self, addr: u64, len: u64) -> Option<*mut u8> {
        self.memory.reserved_host(addr, len)
    }

    /// Whether all of these bytes can be touched.
    pub fn is_mapped(&self, addr: u64, len: u64) -> bool {
        self.memory.view().resolve(addr, len).is_some()
    }

    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), SimError> {
        let len = data.len() as u64;
        self.note_written(addr, len);
        let put = |cells: &Cells, at| cells::write(cells, at, data);
        self.memory.with(addr, len, put)
    }

    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), SimError> {
        let len = out.len() as u64;
        let get = |cells: &Cells, at| cells::read(cells, at, out);
        self.memory.with(addr, len, get)
    }

    pub fn fill(&self, addr: u64, byte: u8, len: u64) -> Result<(), SimError> {
        self.note_written(addr, len);
        let set = |cells: &Cells, at| cells::fill(cells, at, byte, len as usize);
        self.memory.with(addr, len, set)
    }

    /// Parses and decodes PTX, and places its global variables.
    pub fn load_module(&self, ptx: &str) -> Result<Module, SimError> {
        let ast = mcc_ptx::parse(ptx).map_err(|e| SimError::BadPtx {
            message: e.to_string(),
        })?;
        let mut addresses = HashMap::new();
        let mut globals = Vec::new();
        let mut names = Vec::new();
        for (i, item) in ast.items.iter().enumerate() {
            if let Item::Variable(v) = item
                && decode::is_global(v.space)
                && (v.bytes() > 0)
            {
                let at = self.alloc(v.bytes(), v.alignment().clamp(1, 65536))?;
                // PTX ISA, "Initializers": zero by default.
                self.note_written(at, v.bytes());
                globals.push(at);
                names.push((v.name.clone(), at, v.bytes()));
                addresses.insert(ItemId(i as u32), at);
            }
        }
        for (i, item) in ast.items.iter().enumerate() {
            if let (Item::Variable(v), Some(&at)) = (item, addresses.get(&ItemId(i as u32))) {
                let mut bytes = Vec::new();
                if let Some(init) = &v.init {
                    initial(init, v, &addresses, &mut bytes)?;
                }
                bytes.truncate(v.bytes() as usize);
                self.write(at, &bytes)?;
            }
        }
        let kernels = decode::kernels(&ast, &addresses)?;
        let lines = ptx.lines().map(|l| l.trim().to_owned()).collect();
        let memory = Arc::clone(&self.memory);
        Ok(Module {
            inner: Arc::new(Inner {
                kernels,
                lines,
                memory,
                globals,
                names,
            }),
        })
    }

    /// Runs a kernel to its end. `params` is packed as
    /// [`Module::param_layout`] says.
    pub fn launch(
        &self,
        module: &Module,
        kernel: &str,
        cfg: &LaunchConfig,
        params: &[u8],
    ) -> Result<LaunchStats, SimError> {
        let all = launch_together(&[Launch {
            gpu: self,
            module,
            kernel,
            config: *cfg,
            params,
        }])?;
        Ok(all[0])
    }

    /// The time lines of the launches since the last call, faulty ones too.
    pub fn take_traces(&self) -> Vec<LaunchTrace> {
        self.traces.take()
    }

    fn check(&self, k: &Kernel, cfg: &LaunchConfig, params: &[u8]) -> Result<(), String> {
        if params.len() != k.param_bytes as usize {
            return Err(format!(
                "{} bytes of parameters instead of {}",
                params.len(),
                k.param_bytes
            ));
        }
        if cfg.grid.contains(&0) || cfg.block.contains(&0) || cfg.cluster.contains(&0) {
            return Err(format!("an empty dimension in {cfg:?}"));
        }
        let product = |dims: [u32; 3]| dims.iter().fold(1, |n: u64, &d| n.saturating_mul(d.into()));
        let threads = product(cfg.block);
        if threads > 1024 || cfg.block[2] > 64 {
            return Err(format!(
                "a block of {:?} threads is over 1024 (or 64 along z)",
                cfg.block
            ));
        }
        if cfg.grid[0] > i32::MAX as u32 || cfg.grid[1] > 65535 || cfg.grid[2] > 65535 {
            return Err(format!("a grid of {:?} blocks", cfg.grid));
        }
        if let Some(req) = k.req_ntid
            && req != cfg.block
        {
            return Err(format!(
                "the kernel requires blocks of {req:?} threads, not {:?}",
                cfg.block
            ));
        }
        if let Some(max) = k.max_threads
            && threads > max
        {
            return Err(format!("{threads} threads where the kernel allows {max}"));
        }
        if let Some(req) = k.req_cluster
            && req != cfg.cluster
        {
            return Err(format!(
                "the kernel requires clusters of {req:?}, not {:?}",
                cfg.cluster
            ));
        }
        let ranks = product(cfg.cluster);
        if ranks > 16 {
            return Err(format!("a cluster of {ranks} blocks is over 16"));
        }
        if (0..3).any(|d| !cfg.grid[d].is_multiple_of(cfg.cluster[d])) {
            return Err(format!(
                "the grid {:?} is no multiple of the cluster {:?}",
                cfg.grid, cfg.cluster
            ));
        }
        // The device keeps the local memory of as many blocks as are resident:
        // at most 2048 threads and 32 blocks on an SM.
        let on_device = u64::from(self.config.sms) * (2048 / threads).clamp(1, 32);
        let resident = product(cfg.grid).min(on_device).max(ranks);
        let local = u64::from(k.local_bytes) * threads.next_multiple_of(32) * resident;
        if local > self.config.global_bytes {
            return Err(format!(
                "{local} bytes of local memory for {resident} resident blocks are over the device's {}",
                self.config.global_bytes
            ));
        }
        let smem = u64::from(k.static_smem) + u64::from(cfg.dynamic_smem);
        let most = u64::from(self.config.smem_per_block_optin);
        if smem > most {
            return Err(format!("{smem} bytes of shared memory are over {most}"));
        }
        Ok(())
    }
}

/// The bytes of an initialiser (PTX ISA 5.4.4).
fn initial(
    init: &Init,
    v: &Variable,
    addresses: &HashMap<ItemId, u64>,
    out: &mut Vec<u8>,
) -> Result<(), SimError> {
    let size = v.ty.bytes() as usize;
    let mut put = |bits: u64| out.extend_from_slice(&bits.to_le_bytes()[..size.min(8)]);
    match init {
        Init::Int(i) => put(match v.ty {
            Type::F32 => u64::from((*i as f32).to_bits()),
            Type::F64 => (*i as f64).to_bits(),
            _ => *i as u64,
        }),
        Init::F32(b) => put(u64::from(*b)),
        Init::F64(b) if v.ty == Type::F32 => put(u64::from((f64::from_bits(*b) as f32).to_bits())),
        Init::F64(b) => put(*b),
        Init::Addr {
            item, offset, mask, ..
        } => {
            let Some(&at) = addresses.get(item) else {
                return Err(SimError::BadPtx {
                    message: format!("the initialiser of `{}` takes an unknown address", v.name),
                });
            };
            let at = at.wrapping_add(*offset as u64);
            put(match mask {
                Some(m) if *m != 0 => (at & m) >> m.trailing_zeros(),
                _ => at,
            });
        }
        Init::List(list) => {
            for i in list {
                initial(i, v, addresses, out)?;
            }
        }
    }
    Ok(())
}
