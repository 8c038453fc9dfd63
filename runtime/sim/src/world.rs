//! Devices of several nodes that run together.
//!
//! In: how many nodes of how many GPUs. Out: a [`Gpu`] for each rank, which
//! are numbered node by node, and memory at known addresses on all of them.
//! GPUs of one node reach each other's memory by loads and stores (NVLink);
//! from node to node only what NVSHMEM puts travels, into *symmetric* memory.
//! What moved from whom to whom is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::SimError;
use crate::launch::{Gpu, GpuConfig};
use crate::memory::Memory;

/// All ranks of a simulated cluster.
pub struct World {
    gpus: Vec<Gpu>,
    fabric: Arc<Fabric>,
}

/// What went from one rank to another since the counters were last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that kernels of the one wrote into the other's memory over NVLink:
    /// stores, atomics, bulk copies, and puts inside of a node.
    pub nvlink_bytes: u64,
    /// Bytes that they put over the network; of a signal, the eight of its word.
    pub network_bytes: u64,
    /// Puts and signals over the network. A put with a signal is two.
    pub network_messages: u64,
}

#[derive(Debug, Default)]
struct Link {
    nvlink_bytes: AtomicU64,
    network_bytes: AtomicU64,
    network_messages: AtomicU64,
}

/// What the devices of a world know of each other.
#[derive(Debug)]
pub(crate) struct Fabric {
    gpus_per_node: u32,
    pub memories: Vec<Arc<Memory>>,
    symmetric: RwLock<Vec<Symmetric>>,
    /// By source and target.
    links: Vec<Link>,
}

/// Memory that every rank has, at an address of its own.
#[derive(Debug, Clone)]
struct Symmetric {
    addresses: Vec<u64>,
    bytes: u64,
}

impl World {
    /// `nodes` nodes of `gpus_per_node` devices, each as `config` says; at least
    /// one of either.
    pub fn new(nodes: u32, gpus_per_node: u32, config: &GpuConfig) -> World {
        let (nodes, gpus_per_node) = (nodes.max(1), gpus_per_node.max(1));
        let mut gpus: Vec<Gpu> = Vec::new();
        for rank in 0..nodes * gpus_per_node {
            let gpu = match gpus.get((rank / gpus_per_node * gpus_per_node) as usize) {
                Some(first) => first.peer(config.clone()),
                None if rank == 0 => Gpu::new(config.clone()),
                None => gpus[0].on_node(rank / gpus_per_node, config.clone()),
            };
            gpus.push(gpu);
        }
        let ranks = gpus.len();
        let fabric = Arc::new(Fabric {
            gpus_per_node,
            memories: gpus.iter().map(Gpu::shared_memory).collect(),
            symmetric: RwLock::default(),
            links: (0..ranks * ranks).map(|_| Link::default()).collect(),
        });
        for gpu in &mut gpus {
            gpu.join_fabric(&fabric);
        }
        World { gpus, fabric }
    }

    pub fn ranks(&self) -> usize {
        self.gpus.len()
    }

    /// The node of a rank.
    pub fn node_of(&self, rank: usize) -> usize {
        rank / self.fabric.gpus_per_node as usize
    }

    /// The device of a rank.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn gpu(&self, rank: usize) -> &Gpu {
        &self.gpus[rank]
    }

    /// Symmetric memory: `bytes` bytes on every rank, zero (and known to be);
    /// the address on each.
    ///
    /// # Errors
    /// When a device has no room for them; then nothing is allocated.
    pub fn symmetric(&self, bytes: u64) -> Result<Vec<u64>, SimError> {
        let mut addresses = Vec::new();
        for gpu in &self.gpus {
            match gpu.alloc(bytes, 256) {
                Ok(at) => addresses.push(at),
                Err(error) => {
                    for (gpu, &at) in self.gpus.iter().zip(&addresses) {
                        gpu.free(at)?;
                    }
                    return Err(error);
                }
            }
        }
        for (gpu, &at) in self.gpus.iter().zip(&addresses) {
            gpu.note_written(at, bytes);
        }
        let found = Symmetric {
            addresses: addresses.clone(),
            bytes,
        };
        self.fabric.edit().push(found);
        Ok(addresses)
    }

    /// Gives symmetric memory back, by its address on any rank.
    ///
    /// # Errors
    /// When no symmetric memory begins there.
    pub fn free_symmetric(&self, address: u64) -> Result<(), SimError> {
        let mut all = self.fabric.edit();
        let at = all.iter().position(|s| s.addresses.contains(&address));
        let at = at.ok_or_else(|| {
            SimError::Memory(format!("no symmetric memory starts at {address:#x}"))
        })?;
        let gone = all.swap_remove(at);
        let each = self.gpus.iter().zip(gone.addresses);
        each.into_iter().try_for_each(|(gpu, at)| gpu.free(at))
    }

    /// What rank `from` moved into the memory of rank `to`.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn traffic(&self, from: usize, to: usize) -> Traffic {
        let link = &self.fabric.links[from * self.ranks() + to];
        Traffic {
            nvlink_bytes: link.nvlink_bytes.load(Ordering::Relaxed),
            network_bytes: link.network_bytes.load(Ordering::Relaxed),
            network_messages: link.network_messages.load(Ordering::Relaxed),
        }
    }

    /// Sets all counters to zero.
    pub fn reset_traffic(&self) {
        for link in &self.fabric.links {
            link.nvlink_bytes.store(0, Ordering::Relaxed);
            link.network_bytes.store(0, Ordering::Relaxed);
            link.network_messages.store(0, Ordering::Relaxed);
        }
    }
}

impl Fabric {
    pub fn ranks(&self) -> u32 {
        self.memories.len() as u32
    }

    pub fn same_node(&self, a: u32, b: u32) -> bool {
        a / self.gpus_per_node == b / self.gpus_per_node
    }

    fn edit(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Symmetric>> {
        // A list of plain values is whole whatever happened elsewhere.
        self.symmetric
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `len` bytes at a symmetric address of rank `own` lie on rank `pe`.
    pub fn translate(&self, own: u32, pe: u32, address: u64, len: u64) -> Option<u64> {
        let all = self
            .symmetric
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter().find_map(|s| {
            let offset = address.checked_sub(*s.addresses.get(own as usize)?)?;
            let inside = offset < s.bytes && offset.checked_add(len)? <= s.bytes;
            inside.then(|| s.addresses[pe as usize] + offset)
        })
    }

    /// The rank whose memory an address is.
    pub fn owner(&self, address: u64) -> Option<u32> {
        let owner = |m: &Arc<Memory>| m.view().find(address).and_then(|a| a.owner);
        self.memories.iter().find_map(owner)
    }

    /// A kernel of `from` has written memory of `to`, by whatever way.
    pub fn count_nvlink(&self, from: u32, to: u32, bytes: u64) {
        let link = &self.links[(from * self.ranks() + to) as usize];
        link.nvlink_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A put or a signal is on its way.
    pub fn count_put(&self, from: u32, to: u32, bytes: u64) {
        if self.same_node(from, to) {
            return self.count_nvlink(from, to, bytes);
        }
        let link = &self.links[(from * self.ranks() + to) as usize];
        link.network_bytes.fetch_add(bytes, Ordering::Relaxed);
        link.network_messages.fetch_add(1, Ordering::Relaxed);
    }
}
