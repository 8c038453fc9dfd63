//! Typed SSA values and their operators.

use std::marker::PhantomData;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use melior::ir::Value;

use super::Kernel;

/// A type that a register can hold.
pub trait Element: Copy + 'static {
    /// Its MLIR name.
    const MLIR: &'static str;
    /// Bytes in memory.
    const BYTES: u32;
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident = $mlir:literal, $bytes:literal;)*) => {
        $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub enum $name {}
        impl Element for $name {
            const MLIR: &'static str = $mlir;
            const BYTES: u32 = $bytes;
        })*
    };
}

elements! {
    /// Predicate.
    B1 = "i1", 1;
    /// 16-bit integer (also two packed E4M3 codes, or one BF16).
    I16 = "i16", 2;
    /// 32-bit integer (also two packed BF16, or four E4M3 codes). Arithmetic is signed.
    I32 = "i32", 4;
    /// 64-bit integer.
    I64 = "i64", 8;
    /// FP32.
    F32 = "f32", 4;
}

/// An SSA value of a kernel.
pub struct Val<'k, T> {
    pub(crate) k: &'k Kernel,
    pub(crate) raw: Value<'static, 'static>,
    element: PhantomData<T>,
}

impl<T> Clone for Val<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Val<'_, T> {}

impl<'k, T: Element> Val<'k, T> {
    pub(crate) fn new(k: &'k Kernel, raw: Value<'static, 'static>) -> Self {
        Self {
            k,
            raw,
            element: PhantomData,
        }
    }

    fn unary<R: Element>(self, name: &str) -> Val<'k, R> {
        Val::new(
            self.k,
            self.k
                .op1(name, &[self.raw], self.k.mlir_type(R::MLIR), &[]),
        )
    }

    fn binary(self, name: &str, other: Self) -> Self {
        Val::new(
            self.k,
            self.k
                .op1(name, &[self.raw, other.raw], self.k.mlir_type(T::MLIR), &[]),
        )
    }

    /// `self ? a : b`, for the type of `a` and `b`.
    fn compare(self, op: &str, predicate: i64, other: Self) -> Val<'k, B1> {
        let p = self.k.attr(&format!("{predicate} : i64"));
        Val::new(
            self.k,
            self.k.op1(
                op,
                &[self.raw, other.raw],
                self.k.mlir_type("i1"),
                &[("predicate", p)],
            ),
        )
    }
}

impl<'k> Val<'k, B1> {
    /// `self ? a : b`.
    pub fn select<T: Element>(self, a: Val<'k, T>, b: Val<'k, T>) -> Val<'k, T> {
        Val::new(
            self.k,
            self.k.op1(
                "arith.select",
                &[self.raw, a.raw, b.raw],
                self.k.mlir_type(T::MLIR),
                &[],
            ),
        )
    }

    /// 0 or 1.
    pub fn to_i32(self) -> Val<'k, I32> {
        self.unary("arith.extui")
    }

    /// The same; a branch on it is laid out for the other case.
    pub(crate) fn unlikely(self) -> Self {
        self.binary("llvm.intr.expect", self.k.bool(false))
    }
}

macro_rules! int_ops {
    ($ty:ident, $konst:ident, $rust:ty) => {
        impl<'k> Val<'k, $ty> {
            /// Equal.
            pub fn eq(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 0, o.into_val(self.k))
            }
            /// Not equal.
            pub fn ne(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 1, o.into_val(self.k))
            }
            /// Signed less.
            pub fn lt(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 2, o.into_val(self.k))
            }
            /// Signed less or equal.
            pub fn le(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 3, o.into_val(self.k))
            }
            /// Signed greater.
            pub fn gt(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 4, o.into_val(self.k))
            }
            /// Signed greater or equal.
            pub fn ge(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 5, o.into_val(self.k))
            }
            /// Unsigned less.
            pub fn ult(self, o: impl IntoVal<'k, $ty>) -> Val<'k, B1> {
                self.compare("arith.cmpi", 6, o.into_val(self.k))
            }
            /// Signed smaller of two.
            pub fn min(self, o: impl IntoVal<'k, $ty>) -> Self {
                self.binary("arith.minsi", o.into_val(self.k))
            }
            /// Signed larger of two.
            pub fn max(self, o: impl IntoVal<'k, $ty>) -> Self {
                self.binary("arith.maxsi", o.into_val(self.k))
            }
            /// Unsigned quotient: cheap for powers of two.
            pub fn udiv(self, o: impl IntoVal<'k, $ty>) -> Self {
                self.binary("arith.divui", o.into_val(self.k))
            }
            /// Unsigned remainder.
            pub fn urem(self, o: impl IntoVal<'k, $ty>) -> Self {
                self.binary("arith.remui", o.into_val(self.k))
            }
            /// Logical right shift.
            pub fn ushr(self, o: impl IntoVal<'k, $ty>) -> Self {
                self.binary("arith.shrui", o.into_val(self.k))
            }
        }
        impl<'k> IntoVal<'k, $ty> for $rust {
            fn into_val(self, k: &'k Kernel) -> Val<'k, $ty> {
                k.$konst(self)
            }
        }
        int_ops!(@bin $ty, Add, add, "arith.addi");
        int_ops!(@bin $ty, Sub, sub, "arith.subi");
        int_ops!(@bin $ty, Mul, mul, "arith.muli");
        int_ops!(@bin $ty, Div, div, "arith.divsi");
        int_ops!(@bin $ty, Rem, rem, "arith.remsi");
        int_ops!(@bin $ty, BitAnd, bitand, "arith.andi");
        int_ops!(@bin $ty, BitOr, bitor, "arith.ori");
        int_ops!(@bin $ty, BitXor, bitxor, "arith.xori");
        int_ops!(@bin $ty, Shl, shl, "arith.shli");
        int_ops!(@bin $ty, Shr, shr, "arith.shrsi");
    };
    (@bin $ty:ident, $trait:ident, $method:ident, $op:literal) => {
        impl<'k, R: IntoVal<'k, $ty>> $trait<R> for Val<'k, $ty> {
            type Output = Self;
            fn $method(self, rhs: R) -> Self {
                self.binary($op, rhs.into_val(self.k))
            }
        }
    };
}

int_ops!(I32, i32, i32);
int_ops!(I64, i64, i64);

impl<'k> IntoVal<'k, I32> for u32 {
    fn into_val(self, k: &'k Kernel) -> Val<'k, I32> {
        k.i32(self)
    }
}

/// A value or a constant that becomes one.
pub trait IntoVal<'k, T> {
    /// Emits the constant where it is one.
    fn into_val(self, k: &'k Kernel) -> Val<'k, T>;
}

impl<'k, T> IntoVal<'k, T> for Val<'k, T> {
    fn into_val(self, _: &'k Kernel) -> Self {
        self
    }
}

impl<'k> IntoVal<'k, F32> for f32 {
    fn into_val(self, k: &'k Kernel) -> Val<'k, F32> {
        k.f32(self)
    }
}

macro_rules! float_op {
    ($trait:ident, $method:ident, $op:literal) => {
        impl<'k, R: IntoVal<'k, F32>> $trait<R> for Val<'k, F32> {
            type Output = Self;
            fn $method(self, rhs: R) -> Self {
                self.binary($op, rhs.into_val(self.k))
            }
        }
    };
}
float_op!(Add, add, "arith.addf");
float_op!(Sub, sub, "arith.subf");
float_op!(Mul, mul, "arith.mulf");
// IEEE division: `div.rn.f32`.
float_op!(Div, div, "arith.divf");

impl Neg for Val<'_, F32> {
    type Output = Self;
    fn neg(self) -> Self {
        self.unary("arith.negf")
    }
}

impl BitAnd for Val<'_, B1> {
    type Output = Self;
    fn bitand(self, rhs: Self) -> Self {
        self.binary("arith.andi", rhs)
    }
}

impl BitOr for Val<'_, B1> {
    type Output = Self;
    fn bitor(self, rhs: Self) -> Self {
        self.binary("arith.ori", rhs)
    }
}

impl Not for Val<'_, B1> {
    type Output = Self;
    fn not(self) -> Self {
        self.binary("arith.xori", self.k.bool(true))
    }
}

impl<'k> Val<'k, I32> {
    /// Sign-extended.
    pub fn to_i64(self) -> Val<'k, I64> {
        self.unary("arith.extsi")
    }

    /// Zero-extended.
    pub fn to_u64(self) -> Val<'k, I64> {
        self.unary("arith.extui")
    }

    /// Signed integer to FP32, round to nearest even.
    pub fn to_f32(self) -> Val<'k, F32> {
        self.unary("arith.sitofp")
    }

    /// The same 32 bits as FP32.
    pub fn bits_to_f32(self) -> Val<'k, F32> {
        self.unary("arith.bitcast")
    }

    /// The two BF16 halves of a packed word, low first, widened to FP32 (exact).
    pub fn unpack_bf16x2(self) -> [Val<'k, F32>; 2] {
        [(self << 16).bits_to_f32(), (self & -65536).bits_to_f32()]
    }
}

impl<'k> Val<'k, I64> {
    /// Low half.
    pub fn to_i32(self) -> Val<'k, I32> {
        self.unary("arith.trunci")
    }
}

impl<'k> Val<'k, I16> {
    /// Zero-extended.
    pub fn to_i32(self) -> Val<'k, I32> {
        self.unary("arith.extui")
    }
}

impl<'k> Val<'k, F32> {
    /// `fma.rn.f32`: self * b + c with one rounding.
    pub fn fma(self, b: Self, c: Self) -> Self {
        Val::new(
            self.k,
            self.k.op1(
                "llvm.intr.fma",
                &[self.raw, b.raw, c.raw],
                self.k.mlir_type("f32"),
                &[],
            ),
        )
    }

    /// Larger of two; a NaN loses (`max.f32`).
    pub fn fmax(self, o: impl IntoVal<'k, F32>) -> Self {
        self.binary("arith.maxnumf", o.into_val(self.k))
    }

    /// Smaller of two; a NaN loses (`min.f32`).
    pub fn fmin(self, o: impl IntoVal<'k, F32>) -> Self {
        self.binary("arith.minnumf", o.into_val(self.k))
    }

    /// Absolute value.
    pub fn abs(self) -> Self {
        self.unary("llvm.intr.fabs")
    }

    /// IEEE square root: `sqrt.rn.f32`.
    pub fn sqrt(self) -> Self {
        self.unary("llvm.intr.sqrt")
    }

    /// The same 32 bits as an integer.
    pub fn to_bits(self) -> Val<'k, I32> {
        self.unary("arith.bitcast")
    }

    /// Ordered less: false when either is NaN.
    pub fn flt(self, o: impl IntoVal<'k, F32>) -> Val<'k, B1> {
        self.compare("arith.cmpf", 4, o.into_val(self.k))
    }

    /// Ordered less or equal.
    pub fn fle(self, o: impl IntoVal<'k, F32>) -> Val<'k, B1> {
        self.compare("arith.cmpf", 5, o.into_val(self.k))
    }

    /// Ordered greater.
    pub fn fgt(self, o: impl IntoVal<'k, F32>) -> Val<'k, B1> {
        self.compare("arith.cmpf", 2, o.into_val(self.k))
    }

    /// Ordered greater or equal.
    pub fn fge(self, o: impl IntoVal<'k, F32>) -> Val<'k, B1> {
        self.compare("arith.cmpf", 3, o.into_val(self.k))
    }

    /// Ordered equal.
    pub fn feq(self, o: impl IntoVal<'k, F32>) -> Val<'k, B1> {
        self.compare("arith.cmpf", 1, o.into_val(self.k))
    }
}

/// A mutable variable of a kernel.
pub struct Var<'k, T> {
    k: &'k Kernel,
    slot: Value<'static, 'static>,
    element: PhantomData<T>,
}

impl<T> Clone for Var<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Var<'_, T> {}

impl<'k, T: Element> Var<'k, T> {
    pub(crate) fn new(k: &'k Kernel, slot: Value<'static, 'static>) -> Self {
        Self {
            k,
            slot,
            element: PhantomData,
        }
    }

    /// Its value now.
    pub fn get(self) -> Val<'k, T> {
        Val::new(
            self.k,
            self.k
                .op1("llvm.load", &[self.slot], self.k.mlir_type(T::MLIR), &[]),
        )
    }

    /// Gives it a new value.
    pub fn set(self, value: Val<'k, T>) {
        self.k.op("llvm.store", &[value.raw, self.slot], &[], &[]);
    }

    /// `self = f(self)`.
    pub fn update(self, f: impl FnOnce(Val<'k, T>) -> Val<'k, T>) {
        self.set(f(self.get()));
    }
}
