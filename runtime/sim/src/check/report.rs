//! What the checkers found, in words: which two accesses, whose, and what is
//! missing between them.

use std::fmt;

use super::Checker;
use super::clock::{Owner, device_of, parts_of};
use super::shadow::{Conflict, IN_FLIGHT, Stamp};
use crate::error::{FaultKind, Trouble, trouble};
use crate::exec::state::Env;

/// The kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Two accesses of the same bytes, one of them a write, in no order.
    Race,
    /// A write through the generic proxy that the asynchronous one may not see.
    ProxyFence,
    /// Bytes are used that nothing has written.
    Uninitialised,
    /// An mbarrier's bytes are touched by other than its instructions, or it is
    /// initialised again while it is in use.
    BarrierObject,
    /// An mbarrier is used where its initialisation need not be visible.
    BarrierInit,
    /// Registers reach `wgmma` without `wgmma.fence`.
    WgmmaFence,
    /// Registers of a `wgmma` in flight are used.
    WgmmaInFlight,
    /// A block ends while asynchronous work still uses its memory.
    EndsEarly,
    /// The bytes that an mbarrier expects and those that come differ.
    TransactionBytes,
}

/// A finding of the checkers. The instruction that runs into it stands in the
/// fault that carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Race {
    pub rule: Rule,
    /// Where, when it is in memory.
    pub place: Option<Place>,
    /// What the instruction does there.
    pub does: String,
    /// The other access.
    pub other: Option<Other>,
    /// What is missing between them, and what to do.
    pub missing: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub space: &'static str,
    pub address: u64,
    pub bytes: u32,
}

/// The earlier access, or instruction, of a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Other {
    pub line: u32,
    pub text: String,
    /// Threads or engine.
    pub who: String,
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.rule {
            Rule::Race => "race",
            Rule::ProxyFence => "missing fence.proxy.async",
            Rule::Uninitialised => "uninitialised memory",
            Rule::BarrierObject => "mbarrier object",
            Rule::BarrierInit => "mbarrier initialisation",
            Rule::WgmmaFence => "missing wgmma.fence",
            Rule::WgmmaInFlight => "wgmma in flight",
            Rule::EndsEarly => "asynchronous work outlives its block",
            Rule::TransactionBytes => "transaction bytes",
        };
        write!(f, "{name}: ")?;
        if let Some(p) = self.place {
            let Place {
                space,
                address,
                bytes,
            } = p;
            write!(f, "{space} address {address:#x} ({bytes} bytes) ")?;
        }
        f.write_str(&self.does)?;
        if let Some(o) = &self.other {
            write!(
                f,
                "; before, {} at PTX line {}: `{}`",
                o.who, o.line, o.text
            )?;
        }
        write!(f, "; {}", self.missing)
    }
}

pub fn finding(lane: Option<u32>, pc: Option<u32>, race: Race) -> Box<Trouble> {
    let mut t = trouble(lane, FaultKind::Race(Box::new(race)));
    t.pc = pc;
    t
}

fn lanes(mask: u32) -> String {
    match mask.count_ones() {
        1 => format!("lane {}", mask.trailing_zeros()),
        32 => "all lanes".into(),
        _ => format!("lanes {mask:#010x}"),
    }
}

impl Checker {
    /// An instruction of the kernel that runs, and who executed it.
    pub fn other(&self, env: &Env<'_>, pc: u32, who: String) -> Other {
        let line = env.kernel.lines.get(pc as usize).copied().unwrap_or(0);
        Other {
            line,
            text: env.text(line),
            who,
        }
    }

    /// The instruction that made an access, maybe one of another kernel, and
    /// who executed it.
    fn other_access(&self, env: &Env<'_>, s: &Stamp) -> Other {
        let who = self.who(env, s);
        match env.check.and_then(|c| c.shape(s.cluster)) {
            Some(shape) => {
                let (line, text) = shape.line(s.pc);
                Other { line, text, who }
            }
            None => self.other(env, s.pc, who),
        }
    }

    fn warp(&self, env: &Env<'_>, stamp: &Stamp, warp: u32) -> String {
        let (device, launch, cluster) = parts_of(stamp.cluster);
        let shape = env.check.and_then(|c| c.shape(stamp.cluster));
        let (per_cta, block) = match shape {
            Some(s) => {
                let per_cta = s.warps_per_cta().max(1);
                (per_cta, s.block_of(cluster, warp / per_cta))
            }
            None => {
                let per_cta = self.warps_per_cta.max(1);
                (per_cta, env.block_of(cluster, warp / per_cta))
            }
        };
        let mut block = format!("block ({}, {}, {})", block[0], block[1], block[2]);
        if let Some(s) = shape
            && (device, launch) != (env.device, env.launch)
        {
            block = format!("{block} of kernel `{}`", s.kernel.name);
        }
        if device != env.device {
            block = format!("{block} of device {device}");
        }
        format!("warp {} of {block}", warp % per_cta)
    }

    /// What a slot of an access stands for.
    fn owner(&self, env: &Env<'_>, s: &Stamp) -> Owner {
        let shape = env.check.and_then(|c| c.shape(s.cluster));
        let slots = shape.map_or(self.slots, |shape| shape.slots());
        slots.owner(s.slot)
    }

    /// Who made an access.
    pub(super) fn who(&self, env: &Env<'_>, s: &Stamp) -> String {
        let does = if s.writes { "written" } else { "read" };
        let atomically = if s.strong.is_some() {
            " (strongly)"
        } else {
            ""
        };
        let l = lanes(s.lanes);
        match self.owner(env, s) {
            Owner::Threads { warp } => {
                format!("{does}{atomically} by {l} of {}", self.warp(env, s, warp))
            }
            Owner::TensorCore { warpgroup } => format!(
                "{does} by the tensor core for {}",
                self.warp(env, s, 4 * warpgroup)
            ),
            Owner::CpAsync { warp } => {
                format!("{does} by cp.async of {l} of {}", self.warp(env, s, warp))
            }
            Owner::BulkRead { warp } | Owner::BulkDone { warp } => format!(
                "{does} by the bulk copy that {l} of {} issued",
                self.warp(env, s, warp)
            ),
            Owner::Put { warp } | Owner::PutSource { warp } => {
                format!("{does} by a put of {}", self.warp(env, s, warp))
            }
            Owner::Mbarrier { .. } => format!("{does} by the bulk load issued"),
        }
    }

    fn missing(&self, env: &Env<'_>, old: &Stamp, new: &Stamp) -> String {
        if old.strong.is_some() && new.strong.is_some() {
            return "both are strong, but the scope of one does not take in the other's thread"
                .into();
        }
        match self.owner(env, old) {
            Owner::Mbarrier { .. } => {
                let barrier = self.mbars.of_slot(old.slot);
                let at = barrier.map_or_else(String::new, |m| {
                    format!(" at shared address {:#x}", m.offset)
                });
                let when = if old.count == IN_FLIGHT {
                    "the load has not completed".into()
                } else {
                    format!("its bytes complete phase {}", old.count - 1)
                };
                format!(
                    "{when}: this thread has not waited for that phase of the mbarrier{at}, nor heard of it from one that has"
                )
            }
            Owner::TensorCore { .. } => {
                "wgmma.wait_group for its group, and a barrier or an arrive from those who waited, are missing".into()
            }
            Owner::BulkRead { .. } => {
                "cp.async.bulk.wait_group.read by the thread that issued it, and an edge from there, are missing".into()
            }
            Owner::BulkDone { .. } => {
                "cp.async.bulk.wait_group by the thread that issued it, and an edge from there, are missing".into()
            }
            Owner::CpAsync { .. } => {
                "cp.async.wait_group or cp.async.mbarrier.arrive, and a barrier, are missing".into()
            }
            Owner::Put { .. } if device_of(old.cluster) == device_of(new.cluster) => {
                "nvshmem_quiet by the warp that put, or nvshmem_fence between two of its puts, is missing".into()
            }
            Owner::Put { .. } => {
                "the signal of this put, or of one behind a fence, has not been seen by an acquire of sys scope".into()
            }
            Owner::PutSource { .. } => {
                "nvshmem_quiet by the warp that put, or an acquire by whom its signal came to, and an edge from there, are missing: the put may still read".into()
            }
            Owner::Threads { .. } if device_of(old.cluster) != device_of(new.cluster) => {
                "no release and acquire of sys scope orders the two devices".into()
            }
            Owner::Threads { .. } if old.cluster != new.cluster => {
                "no release and acquire of gpu scope orders the two clusters".into()
            }
            Owner::Threads { .. } if old.rank != new.rank => {
                "no barrier.cluster, nor a release and an acquire of cluster scope, orders the two blocks".into()
            }
            Owner::Threads { .. } if old.slot == new.slot => {
                "bar.warp.sync or a barrier is missing between the lanes of the warp".into()
            }
            Owner::Threads { .. } => {
                "no barrier, mbarrier phase, or release and acquire orders them".into()
            }
        }
    }

    /// A conflict as a fault of the instruction that runs now.
    pub fn conflict(
        &self,
        env: &Env<'_>,
        found: Conflict,
        new: &Stamp,
        space: &'static str,
        cell: u64,
        pc: Option<u32>,
    ) -> Box<Trouble> {
        let bytes = match found {
            Conflict::Unordered(old) | Conflict::Unfenced(old) => old.bytes & new.bytes,
            _ => new.bytes,
        };
        let place = Place {
            space,
            address: 16 * cell + u64::from(bytes.trailing_zeros()),
            bytes: bytes.count_ones(),
        };
        let by = match self.slots.owner(new.slot) {
            Owner::Threads { .. } => "",
            Owner::Put { .. } | Owner::PutSource { .. } => " by the put",
            Owner::TensorCore { .. } => " by the tensor core",
            Owner::CpAsync { .. } => " asynchronously",
            Owner::BulkRead { .. } | Owner::BulkDone { .. } => " by the bulk copy",
            Owner::Mbarrier { .. } => " by the bulk load",
        };
        let does = format!("is {}{by}", if new.writes { "written" } else { "read" });
        let (rule, other, missing) = match found {
            Conflict::Unordered(old) => {
                let other = self.other_access(env, &old);
                (Rule::Race, Some(other), self.missing(env, &old, new))
            }
            Conflict::Unfenced(old) => {
                let other = self.other_access(env, &old);
                let missing = "the write is ordered before, but no fence.proxy.async between them makes it visible to the asynchronous proxy";
                (Rule::ProxyFence, Some(other), missing.into())
            }
            Conflict::Unwritten => {
                let missing = "nothing has written all of these bytes";
                (Rule::Uninitialised, None, missing.into())
            }
            Conflict::Barrier => {
                let missing = "they hold a live mbarrier, which only mbarrier instructions may touch until mbarrier.inval";
                (Rule::BarrierObject, None, missing.into())
            }
        };
        let engine = matches!(self.slots.owner(new.slot), Owner::TensorCore { .. });
        let lane = (!engine && new.lanes != 0).then(|| new.lanes.trailing_zeros());
        let race = Race {
            rule,
            place: Some(place),
            does,
            other,
            missing,
        };
        finding(lane, pc, race)
    }
}
