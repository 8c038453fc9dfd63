//! Accumulator fragments on their way to shared memory: `stmatrix` and barriers of a warpgroup.

use super::{I32, Kernel, Shared, Val};

impl Kernel {
    /// `stmatrix.x4`, `.x2` or `.x1` of 8x8 matrices of 16-bit elements, one a register: lane `8 i + r` gives the address
    /// of row `r` of matrix `i`, 16 bytes (PTX ISA "stmatrix"). With `transposed` the rows in memory are the fragment's columns.
    pub fn stmatrix<'k>(&'k self, row: Shared<'k>, matrices: &[Val<'k, I32>], transposed: bool) {
        let n = matrices.len();
        debug_assert!(matches!(n, 1 | 2 | 4));
        let trans = if transposed { ".trans" } else { "" };
        let list: Vec<String> = (1..=n).map(|i| format!("${i}")).collect();
        let text = format!(
            "stmatrix.sync.aligned.m8n8.x{n}{trans}.shared::cta.b16 [$0], {{{}}};",
            list.join(", ")
        );
        let constraints = format!("r{}", ",r".repeat(n));
        let mut operands = vec![row.address().raw];
        operands.extend(matrices.iter().map(|m| m.raw));
        self.effect(&text, &constraints, &operands);
    }

    /// `bar.sync id, threads`: the threads that share barrier `id`, whole warps (PTX ISA "bar"). Barrier 0 is the block's.
    pub fn sync_named<'k>(&'k self, id: Val<'k, I32>, threads: u32) {
        let n = self.i32(threads);
        self.effect("bar.sync $0, $1;", "r,r", &[id.raw, n.raw]);
    }
}
