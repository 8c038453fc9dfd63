//! Which experts a rank holds: by the placement, or in order.
//!
//! In: the rank's number in its expert group, and what `mcc place` wrote, if anything. Out: for each layer with experts
//! the parts of its recipe that this rank loads. Nothing else of a checkpoint is read.

use std::sync::Arc;

use mcc_place::Placement;

/// A rank's share of the experts.
#[derive(Clone, Debug, Default)]
pub struct Share {
    rank: u32,
    placement: Option<Arc<Placement>>,
}

impl Share {
    /// The share of rank `rank` of an expert group, counted from 0. Without a placement experts lie in order.
    #[must_use]
    pub const fn new(rank: u32, placement: Option<Arc<Placement>>) -> Self {
        Self { rank, placement }
    }

    /// Which of `experts` the rank's `slots` hold in a layer; else what does not fit.
    pub(super) fn of_layer(
        &self,
        layer: u64,
        slots: u64,
        experts: usize,
    ) -> Result<Vec<usize>, String> {
        let first = u64::from(self.rank).saturating_mul(slots);
        let own = first..first.saturating_add(slots);
        let Some(placement) = &self.placement else {
            // Copies beyond the last expert are of the first ones.
            let experts = experts.max(1) as u64;
            return Ok(own.map(|slot| (slot % experts) as usize).collect());
        };
        let layers = placement.layers();
        let index = usize::try_from(layer).unwrap_or(usize::MAX);
        let found = layers.get(index).ok_or_else(|| {
            format!(
                "the placement has {} layers with experts, and this is number {layer}",
                layers.len()
            )
        })?;
        let held = found.slots();
        if placement.experts() as usize != experts {
            return Err(format!(
                "the placement is of {} experts, and there are {experts}",
                placement.experts()
            ));
        }
        if u64::from(placement.shape().slots_per_gpu()) != slots {
            return Err(format!(
                "the placement has {} slots a rank, and the bundle was built for {slots}",
                placement.shape().slots_per_gpu()
            ));
        }
        own.map(|slot| {
            let index = usize::try_from(slot).unwrap_or(usize::MAX);
            let slot = held.get(index).ok_or_else(|| {
                format!(
                    "the placement is for {} ranks, and this is number {}",
                    placement.shape().all_gpus(),
                    self.rank
                )
            })?;
            // Rows go to the physical expert of the number that the router chose.
            if slot.expert as usize != index {
                return Err(format!(
                    "the placement has expert {} in slot {index}, and the bundle sends its rows to slot {}",
                    slot.expert, slot.expert
                ));
            }
            Ok(index)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use mcc_place::{Policy, Shape, Statistics};

    use super::*;

    #[test]
    fn ranks_hold_experts_in_order_and_copies_of_the_first() {
        let held = |rank, slots| Share::new(rank, None).of_layer(0, slots, 8);
        assert_eq!(held(1, 2), Ok(vec![2, 3]));
        assert_eq!(held(3, 3), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_placement_is_held_against_the_bundle() {
        let place = |loads: Vec<u64>| {
            let shape = Shape {
                nodes: 1,
                gpus: 2,
                slots: 4,
                groups: 1,
            };
            let loads = Statistics::new(vec![loads]);
            Arc::new(Placement::new(&loads, shape, Policy::Auto).expect("places"))
        };
        let placement = place(vec![9, 2, 7, 1]);
        let held = |rank, layer, slots, experts| {
            Share::new(rank, Some(placement.clone())).of_layer(layer, slots, experts)
        };
        for (result, says) in [
            (held(0, 1, 2, 4), "has 1 layers"),
            (held(0, 0, 3, 4), "2 slots a rank"),
            (held(0, 0, 2, 8), "is of 4 experts"),
            (held(2, 0, 2, 4), "is for 2 ranks"),
            (held(1, 0, 2, 4), "sends its rows to slot"),
        ] {
            let error = result.expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
    }
}
