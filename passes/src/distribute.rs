//! From the program of one rank that has all experts to the program of one rank among many.
//!
//! In: an optimised, verified module with a mesh. Out: the module that each of the mesh's ranks runs, verified: rows
//! travel to the ranks of their experts and back, and a parameter of experts is the rank's share of it. One text for
//! all ranks; nothing in it depends on which one runs it.
//!
//! ```text
//! dispatch(x, experts)           dispatch_two_hop(x, experts, weights), or dispatch_direct(..)
//! row_weights(slots, weights)    its third result
//! grouped_matmul*(rows, w, ..)   the same over E / ep experts; masked_matmul* behind dispatch_direct
//! combine*(y, slots, ..)         combine_two_hop(y, experts, weights, record), or combine_direct(..), then the rest
//! @w: [E, N, K] = stack(..)      [E / ep, N, K] = experts(..)
//! ```
//!
//! What stands in between are ops on rows, which are the same for any rows. Two hops send a token to each node once and
//! suit many tokens; one hop has no second wait and suits few ([`Kind`]).

mod entry;
mod routing;
mod share;

use std::fmt;
use std::str::FromStr;

use mcc_ir::{Dim, Graph, Mesh, Module};

use self::routing::Routings;
use self::share::Shares;
use crate::error::PassError;

/// How rows travel to their experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// [`Kind::Direct`] for an entry named `decode` whose steps have at most [`FEW_TOKENS`] tokens, else
    /// [`Kind::TwoHop`].
    #[default]
    Auto,
    /// Over the network once to each node, and on from there.
    TwoHop,
    /// Each row straight to its expert.
    Direct,
}

/// Tokens of a rank up to which a decode step sends rows in one hop: the inboxes have room for the most that can come
/// from every rank to every expert.
pub const FEW_TOKENS: u64 = 256;

/// What is chosen about ranks beyond the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How rows travel.
    pub kind: Kind,
    /// Rows of two hops that a rank has room for; `None`: as many as can ever come.
    pub capacity: Option<u32>,
    /// Thread blocks that move rows in two hops.
    pub channels: u32,
}

impl Default for Options {
    /// 20 of 132 SMs suffice to fill both links (arXiv 2412.19437, section 3.2.2).
    fn default() -> Self {
        Self {
            kind: Kind::Auto,
            capacity: None,
            channels: 20,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::TwoHop => "two-hop",
            Self::Direct => "direct",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [Self::Auto, Self::TwoHop, Self::Direct];
        let found = kinds.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is none of auto, two-hop, direct"))
    }
}

/// The program of one of the mesh's ranks; the module as it is when no experts are spread.
///
/// # Errors
/// [`PassError::Mesh`] for a mesh that does not fit the model, [`PassError::Unsupported`] for a graph whose rows cannot
/// travel: all name what stands in the way.
pub fn distribute(module: &Module, options: &Options) -> Result<Module, PassError> {
    let Some(mesh) = module.mesh.filter(|mesh| mesh.ranks() > 1) else {
        return Ok(module.clone());
    };
    if mesh.tp > 1 {
        return Err(PassError::Mesh {
            mesh,
            why: format!("{} ranks would share each projection", mesh.tp),
            how: "build with tp=1: projections are computed on every rank for its own tokens"
                .into(),
        });
    }
    if mesh.ep == 1 {
        return Ok(module.clone());
    }
    let mut shares = Shares::new(module, mesh);
    let mut result = Module {
        entries: Vec::with_capacity(module.entries.len()),
        ..module.clone()
    };
    for graph in &module.entries {
        let routings = Routings::of(graph)?;
        shares.visit(graph, &routings)?;
        let plan = Plan::of(module, graph, mesh, options, &routings)?;
        result
            .entries
            .push(entry::rewrite(module, graph, &plan, &routings, &shares)?);
    }
    // A rank without tokens, and without a sequence, takes part all the same.
    for dim in &mut result.dims {
        dim.min = 0;
    }
    shares.apply(&mut result);
    mcc_ir::verify::verify(&result).map_err(|errors| PassError::Internal {
        pass: "distribute",
        what: errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    })?;
    Ok(result)
}

/// What an entry's exchanges have in common.
struct Plan {
    mesh: Mesh,
    direct: bool,
    /// Most tokens of a rank.
    tokens: u32,
    capacity: Option<u32>,
    channels: u32,
}

impl Plan {
    fn of(
        module: &Module,
        graph: &Graph,
        mesh: Mesh,
        options: &Options,
        routings: &Routings,
    ) -> Result<Self, PassError> {
        let tokens = routings.most_tokens(module);
        let direct = match options.kind {
            Kind::Direct => true,
            Kind::TwoHop => false,
            Kind::Auto => &*graph.name == "decode" && tokens <= FEW_TOKENS,
        };
        let tokens = u32::try_from(tokens).map_err(|_| PassError::Mesh {
            mesh,
            why: format!("entry `{}` has up to {tokens} tokens a step", graph.name),
            how: "lower the bound of its named dims".into(),
        })?;
        Ok(Self {
            mesh,
            direct,
            tokens,
            capacity: options.capacity,
            // A channel without a token of its own would have nothing to move.
            channels: options.channels.min(tokens),
        })
    }
}

/// Largest extent of a dim.
fn bound(module: &Module, dim: &Dim) -> u64 {
    let max = |name: &str| module.dim(name).map(|dim| dim.max);
    dim.resolve(max).unwrap_or(u64::MAX)
}
