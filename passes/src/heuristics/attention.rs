//! Key tiles and ring depth of attention.
//!
//! In: head sizes and the target. Out: an [`AttentionChoice`] with every candidate and why it lost. The work
//! of a key tile is the same for each size, so the choice is about shared memory alone: the deepest ring of
//! 64-key tiles, at most double-buffered, that fits beside the queries.

use std::fmt;

use crate::target::Target;

/// Shapes that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionProblem {
    /// Channels of the unrotated key part.
    pub dk: u64,
    /// Channels of the rotated part.
    pub dr: u64,
    /// Channels of the value.
    pub dv: u64,
    /// Rows of queries that a block keeps: 128 tokens in prefill, 64 heads in decode.
    pub query_rows: u64,
}

/// Keys a tile and depth of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionTile {
    /// Keys a tile.
    pub kv: u32,
    /// Depth of the TMA ring.
    pub stages: u32,
}

/// One tile that was considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionCandidate {
    /// The tile.
    pub tile: AttentionTile,
    /// Shared memory for queries and ring.
    pub smem_bytes: u64,
    /// Whether the target has that much.
    pub fits: bool,
}

/// All candidates, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionChoice {
    /// What was asked.
    pub problem: AttentionProblem,
    /// From the most overlap to the least.
    pub candidates: Vec<AttentionCandidate>,
}

/// Most overlap first: two stages overlap the next load with this tile's work, one does not.
const CANDIDATES: [AttentionTile; 2] = [
    AttentionTile { kv: 64, stages: 2 },
    AttentionTile { kv: 64, stages: 1 },
];
const BF16_BYTES: u64 = 2;
/// TMA loads 64 channels at a time: the 128-byte swizzle span.
const CHANNEL_TILE: u64 = 64;
/// Barriers and the alignment of the ring to 1024 bytes.
const SMEM_OVERHEAD: u64 = 4096;

/// Lists the tiles for a problem.
#[must_use]
pub fn choose(problem: AttentionProblem, target: &Target) -> AttentionChoice {
    let candidates = CANDIDATES
        .iter()
        .map(|&tile| {
            let smem_bytes = smem_bytes(&problem, tile);
            AttentionCandidate {
                tile,
                smem_bytes,
                fits: smem_bytes <= u64::from(target.smem_bytes),
            }
        })
        .collect();
    AttentionChoice {
        problem,
        candidates,
    }
}

impl AttentionChoice {
    /// The first candidate that fits.
    #[must_use]
    pub fn best(&self) -> Option<AttentionTile> {
        self.candidates.iter().find(|c| c.fits).map(|c| c.tile)
    }
}

/// Queries, then for each stage a tile of keys and one of values; probabilities stay in registers.
fn smem_bytes(problem: &AttentionProblem, tile: AttentionTile) -> u64 {
    let channels = |n: u64| n.next_multiple_of(CHANNEL_TILE) * BF16_BYTES;
    let key = channels(problem.dk) + channels(problem.dr);
    // Above 256 channels two warpgroups share the value, in parts of whole tiles.
    let parts = if problem.dv > 256 { 2 } else { 1 };
    let value = parts * channels(problem.dv.div_ceil(parts));
    let stage = u64::from(tile.kv) * (key + value);
    SMEM_OVERHEAD + problem.query_rows * key + u64::from(tile.stages) * stage
}

impl fmt::Display for AttentionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.problem;
        writeln!(
            f,
            "attention: dk {}, dr {}, dv {}, query rows {}",
            p.dk, p.dr, p.dv, p.query_rows
        )?;
        writeln!(f, "  keys stages    smem")?;
        let best = self.best();
        for c in &self.candidates {
            writeln!(
                f,
                "{} {:>4} {:>6} {:>7}{}",
                if best == Some(c.tile) { '>' } else { ' ' },
                c.tile.kv,
                c.tile.stages,
                c.smem_bytes,
                if c.fits { "" } else { "  does not fit" }
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_published_model_fit() {
        let target = Target::load("h800").unwrap();
        let expanded = AttentionProblem {
            dk: 128,
            dr: 64,
            dv: 128,
            query_rows: 128,
        };
        let absorbed = AttentionProblem {
            dk: 512,
            dr: 64,
            dv: 512,
            query_rows: 64,
        };
        assert_eq!(
            choose(expanded, &target).best(),
            Some(AttentionTile { kv: 64, stages: 2 })
        );
        assert!(choose(absorbed, &target).best().is_some());
    }

    #[test]
    fn a_head_that_cannot_fit_has_no_tile() {
        let target = Target::load("h800").unwrap();
        let huge = AttentionProblem {
            dk: 4096,
            dr: 64,
            dv: 4096,
            query_rows: 64,
        };
        let choice = choose(huge, &target);
        assert_eq!(choice.best(), None);
        assert!(choice.to_string().contains("does not fit"));
    }
}
