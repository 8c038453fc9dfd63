//! Tokens of several ranks, the experts that they go to, and what must become of them.

use mcc_ir::eval::Rng;
use mcc_ir::exchange::ExpertGroup;

/// How tokens choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Any experts, each as likely.
    Uniform,
    /// Low numbers more often.
    Skewed,
    /// The same experts for every token.
    One,
    /// As many nodes, and there as many ranks, as there can be.
    Spread,
}

/// Tokens of one rank.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[T][top_k]`
    pub experts: Vec<Vec<usize>>,
    /// `[T][top_k]`
    pub weights: Vec<Vec<f32>>,
}

impl Tokens {
    pub fn draw(rng: &mut Rng, g: &ExpertGroup, count: usize, pattern: Pattern) -> Self {
        let (e, k) = (g.experts as usize, g.top_k as usize);
        let experts = (0..count)
            .map(|_| {
                let mut left: Vec<usize> = (0..e).collect();
                let mut chosen = Vec::new();
                for slot in 0..k {
                    let at = match pattern {
                        Pattern::Uniform => rng.below(left.len()),
                        Pattern::Skewed => rng.below(left.len()).min(rng.below(left.len())),
                        Pattern::One => 0,
                        // The next rank on the next node.
                        Pattern::Spread => {
                            let ranks = g.ranks() as usize;
                            let (nodes, gpus) = (g.nodes as usize, g.gpus as usize);
                            let rank = (slot % nodes) * gpus + (slot / nodes) % gpus;
                            let first = rank % ranks * g.local() as usize;
                            left.iter().position(|x| *x >= first).unwrap_or(0)
                        }
                    };
                    chosen.push(left.remove(at));
                }
                chosen
            })
            .collect();
        let weights = (0..count)
            .map(|_| {
                (0..k)
                    .map(|_| rng.below(1000) as f32 / 997.0 - 0.2)
                    .collect()
            })
            .collect();
        Self { experts, weights }
    }

    pub fn len(&self) -> usize {
        self.experts.len()
    }
}

/// A row that an expert gets: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub rank: usize,
    pub token: usize,
    pub slot: usize,
}

/// Rows of each expert, by source rank, then token and slot.
pub fn rows(g: &ExpertGroup, all: &[Tokens]) -> Vec<Vec<Origin>> {
    let mut rows = vec![Vec::new(); g.experts as usize];
    for (rank, tokens) in all.iter().enumerate() {
        for (token, chosen) in tokens.experts.iter().enumerate() {
            for (slot, e) in chosen.iter().enumerate() {
                rows[*e].push(Origin { rank, token, slot });
            }
        }
    }
    rows
}

/// `moe_plan` of one rank: bounds of the experts' rows, and the row of each slot.
pub fn plan(g: &ExpertGroup, tokens: &Tokens) -> (Vec<i32>, Vec<i32>) {
    let mine = rows(g, std::slice::from_ref(tokens));
    let mut offsets = vec![0];
    for rows in &mine {
        offsets.push(offsets[offsets.len() - 1] + rows.len() as i32);
    }
    let k = g.top_k as usize;
    let mut slots = vec![0; tokens.len() * k];
    for (e, rows) in mine.iter().enumerate() {
        for (i, row) in rows.iter().enumerate() {
            slots[row.token * k + row.slot] = offsets[e] + i as i32;
        }
    }
    (offsets, slots)
}

pub fn group(nodes: u32, gpus: u32, experts: u32, top_k: u32, tokens: u32) -> ExpertGroup {
    ExpertGroup {
        experts,
        top_k,
        nodes,
        gpus,
        tokens,
    }
}

/// Tokens of all ranks. Some rank is without tokens, some is full; with seed 3 there are none at all.
pub fn draw_all(g: &ExpertGroup, pattern: Pattern, seed: u64) -> Vec<Tokens> {
    let mut rng = Rng::new(seed ^ 0xd15);
    (0..g.ranks())
        .map(|rank| {
            let most = g.tokens as usize;
            let count = match (u64::from(rank) + seed) % 4 {
                _ if seed == 3 => 0,
                0 => 0,
                1 => most,
                _ => rng.below(most + 1),
            };
            Tokens::draw(&mut rng, g, count, pattern)
        })
        .collect()
}
