//! Amounts: times that add up exactly, what one op moves, and what takes longest of it.
//!
//! In: an op's bytes and its times on each unit (`mod.rs` counts them). Out: its cost for the results that are used, and
//! what bounds it.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use serde::Serialize;

/// Femtoseconds: a byte of HBM3 takes some 300. Wide enough for sums of any graph, which stay exact.
pub(in crate::egraph) type Femtoseconds = i128;

const FS_PER_S: u128 = 1_000_000_000_000_000;

/// Estimated cost; compared by time, then by number of ops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::egraph) struct Cost {
    pub(in crate::egraph) time: Femtoseconds,
    pub(in crate::egraph) ops: i128,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            time: self.time + other.time,
            ops: self.ops + other.ops,
        }
    }
}

impl Sub for Cost {
    type Output = Cost;
    fn sub(self, other: Cost) -> Cost {
        Cost {
            time: self.time - other.time,
            ops: self.ops - other.ops,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}

impl SubAssign for Cost {
    fn sub_assign(&mut self, other: Cost) {
        *self = *self - other;
    }
}

/// What can bound an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Kernel launches.
    Launch,
    /// Device memory.
    Hbm,
    /// The second-level cache.
    L2,
    /// Tensor cores.
    Tensor,
    /// FP32 arithmetic.
    Vector,
    /// Special functions.
    Special,
    /// NVLink.
    Nvlink,
    /// InfiniBand.
    Ib,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Launch => "launch",
            Self::Hbm => "hbm",
            Self::L2 => "l2",
            Self::Tensor => "tensor",
            Self::Vector => "vector",
            Self::Special => "special",
            Self::Nvlink => "nvlink",
            Self::Ib => "ib",
        })
    }
}

/// Bytes of one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::egraph) struct Write {
    pub(in crate::egraph) bytes: u64,
    /// Whether they go to device memory: too many to wait in the L2 for the op that reads them.
    pub(in crate::egraph) far: bool,
}

/// What one op moves and computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::egraph) struct OpCost {
    /// Kernels that it becomes.
    pub(in crate::egraph) launches: u64,
    /// Bytes read.
    pub(in crate::egraph) reads: u64,
    /// Those of them that come from device memory.
    pub(in crate::egraph) far_reads: u64,
    /// Bytes written for each result; a result that nobody uses is not written.
    pub(in crate::egraph) writes: Vec<Write>,
    /// Bytes that a rank sends inside of its node.
    pub(in crate::egraph) nvlink_bytes: u64,
    /// Bytes that a rank sends to other nodes.
    pub(in crate::egraph) ib_bytes: u64,
    /// Times that do not depend on which results are used.
    pub(super) fixed: Vec<(Bound, Femtoseconds)>,
    /// Time for launches.
    pub(super) overhead: Femtoseconds,
    pub(super) hbm_bytes_per_s: u64,
    pub(super) l2_bytes_per_s: u64,
}

impl OpCost {
    /// Bytes of global memory moved when only these results are used.
    pub(in crate::egraph) fn bytes(&self, used: impl Fn(usize) -> bool) -> u64 {
        self.sum(self.reads, |result, _| used(result))
    }

    /// Those of them that go from or to device memory.
    pub(in crate::egraph) fn far_bytes(&self, used: impl Fn(usize) -> bool) -> u64 {
        self.sum(self.far_reads, |result, write| write.far && used(result))
    }

    /// An op with that many results that takes so long, whichever of them are used, and a nanosecond for each of them
    /// that is, where there are several.
    #[cfg(test)]
    pub(in crate::egraph) fn of_ns(ns: u64, results: usize) -> OpCost {
        let bytes = if results > 1 { 1 } else { 0 };
        let write = Write { bytes, far: true };
        OpCost {
            writes: vec![write; results],
            overhead: i128::from(ns) * 1_000_000,
            hbm_bytes_per_s: 1_000_000_000,
            l2_bytes_per_s: 1_000_000_000,
            ..OpCost::default()
        }
    }

    fn sum(&self, reads: u64, of: impl Fn(usize, &Write) -> bool) -> u64 {
        let writes = self.writes.iter().enumerate();
        let of = writes.filter(|(result, write)| of(*result, write));
        of.fold(reads, |sum, (_, write)| sum.saturating_add(write.bytes))
    }

    /// What takes longest when only these results are used, and its time; launches go before.
    pub(in crate::egraph) fn longest(&self, used: impl Fn(usize) -> bool) -> (Bound, Femtoseconds) {
        let hbm = femtoseconds(self.far_bytes(&used), self.hbm_bytes_per_s);
        let l2 = femtoseconds(self.bytes(&used), self.l2_bytes_per_s);
        let mut longest = if l2 > hbm {
            (Bound::L2, l2)
        } else {
            (Bound::Hbm, hbm)
        };
        for (bound, time) in &self.fixed {
            if *time > longest.1 {
                longest = (*bound, *time);
            }
        }
        longest
    }

    /// What to blame for the op's time.
    pub(in crate::egraph) fn bound(&self, used: impl Fn(usize) -> bool) -> Bound {
        let (bound, time) = self.longest(used);
        if self.overhead > time {
            Bound::Launch
        } else {
            bound
        }
    }

    /// Cost when only these results are used.
    pub(in crate::egraph) fn total(&self, used: impl Fn(usize) -> bool) -> Cost {
        Cost {
            time: self.overhead + self.longest(used).1,
            ops: 1,
        }
    }
}

/// Launches, bytes and time of several ops together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Kernel launches.
    pub launches: i64,
    /// Bytes of global memory.
    pub bytes: i64,
    /// Bytes that a rank sends inside of its node.
    pub nvlink_bytes: i64,
    /// Bytes that a rank sends to other nodes.
    pub ib_bytes: i64,
    /// Femtoseconds.
    pub time: i128,
}

impl Sums {
    /// Adds an op of which these results are used.
    pub(in crate::egraph) fn add(&mut self, op: &OpCost, used: impl Fn(usize) -> bool) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.launches = self.launches.saturating_add(signed(op.launches));
        self.bytes = self.bytes.saturating_add(signed(op.bytes(&used)));
        self.nvlink_bytes = self.nvlink_bytes.saturating_add(signed(op.nvlink_bytes));
        self.ib_bytes = self.ib_bytes.saturating_add(signed(op.ib_bytes));
        self.time += op.total(used).time;
    }
}

impl Sub for Sums {
    type Output = Sums;
    fn sub(self, other: Sums) -> Sums {
        Sums {
            launches: self.launches - other.launches,
            bytes: self.bytes.saturating_sub(other.bytes),
            nvlink_bytes: self.nvlink_bytes.saturating_sub(other.nvlink_bytes),
            ib_bytes: self.ib_bytes.saturating_sub(other.ib_bytes),
            time: self.time - other.time,
        }
    }
}

/// Time for so many units at so many a second.
pub(super) fn femtoseconds(amount: u64, per_s: u64) -> Femtoseconds {
    let time = u128::from(amount) * FS_PER_S / u128::from(per_s.max(1));
    i128::try_from(time).unwrap_or(i128::MAX)
}
