//! Vector clocks: what a thread knows to have happened.
//!
//! A clock is one count for each *slot*. A slot stands for one thread's plain
//! accesses, for one thread's `cp.async` or bulk groups, for the tensor core of
//! a warpgroup, or for an mbarrier, whose count is the number of its completed
//! phases (Lamport 1978; Fidge 1988; slots for asynchronous engines are ours).
//! An access is stamped with a slot and a count; whoever's clock has reached
//! that count comes after it.
//!
//! Of other clusters a thread knows what it was told through global memory:
//! one clock for each, in [`Far`]. Of launches that have ended it is enough to
//! know just that ([`Ended`]), so that clocks of their clusters are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::isa::Scope;

/// Device and launch stand above the number of a cluster, so that all clusters
/// that run together differ.
const DEVICE_SHIFT: u32 = 52;
const LAUNCH_SHIFT: u32 = 32;

/// The cluster of one launch of one device, among all that run together.
pub fn cluster_of(device: usize, launch: usize, cluster: u64) -> u64 {
    (device as u64) << DEVICE_SHIFT | (launch as u64) << LAUNCH_SHIFT | cluster
}

/// Device, launch and number of a cluster.
pub fn parts_of(cluster: u64) -> (usize, usize, u64) {
    let device = (cluster >> DEVICE_SHIFT) as usize;
    let launch = (cluster >> LAUNCH_SHIFT) & ((1 << (DEVICE_SHIFT - LAUNCH_SHIFT)) - 1);
    (device, launch as usize, cluster & ((1 << LAUNCH_SHIFT) - 1))
}

pub fn device_of(cluster: u64) -> usize {
    parts_of(cluster).0
}

/// The least scope that takes in two threads, by their clusters and ranks.
pub fn scope_of(a: (u64, u8), b: (u64, u8)) -> Scope {
    if device_of(a.0) != device_of(b.0) {
        Scope::Sys
    } else if a.0 != b.0 {
        Scope::Gpu
    } else if a.1 != b.1 {
        Scope::Cluster
    } else {
        Scope::Cta
    }
}

/// Where the slots of a cluster's threads and engines begin. Slots of
/// mbarriers follow, as they are initialised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    /// Warps of the cluster.
    pub warps: u32,
    /// As many, where the kernel puts, or else 0.
    pub puts: u32,
}

impl Slots {
    /// Plain accesses of lane 0 of a warp; the other lanes follow.
    pub fn threads(self, warp: u32) -> u32 {
        32 * warp
    }

    /// Strong writes of lane 0 of a warp: a fence lets one of them tell of what
    /// came before the fence and of itself, but not of what lies in between.
    pub fn strong(self, warp: u32) -> u32 {
        32 * (self.warps + warp)
    }

    /// The tensor core of the warpgroup that a warp belongs to.
    pub fn tensor_core(self, warp: u32) -> u32 {
        64 * self.warps + warp / 4
    }

    fn after_tensor_cores(self) -> u32 {
        64 * self.warps + self.warps.div_ceil(4).next_multiple_of(8)
    }

    /// `cp.async` groups of lane 0 of a warp.
    pub fn cp_async(self, warp: u32) -> u32 {
        self.after_tensor_cores() + 32 * warp
    }

    /// Bulk groups of lane 0 of a warp, as far as they read their source.
    pub fn bulk_read(self, warp: u32) -> u32 {
        self.after_tensor_cores() + 32 * (self.warps + warp)
    }

    /// Bulk groups of lane 0 of a warp, done.
    pub fn bulk_done(self, warp: u32) -> u32 {
        self.after_tensor_cores() + 32 * (2 * self.warps + warp)
    }

    fn after_groups(self) -> u32 {
        self.after_tensor_cores() + 96 * self.warps
    }

    /// The first put of a warp to another rank; the next ones follow, each 32nd
    /// in the same slot.
    pub fn put(self, warp: u32) -> u32 {
        self.after_groups() + 32 * warp
    }

    /// The same puts, as far as they read their source.
    pub fn put_source(self, warp: u32) -> u32 {
        self.after_groups() + 32 * (self.puts + warp)
    }

    /// The first mbarrier's slot. Last, so that clocks grow only at their end.
    pub fn mbarriers(self) -> u32 {
        self.after_groups() + 64 * self.puts
    }

    /// What a slot stands for.
    pub fn owner(self, slot: u32) -> Owner {
        let (w, after) = (self.warps, self.after_tensor_cores());
        if slot < 64 * w {
            Owner::Threads {
                warp: slot / 32 % w,
            }
        } else if slot < after {
            Owner::TensorCore {
                warpgroup: slot - 64 * w,
            }
        } else if slot < self.after_groups() {
            let at = slot - after;
            let warp = at / 32 % w;
            match at / (32 * w) {
                0 => Owner::CpAsync { warp },
                1 => Owner::BulkRead { warp },
                _ => Owner::BulkDone { warp },
            }
        } else if slot < self.after_groups() + 32 * self.puts {
            let warp = (slot - self.after_groups()) / 32;
            Owner::Put { warp }
        } else if slot < self.mbarriers() {
            let warp = (slot - self.after_groups()) / 32 - self.puts;
            Owner::PutSource { warp }
        } else {
            Owner::Mbarrier {
                index: slot - self.mbarriers(),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Threads { warp: u32 },
    TensorCore { warpgroup: u32 },
    CpAsync { warp: u32 },
    BulkRead { warp: u32 },
    BulkDone { warp: u32 },
    Put { warp: u32 },
    PutSource { warp: u32 },
    Mbarrier { index: u32 },
}

/// Counts of slots; those beyond the end are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock(Vec<u32>);

impl Clock {
    #[inline(always)]
    pub fn get(&self, slot: u32) -> u32 {
        self.0.get(slot as usize).copied().unwrap_or(0)
    }

    fn reach(&mut self, len: usize) {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
    }

    /// Raises the counts of `lanes` from `slot` on to at least `count`.
    pub fn raise(&mut self, slot: u32, lanes: u32, count: u32) {
        let top = 32 - lanes.leading_zeros();
        self.reach((slot + top) as usize);
        let row = &mut self.0[slot as usize..];
        for (l, x) in row.iter_mut().take(top as usize).enumerate() {
            if lanes >> l & 1 != 0 {
                *x = (*x).max(count);
            }
        }
    }

    pub fn join(&mut self, other: &Clock) {
        self.reach(other.0.len());
        for (a, &b) in self.0.iter_mut().zip(&other.0) {
            *a = (*a).max(b);
        }
    }

    /// Whether joining `other` would change nothing.
    fn contains(&self, other: &Clock) -> bool {
        let both = self.0.len().min(other.0.len());
        let (shared, rest) = other.0.split_at(both);
        // Without an early end, so that it is vector code.
        let less = |n: bool, (a, b): (&u32, &u32)| n | (a < b);
        !self.0.iter().zip(shared).fold(false, less) && rest.iter().all(|&b| b == 0)
    }

    /// Whether the accesses of `lanes` at `count` are known.
    #[inline(always)]
    pub fn covers(&self, slot: u32, lanes: u32, count: u32) -> bool {
        if lanes & lanes.wrapping_sub(1) == 0 {
            return lanes == 0 || self.get(slot + lanes.trailing_zeros()) >= count;
        }
        let mut rest = lanes;
        while rest != 0 {
            if self.get(slot + rest.trailing_zeros()) < count {
                return false;
            }
            rest &= rest - 1;
        }
        true
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// A clock, and the parts of it that proxy fences have passed on to the
/// asynchronous proxy: for shared memory, and for global memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub happened: Clock,
    pub fenced: [Clock; 2],
}

impl View {
    pub fn join(&mut self, other: &View) {
        self.happened.join(&other.happened);
        for (a, b) in self.fenced.iter_mut().zip(&other.fenced) {
            a.join(b);
        }
    }

    fn contains(&self, other: &View) -> bool {
        let mut fenced = self.fenced.iter().zip(&other.fenced);
        self.happened.contains(&other.happened) && fenced.all(|(a, b)| a.contains(b))
    }
}

/// What is known of other clusters, by their number in the launch.
pub type Far = BTreeMap<u64, Arc<View>>;

/// Launches that are known to have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// By device: so many of its launches, from the first on.
    counts: Vec<u32>,
    /// Launches, as their first cluster, that ended with puts under way.
    loose: Vec<u64>,
}

impl Ended {
    /// `launch` of `device` and those before it have ended, this one with puts
    /// under way if `loose`.
    pub fn note(&mut self, device: usize, launch: usize, loose: bool) {
        if self.counts.len() <= device {
            self.counts.resize(device + 1, 0);
        }
        self.counts[device] = self.counts[device].max(launch as u32 + 1);
        if loose {
            self.loose.push(cluster_of(device, launch, 0));
            self.loose.sort_unstable();
        }
    }

    fn join(&mut self, other: &Ended) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (a, &b) in self.counts.iter_mut().zip(&other.counts) {
            *a = (*a).max(b);
        }
        if self.loose != other.loose {
            self.loose.extend_from_slice(&other.loose);
            self.loose.sort_unstable();
            self.loose.dedup();
        }
    }

    /// Whether all that a cluster's threads and engines did is over; of its
    /// puts, whether they are.
    pub fn covers(&self, cluster: u64, put: bool) -> bool {
        let (device, launch, _) = parts_of(cluster);
        let ended = self
            .counts
            .get(device)
            .is_some_and(|&n| n as usize > launch);
        ended && !(put && self.is_loose(device, launch))
    }

    fn is_loose(&self, device: usize, launch: usize) -> bool {
        let first = cluster_of(device, launch, 0);
        self.loose.binary_search(&first).is_ok()
    }
}

/// Knowledge that a release hands to an acquire.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edge {
    pub view: View,
    pub far: Option<Arc<Far>>,
    pub ended: Option<Arc<Ended>>,
}

impl Edge {
    pub fn join(&mut self, other: &Edge) {
        self.view.join(&other.view);
        join_far(&mut self.far, other.far.as_ref());
        join_ended(&mut self.ended, other.ended.as_ref());
    }

    /// Forgets clusters of which it is enough to know that they have ended.
    pub fn prune(&mut self) {
        if let (Some(far), Some(ended)) = (&mut self.far, &self.ended)
            && far.keys().any(|&c| ended.covers(c, true))
        {
            Arc::make_mut(far).retain(|&c, _| !ended.covers(c, true));
        }
    }

    pub fn clear(&mut self) {
        self.view.happened.clear();
        self.view.fenced.iter_mut().for_each(Clock::clear);
        self.far = None;
        self.ended = None;
    }
}

pub fn join_ended(into: &mut Option<Arc<Ended>>, from: Option<&Arc<Ended>>) {
    let Some(from) = from else { return };
    match into {
        None => *into = Some(Arc::clone(from)),
        Some(into) if Arc::ptr_eq(into, from) || **into == **from => {}
        Some(into) => Arc::make_mut(into).join(from),
    }
}

/// Whether `known` has all that `other` has.
fn contains_far(known: &Far, other: &Far) -> bool {
    other.iter().all(|(cluster, view)| {
        let mine = known.get(cluster);
        mine.is_some_and(|mine| Arc::ptr_eq(mine, view) || mine.contains(view))
    })
}

/// Adds knowledge of other clusters. Where the one has all that the other has, both are one afterwards: knowledge goes
/// round among clusters, and most joins find what they have given away before.
pub fn join_far(into: &mut Option<Arc<Far>>, from: Option<&Arc<Far>>) {
    let Some(from) = from else { return };
    let Some(into) = into else {
        *into = Some(Arc::clone(from));
        return;
    };
    if Arc::ptr_eq(into, from) || contains_far(into, from) {
        return;
    }
    if contains_far(from, into) {
        *into = Arc::clone(from);
        return;
    }
    let into = Arc::make_mut(into);
    for (&cluster, view) in from.iter() {
        match into.get_mut(&cluster) {
            Some(known) if Arc::ptr_eq(known, view) || known.contains(view) => {}
            Some(known) if view.contains(known) => *known = Arc::clone(view),
            Some(known) => Arc::make_mut(known).join(view),
            None => {
                into.insert(cluster, Arc::clone(view));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_owner() {
        let s = Slots { warps: 6, puts: 6 };
        assert_eq!(s.owner(s.threads(5) + 31), Owner::Threads { warp: 5 });
        assert_eq!(s.owner(s.strong(5) + 31), Owner::Threads { warp: 5 });
        let core = Owner::TensorCore { warpgroup: 1 };
        assert_eq!(s.owner(s.tensor_core(5)), core);
        assert_eq!(s.owner(s.cp_async(0)), Owner::CpAsync { warp: 0 });
        assert_eq!(s.owner(s.bulk_read(3) + 7), Owner::BulkRead { warp: 3 });
        assert_eq!(s.owner(s.bulk_done(5) + 31), Owner::BulkDone { warp: 5 });
        assert_eq!(s.owner(s.put(0)), Owner::Put { warp: 0 });
        assert_eq!(s.owner(s.put(5) + 31), Owner::Put { warp: 5 });
        assert_eq!(s.owner(s.put_source(0)), Owner::PutSource { warp: 0 });
        assert_eq!(s.owner(s.put_source(5)), Owner::PutSource { warp: 5 });
        assert_eq!(s.owner(s.mbarriers()), Owner::Mbarrier { index: 0 });
        let without = Slots { puts: 0, ..s };
        let barrier = Owner::Mbarrier { index: 0 };
        assert_eq!(without.owner(without.bulk_done(5) + 32), barrier);
    }

    #[test]
    fn what_has_ended_needs_no_clock() {
        let mut a = Ended::default();
        a.note(2, 5, false);
        a.note(2, 6, true);
        let cluster = |launch| cluster_of(2, launch, 99);
        assert_eq!(parts_of(cluster(6)), (2, 6, 99));
        assert!(a.covers(cluster(5), true) && a.covers(cluster(6), false));
        assert!(!a.covers(cluster(6), true) && !a.covers(cluster(7), false));
        assert!(!a.covers(cluster_of(1, 0, 0), false));
        let mut edge = Edge {
            ended: Some(Arc::new(a)),
            ..Edge::default()
        };
        let view = Arc::new(View::default());
        let far = [cluster(5), cluster(6), cluster(7)].map(|c| (c, Arc::clone(&view)));
        edge.far = Some(Arc::new(Far::from(far)));
        edge.prune();
        let left: Vec<u64> = edge.far.iter().flat_map(|f| f.keys().copied()).collect();
        assert_eq!(left, [cluster(6), cluster(7)]);
    }

    #[test]
    fn joined_clocks_know_what_either_knew() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.raise(0, 0b101, 3);
        b.raise(64, 1, 9);
        b.raise(0, 0b110, 2);
        a.join(&b);
        assert!(a.covers(0, 0b101, 3) && a.covers(0, 0b111, 2) && a.covers(64, 1, 9));
        assert!(!a.covers(0, 0b010, 3) && !a.covers(64, 1, 10) && !a.covers(1000, 1, 1));
        assert!(a.covers(0, 0, 99));
    }
}
