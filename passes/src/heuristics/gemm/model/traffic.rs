//! What comes from device memory, and how often.

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile};
use mcc_ir::types::DType;

use super::super::GemmProblem;
use super::Params;
use super::work::Work;
use crate::target::Target;

/// Every operand once, the product once; grouped weights only of groups that have rows.
pub(in super::super) fn least_bytes(problem: &GemmProblem) -> u64 {
    let rows = problem.rows.max(1);
    let traffic = Traffic::of(problem);
    let (rows, products) = match problem.form {
        GemmForm::Grouped { groups } | GemmForm::Masked { groups } => {
            (rows, u64::from(groups).clamp(1, rows))
        }
        GemmForm::KGrouped { groups: count } | GemmForm::Batched { heads: count } => {
            (rows * u64::from(count), u64::from(count))
        }
        GemmForm::Dense => (rows, 1),
    };
    traffic.a(rows) + products * traffic.product_b + rows * traffic.row_out
}

pub(super) fn keeps(target: &Target, params: &Params) -> u64 {
    target.l2_bytes / 100 * params.l2_keep_percent
}

/// Bytes of operands and product.
pub(super) struct Traffic {
    /// A row of A.
    pub(super) row_a: u64,
    /// B of one product.
    pub(super) product_b: u64,
    /// A row of the product: written, and read where it is added to.
    pub(super) row_out: u64,
    /// Rows of A are shared by all products (weight gradients read other columns of them).
    pub(super) k_grouped: Option<u64>,
}

impl Traffic {
    pub(super) fn of(problem: &GemmProblem) -> Self {
        let (n, k) = (problem.n, problem.k);
        let scales = if problem.input == DType::E4M3 {
            k.div_ceil(128) * DType::F32.bytes()
        } else {
            0
        };
        let row_a = k * problem.input.bytes() + scales;
        let row_out = match problem.epilogue {
            Epilogue::Store => n * problem.out.bytes(),
            Epilogue::Add | Epilogue::Accumulate => 2 * n * problem.out.bytes(),
            Epilogue::SwigluQuantize { .. } => n / 2 + n.div_ceil(256) * DType::F32.bytes(),
        };
        let k_grouped = match problem.form {
            GemmForm::KGrouped { groups } => Some(u64::from(groups).max(1)),
            _ => None,
        };
        let product_b = n * row_a / k_grouped.unwrap_or(1);
        Self {
            row_a,
            product_b,
            row_out,
            k_grouped,
        }
    }

    /// A, for rows of all products.
    pub(super) fn a(&self, rows: u64) -> u64 {
        rows * self.row_a / self.k_grouped.unwrap_or(1)
    }
}

/// Bytes of device memory when `raster` row tiles go together through the columns. Each such group of rows reads all
/// of B, unless B stays in the L2 beside the rows; and the rows are read in each wave, unless they stay.
pub(super) fn hbm_bytes(
    problem: &GemmProblem,
    tile: GemmTile,
    raster: u32,
    target: &Target,
    params: &Params,
    work: &Work,
) -> u64 {
    let traffic = Traffic::of(problem);
    let row_tiles = work.row_tiles.div_ceil(work.products.max(1)).max(1);
    let together = row_tiles.min(raster.into());
    let a = traffic.a(work.rows);
    let a_together = traffic
        .a(together * u64::from(tile.m))
        .min(a / work.products.max(1));
    let columns_at_once = work
        .busy_sms
        .div_ceil(together)
        .clamp(1, work.column_tiles.max(1));
    let b_at_once = traffic.product_b / work.column_tiles.max(1) * columns_at_once;
    let keep = keeps(target, params);
    let b_readings = if a_together + traffic.product_b <= keep {
        1
    } else {
        row_tiles.div_ceil(together)
    };
    let a_readings = if a_together + b_at_once <= keep {
        1
    } else {
        work.column_tiles.div_ceil(columns_at_once)
    };
    a * a_readings + work.products * traffic.product_b * b_readings + work.rows * traffic.row_out
}
