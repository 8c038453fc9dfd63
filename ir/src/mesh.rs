//! The ranks that a model runs on.
//!
//! A graph is the program of one rank, and every rank runs it on tokens of its own. What the graph leaves open is how
//! many ranks there are and how they are joined: that is the mesh. Text: `mesh nodes = 4, gpus = 8, ep = 32, tp = 1,
//! dp = 32`, one rank a GPU. Ranks are numbered node by node.
//!
//! ```text
//!            tp * dp = nodes * gpus                    ep divides them
//! attention, dense layers: tp ranks share       experts: ep ranks in a row hold one copy of
//! a projection, dp of such groups               all of them, 1/ep each
//! ```
//!
//! `dispatch` and `combine` go over the `ep` ranks. With `tp`, the graph has the extents of one rank's part.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Nodes, GPUs and the axes of parallelism. Every number is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mesh {
    /// Machines, joined by InfiniBand.
    pub nodes: u32,
    /// GPUs of a node, joined by NVLink; one rank each.
    pub gpus: u32,
    /// Ranks that the experts are spread over.
    pub ep: u32,
    /// Ranks that share a projection.
    pub tp: u32,
    /// Groups of `tp` ranks with tokens of their own.
    pub dp: u32,
}

/// A mesh that no ranks can form; the fault of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MeshError {
    /// An axis without ranks.
    #[error("mesh: `{0}` must be at least 1")]
    Zero(&'static str),
    /// More ranks than can be counted.
    #[error("mesh: {nodes} nodes of {gpus} GPUs are more ranks than 32 bits can count")]
    TooMany {
        /// Nodes.
        nodes: u32,
        /// GPUs of each.
        gpus: u32,
    },
    /// `tp * dp` is not the number of ranks.
    #[error("mesh: tp * dp = {product} must be nodes * gpus = {ranks}")]
    Ranks {
        /// What the axes make.
        product: u64,
        /// What there is.
        ranks: u32,
    },
    /// Groups of `ep` ranks do not tile the ranks, or cut nodes unevenly.
    #[error(
        "mesh: ep = {ep} must divide the {ranks} ranks, and be a divisor or a multiple of the {gpus} GPUs of a node"
    )]
    Experts {
        /// What was asked for.
        ep: u32,
        /// Ranks.
        ranks: u32,
        /// GPUs of a node.
        gpus: u32,
    },
    /// Text that is no mesh.
    #[error(
        "`{text}` is no mesh: {why}; write for example nodes=4,gpus=8,ep=32 (tp is 1 and dp the ranks over tp where \
         they are not given)"
    )]
    Text {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The axes in the order of the text form.
pub(crate) const AXES: [&str; 5] = ["nodes", "gpus", "ep", "tp", "dp"];

impl Mesh {
    /// One rank.
    pub const ONE: Self = Self {
        nodes: 1,
        gpus: 1,
        ep: 1,
        tp: 1,
        dp: 1,
    };

    /// A mesh from its numbers in the order of the text form: nodes, gpus, ep, tp, dp.
    ///
    /// # Errors
    /// As [`Mesh::check`].
    pub fn new([nodes, gpus, ep, tp, dp]: [u32; 5]) -> Result<Self, MeshError> {
        let mesh = Self {
            nodes,
            gpus,
            ep,
            tp,
            dp,
        };
        mesh.check()?;
        Ok(mesh)
    }

    /// The numbers in the order of the text form.
    #[must_use]
    pub const fn axes(&self) -> [u32; 5] {
        [self.nodes, self.gpus, self.ep, self.tp, self.dp]
    }

    /// How many ranks there are.
    #[must_use]
    pub const fn ranks(&self) -> u32 {
        self.nodes.saturating_mul(self.gpus)
    }

    /// Nodes that hold one copy of all experts together.
    #[must_use]
    pub const fn expert_nodes(&self) -> u32 {
        if self.ep > self.gpus {
            self.ep / self.gpus
        } else {
            1
        }
    }

    /// GPUs of each of [`Mesh::expert_nodes`] that hold some of the experts.
    #[must_use]
    pub const fn expert_gpus(&self) -> u32 {
        if self.ep > self.gpus {
            self.gpus
        } else {
            self.ep
        }
    }

    /// Whether the axes fit the ranks.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), MeshError> {
        if let Some((name, _)) = AXES.iter().zip(self.axes()).find(|(_, n)| *n == 0) {
            return Err(MeshError::Zero(name));
        }
        let (nodes, gpus, ep) = (self.nodes, self.gpus, self.ep);
        let ranks = nodes
            .checked_mul(gpus)
            .ok_or(MeshError::TooMany { nodes, gpus })?;
        let product = u64::from(self.tp) * u64::from(self.dp);
        if product != u64::from(ranks) {
            return Err(MeshError::Ranks { product, ranks });
        }
        if ranks % ep != 0 || (ep % gpus != 0 && gpus % ep != 0) {
            return Err(MeshError::Experts { ep, ranks, gpus });
        }
        Ok(())
    }
}

/// `nodes = 4, gpus = 8, ep = 32, tp = 1, dp = 32`
impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, n)) in AXES.iter().zip(self.axes()).enumerate() {
            write!(f, "{}{name} = {n}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// As on the command line: axes in any order, `tp` and `dp` may be left out.
impl FromStr for Mesh {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self, MeshError> {
        let wrong = |why: String| MeshError::Text {
            text: text.to_owned(),
            why,
        };
        let mut axes = [None; AXES.len()];
        for part in text.split(',') {
            let (name, n) = part
                .split_once('=')
                .ok_or_else(|| wrong(format!("`{part}` has no `=`")))?;
            let name = name.trim();
            let at = AXES
                .iter()
                .position(|axis| *axis == name)
                .ok_or_else(|| wrong(format!("`{name}` is none of {}", AXES.join(", "))))?;
            let n = n.trim();
            let n: u32 = n
                .parse()
                .map_err(|_| wrong(format!("`{n}` is no number of 32 bits")))?;
            if axes[at].replace(n).is_some() {
                return Err(wrong(format!("`{name}` is given twice")));
            }
        }
        let given = |at: usize| axes[at].ok_or_else(|| wrong(format!("`{}` is missing", AXES[at])));
        let (nodes, gpus, ep) = (given(0)?, given(1)?, given(2)?);
        let tp = axes[3].unwrap_or(1);
        let ranks = nodes.saturating_mul(gpus);
        Self::new([nodes, gpus, ep, tp, axes[4].unwrap_or(ranks / tp.max(1))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_leaves_out_what_follows_from_the_rest() {
        let mesh: Mesh = "nodes=4, gpus=8,ep=32".parse().unwrap();
        assert_eq!(
            mesh.to_string(),
            "nodes = 4, gpus = 8, ep = 32, tp = 1, dp = 32"
        );
        assert_eq!(
            (mesh.ranks(), mesh.expert_nodes(), mesh.expert_gpus()),
            (32, 4, 8)
        );
        let mesh: Mesh = "ep=4,tp=4,nodes=2,gpus=8".parse().unwrap();
        assert_eq!(
            (mesh.dp, mesh.expert_nodes(), mesh.expert_gpus()),
            (4, 1, 4)
        );
    }

    #[test]
    fn a_mesh_that_no_ranks_form_is_refused_with_the_rule() {
        for (text, says) in [
            ("nodes=4,gpus=8", "`ep` is missing"),
            ("nodes=4,gpus=8,ep=0", "`ep` must be at least 1"),
            (
                "nodes=4,gpus=8,ep=32,dp=8",
                "tp * dp = 8 must be nodes * gpus = 32",
            ),
            ("nodes=4,gpus=8,ep=24", "must divide the 32 ranks"),
            (
                "nodes=3,gpus=8,ep=12",
                "a divisor or a multiple of the 8 GPUs",
            ),
            (
                "nodes=4,gpus=8,ep=32,pp=2",
                "`pp` is none of nodes, gpus, ep, tp, dp",
            ),
            ("nodes=4,gpus=8,ep=32,ep=32", "`ep` is given twice"),
            ("nodes=70000,gpus=70000,ep=1", "32 bits can count"),
            ("nodes", "has no `=`"),
            ("nodes=4,gpus=8,ep=-1", "no number of 32 bits"),
        ] {
            let error = text.parse::<Mesh>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
