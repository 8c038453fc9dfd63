//! EPLB: which experts get replicas, and which GPU holds which replica
//! (DeepSeek's `eplb`; `docs/placement.md`).
//!
//! In: the load of each expert of a layer. Out: the expert in each slot, GPU by GPU, every GPU with the same number of
//! slots. Two policies of one algorithm:
//!
//! ```text
//! hierarchical   groups ─pack─► nodes     experts of a node ─replicate─► its slots ─pack─► its GPUs
//! global         one group on one node, so that only the second and third step are left
//! ```
//!
//! The hierarchical policy keeps a group's experts on one node, so that node-limited routing still limits nodes; it
//! needs as many groups as nodes, or a multiple. Loads are whole numbers (tokens), their quotients are compared as
//! fractions: equal input gives equal output on every host.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Load of a replica: an expert's over its number of replicas.
#[derive(Clone, Copy, Debug)]
struct Share {
    load: u64,
    replicas: u32,
}

impl Share {
    fn cmp(self, other: Self) -> Ordering {
        let cross = |a: u64, b: u32| u128::from(a) * u128::from(b);
        cross(self.load, other.replicas).cmp(&cross(other.load, self.replicas))
    }

    fn value(self) -> f64 {
        self.load as f64 / f64::from(self.replicas)
    }
}

/// Puts items into `packs` packs of equal numbers: the heaviest first, each into the lightest pack that has room, the
/// first of equals. `items` is the order of the heaviest first, `value` an item's weight. Out: the items of each pack
/// in the order in which they came.
fn pack(items: &[usize], value: impl Fn(usize) -> f64, packs: usize) -> Vec<Vec<usize>> {
    let room = items.len() / packs;
    if room == 1 {
        // Nothing to balance: each stays where its number says.
        let mut own: Vec<Vec<usize>> = items.iter().map(|item| vec![*item]).collect();
        own.sort_unstable();
        return own;
    }
    let mut all: Vec<(f64, Vec<usize>)> = vec![(0.0, Vec::with_capacity(room)); packs];
    for &item in items {
        let open = all.iter_mut().filter(|(_, pack)| pack.len() < room);
        let lightest = open.reduce(|best, next| if next.0 < best.0 { next } else { best });
        if let Some((weight, pack)) = lightest {
            *weight += value(item);
            pack.push(item);
        }
    }
    all.into_iter().map(|(_, pack)| pack).collect()
}

/// Numbers `0..of` by falling key; equal keys keep their order.
fn heaviest_first(of: usize, cmp: impl Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..of).collect();
    order.sort_by(|a, b| cmp(*b, *a));
    order
}

/// Gives every expert a replica, and each further one to the expert whose replicas have the most load, the first of
/// equals. Out: the expert of each replica in the order of giving with its number among the expert's, and how many
/// each expert has.
fn replicate(loads: &[u64], replicas: usize) -> (Vec<(usize, u32)>, Vec<u32>) {
    struct Next {
        share: Share,
        expert: usize,
    }
    impl PartialEq for Next {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }
    impl Eq for Next {}
    impl PartialOrd for Next {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Next {
        fn cmp(&self, other: &Self) -> Ordering {
            let by_load = self.share.cmp(other.share);
            by_load.then(other.expert.cmp(&self.expert))
        }
    }
    let mut given: Vec<(usize, u32)> = (0..loads.len()).map(|expert| (expert, 0)).collect();
    let mut counts = vec![1u32; loads.len()];
    let mut heap: BinaryHeap<Next> = loads
        .iter()
        .enumerate()
        .map(|(expert, &load)| Next {
            share: Share { load, replicas: 1 },
            expert,
        })
        .collect();
    while given.len() < replicas {
        let Some(mut next) = heap.pop() else { break };
        given.push((next.expert, counts[next.expert]));
        counts[next.expert] += 1;
        next.share.replicas += 1;
        heap.push(next);
    }
    (given, counts)
}

/// The numbers of a problem; [`crate::Shape`] has checked that they divide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub slots: usize,
    pub groups: usize,
    pub nodes: usize,
    pub gpus: usize,
}

/// The expert in each slot and its replica's number, slots in the order of GPUs.
pub(crate) fn place(loads: &[u64], sizes: Sizes) -> Vec<(u32, u32)> {
    let Sizes {
        slots,
        groups,
        nodes,
        gpus,
    } = sizes;
    let group_size = loads.len() / groups;
    let sums: Vec<u64> = loads.chunks(group_size).map(|g| g.iter().sum()).collect();
    let order = heaviest_first(groups, |a, b| sums[a].cmp(&sums[b]));
    let node_groups = pack(&order, |g| sums[g] as f64, nodes);
    let mut all = Vec::with_capacity(slots);
    for groups in node_groups {
        let experts: Vec<usize> = groups
            .iter()
            .flat_map(|g| g * group_size..(g + 1) * group_size)
            .collect();
        let own: Vec<u64> = experts.iter().map(|e| loads[*e]).collect();
        let (replicas, counts) = replicate(&own, slots / nodes);
        let share = |replica: usize| Share {
            load: own[replicas[replica].0],
            replicas: counts[replicas[replica].0],
        };
        let order = heaviest_first(replicas.len(), |a, b| share(a).cmp(share(b)));
        let packs = pack(&order, |replica| share(replica).value(), gpus / nodes);
        for replica in packs.into_iter().flatten() {
            let (expert, number) = replicas[replica];
            all.push((experts[expert] as u32, number));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that DeepSeek publishes with the algorithm (README of `eplb`): two layers of 12 experts in 4 groups
    /// on 2 nodes of 4 GPUs, 16 slots.
    #[test]
    fn the_published_vector() {
        let layers: [[u64; 12]; 2] = [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ];
        let sizes = Sizes {
            slots: 16,
            groups: 4,
            nodes: 2,
            gpus: 8,
        };
        let placed = layers.map(|loads| {
            let slots = place(&loads, sizes).into_iter();
            slots.map(|(expert, _)| expert).collect::<Vec<u32>>()
        });
        assert_eq!(
            placed[0],
            [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1]
        );
        assert_eq!(
            placed[1],
            [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]
        );
    }

    #[test]
    fn each_further_replica_goes_where_the_load_is() {
        // 12, 6, 5: the second replica halves the 12; the tie of 6 and 6 goes to the first.
        let first = [(0, 0), (1, 0), (2, 0), (0, 1)];
        assert_eq!(replicate(&[12, 6, 5], 4), (first.into(), vec![2, 1, 1]));
        let (given, counts) = replicate(&[12, 6, 5], 5);
        assert_eq!((given[4], counts), ((0, 2), vec![3, 1, 1]));
        // Without any load the first expert takes them all.
        assert_eq!(replicate(&[0, 0], 4).1, [3, 1]);
    }

    #[test]
    fn packs_are_full_and_even() {
        let weights = [9.0, 7.0, 6.0, 5.0, 4.0, 1.0];
        let order: Vec<usize> = (0..6).collect();
        // 9 | 7, then 6 beside 7; 9 + 5, 9 + 5 + 4 against 7 + 6 + 1.
        let packs = pack(&order, |i| weights[i], 2);
        assert_eq!(packs, [vec![0, 3, 5], vec![1, 2, 4]]);
        assert_eq!(pack(&[2, 0, 1], |_| 1.0, 3), [vec![0], vec![1], vec![2]]);
    }
}
