//! Number formats and the type combinations of `wgmma` that the probe knows.
//!
//! In: nothing. Out: the fields of each format, names as PTX spells them. Holds: every combination of
//! PTX ISA 9.7.15.5 whose arithmetic is modelled is in [`Types::ALL`].

use mcc_sim::numerics::wgmma::Element;

/// A binary floating-point format by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub exp_bits: u32,
    pub man_bits: u32,
    pub bias: i32,
    /// The top exponent holds infinities and NaN; E4M3 has one NaN, its last code, and no infinity.
    pub ieee: bool,
    /// Bits below the fraction that the tensor core ignores: TF32 lies in the upper bits of a word.
    pub unused: u32,
}

impl Format {
    pub const F32: Self = Self::new(8, 23, 127);
    pub const F16: Self = Self::new(5, 10, 15);
    const E4M3: Self = Self {
        ieee: false,
        ..Self::new(4, 3, 7)
    };
    const E5M2: Self = Self::new(5, 2, 15);
    const BF16: Self = Self::new(8, 7, 127);
    const TF32: Self = Self {
        unused: 13,
        ..Self::new(8, 10, 127)
    };

    const fn new(exp_bits: u32, man_bits: u32, bias: i32) -> Self {
        Self {
            exp_bits,
            man_bits,
            bias,
            ieee: true,
            unused: 0,
        }
    }

    pub const fn of(element: Element) -> Self {
        match element {
            Element::E4m3 => Self::E4M3,
            Element::E5m2 => Self::E5M2,
            Element::F16 => Self::F16,
            Element::Bf16 => Self::BF16,
            Element::Tf32 => Self::TF32,
        }
    }

    /// A code from its fields; the exponent as it is stored.
    pub const fn code(self, negative: bool, exponent: u32, fraction: u32) -> u32 {
        let sign = (negative as u32) << (self.exp_bits + self.man_bits);
        (sign | exponent << self.man_bits | fraction) << self.unused
    }

    /// Least and largest exponent of a normal number.
    pub const fn exponents(self) -> (i32, i32) {
        let top = (1 << self.exp_bits) - 1 - self.ieee as i32;
        (1 - self.bias, top - self.bias)
    }

    /// The largest fraction under the largest exponent.
    pub const fn max_fraction(self) -> u32 {
        (1 << self.man_bits) - 1 - !self.ieee as u32
    }

    pub const fn is_nan(self, code: u32) -> bool {
        let magnitude = (code >> self.unused) & ((1 << (self.exp_bits + self.man_bits)) - 1);
        let top = (1 << self.exp_bits) - 1;
        if self.ieee {
            magnitude > top << self.man_bits
        } else {
            magnitude == (1 << (self.exp_bits + self.man_bits)) - 1
        }
    }
}

/// Type of the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulator {
    /// One to a register.
    F32,
    /// Two to a register.
    F16,
}

impl Accumulator {
    pub(super) const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
        }
    }

    /// Results in one register.
    pub(super) const fn per_register(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
        }
    }
}

/// Operand and accumulator types of one `wgmma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Of A.
    pub a: Element,
    /// Of B.
    pub b: Element,
    /// Of C and D.
    pub accumulator: Accumulator,
}

impl Types {
    /// Every combination whose arithmetic is modelled, those of the project's kernels first.
    pub const ALL: [Self; 12] = {
        use Element::{Bf16, E4m3, E5m2, F16, Tf32};
        [
            Self::f32(E4m3, E4m3),
            Self::f32(Bf16, Bf16),
            Self::f32(E5m2, E5m2),
            Self::f32(E4m3, E5m2),
            Self::f32(E5m2, E4m3),
            Self::f32(F16, F16),
            Self::f32(Tf32, Tf32),
            Self::f16(E4m3, E4m3),
            Self::f16(E5m2, E5m2),
            Self::f16(E4m3, E5m2),
            Self::f16(E5m2, E4m3),
            Self::f16(F16, F16),
        ]
    };

    const fn f32(a: Element, b: Element) -> Self {
        Self {
            a,
            b,
            accumulator: Accumulator::F32,
        }
    }

    const fn f16(a: Element, b: Element) -> Self {
        Self {
            accumulator: Accumulator::F16,
            ..Self::f32(a, b)
        }
    }

    /// As PTX spells them: `f32.e4m3.e4m3`.
    #[must_use]
    pub fn name(self) -> String {
        let accumulator = match self.accumulator {
            Accumulator::F32 => "f32",
            Accumulator::F16 => "f16",
        };
        format!(
            "{accumulator}.{}.{}",
            element_name(self.a),
            element_name(self.b)
        )
    }

    /// Whether the operands may lie with M or N innermost (PTX ISA 9.7.15.5: 16-bit types only).
    pub(super) const fn transposable(self) -> bool {
        self.a.bytes() == 2
    }
}

/// As PTX spells it.
pub(super) const fn element_name(element: Element) -> &'static str {
    match element {
        Element::E4m3 => "e4m3",
        Element::E5m2 => "e5m2",
        Element::F16 => "f16",
        Element::Bf16 => "bf16",
        Element::Tf32 => "tf32",
    }
}
