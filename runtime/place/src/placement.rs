//! Statistics, shapes, placements, and what they must satisfy.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::eplb::{self, Sizes};

/// Version of both files' fields.
const VERSION: u32 = 1;

/// Tokens that each expert got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// 1.
    pub version: u32,
    /// By layer with experts, then by expert.
    pub layers: Vec<Vec<u64>>,
}

impl Statistics {
    /// Of these counts.
    #[must_use]
    pub const fn new(layers: Vec<Vec<u64>>) -> Self {
        Self {
            version: VERSION,
            layers,
        }
    }

    /// Adds another rank's, or another hour's.
    ///
    /// # Errors
    /// [`PlaceError::Different`] when they are of another model.
    pub fn add(&mut self, other: &Self) -> Result<(), PlaceError> {
        let sizes = |s: &Self| s.layers.iter().map(Vec::len).collect::<Vec<_>>();
        if sizes(self) != sizes(other) {
            return Err(PlaceError::Different);
        }
        for (mine, theirs) in self.layers.iter_mut().zip(&other.layers) {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine = mine.saturating_add(*theirs);
            }
        }
        Ok(())
    }

    /// Experts of a layer.
    ///
    /// # Errors
    /// When there is no layer, or layers differ.
    pub fn experts(&self) -> Result<u32, PlaceError> {
        if self.version != VERSION {
            return Err(PlaceError::Version(self.version));
        }
        let first = self.layers.first().map_or(0, Vec::len);
        if first == 0 || self.layers.iter().any(|layer| layer.len() != first) {
            return Err(PlaceError::Ragged);
        }
        u32::try_from(first).map_err(|_| PlaceError::Ragged)
    }
}

/// What there is to hold experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Machines.
    pub nodes: u32,
    /// GPUs of a machine.
    pub gpus: u32,
    /// Slots for experts of all GPUs together.
    pub slots: u32,
    /// Groups that routing limits tokens to; 1 where it does not.
    pub groups: u32,
}

/// Which steps of the algorithm run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// [`Policy::Hierarchical`] where the groups divide over the nodes, else [`Policy::Global`].
    #[default]
    Auto,
    /// A group's experts stay on one node, so that a token's nodes stay limited.
    Hierarchical,
    /// Replicas anywhere.
    Global,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Hierarchical => "hierarchical",
            Self::Global => "global",
        })
    }
}

/// Why there is no placement; the fault of whoever gave the numbers.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// A number that must be there.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// Too few slots.
    #[error("{slots} slots are too few for {experts} experts; each needs one")]
    TooFew {
        /// Slots of all GPUs.
        slots: u32,
        /// Experts of a layer.
        experts: u32,
    },
    /// GPUs would differ.
    #[error("{slots} slots do not divide over {gpus} GPUs; {less} or {more} do")]
    Slots {
        /// Slots of all GPUs.
        slots: u32,
        /// GPUs of all nodes.
        gpus: u64,
        /// The next number below that does.
        less: u64,
        /// And above.
        more: u64,
    },
    /// Groups of different sizes.
    #[error("{experts} experts do not divide into {groups} groups")]
    Groups {
        /// Experts of a layer.
        experts: u32,
        /// Groups.
        groups: u32,
    },
    /// The hierarchical policy has no way.
    #[error(
        "{groups} groups do not divide over {nodes} nodes, so that they cannot stay on one each; use the global policy"
    )]
    Nodes {
        /// Groups.
        groups: u32,
        /// Machines.
        nodes: u32,
    },
    /// Statistics without layers, or with layers of different sizes.
    #[error(
        "the statistics need one count for each expert, in every layer as many, and at least one"
    )]
    Ragged,
    /// Statistics that do not belong together.
    #[error("the statistics are of models with different layers or experts")]
    Different,
    /// A file of another time.
    #[error("version {0} of the file is not known; this is version 1")]
    Version(u32),
    /// A placement that was edited.
    #[error("layer {layer}: {what}")]
    Broken {
        /// Which.
        layer: usize,
        /// What does not hold.
        what: String,
    },
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u32, u32)", from = "(u32, u32)")]
pub struct Slot {
    /// The expert.
    pub expert: u32,
    /// Which of its replicas, from 0.
    pub replica: u32,
}

impl From<(u32, u32)> for Slot {
    fn from((expert, replica): (u32, u32)) -> Self {
        Self { expert, replica }
    }
}

impl From<Slot> for (u32, u32) {
    fn from(slot: Slot) -> Self {
        (slot.expert, slot.replica)
    }
}

/// The slots of one layer, in the order of GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layer(Vec<Slot>);

/// Where the experts of every layer lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// 1.
    version: u32,
    /// Experts of a layer.
    experts: u32,
    shape: Shape,
    /// The policy that was taken, never [`Policy::Auto`].
    policy: Policy,
    layers: Vec<Layer>,
}

/// How even a layer's load is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// The fullest GPU's load over the mean with experts in order and no replicas; `None` where experts do not divide
    /// over the GPUs.
    pub before: Option<f64>,
    /// The same as placed, each expert's load spread evenly over its replicas.
    pub after: f64,
    /// Replicas of the expert that has most.
    pub replicas: u32,
}

impl Shape {
    /// GPUs of all nodes.
    #[must_use]
    pub const fn all_gpus(&self) -> u64 {
        self.nodes as u64 * self.gpus as u64
    }

    /// Slots of one GPU.
    #[must_use]
    pub fn slots_per_gpu(&self) -> u32 {
        let slots = u64::from(self.slots) / self.all_gpus().max(1);
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    fn check(&self, experts: u32, policy: Policy) -> Result<Policy, PlaceError> {
        let numbers = [
            ("nodes", self.nodes),
            ("gpus", self.gpus),
            ("slots", self.slots),
            ("groups", self.groups),
        ];
        if let Some((name, _)) = numbers.iter().find(|(_, n)| *n == 0) {
            return Err(PlaceError::Zero(name));
        }
        if self.slots < experts {
            return Err(PlaceError::TooFew {
                slots: self.slots,
                experts,
            });
        }
        let (slots, gpus) = (u64::from(self.slots), self.all_gpus());
        if !slots.is_multiple_of(gpus) {
            return Err(PlaceError::Slots {
                slots: self.slots,
                gpus,
                less: slots / gpus * gpus,
                more: slots.next_multiple_of(gpus),
            });
        }
        if !experts.is_multiple_of(self.groups) {
            return Err(PlaceError::Groups {
                experts,
                groups: self.groups,
            });
        }
        let whole = self.groups.is_multiple_of(self.nodes);
        match policy {
            Policy::Hierarchical if !whole => Err(PlaceError::Nodes {
                groups: self.groups,
                nodes: self.nodes,
            }),
            Policy::Auto if whole => Ok(Policy::Hierarchical),
            Policy::Auto => Ok(Policy::Global),
            policy => Ok(policy),
        }
    }
}

impl Placement {
    /// Places the experts of every layer by their load.
    ///
    /// # Errors
    /// Numbers that do not divide, or statistics that are none.
    pub fn new(statistics: &Statistics, shape: Shape, policy: Policy) -> Result<Self, PlaceError> {
        let experts = statistics.experts()?;
        let policy = shape.check(experts, policy)?;
        let (groups, nodes) = match policy {
            Policy::Global => (1, 1),
            _ => (shape.groups as usize, shape.nodes as usize),
        };
        let sizes = Sizes {
            slots: shape.slots as usize,
            groups,
            nodes,
            gpus: shape.nodes as usize * shape.gpus as usize,
        };
        let place = |loads: &Vec<u64>| {
            let slots = eplb::place(loads, sizes).into_iter();
            Layer(slots.map(Slot::from).collect())
        };
        Ok(Self {
            version: VERSION,
            experts,
            shape,
            policy,
            layers: statistics.layers.iter().map(place).collect(),
        })
    }

    /// Whether all that is said of placements holds of this one, which may come from a file.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self) -> Result<(), PlaceError> {
        if self.version != VERSION {
            return Err(PlaceError::Version(self.version));
        }
        self.shape.check(self.experts, self.policy)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let broken = |what: String| PlaceError::Broken { layer: at, what };
            if layer.0.len() != self.shape.slots as usize {
                return Err(broken(format!(
                    "{} slots where there are {}",
                    layer.0.len(),
                    self.shape.slots
                )));
            }
            let mut replicas = vec![Vec::new(); self.experts as usize];
            for slot in &layer.0 {
                let own = replicas.get_mut(slot.expert as usize);
                own.ok_or_else(|| broken(format!("there is no expert {}", slot.expert)))?
                    .push(slot.replica);
            }
            for (expert, mut own) in replicas.into_iter().enumerate() {
                own.sort_unstable();
                if own.is_empty() {
                    return Err(broken(format!("expert {expert} has no slot")));
                }
                if !own.iter().copied().eq(0..own.len() as u32) {
                    return Err(broken(format!(
                        "the replicas of expert {expert} are not numbered from 0 on"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Experts of a layer.
    #[must_use]
    pub const fn experts(&self) -> u32 {
        self.experts
    }

    /// What there is to hold experts.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Which steps ran.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Layers with experts, in order.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// How even the load of each layer is under these counts, which need not be those that the placement was made of.
    ///
    /// # Errors
    /// [`PlaceError::Different`] when they are of another model.
    pub fn balance(&self, statistics: &Statistics) -> Result<Vec<Balance>, PlaceError> {
        let fits =
            statistics.experts()? == self.experts && statistics.layers.len() == self.layers.len();
        if !fits {
            return Err(PlaceError::Different);
        }
        let gpus = self.shape.all_gpus() as usize;
        let own = self.shape.slots_per_gpu() as usize;
        let fullest = |loads: &mut dyn Iterator<Item = f64>, all: f64| {
            let most = loads.fold(0.0, f64::max);
            if all > 0.0 {
                most * gpus as f64 / all
            } else {
                1.0
            }
        };
        let layers = self.layers.iter().zip(&statistics.layers);
        Ok(layers
            .map(|(layer, loads)| {
                let all: f64 = loads.iter().map(|l| *l as f64).sum();
                let counts = layer.counts(self.experts);
                let share = |slot: &Slot| {
                    let expert = slot.expert as usize;
                    loads[expert] as f64 / f64::from(counts[expert])
                };
                let before = loads.len().is_multiple_of(gpus).then(|| {
                    let sums = loads.chunks(loads.len() / gpus);
                    fullest(&mut sums.map(|c| c.iter().map(|l| *l as f64).sum()), all)
                });
                let mut placed = layer.0.chunks(own).map(|gpu| gpu.iter().map(share).sum());
                Balance {
                    before,
                    after: fullest(&mut placed, all),
                    replicas: counts.into_iter().max().unwrap_or(0),
                }
            })
            .collect())
    }
}

/// DeepSeek's gate steps through replicas with this stride from token to token.
const TOKEN_STRIDE: u64 = 23_333;

impl Layer {
    /// The slots, in the order of GPUs.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.0
    }

    /// How many replicas each of `experts` has.
    #[must_use]
    pub fn counts(&self, experts: u32) -> Vec<u32> {
        let mut counts = vec![0; experts as usize];
        for slot in &self.0 {
            if let Some(count) = counts.get_mut(slot.expert as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// The slots of each of `experts`, by its replicas' numbers: what the router's kernel looks up.
    #[must_use]
    pub fn replicas(&self, experts: u32) -> Vec<Vec<u32>> {
        let mut all: Vec<Vec<(u32, u32)>> = vec![Vec::new(); experts as usize];
        for (at, slot) in self.0.iter().enumerate() {
            if let Some(own) = all.get_mut(slot.expert as usize) {
                own.push((slot.replica, at as u32));
            }
        }
        let sorted = all.into_iter().map(|mut own| {
            own.sort_unstable();
            own.into_iter().map(|(_, at)| at).collect()
        });
        sorted.collect()
    }

    /// Which of `count` replicas the token of number `token` on rank `rank` takes.
    #[must_use]
    pub fn replica_of(rank: u32, token: u64, count: u32) -> u32 {
        let step = u64::from(rank).wrapping_add(token.wrapping_mul(TOKEN_STRIDE));
        (step % u64::from(count.max(1))) as u32
    }
}
