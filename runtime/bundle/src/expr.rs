//! Integers known at launch: grids and work are sums, differences, products, quotients and minima of extents.
//!
//! In: the extents of a step's operands and the device's number of SMs. Out: a value or an [`ExprError`].
//! Holds: evaluation neither wraps nor divides by zero, and recurses at most [`MAX_EXPR_DEPTH`] deep.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Depth that an expression may have; the compiler's have three levels.
pub const MAX_EXPR_DEPTH: usize = 32;

/// An integer known at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A constant.
    Const(u64),
    /// Run-time extent of an operand's axis.
    Extent {
        /// Operand index.
        operand: usize,
        /// Axis, outermost is 0.
        axis: usize,
    },
    /// Number of SMs of the device.
    Sms,
    /// `ceil(value / divisor)`.
    CeilDiv(Box<Expr>, u64),
    /// Sum.
    Add(Vec<Expr>),
    /// Difference, zero where it would be negative.
    Sub(Box<Expr>, Box<Expr>),
    /// Product.
    Mul(Vec<Expr>),
    /// Smallest.
    Min(Vec<Expr>),
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExprError {
    /// The operand or axis does not exist.
    #[error("operand {operand} has no axis {axis}")]
    NoAxis {
        /// Operand index.
        operand: usize,
        /// Axis.
        axis: usize,
    },
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A list with nothing in it.
    #[error("a sum, product or minimum of nothing")]
    Empty,
    /// The value needs more than 64 bits.
    #[error("the value does not fit 64 bits")]
    Overflow,
    /// Nested too deeply.
    #[error("nested more than {MAX_EXPR_DEPTH} levels deep")]
    TooDeep,
}

impl Expr {
    /// The value, given `extent(operand, axis)` and the number of SMs.
    ///
    /// # Errors
    /// When an axis does not exist, a divisor is zero, a list is empty, or the value does not fit.
    pub fn eval(
        &self,
        extent: &dyn Fn(usize, usize) -> Option<u64>,
        sms: u64,
    ) -> Result<u64, ExprError> {
        self.eval_at(extent, sms, u64::saturating_sub, 0)
    }

    /// A value that no smaller extents and no fewer SMs exceed. A difference counts as its first term: it is the
    /// one thing here that can grow when an extent shrinks.
    ///
    /// # Errors
    /// As [`Expr::eval`]; when there is a bound, `eval` has a value for all smaller extents.
    pub fn upper_bound(
        &self,
        extent: &dyn Fn(usize, usize) -> Option<u64>,
        sms: u64,
    ) -> Result<u64, ExprError> {
        self.eval_at(extent, sms, |a, _| a, 0)
    }

    fn eval_at(
        &self,
        extent: &dyn Fn(usize, usize) -> Option<u64>,
        sms: u64,
        difference: fn(u64, u64) -> u64,
        depth: usize,
    ) -> Result<u64, ExprError> {
        if depth > MAX_EXPR_DEPTH {
            return Err(ExprError::TooDeep);
        }
        let fold = |terms: &[Expr], combine: fn(u64, u64) -> Option<u64>| {
            let mut total = None;
            for term in terms {
                let value = term.eval_at(extent, sms, difference, depth + 1)?;
                total = Some(match total {
                    None => value,
                    Some(acc) => combine(acc, value).ok_or(ExprError::Overflow)?,
                });
            }
            total.ok_or(ExprError::Empty)
        };
        match self {
            Self::Const(n) => Ok(*n),
            Self::Extent { operand, axis } => extent(*operand, *axis).ok_or(ExprError::NoAxis {
                operand: *operand,
                axis: *axis,
            }),
            Self::Sms => Ok(sms),
            Self::CeilDiv(_, 0) => Err(ExprError::DivisionByZero),
            Self::CeilDiv(value, divisor) => Ok(value
                .eval_at(extent, sms, difference, depth + 1)?
                .div_ceil(*divisor)),
            Self::Add(terms) => fold(terms, u64::checked_add),
            Self::Sub(a, b) => Ok(difference(
                a.eval_at(extent, sms, difference, depth + 1)?,
                b.eval_at(extent, sms, difference, depth + 1)?,
            )),
            Self::Mul(terms) => fold(terms, u64::checked_mul),
            Self::Min(terms) => fold(terms, |a, b| Some(a.min(b))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(expr: &Expr) -> Result<u64, ExprError> {
        let extents = [vec![100, 256], vec![7]];
        expr.eval(
            &|operand, axis| extents.get(operand)?.get(axis).copied(),
            132,
        )
    }

    #[test]
    fn values() {
        use Expr::{Add, CeilDiv, Const, Extent, Min, Mul, Sms};
        let rows = Extent {
            operand: 0,
            axis: 0,
        };
        let tiles = CeilDiv(Box::new(rows.clone()), 64);
        assert_eq!(eval(&tiles), Ok(2));
        assert_eq!(
            eval(&Min(vec![Sms, Mul(vec![tiles.clone(), Const(80)])])),
            Ok(132)
        );
        assert_eq!(eval(&Min(vec![Sms, Mul(vec![tiles, Const(3)])])), Ok(6));
        assert_eq!(
            eval(&Add(vec![
                rows,
                Extent {
                    operand: 1,
                    axis: 0
                },
                Const(1)
            ])),
            Ok(108)
        );
        assert_eq!(eval(&CeilDiv(Box::new(Const(0)), 64)), Ok(0));
    }

    #[test]
    fn differences_stop_at_zero_and_are_bounded_by_their_first_term() {
        use Expr::{Const, Extent, Mul, Sub};
        let sub = |a, b| Sub(Box::new(a), Box::new(b));
        assert_eq!(eval(&sub(Const(7), Const(3))), Ok(4));
        assert_eq!(eval(&sub(Const(3), Const(7))), Ok(0));
        // Zero at these extents, yet no value at all for a smaller operand 1.
        let rows = Extent {
            operand: 1,
            axis: 0,
        };
        let hidden = Mul(vec![Const(u64::MAX), sub(Const(7), rows)]);
        assert_eq!(eval(&hidden), Ok(0));
        assert_eq!(
            hidden.upper_bound(&|_, _| Some(7), 132),
            Err(ExprError::Overflow)
        );
    }

    #[test]
    fn errors() {
        use Expr::{Add, CeilDiv, Const, Extent, Mul};
        assert_eq!(
            eval(&Extent {
                operand: 1,
                axis: 1
            }),
            Err(ExprError::NoAxis {
                operand: 1,
                axis: 1
            })
        );
        assert_eq!(
            eval(&CeilDiv(Box::new(Const(1)), 0)),
            Err(ExprError::DivisionByZero)
        );
        assert_eq!(eval(&Add(vec![])), Err(ExprError::Empty));
        assert_eq!(
            eval(&Add(vec![Const(u64::MAX), Const(1)])),
            Err(ExprError::Overflow)
        );
        assert_eq!(
            eval(&Mul(vec![Const(u64::MAX), Const(2)])),
            Err(ExprError::Overflow)
        );
        let mut deep = Const(1);
        for _ in 0..100 {
            deep = Add(vec![deep]);
        }
        assert_eq!(eval(&deep), Err(ExprError::TooDeep));
    }
}
