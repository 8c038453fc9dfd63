//! What the launches that run together share, and the order among them.
//!
//! In: the launches of each device, in order; accesses of global memory by
//! their blocks. A launch begins when the one before it on its device has
//! ended: it knows all that happened there, and what the blocks of that launch
//! knew of other devices. Of launches that have ended nothing but this is kept,
//! unless puts of theirs are under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::{Edge, Ended, Slots, parts_of};
use super::global::{Initialised, Pages, Vars};
use super::know::{Reader, abroad};
use super::shadow::{Conflict, Stamp};
use crate::exec::state::{Group, block_of};
use crate::isa::Kernel;

/// A launch, as far as findings have to name it.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    pub kernel: &'a Kernel,
    pub lines: &'a [String],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
}

impl Shape<'_> {
    pub fn slots(&self) -> Slots {
        slots(self.kernel, self.block, self.cluster)
    }

    pub fn warps_per_cta(&self) -> u32 {
        self.block.iter().product::<u32>().div_ceil(32)
    }

    pub fn block_of(&self, cluster: u64, rank: u32) -> [u32; 3] {
        block_of(self.grid, self.cluster, cluster, rank)
    }

    /// The PTX line of an instruction, and what stands there.
    pub fn line(&self, pc: u32) -> (u32, String) {
        let line = self.kernel.lines.get(pc as usize).copied().unwrap_or(0);
        let text = self.lines.get((line as usize).wrapping_sub(1));
        (line, text.cloned().unwrap_or_default())
    }
}

/// The slots of one cluster of a launch.
pub fn slots(kernel: &Kernel, block: [u32; 3], cluster: [u32; 3]) -> Slots {
    let warps = block.iter().product::<u32>().div_ceil(32) * cluster.iter().product::<u32>();
    Slots {
        warps,
        puts: if kernel.puts { warps } else { 0 },
    }
}

/// What the checkers of all blocks share.
#[derive(Debug)]
pub struct LaunchCheck<'a> {
    pages: Pages<'a>,
    pub vars: Vars,
    /// By device and launch.
    shapes: Vec<Vec<Shape<'a>>>,
    /// By device.
    known: Vec<Mutex<Known>>,
}

/// What a device's launches know when they begin.
#[derive(Debug, Default)]
struct Known {
    begin: Edge,
    /// Of the blocks of the running launch that have ended.
    end: Edge,
    /// One of them did not wait for its puts.
    loose: bool,
}

fn lock(m: &Mutex<Known>) -> MutexGuard<'_, Known> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> LaunchCheck<'a> {
    /// `shapes` has the launches of each device.
    pub fn new(initialised: &'a Initialised, shapes: Vec<Vec<Shape<'a>>>) -> LaunchCheck<'a> {
        LaunchCheck {
            pages: Pages::new(initialised),
            vars: Vars::default(),
            known: shapes.iter().map(|_| Mutex::default()).collect(),
            shapes,
        }
    }

    /// Checks and records an access of one cell.
    pub fn access(
        &self,
        cell: u64,
        stamp: Stamp,
        reader: &Reader<'_>,
        uses: bool,
    ) -> Result<(), Conflict> {
        self.pages.access(cell, stamp, reader, uses)
    }

    /// The launch of a cluster.
    pub fn shape(&self, cluster: u64) -> Option<&Shape<'a>> {
        let (device, launch, _) = parts_of(cluster);
        self.shapes.get(device)?.get(launch)
    }

    /// What a block of a device's next launch knows.
    pub fn begin(&self, device: usize) -> Edge {
        let known = self.known.get(device).map(lock);
        known.map(|k| k.begin.clone()).unwrap_or_default()
    }

    /// A device's launch has ended with all of its blocks.
    pub fn launch_ended(&self, device: usize, launch: usize) {
        let Some(known) = self.known.get(device) else {
            return;
        };
        let mut known = lock(known);
        let mut edge = std::mem::take(&mut known.end);
        edge.join(&known.begin);
        let ended: &mut Ended = Arc::make_mut(edge.ended.get_or_insert_default());
        ended.note(device, launch, std::mem::take(&mut known.loose));
        edge.prune();
        known.begin = edge;
    }
}

impl Group {
    /// A cluster has ended: what it knows, the next launch of its device will.
    pub fn check_cluster_ended(&mut self, check: &LaunchCheck<'_>, device: usize) {
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let Some(known) = check.known.get(device) else {
            return;
        };
        let loose = ck.puts.iter().any(|p| p.loose());
        let mut all = Edge::default();
        for know in &mut ck.know {
            all.join(&know.release(u32::MAX));
        }
        // Its own clock need not be kept: the launch has ended. Puts that are under way may be known of by no other.
        let all = if loose {
            abroad(&all, ck.cluster)
        } else {
            Edge {
                far: all.far,
                ended: all.ended,
                ..Edge::default()
            }
        };
        let mut known = lock(known);
        known.loose |= loose;
        known.end.join(&all);
    }
}
