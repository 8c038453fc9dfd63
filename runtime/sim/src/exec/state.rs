//! The state of running CTAs: warps, fragments, shared memory, barriers.
//!
//! A *group* is the unit that one host thread runs: the CTAs of one cluster.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use super::alu::Regs;
use super::copy::AsyncOp;
use super::mma;
use super::spin::Spin;
use super::wgmma::{PendingMma, Scratch};
use crate::check::{Checker, LaunchCheck};
use crate::isa::{BarRed, Kernel, P, R};
use crate::launch::Completion;
use crate::memory::{SHARED_START, Table};
use crate::network::Network;
use crate::trace::{Recorder, TraceLimits};

pub const NO_JOIN: u32 = u32::MAX;
/// Named barriers of a CTA (PTX ISA 9.7.13.1).
pub const BARRIERS: usize = 16;

/// What a launch fixes for all its CTAs.
pub struct Env<'a> {
    pub kernel: &'a Kernel,
    pub table: &'a Table,
    /// Parameters, in words; the kernel knows how many bytes are theirs.
    pub params: &'a [u32],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_smem: u32,
    pub completion: Completion,
    pub sms: u32,
    /// Registers of a thread when its block starts.
    pub registers: u32,
    /// The device among those that run together, and the launch among its own.
    pub device: usize,
    pub launch: usize,
    /// The device's number in its world.
    pub rank: u32,
    /// The launch may overlap with the ones before it.
    pub programmatic: bool,
    /// `%globaltimer` when the launch begins.
    pub started: AtomicU64,
    /// How far the time of all devices has jumped.
    pub jumped: &'a AtomicU64,
    pub limit: Option<u64>,
    /// Whether to keep a time line, and how long a one.
    pub trace: Option<TraceLimits>,
    /// Lines of the PTX text.
    pub lines: &'a [String],
    /// The shadow of global memory, when accesses are checked.
    pub check: Option<&'a LaunchCheck<'a>>,
    /// To other ranks, where the device is one of a world.
    pub network: Option<&'a Network<'a>>,
}

impl Env<'_> {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// The block of a rank in a cluster.
    pub fn block_of(&self, cluster: u64, rank: u32) -> [u32; 3] {
        block_of(self.grid, self.cluster, cluster, rank)
    }

    /// The number of one of its clusters among all that run together.
    pub fn cluster_id(&self, cluster: u64) -> u64 {
        crate::check::cluster_of(self.device, self.launch, cluster)
    }

    /// Where a global address lies that the device cannot touch, for messages.
    pub fn describe(&self, address: u64) -> String {
        let owner = self.network.and_then(|n| n.fabric.owner(address));
        match (owner, self.network) {
            (Some(rank), Some(n)) if !n.fabric.same_node(rank, self.rank) => {
                format!(": not mapped: rank {rank} is on another node")
            }
            _ => self.table.describe(address),
        }
    }

    pub fn shared_bytes(&self) -> u32 {
        SHARED_START + self.kernel.static_smem + self.dynamic_smem
    }
}

/// The block of a rank in a cluster of shape `c`.
pub fn block_of(grid: [u32; 3], c: [u32; 3], cluster: u64, rank: u32) -> [u32; 3] {
    let along = |d: usize| u64::from(grid[d] / c[d]).max(1);
    let at = [
        cluster % along(0),
        cluster / along(0) % along(1),
        cluster / along(0) / along(1),
    ];
    let inside = [rank % c[0], rank / c[0] % c[1], rank / c[0] / c[1]];
    std::array::from_fn(|d| at[d] as u32 * c[d] + inside[d])
}

/// What a fragment waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    Ready,
    /// The slot is free.
    Dead,
    Bar {
        id: u8,
        generation: u32,
        red: Option<(BarRed, P, R)>,
    },
    /// The phase of the given parity of an mbarrier.
    Mbar {
        cta: u32,
        offset: u32,
        parity: bool,
        d: P,
        acquire: bool,
    },
    /// The cluster barrier.
    Cluster {
        generation: u32,
    },
    /// Other lanes of a `.sync` warp instruction.
    Members {
        members: u32,
    },
    /// The other warps of a warpgroup, before `wgmma`.
    Warpgroup,
    /// `wgmma.wait_group` with products in flight.
    WgmmaGroups,
    /// `setmaxnreg.inc` until the block's pool has enough.
    Registers {
        count: u32,
    },
}

/// Lanes with one program counter.
#[derive(Debug, Clone, Copy)]
pub struct Frag {
    pub pc: u32,
    pub mask: u32,
    /// Where the lanes meet others: an index into `Warp::joins`, and its pc.
    pub join: u32,
    pub join_pc: u32,
    pub wait: Wait,
}

#[derive(Debug, Clone, Copy)]
pub struct Join {
    pub pc: u32,
    pub expect: u32,
    pub arrived: u32,
    pub parent: u32,
    pub parent_pc: u32,
}

#[derive(Debug, Default)]
pub struct Warp {
    pub regs: Regs,
    pub frags: Vec<Frag>,
    pub joins: Vec<Join>,
    free_joins: Vec<u32>,
    /// The fragment that runs, for error messages.
    pub current: usize,
    /// The fragment that is asked first: after a poll, the next one.
    pub turn: usize,
    pub spin: Spin,
    /// Registers of a thread (`setmaxnreg`).
    pub registers: u32,
    pub alive: u32,
    /// Lanes that have yet to wait for earlier launches.
    pub early: u32,
    /// Index of the CTA in the group, and of the warp in the CTA.
    pub cta: usize,
    pub index: u32,
    /// Thread indices of the lanes.
    pub tid: [[u32; 32]; 3],
    /// Groups committed so far by each lane.
    pub bulk_groups: Vec<u32>,
    pub cp_groups: Vec<u32>,
    pub wgmma_groups: u32,
    /// Generation of the cluster barrier that the warp arrived at.
    pub cluster_arrived: Option<u32>,
    /// Calls of `nvshmem_fence`.
    pub fences: u32,
}

impl Warp {
    pub fn new_join(&mut self, join: Join) -> u32 {
        if let Some(i) = self.free_joins.pop() {
            self.joins[i as usize] = join;
            return i;
        }
        self.joins.push(join);
        (self.joins.len() - 1) as u32
    }

    pub fn free_join(&mut self, i: u32) {
        self.free_joins.push(i);
    }

    pub fn new_frag(&mut self, frag: Frag) {
        match self.frags.iter_mut().find(|f| f.wait == Wait::Dead) {
            Some(slot) => *slot = frag,
            None => self.frags.push(frag),
        }
    }

    /// Prepares the warp for a new CTA.
    pub fn reset(&mut self, kernel: &Kernel, cta: usize, index: u32, block: [u32; 3]) {
        let threads: u32 = block.iter().product();
        let count = (threads - index * 32).min(32);
        self.alive = if count == 32 {
            u32::MAX
        } else {
            (1 << count) - 1
        };
        if kernel.reads_unwritten {
            // What such a read gives must not depend on earlier blocks.
            self.regs.r32.clear();
            self.regs.r64.clear();
        }
        self.regs.r32.resize(kernel.rows32, [0; 32]);
        self.regs.r64.resize(kernel.rows64, [0; 32]);
        self.regs.preds.clear();
        self.regs.preds.resize(kernel.preds, 0);
        self.regs.preds[usize::from(crate::isa::P_TRUE)] = u32::MAX;
        self.frags.clear();
        self.frags.push(Frag {
            pc: 0,
            mask: self.alive,
            join: NO_JOIN,
            join_pc: NO_JOIN,
            wait: Wait::Ready,
        });
        self.joins.clear();
        self.free_joins.clear();
        self.current = 0;
        self.turn = 0;
        self.spin = Spin::default();
        self.cta = cta;
        self.index = index;
        let first = index * 32;
        let mut at = [
            first % block[0],
            first / block[0] % block[1],
            first / block[0] / block[1],
        ];
        for l in 0..32 {
            for (row, &t) in self.tid.iter_mut().zip(&at) {
                row[l] = t;
            }
            at[0] += 1;
            if at[0] == block[0] {
                at = [0, at[1] + 1, at[2]];
            }
            if at[1] == block[1] {
                at = [at[0], 0, at[2] + 1];
            }
        }
        self.bulk_groups.clear();
        self.bulk_groups.resize(32, 0);
        self.cp_groups.clear();
        self.cp_groups.resize(32, 0);
        self.wgmma_groups = 0;
        self.cluster_arrived = None;
        self.fences = 0;
        self.early = 0;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Barrier {
    pub generation: u32,
    /// Threads that have arrived, in whole warps.
    pub arrived: u32,
    /// Threads that it waits for; 0 while nobody has come.
    pub expected: u32,
    /// The barrier is for all threads of the CTA that still run.
    pub all: bool,
    pub popc: u32,
    pub and: bool,
    pub or: bool,
    pub result: (u32, bool, bool),
}

/// Memory and barriers of one CTA.
#[derive(Debug, Default)]
pub struct Cta {
    pub block: [u32; 3],
    /// The index of the block in the grid.
    pub linear: u64,
    /// Shared memory from shared address 0 on, in words for alignment.
    pub shared: Vec<u64>,
    pub shared_len: u32,
    pub local: Vec<u64>,
    /// Bytes of local memory of one thread.
    pub local_stride: u32,
    pub barriers: [Barrier; BARRIERS],
    /// Warps that have not ended.
    pub warps_alive: u32,
    /// Registers that warps have given back (`setmaxnreg`).
    pub free_registers: u32,
}

impl Cta {
    /// Whether a range of shared memory belongs to the block.
    #[inline(always)]
    pub fn has_shared(&self, offset: u32, len: u64) -> bool {
        offset >= SHARED_START && u64::from(offset) + len <= u64::from(self.shared_len)
    }

    /// The eight bytes at an offset that is a multiple of eight.
    pub fn shared_pair(&self, offset: u32) -> Option<u64> {
        self.has_shared(offset, 8)
            .then(|| self.shared[offset as usize / 8])
    }

    /// Shared memory from shared address 0 on.
    #[inline(always)]
    pub fn shared_words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.shared)
    }

    #[inline(always)]
    pub fn shared_words_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.shared)
    }

    /// The bytes of shared memory from shared address 0 on.
    pub fn shared_bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.shared)[..self.shared_len as usize]
    }

    pub fn shared_bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.shared)[..self.shared_len as usize]
    }

    /// Local memory of all threads, one after the other.
    #[inline(always)]
    pub fn local_words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.local)
    }

    #[inline(always)]
    pub fn local_words_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.local)
    }
}

#[derive(Debug, Default)]
pub struct ClusterBarrier {
    pub generation: u32,
    /// Warps that have arrived in this generation.
    pub arrived: u32,
}

/// Counters of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub instructions: u64,
    pub wgmma: u64,
    pub wgmma_macs: u64,
    pub bulk_bytes: u64,
}

impl Counters {
    pub fn add(&mut self, more: Counters) {
        self.instructions += more.instructions;
        self.wgmma += more.wgmma;
        self.wgmma_macs += more.wgmma_macs;
        self.bulk_bytes += more.bulk_bytes;
    }
}

/// Work in flight of a group.
#[derive(Debug, Default)]
pub struct Flight {
    pub copies: VecDeque<AsyncOp>,
    pub mmas: VecDeque<PendingMma>,
    /// The number of the cluster in its launch.
    pub cluster: u64,
    /// State of the generator for random completion.
    pub random: u64,
    /// Counts events that may let a waiting warp go on.
    pub progress: u64,
}

impl Flight {
    /// xorshift64: a number for random completion.
    pub fn next_random(&mut self) -> u64 {
        let mut x = self.random | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }
}

#[derive(Debug, Default)]
pub struct Group {
    pub ctas: Vec<Cta>,
    pub warps: Vec<Warp>,
    pub flight: Flight,
    pub cluster: ClusterBarrier,
    pub stats: Counters,
    pub watch: crate::schedule::Watch,
    pub scratch: Scratch,
    pub mma: mma::Scratch,
    pub check: Option<Box<Checker>>,
    pub trace: Option<Box<Recorder>>,
}

/// One warp with everything that it may touch.
pub struct Core<'a> {
    pub env: &'a Env<'a>,
    pub w: &'a mut Warp,
    pub ctas: &'a mut [Cta],
    pub flight: &'a mut Flight,
    pub cluster: &'a mut ClusterBarrier,
    pub stats: &'a mut Counters,
    pub mma: &'a mut mma::Scratch,
    pub check: Option<&'a mut Checker>,
    pub trace: Option<&'a mut Recorder>,
}
