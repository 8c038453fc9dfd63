//! Memory plan: where in the arena each temporary lives.
//!
//! In: the lifetime of each temporary of each entry, in steps. Out: a [`Plan`]: a byte offset for each and the
//! size of the one arena that all entries use in turn. Holds afterwards, and is checked by [`check`]: two
//! temporaries that live at the same step share no byte; offsets are multiples of [`BUFFER_ALIGN`].
//!
//! Offsets are given greedily: the largest buffer first, each into the smallest gap that fits between the
//! buffers alive with it (best fit). The peak is compared with the most bytes alive at any step, which no
//! plan can beat, so that a bad plan shows in the report rather than in an out-of-memory error.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use mcc_ir::program::{BUFFER_ALIGN, BufferId};

use crate::error::PassError;

/// From the step that writes a temporary to the last one that reads it, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The temporary.
    pub buffer: BufferId,
    /// Its size, a multiple of [`BUFFER_ALIGN`].
    pub bytes: u64,
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it, or `first` when none does.
    pub last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets of all temporaries.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Byte offsets into the arena.
    pub offsets: BTreeMap<BufferId, u64>,
    /// Size of the arena: the largest peak.
    pub arena_bytes: u64,
    /// One line for each entry.
    pub entries: Vec<EntryUse>,
}

/// What one entry needs of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryUse {
    /// The entry.
    pub entry: String,
    /// End of its highest temporary.
    pub peak_bytes: u64,
    /// Most bytes alive at one step: no plan needs less.
    pub live_bytes: u64,
    /// Bytes of all temporaries, as if nothing were shared.
    pub total_bytes: u64,
}

impl fmt::Display for EntryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "entry {}: peak {} bytes, live at once {}, unshared {}",
            self.entry, self.peak_bytes, self.live_bytes, self.total_bytes
        )
    }
}

/// Plans all entries. They run one at a time, so each starts at the arena's first byte.
///
/// # Errors
/// When the sizes do not fit in 64 bits, or when [`check`] refuses the plan, which is a bug.
pub fn plan(entries: &[(String, Vec<Lifetime>)]) -> Result<Plan, PassError> {
    let mut plan = Plan::default();
    for (entry, lifetimes) in entries {
        let offsets = place(lifetimes)?;
        check(lifetimes, &offsets)?;
        let end = |l: &Lifetime| offsets.get(&l.buffer).map_or(0, |offset| offset + l.bytes);
        let peak_bytes = lifetimes.iter().map(end).max().unwrap_or(0);
        plan.arena_bytes = plan.arena_bytes.max(peak_bytes);
        plan.entries.push(EntryUse {
            entry: entry.clone(),
            peak_bytes,
            live_bytes: live_bytes(lifetimes),
            total_bytes: lifetimes.iter().map(|l| l.bytes).sum(),
        });
        plan.offsets.extend(offsets);
    }
    Ok(plan)
}

/// Proves that a plan is sound: every temporary has an aligned offset, and none overlaps another in both time
/// and bytes.
///
/// # Errors
/// The two temporaries that collide.
pub fn check(lifetimes: &[Lifetime], offsets: &BTreeMap<BufferId, u64>) -> Result<(), PassError> {
    let bug = |what: String| {
        Err(PassError::Internal {
            pass: "memory plan",
            what,
        })
    };
    let mut placed = Vec::with_capacity(lifetimes.len());
    for lifetime in lifetimes {
        match offsets.get(&lifetime.buffer) {
            Some(offset) if offset.is_multiple_of(BUFFER_ALIGN) => placed.push((*offset, lifetime)),
            other => {
                return bug(format!(
                    "buffer {} has the offset {other:?}",
                    lifetime.buffer.0
                ));
            }
        }
    }
    // In order of offsets, only the neighbours that start before this one's end can overlap it.
    placed.sort_by_key(|(offset, lifetime)| (*offset, lifetime.buffer));
    for (i, (offset, lifetime)) in placed.iter().enumerate() {
        let end = offset.saturating_add(lifetime.bytes);
        for (_, other) in placed[i + 1..].iter().take_while(|(start, _)| *start < end) {
            if lifetime.meets(other) {
                return bug(format!(
                    "buffers {} and {} overlap in bytes and in time",
                    lifetime.buffer.0, other.buffer.0
                ));
            }
        }
    }
    Ok(())
}

/// Best fit by decreasing size.
fn place(lifetimes: &[Lifetime]) -> Result<BTreeMap<BufferId, u64>, PassError> {
    let mut order: Vec<&Lifetime> = lifetimes.iter().collect();
    order.sort_by_key(|l| (Reverse(l.bytes), l.first, l.buffer));
    let mut placed: Vec<(u64, &Lifetime)> = Vec::with_capacity(order.len());
    for lifetime in order {
        // The bytes taken during this lifetime, in order; gaps lie between them.
        let mut end_of_taken = 0_u64;
        let mut best: Option<(u64, u64)> = None;
        for (offset, taken) in placed.iter().filter(|(_, other)| other.meets(lifetime)) {
            if let Some(gap) = offset.checked_sub(end_of_taken)
                && gap >= lifetime.bytes
                && best.is_none_or(|(smallest, _)| gap < smallest)
            {
                best = Some((gap, end_of_taken));
            }
            end_of_taken = end_of_taken.max(offset + taken.bytes);
        }
        let offset = best.map_or(end_of_taken, |(_, start)| start);
        offset
            .checked_add(lifetime.bytes)
            .ok_or_else(|| PassError::TooLarge {
                what: "the arena of the temporaries".into(),
            })?;
        let at = placed.partition_point(|(o, _)| *o <= offset);
        placed.insert(at, (offset, lifetime));
    }
    Ok(placed
        .into_iter()
        .map(|(offset, l)| (l.buffer, offset))
        .collect())
}

/// Most bytes alive at one step.
fn live_bytes(lifetimes: &[Lifetime]) -> u64 {
    let mut changes: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for l in lifetimes {
        changes.entry(l.first).or_default().0 += l.bytes;
        changes.entry(l.last + 1).or_default().1 += l.bytes;
    }
    let mut live = 0;
    let mut most = 0;
    for (born, dead) in changes.into_values() {
        live = live - dead + born;
        most = most.max(live);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(buffer: u32, bytes: u64, first: usize, last: usize) -> Lifetime {
        Lifetime {
            buffer: BufferId(buffer),
            bytes,
            first,
            last,
        }
    }

    fn planned(lifetimes: Vec<Lifetime>) -> Plan {
        plan(&[("prefill".into(), lifetimes)]).unwrap()
    }

    #[test]
    fn a_chain_needs_two_buffers_at_a_time() {
        let plan = planned(
            (0..10)
                .map(|i| life(i, 1024, i as usize, i as usize + 1))
                .collect(),
        );
        assert_eq!(plan.arena_bytes, 2048);
        assert_eq!(plan.entries[0].live_bytes, 2048);
        assert_eq!(plan.entries[0].total_bytes, 10 * 1024);
    }

    #[test]
    fn a_gap_is_filled_by_what_fits_best() {
        // 0 and 2 keep a gap of 1024 open between them when 1 dies, 3 fits into it.
        let plan = planned(vec![
            life(0, 4096, 0, 9),
            life(1, 1024, 0, 3),
            life(2, 768, 0, 9),
            life(3, 512, 4, 9),
        ]);
        assert_eq!(plan.arena_bytes, 4096 + 1024 + 768);
        assert_eq!(plan.offsets[&BufferId(3)], 4096);
    }

    #[test]
    fn entries_share_the_arena() {
        let plan = plan(&[
            ("prefill".into(), vec![life(0, 4096, 0, 1)]),
            ("decode".into(), vec![life(1, 1024, 0, 1)]),
        ])
        .unwrap();
        assert_eq!(plan.arena_bytes, 4096);
        assert_eq!(
            (plan.offsets[&BufferId(0)], plan.offsets[&BufferId(1)]),
            (0, 0)
        );
    }

    #[test]
    fn the_check_finds_an_overlap_in_bytes_and_time() {
        let lifetimes = [life(0, 1024, 0, 2), life(1, 1024, 2, 3)];
        let at = |a, b| BTreeMap::from([(BufferId(0), a), (BufferId(1), b)]);
        assert!(check(&lifetimes, &at(0, 1024)).is_ok());
        assert!(check(&lifetimes, &at(0, 768)).is_err());
        assert!(check(&lifetimes, &at(1024, 768)).is_err());
        assert!(check(&lifetimes, &at(0, 1025)).is_err());
        assert!(check(&lifetimes, &BTreeMap::new()).is_err());
    }

    /// Pseudo-random lifetimes (a linear congruential generator, so that failures repeat): the plan is sound
    /// by a check that is quadratic and written apart from the one under test, and near the lower bound.
    #[test]
    fn random_lifetimes_never_collide() {
        let mut state = 1_u64;
        let mut next = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..50 {
            let lifetimes: Vec<Lifetime> = (0..60)
                .map(|i| {
                    let first = next(40) as usize;
                    life(i, (1 + next(40)) * 256, first, first + next(8) as usize)
                })
                .collect();
            let plan = planned(lifetimes.clone());
            for a in &lifetimes {
                for b in lifetimes.iter().filter(|b| b.buffer != a.buffer) {
                    let (x, y) = (plan.offsets[&a.buffer], plan.offsets[&b.buffer]);
                    let apart = x + a.bytes <= y
                        || y + b.bytes <= x
                        || a.last < b.first
                        || b.last < a.first;
                    assert!(apart, "{a:?} at {x}, {b:?} at {y}");
                }
            }
            let used = &plan.entries[0];
            assert!(used.peak_bytes >= used.live_bytes);
            assert!(used.peak_bytes < used.live_bytes * 3 / 2, "{used}");
        }
    }
}
