//! Who runs next, drawn from a seed: ranks that run ahead, fall behind, or
//! begin late.
//!
//! In: a seed, and the clusters that could run, by their queue. Out: one of
//! them, and how many instructions its turn has. Every queue has a pace that is
//! drawn again now and then; one of pace 0 stands still while others can go on.

/// Choices until paces are drawn again, on average.
const PERIOD: u64 = 96;
const PACES: [u64; 6] = [0, 0, 1, 2, 8, 32];
/// The shortest turn, and how often the longest is twice as long.
const SHORTEST: u64 = 48;
const DOUBLINGS: u64 = 11;

/// A state for a generator of the xorshift family: never zero, and far apart
/// for neighbouring seeds (the finaliser of SplitMix64).
pub fn spread(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31).max(1)
}

/// Paces of the queues.
#[derive(Debug)]
pub struct Pace {
    random: u64,
    of: Vec<u64>,
}

impl Pace {
    pub fn new(seed: u64, queues: usize) -> Pace {
        let mut pace = Pace {
            random: spread(seed),
            of: vec![1; queues],
        };
        pace.redraw();
        pace
    }

    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn redraw(&mut self) {
        for i in 0..self.of.len() {
            self.of[i] = PACES[(self.next() % PACES.len() as u64) as usize];
        }
    }

    /// One of those that can run, by queue and weight, and the length of its
    /// turn. Those of weight 0 come last.
    pub fn draw(
        &mut self,
        weights: impl Iterator<Item = (usize, u64)> + Clone,
    ) -> Option<(usize, u64)> {
        if self.next().is_multiple_of(PERIOD) {
            self.redraw();
        }
        let turn = SHORTEST << (self.next() % (DOUBLINGS + 1));
        let paced: Vec<u64> = weights.clone().map(|(q, w)| w * self.of[q]).collect();
        let plain: Vec<u64> = weights.clone().map(|(_, w)| w).collect();
        let equal: Vec<u64> = weights.map(|_| 1).collect();
        for list in [paced, plain, equal] {
            let sum: u64 = list.iter().sum();
            if sum == 0 {
                continue;
            }
            let mut at = self.next() % sum;
            for (i, &w) in list.iter().enumerate() {
                if at < w {
                    return Some((i, turn));
                }
                at -= w;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_differ() {
        let draws = |seed| {
            let mut pace = Pace::new(seed, 4);
            let weights = [(0, 1), (1, 1), (2, 8), (3, 0)];
            let all: Vec<_> = (0..5000).map(|_| pace.draw(weights.into_iter())).collect();
            all
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let picked: Vec<usize> = draws(7).into_iter().flatten().map(|p| p.0).collect();
        assert!((0..3).all(|q| picked.contains(&q)) && !picked.contains(&3));
    }

    #[test]
    fn somebody_runs_though_all_stand_still() {
        let mut pace = Pace::new(1, 2);
        pace.of = vec![0, 0];
        assert!(pace.draw([(0, 1), (1, 1)].into_iter()).is_some());
        assert!(pace.draw([(0, 0)].into_iter()).is_some());
        assert!(pace.draw(std::iter::empty()).is_none());
    }
}
