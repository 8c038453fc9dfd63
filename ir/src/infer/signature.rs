//! The operands of one op during inference, and the errors that name them.

use crate::kernel::NO_PROMOTION;
use crate::op::{OpRow, Place, TypeError, ValueDecl};
use crate::types::DType::{self, BF16, E4M3, F32 as DF32};
use crate::types::{Dim, F32, ScaleBlock, Type};

/// The operands of the op at hand, with what errors need.
pub struct Signature<'a> {
    pub(super) row: &'static OpRow,
    pub(super) types: &'a [Type],
}

impl<'a> Signature<'a> {
    /// Checks the number of operands and each operand's type by itself.
    pub(crate) fn new(row: &'static OpRow, types: &'a [Type]) -> Result<Self, TypeError> {
        let sig = Self { row, types };
        let fits = match row.variadic {
            None => types.len() == row.operands.len(),
            Some(_) => types.len() > row.operands.len(),
        };
        if !fits {
            let expected = match row.variadic {
                None => format!("{} operand(s): {}", row.operands.len(), names(row.operands)),
                Some(name) => format!(
                    "at least {} operand(s), ending in one or more {name}",
                    row.operands.len() + 1
                ),
            };
            return Err(sig.fail(Place::Op, expected, format!("{}", types.len())));
        }
        for (i, ty) in types.iter().enumerate() {
            // Declarations are checked where they are made; here the evaluator's values pass too.
            ty.check_at_run_time()
                .map_err(|why| sig.operand(i, format!("a well-formed type ({why})")))?;
        }
        Ok(sig)
    }

    pub(super) fn fail(
        &self,
        at: Place,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> TypeError {
        TypeError {
            op: self.row.mnemonic,
            at,
            expected: expected.into(),
            got: got.into(),
        }
    }

    /// The error that operand `i` should have been something else.
    pub(super) fn operand(&self, i: usize, expected: impl Into<String>) -> TypeError {
        self.fail(
            Place::Operand(self.row.operand_name(i)),
            expected,
            self.types[i].to_string(),
        )
    }

    pub(super) fn attr(
        &self,
        name: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> TypeError {
        self.fail(Place::Attr(name), expected, got.to_string())
    }

    pub(super) fn ty(&self, i: usize) -> &'a Type {
        &self.types[i]
    }

    /// The type of operand `i` as the table writes it.
    pub(super) fn form(&self, i: usize) -> &'static str {
        self.row
            .operands
            .get(i)
            .copied()
            .or(self.row.variadic)
            .map_or("any", |decl| decl.form)
    }

    /// The shape of operand `i`, which must be unscaled, with `N` axes and the element type of its form.
    pub(super) fn dims<const N: usize>(&self, i: usize) -> Result<&'a [Dim; N], TypeError> {
        let (ty, form) = (self.ty(i), self.form(i));
        let same_dtype = form
            .strip_prefix(ty.dtype.keyword())
            .is_some_and(|rest| rest.starts_with('['));
        match <&[Dim; N]>::try_from(ty.shape.as_slice()) {
            Ok(dims) if same_dtype && ty.scale.is_none() => Ok(dims),
            _ => Err(self.operand(i, form)),
        }
    }

    /// The axes of operand `i`, whose rows can be moved one by one: bf16, or block-scaled along rows.
    pub(super) fn movable_rows(&self, i: usize) -> Result<&'a [Dim; 2], TypeError> {
        let ty = self.ty(i);
        let movable = matches!(
            (ty.dtype, ty.scale),
            (BF16, None) | (E4M3, Some(ScaleBlock::ACTIVATION))
        );
        match <&[Dim; 2]>::try_from(ty.shape.as_slice()) {
            Ok(dims) if movable => Ok(dims),
            _ => Err(self.operand(i, self.form(i))),
        }
    }

    /// Shape of operand `i` split before its last axis; it must be bf16.
    pub(super) fn bf16_rows(&self, i: usize) -> Result<(&'a [Dim], &'a Dim), TypeError> {
        let ty = self.ty(i);
        match ty.shape.split_last() {
            Some((last, rows)) if ty.dtype == BF16 => Ok((rows, last)),
            _ => Err(self.operand(i, self.form(i))),
        }
    }

    /// Axis `axis` of operand `i`, which is called `name` in the signature, must have the extent `want`.
    pub(super) fn same(
        &self,
        i: usize,
        axis: usize,
        name: &str,
        want: &Dim,
    ) -> Result<(), TypeError> {
        if self.ty(i).shape[axis] == *want {
            return Ok(());
        }
        let want = want.to_string();
        let extent = if want == name {
            want
        } else {
            format!("{name} = {want}")
        };
        Err(self.operand(i, format!("{extent} on axis {axis}")))
    }

    /// Axis `axis` of operand `i` must be a constant.
    pub(super) fn constant(&self, i: usize, axis: usize, name: &str) -> Result<u64, TypeError> {
        self.ty(i).shape[axis]
            .as_const()
            .ok_or_else(|| self.operand(i, format!("a constant extent {name} on axis {axis}")))
    }

    pub(super) fn finite(
        &self,
        name: &'static str,
        value: F32,
        at_least: f32,
    ) -> Result<(), TypeError> {
        if value.get().is_finite() && value.get() >= at_least {
            return Ok(());
        }
        Err(self.attr(
            name,
            format!("a finite number of at least {at_least}"),
            value,
        ))
    }

    pub(super) fn times(&self, i: usize, dim: &Dim, k: u64) -> Result<Dim, TypeError> {
        dim.times(k).ok_or_else(|| {
            self.operand(
                i,
                format!("an extent whose product with {k} fits in 64 bits"),
            )
        })
    }

    pub(super) fn matmul_out(&self, out: DType) -> Result<(), TypeError> {
        if matches!(out, BF16 | DF32) {
            return Ok(());
        }
        Err(self.attr("out", "bf16 or f32", out))
    }

    /// `x[.., K]` and `w[.., K]` are both bf16, or block-scaled as activations and as weights, in groups along K
    /// that `promote` fits.
    pub(super) fn matmul_operands(
        &self,
        x_rank: usize,
        w_rank: usize,
        promote: u32,
    ) -> Result<(), TypeError> {
        if !matches!(promote, 32 | 64 | 128 | 256 | 512 | NO_PROMOTION) {
            return Err(self.attr("promote", "32, 64, 128, 256, 512 or none", promote));
        }
        let (x, w) = (self.ty(0), self.ty(1));
        let group = match (x.dtype, x.scale) {
            (BF16, None) => None,
            (E4M3, Some(ScaleBlock { rows: 1, cols })) => Some(cols),
            _ => return Err(self.operand(0, self.form(0))),
        };
        if x.rank() != x_rank {
            return Err(self.operand(0, self.form(0)));
        }
        if let Some(group) = group {
            self.promotion(group, promote)?;
        }
        let weights = group.map(|cols| ScaleBlock {
            cols,
            ..ScaleBlock::WEIGHT
        });
        if w.rank() != w_rank || w.dtype != x.dtype || w.scale != weights {
            // The form lists the bf16 type first, then the block-scaled one.
            let form = self
                .form(1)
                .split(" or ")
                .nth(usize::from(group.is_some()))
                .unwrap_or_default();
            let form = match weights {
                Some(block) => form.replace(&ScaleBlock::WEIGHT.to_string(), &block.to_string()),
                None => form.to_owned(),
            };
            return Err(self.operand(1, format!("{form} to match `x`")));
        }
        self.same(1, w_rank - 1, "K", &x.shape[x_rank - 1])
    }

    /// The interval fits operand 0, whose scale groups are `group` long: a sum that the tensor core carries on must
    /// not run over a change of scales.
    fn promotion(&self, group: u32, promote: u32) -> Result<(), TypeError> {
        let whole = self
            .ty(0)
            .last()
            .and_then(Dim::as_const)
            .is_some_and(|k| k == u64::from(group));
        let fits = match promote {
            32 | 64 | 128 => group == 128,
            NO_PROMOTION => whole,
            interval => interval == group,
        };
        if fits {
            return Ok(());
        }
        let intervals: Vec<&str> = [
            (group == 128, "32, 64, 128"),
            (group == 256, "256"),
            (group == 512, "512"),
            (whole, "none"),
        ]
        .into_iter()
        .filter_map(|(fits, text)| fits.then_some(text))
        .collect();
        if intervals.is_empty() {
            let groups = "scale groups of 128, 256 or 512 along K, or of all of a constant K";
            return Err(self.operand(0, groups));
        }
        let fitting = intervals.join(", ");
        let got = if promote == NO_PROMOTION {
            "none".to_owned()
        } else {
            promote.to_string()
        };
        Err(self.attr(
            "promote",
            format!(
                "{fitting} to go with the {group}-long scale groups of `x` (other groups come from `quantize` and \
                 `quantize_wide`)"
            ),
            got,
        ))
    }
}

/// `a, b, c`
pub(crate) fn names(decls: &[ValueDecl]) -> String {
    decls
        .iter()
        .map(|decl| decl.name)
        .collect::<Vec<_>>()
        .join(", ")
}
