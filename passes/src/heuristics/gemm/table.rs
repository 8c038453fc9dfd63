//! A choice as text: the candidates with all terms of the model, and why the first of them wins.
//!
//! In: a [`GemmChoice`]. Out: its `Display`, the best twelve candidates, or all with [`GemmChoice::table`].

use std::fmt::{self, Write as _};

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile, NO_PROMOTION, Share};
use mcc_ir::types::DType;

use super::{Bound, Estimate, GemmChoice, GemmProblem};

/// Candidates that are worth a look.
const SHOWN: usize = 12;

impl fmt::Display for GemmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table(SHOWN))
    }
}

impl fmt::Display for GemmProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            input,
            out,
            rows,
            n,
            k,
            ..
        } = self;
        match self.form {
            GemmForm::Dense => write!(f, "dense ")?,
            GemmForm::Batched { heads } => write!(f, "batched ({heads} heads) ")?,
            GemmForm::Grouped { groups } => write!(f, "grouped ({groups} groups) ")?,
            GemmForm::Masked { groups } => write!(f, "masked ({groups} groups) ")?,
            GemmForm::KGrouped { groups } => write!(f, "K-grouped ({groups} groups) ")?,
        }
        write!(f, "{input} product: {rows} rows, n {n}, k {k}, out {out}")?;
        match self.epilogue {
            Epilogue::Store => {}
            Epilogue::Add => write!(f, ", added to a residual")?,
            Epilogue::Accumulate => write!(f, ", added in place")?,
            Epilogue::SwigluQuantize { weighted: false } => write!(f, ", SwiGLU and quantised")?,
            Epilogue::SwigluQuantize { weighted: true } => {
                write!(f, ", SwiGLU, weighted and quantised")?;
            }
        }
        match (self.input, self.promote) {
            (DType::E4M3, NO_PROMOTION) => write!(f, ", not promoted"),
            (DType::E4M3, 128) | (DType::BF16 | DType::F32 | DType::I32, _) => Ok(()),
            (DType::E4M3, promote) => write!(f, ", promoted every {promote}"),
        }
    }
}

/// A tile's finer choices, for example `share A` or `swap k4`; empty for a plain one.
#[must_use]
pub fn how(tile: GemmTile) -> String {
    let mut words = Vec::new();
    if tile.swap {
        words.push("swap".to_owned());
    }
    match tile.share {
        Share::None => {}
        Share::A => words.push("share A".to_owned()),
        Share::B => words.push("share B".to_owned()),
    }
    if tile.split_k > 1 {
        words.push(format!("k/{}", tile.split_k));
    }
    if tile.raster != GemmTile::new(0, 0, 0).raster {
        words.push(format!("r{}", tile.raster));
    }
    words.join(" ")
}

/// Rows and columns and what else there is: `128x160 share B`.
fn name(tile: GemmTile) -> String {
    format!("{}x{} {}", tile.m, tile.n, how(tile))
        .trim_end()
        .to_owned()
}

impl GemmChoice {
    /// The first `shown` candidates with every term, and the reason of the choice.
    #[must_use]
    pub fn table(&self, shown: usize) -> String {
        let mut text = format!(
            "{} on {} at {} MHz\n",
            self.problem,
            self.target,
            self.clock_hz / 1_000_000
        );
        if self.candidates.is_empty() {
            text.push_str(&self.reason());
            text.push('\n');
            return text;
        }
        text.push_str(
            "                              ── cycles of a K block ──────────  of a tile      in all\n",
        );
        text.push_str(
            "  tile            stages smem  tensor shared chain issue  ring    end     l2   tiles waves       sm      hbm    ends      cycles       us  bound\n",
        );
        let best = self.best();
        for e in self.candidates.iter().take(shown) {
            let mark = if Some(e.tile) == best { '>' } else { ' ' };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{mark} {:<16} {:>4} {:>4}K {:>7} {:>6} {:>5} {:>5} {:>5} {:>6} {:>6} {:>7} {:>5} {:>8} {:>8} {:>7} {:>11} {:>8.1}  {}",
                name(e.tile),
                e.tile.stages,
                e.smem_bytes.div_ceil(1024),
                e.tensor,
                e.shared,
                e.chain,
                e.issue,
                e.ring,
                e.epilogue,
                e.l2,
                e.tiles,
                e.waves,
                e.sm,
                e.hbm,
                e.ends,
                e.cycles,
                self.microseconds(e.cycles),
                e.bound
            );
        }
        if self.candidates.len() > shown {
            let _ = writeln!(
                text,
                "  … {} more, up to {:.1} us",
                self.candidates.len() - shown,
                self.candidates
                    .last()
                    .map_or(0.0, |e| self.microseconds(e.cycles))
            );
        }
        text.push_str(&self.reason());
        text.push('\n');
        text
    }

    /// Why the choice is what it is, in a sentence or two.
    #[must_use]
    pub fn reason(&self) -> String {
        let Some(first) = self.candidates.first() else {
            return "No tile fits the target's shared memory.".to_owned();
        };
        let mut text = String::new();
        if let Some(entry) = &self.tuned {
            let tile = name(entry.tile);
            let stages = entry.tile.stages;
            if self.tuned_fits {
                return format!(
                    "{tile} with {stages} stages was measured fastest, at {:.1} us ({}); the model would take {}.",
                    entry.measured_ns as f64 / 1e3,
                    entry.source,
                    name(first.tile)
                );
            }
            let _ = write!(
                text,
                "The measured winner {tile} with {stages} stages is not used: the kernels or the target no longer \
                 take it. "
            );
        }
        let _ = write!(
            text,
            "{} takes {:.1} us, {}",
            name(first.tile),
            self.microseconds(first.cycles),
            held_by(first.bound)
        );
        if let Some(second) = self.candidates.get(1) {
            let percent = 100.0 * (second.cycles as f64 / first.cycles.max(1) as f64 - 1.0);
            if percent < 1.0 {
                let _ = write!(
                    text,
                    "; {} takes as long to a percent, but {}",
                    name(second.tile),
                    tie(first, second)
                );
            } else {
                let _ = write!(
                    text,
                    "; {} takes {percent:.1} % longer: {}",
                    name(second.tile),
                    self.difference(first, second)
                );
            }
        }
        text.push('.');
        text
    }

    /// What mainly makes `second` slower than `first`.
    fn difference(&self, first: &Estimate, second: &Estimate) -> String {
        // Elements that all SMs compute, and could have: padding at the edges and idle SMs of the last wave.
        let computed = |e: &Estimate| {
            let blocks = e.busy_sms / u64::from(e.tile.split_k.max(1));
            (e.waves * blocks.max(1) * u64::from(e.tile.m) * u64::from(e.tile.n)) as f64
        };
        let idle = |e: &Estimate| computed(e) / e.busy_sms.max(1) as f64;
        let pace = |e: &Estimate| e.sm as f64 / idle(e).max(1.0);
        let ratio = |of: &dyn Fn(&Estimate) -> f64| of(second) / of(first).max(1e-9);
        let waits_for_memory = |e: &Estimate| e.hbm > e.sm;
        if waits_for_memory(first) && waits_for_memory(second) && second.hbm <= first.hbm {
            return "device memory takes as long, and more of the rest shows beside it".to_owned();
        }
        let reasons = [
            (
                ratio(&idle),
                format!(
                    "its busiest SM computes more of the product ({} against {} elements in whole tiles)",
                    idle(second),
                    idle(first)
                ),
            ),
            (
                ratio(&pace),
                format!("an element takes its SM longer, {}", held_by(in_sm(second))),
            ),
            (
                ratio(&|e| e.hbm as f64) * if second.hbm > second.sm { 1.0 } else { 0.0 },
                format!(
                    "it moves {} against {} MB of device memory",
                    second.hbm_bytes / 1_000_000,
                    first.hbm_bytes / 1_000_000
                ),
            ),
            (
                1.0 + (second.ends as f64 - first.ends as f64) / first.cycles.max(1) as f64,
                "its first loads and last store take longer".to_owned(),
            ),
        ];
        let largest = reasons.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        largest.map(|(_, reason)| reason).unwrap_or_default()
    }
}

/// Of the SM's own time, which the end of a launch or device memory may hide.
fn in_sm(e: &Estimate) -> Bound {
    if e.l2 > e.k_blocks * e.block + e.epilogue {
        return Bound::L2;
    }
    if e.epilogue > e.k_blocks * e.block {
        return Bound::Epilogue;
    }
    let terms = [
        (e.tensor, Bound::Tensor),
        (e.shared, Bound::Shared),
        (e.chain, Bound::Chain),
        (e.issue, Bound::Issue),
        (e.ring, Bound::Ring),
    ];
    let longest = terms.iter().map(|t| t.0).max();
    terms
        .into_iter()
        .find(|t| Some(t.0) == longest)
        .map_or(Bound::Tensor, |t| t.1)
}

fn tie(first: &Estimate, second: &Estimate) -> &'static str {
    let clustered = |e: &Estimate| e.tile.share != Share::None || e.tile.split_k > 1;
    if clustered(second) && !clustered(first) {
        "needs clusters"
    } else if second.sm > first.sm {
        "leaves the SMs less to spare"
    } else {
        "gains nothing by it"
    }
}

fn held_by(bound: Bound) -> &'static str {
    match bound {
        Bound::Tensor => "held by the tensor cores",
        Bound::Shared => "held by shared memory",
        Bound::Chain => "held by each consumer's own sequence of wgmma, wait and promotion",
        Bound::Issue => "held by the schedulers",
        Bound::Ring => "held by latency that the ring does not hide",
        Bound::L2 => "held by the way from the L2",
        Bound::Epilogue => "held by the end of each tile",
        Bound::Hbm => "held by device memory",
        Bound::Launch => "of which launch, first loads and last store are most",
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose;
    use super::super::tests::{dense, problem};
    use super::*;
    use crate::target::Target;

    #[test]
    fn the_table_marks_the_choice_and_gives_a_reason() {
        let choice = choose(dense(64, 128, 128), &Target::load("h100").unwrap());
        let text = choice.to_string();
        let marked: Vec<&str> = text.lines().filter(|l| l.starts_with('>')).collect();
        let best = choice.best().unwrap();
        assert_eq!(marked.len(), 1, "{text}");
        assert!(marked[0].contains(&name(best)), "{text}");
        assert!(
            text.lines().last().unwrap().starts_with(&name(best)),
            "{text}"
        );
    }

    #[test]
    fn all_candidates_can_be_shown() {
        let choice = choose(dense(4096, 7168, 2048), &Target::load("h100").unwrap());
        let lines = choice.table(usize::MAX).lines().count();
        // Problem, two lines of head, reason.
        assert_eq!(lines, choice.candidates.len() + 4);
        assert!(choice.to_string().lines().count() <= SHOWN + 5);
    }

    #[test]
    fn problems_read_as_what_they_are() {
        let masked = problem(GemmForm::Masked { groups: 4 }, 1024, 4096, 7168);
        assert_eq!(
            masked.to_string(),
            "masked (4 groups) e4m3 product: 1024 rows, n 4096, k 7168, out bf16"
        );
        let none = GemmProblem {
            promote: NO_PROMOTION,
            epilogue: Epilogue::Add,
            ..dense(1, 512, 512)
        };
        assert_eq!(
            none.to_string(),
            "dense e4m3 product: 1 rows, n 512, k 512, out bf16, added to a residual, not promoted"
        );
    }
}
