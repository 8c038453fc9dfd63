//! Which columns of a tile have which weight scale.
//!
//! A weight scale covers 128 columns. A tile whose width neither divides 128 nor is a multiple of it begins anywhere in such a
//! span, so that different tiles are cut at different columns. Which register meets which scale must be known when the
//! kernel is built: each way to cut gets a loop of its own, chosen once a tile.
//!
//! Columns come in groups of 8, the grain of `wgmma`'s fragment.

use std::collections::BTreeMap;

use super::plan::{Plan, SCALE_BLOCK};
use crate::emit::{I32, Kernel, Val};

/// The span of each group of 8 columns of a tile, counted from the tile's first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spans(Vec<u8>);

impl Spans {
    /// Of a tile that begins `offset` columns into a span.
    fn at(offset: u32, columns: u32) -> Self {
        let span = |group: u32| u8::try_from((offset + 8 * group) / SCALE_BLOCK).unwrap_or(u8::MAX);
        Self((0..columns / 8).map(span).collect())
    }

    /// All columns have one scale.
    pub fn one() -> Self {
        Self(Vec::new())
    }

    /// The span of column group `group`.
    pub fn of(&self, group: usize) -> usize {
        self.0.get(group).copied().unwrap_or(0).into()
    }

    /// Spans that there are.
    pub fn count(&self) -> usize {
        self.0
            .iter()
            .copied()
            .max()
            .map_or(1, |s| usize::from(s) + 1)
    }
}

/// The ways in which a plan's tiles are cut, each with the offsets at which tiles of its kind begin.
pub(super) fn cuts(plan: &Plan) -> Vec<(Spans, Vec<u32>)> {
    let t = plan.tile.n;
    let mut cuts: BTreeMap<Spans, Vec<u32>> = BTreeMap::new();
    // The offsets repeat after at most 128 tiles.
    for tile in 0..plan.n_tiles().min(SCALE_BLOCK) {
        let offset = tile * t % SCALE_BLOCK;
        let offsets = cuts.entry(Spans::at(offset, t)).or_default();
        if !offsets.contains(&offset) {
            offsets.push(offset);
        }
    }
    cuts.into_iter().collect()
}

/// Emits `body` for each way in which tiles are cut, behind the choice between them. `first` is the tile's first column.
pub(super) fn for_each_cut<'k>(
    k: &'k Kernel,
    plan: &Plan,
    first: Val<'k, I32>,
    body: &dyn Fn(&Spans),
) {
    fn choose<'k>(
        k: &'k Kernel,
        offset: Val<'k, I32>,
        cuts: &[(Spans, Vec<u32>)],
        body: &dyn Fn(&Spans),
    ) {
        match cuts {
            [] => {}
            [(spans, _)] => body(spans),
            [(spans, offsets), rest @ ..] => {
                let is = |o: &u32| offset.eq(o.cast_signed());
                let mine = offsets[1..]
                    .iter()
                    .fold(is(&offsets[0]), |any, o| any | is(o));
                k.if_else(mine, || body(spans), || choose(k, offset, rest, body));
            }
        }
    }
    choose(k, first & (SCALE_BLOCK - 1), &cuts(plan), body);
}
