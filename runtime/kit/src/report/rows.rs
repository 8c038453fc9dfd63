//! Our benchmarks, each beside its fastest peer and the machine's measured limits.
//!
//! In: what the steps `bench-*` and `peers-*` printed. Out: [`Row`]s in the order of our benchmarks. Holds: a ratio is
//! only made of two numbers of the same entry, which has the same shapes on both sides.

use std::collections::BTreeMap;

use crate::report::read::{self, Limits, OurRow, PeerRow, Unit};
use crate::results::Results;

/// One benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Bundle and entry, as people say it.
    pub entry: String,
    /// Seconds with a cold and with a warm L2.
    pub cold: Option<f64>,
    /// See `cold`.
    pub warm: Option<f64>,
    /// Work of one launch.
    pub flops: f64,
    /// Bytes that it must move.
    pub bytes: f64,
    /// Whether the times are predictions.
    pub prediction: bool,
    /// The fastest peer with a cold L2.
    pub peer: Option<Peer>,
    /// All peers, in the order of their measurement.
    pub peers: Vec<Peer>,
    /// Whether it is a block-scaled product.
    pub fp8: bool,
    /// The largest fraction of a limit, cold L2, and whose: a measured one, of a prediction the data sheet's.
    pub of_limit: Option<(f64, Limit)>,
}

/// A peer's times.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// `DeepGEMM`.
    pub name: String,
    /// Seconds.
    pub cold: f64,
    /// Seconds.
    pub warm: f64,
}

/// What holds a kernel back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bandwidth of a copy.
    Copy,
    /// Of the tensor cores, FP8.
    Fp8,
    /// Of the tensor cores, BF16.
    Bf16,
}

impl Limit {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "of copy bandwidth",
            Self::Fp8 => "of the FP8 peak",
            Self::Bf16 => "of the BF16 peak",
        }
    }
}

impl Row {
    /// The peer's time over ours, cold L2: above 1 we are faster.
    #[must_use]
    pub fn speed_up(&self) -> Option<f64> {
        Some(self.peer.as_ref()?.cold / self.cold?)
    }

    /// The same with a warm L2.
    #[must_use]
    pub fn warm_speed_up(&self) -> Option<f64> {
        Some(self.peer.as_ref()?.warm / self.warm?)
    }
}

/// All of them.
#[must_use]
pub fn rows(results: &Results) -> Vec<Row> {
    let [measured, nominal] = [false, true].map(|predicted| read::limits(results, predicted));
    let mut peers: BTreeMap<String, Vec<Peer>> = BTreeMap::new();
    for PeerRow {
        entry,
        peer,
        cold,
        warm,
    } in read::peers(results)
    {
        peers.entry(entry).or_default().push(Peer {
            name: peer,
            cold,
            warm,
        });
    }
    let mut row = |ours: OurRow| {
        let of_limit = fraction(&ours, if ours.prediction { &nominal } else { &measured });
        let peers = peers.remove(&ours.entry).unwrap_or_default();
        let fastest = peers.iter().min_by(|a, b| a.cold.total_cmp(&b.cold));
        Row {
            entry: ours.entry,
            cold: ours.cold,
            warm: ours.warm,
            flops: ours.flops,
            bytes: ours.bytes,
            prediction: ours.prediction,
            peer: fastest.cloned(),
            fp8: ours.unit == Unit::Fp8,
            peers,
            of_limit,
        }
    };
    read::ours(results).into_iter().map(&mut row).collect()
}

/// Our block-scaled products beside one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratios {
    /// Whose.
    pub peer: String,
    /// Entry, and its time over ours with a cold and with a warm L2: above 1 we are faster.
    pub entries: Vec<(String, Option<f64>, Option<f64>)>,
}

impl Ratios {
    /// Geometric means over the entries that have a ratio, cold and warm.
    #[must_use]
    pub fn means(&self) -> (Option<f64>, Option<f64>) {
        let cold = self.entries.iter().filter_map(|(_, cold, _)| *cold);
        let warm = self.entries.iter().filter_map(|(.., warm)| *warm);
        (geometric_mean(cold), geometric_mean(warm))
    }
}

/// What was measured of our block-scaled products, beside every peer that was measured at the same entry.
#[must_use]
pub fn ratios(rows: &[Row]) -> Vec<Ratios> {
    let mut all: Vec<Ratios> = Vec::new();
    for row in rows.iter().filter(|row| row.fp8 && !row.prediction) {
        for peer in &row.peers {
            let of = |theirs: f64, ours: Option<f64>| ours.filter(|t| *t > 0.0).map(|t| theirs / t);
            let ratio = (
                row.entry.clone(),
                of(peer.cold, row.cold),
                of(peer.warm, row.warm),
            );
            match all.iter_mut().find(|ratios| ratios.peer == peer.name) {
                Some(ratios) => ratios.entries.push(ratio),
                None => all.push(Ratios {
                    peer: peer.name.clone(),
                    entries: vec![ratio],
                }),
            }
        }
    }
    all
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v.ln(), count + 1.0));
    (count > 0.0).then(|| (sum / count).exp())
}

fn fraction(row: &OurRow, limits: &Limits) -> Option<(f64, Limit)> {
    let seconds = row.cold.or(row.warm)?;
    if seconds <= 0.0 {
        return None;
    }
    let of = |work: f64, per_s: Option<f64>, limit| {
        let per_s = per_s.filter(|per_s| *per_s > 0.0)?;
        (work > 0.0).then(|| (work / seconds / per_s, limit))
    };
    let tensor = match row.unit {
        Unit::Fp8 => of(row.flops, limits.fp8, Limit::Fp8),
        Unit::Bf16 => of(row.flops, limits.bf16, Limit::Bf16),
        Unit::None => None,
    };
    let copy = of(row.bytes, limits.copy, Limit::Copy);
    [tensor, copy]
        .into_iter()
        .flatten()
        .max_by(|a, b| a.0.total_cmp(&b.0))
}
