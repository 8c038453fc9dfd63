//! What `dispatch` and `combine` send between ranks.
//!
//! In: experts a token, bytes of a row, the mesh. Out: bytes that a rank sends over NVLink and over InfiniBand.
//!
//! ```text
//! rank ──IB──► GPU of the same number in each other node that has an expert of the token, once
//!                └──NVLink──► every other GPU there that has one, once
//!      ──NVLink──► every other GPU of its own node that has one, once
//! ```
//!
//! That is DeepSeek-V3's way (report, section 3.2.2): a row goes over InfiniBand at most once to a node, however many
//! of its experts are there. `combine` is the mirror: each GPU sums its rows, the node sums its GPUs' rows, and one
//! row goes back. Tokens choose experts evenly and independently here: of `n` ranks or nodes one is missed by
//! all `k` choices with probability `((n - 1) / n)^k`. V3's limit of four groups makes a token reach 2.9 of 4 nodes
//! instead of the 3.6 of this formula; `dispatch` does not know of groups. Headers and counts (48 bytes a row in
//! DeepEP) are left out.

use mcc_ir::mesh::Mesh;

/// Fixed point: so many parts make one copy of a row.
pub(super) const ONE: u64 = 1 << 32;

/// Copies of a token's row that a rank sends, forwarding for others included, in parts of [`ONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::egraph) struct Copies {
    /// Over NVLink, inside of nodes.
    pub(in crate::egraph) nvlink: u64,
    /// Over InfiniBand, to other nodes.
    pub(in crate::egraph) ib: u64,
}

impl Copies {
    /// A number of copies in thousandths.
    pub(in crate::egraph) fn thousandths(copies: u64) -> u64 {
        (u128::from(copies) * 1000 / u128::from(ONE)) as u64
    }

    /// Copies for a token with `choices` experts.
    pub(super) fn of(mesh: &Mesh, choices: u64) -> Copies {
        let (nodes, gpus) = (
            u64::from(mesh.expert_nodes().max(1)),
            u64::from(mesh.expert_gpus().max(1)),
        );
        // By symmetry a rank forwards as much for others as others forward for it.
        Copies {
            nvlink: (nodes * (gpus - 1)).saturating_mul(hit(nodes * gpus, choices)),
            ib: (nodes - 1).saturating_mul(hit(nodes, choices)),
        }
    }

    /// Bytes for that many tokens with rows of that many bytes.
    pub(super) fn bytes(copies: u64, tokens: u64, row: u64) -> u64 {
        let bytes = u128::from(copies)
            .saturating_mul(u128::from(tokens))
            .saturating_mul(u128::from(row))
            / u128::from(ONE);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Probability that a given one of `places` is among `choices`.
fn hit(places: u64, choices: u64) -> u64 {
    let mut missed = ONE;
    // Beyond that every place is hit, to the last digit, unless there are more places than any mesh has.
    for _ in 0..choices.min(1 << 12) {
        missed = (u128::from(missed) * u128::from(places - 1) / u128::from(places)) as u64;
    }
    ONE - missed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(mesh: &str, choices: u64) -> (f64, f64) {
        let copies = Copies::of(&mesh.parse().unwrap(), choices);
        (
            copies.nvlink as f64 / ONE as f64,
            copies.ib as f64 / ONE as f64,
        )
    }

    #[test]
    fn a_row_crosses_to_a_node_once_and_then_to_its_gpus() {
        // 3 other nodes of 4 at 1 - (3/4)^8 each; 28 of 32 GPUs are not the one where the row enters.
        let (nvlink, ib) = copies("nodes=4,gpus=8,ep=32", 8);
        assert!((ib - 3.0 * (1.0 - 0.75f64.powi(8))).abs() < 1e-6, "{ib}");
        let gpus = 28.0 * (1.0 - (31.0 / 32.0f64).powi(8));
        assert!((nvlink - gpus).abs() < 1e-6, "{nvlink}");
    }

    #[test]
    fn one_node_sends_nothing_over_infiniband_and_one_rank_nothing_at_all() {
        let (nvlink, ib) = copies("nodes=4,gpus=8,ep=8", 8);
        assert!(nvlink > 0.0 && ib == 0.0);
        assert_eq!(copies("nodes=4,gpus=8,ep=1", 8), (0.0, 0.0));
    }

    #[test]
    fn bytes_saturate() {
        assert_eq!(Copies::bytes(ONE / 2, 10, 7168), 5 * 7168);
        assert_eq!(Copies::bytes(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
