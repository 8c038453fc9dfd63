//! Element types: how numbers of a launch file become bytes, and back.
//!
//! The names are PTX's, with `e4m3` and `e5m2` for the bytes of FP8 tensors and
//! `tf32` for FP32 words that are rounded to TF32.

use std::fmt;

use mcc_ptx::Type;
use mcc_sim::numerics::convert::{self, BF16, E4M3, E5M2, F16, Rounding};

/// A number as the launch file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Num {
    Int(i128),
    Float(f64),
    /// `0x…`: an integer, or the bits of a floating-point number.
    Hex(u64),
}

impl Num {
    pub fn parse(text: &str) -> Option<Num> {
        match text {
            "nan" => Some(Num::Float(f64::NAN)),
            "inf" => Some(Num::Float(f64::INFINITY)),
            "-inf" => Some(Num::Float(f64::NEG_INFINITY)),
            _ => {
                let digits = text.strip_prefix("0x")?;
                // `from_str_radix` would take a sign.
                let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
                let value = plain.then(|| u64::from_str_radix(digits, 16));
                value?.ok().map(Num::Hex)
            }
        }
    }

    /// The integer that it is, if it is one.
    pub fn integer(self) -> Option<i128> {
        match self {
            Num::Int(i) => Some(i),
            Num::Hex(h) => Some(h.into()),
            // 1e6 is a floating-point number for JSON.
            Num::Float(f) if f.fract() == 0.0 && f.abs() <= 9e15 => Some(f as i128),
            Num::Float(_) => None,
        }
    }
}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Num::Int(i) => i.fmt(f),
            Num::Float(x) => x.fmt(f),
            Num::Hex(h) => write!(f, "{h:#x}"),
        }
    }
}

/// Declares the types from aligned rows: variant, name, bytes, PTX type.
macro_rules! dtypes {
    ($($var:ident $name:literal $bytes:literal $ptx:expr;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DType { $($var,)* }

        impl DType {
            pub const ALL: &'static [DType] = &[$(DType::$var,)*];

            pub const fn name(self) -> &'static str {
                match self { $(DType::$var => $name,)* }
            }

            pub const fn bytes(self) -> usize {
                match self { $(DType::$var => $bytes,)* }
            }

            /// The type that a PTX parameter of such a value has.
            pub const fn ptx(self) -> Type {
                match self { $(DType::$var => $ptx,)* }
            }
        }
    };
}

dtypes! {
    U8   "u8"   1 Type::U8;
    U16  "u16"  2 Type::U16;
    U32  "u32"  4 Type::U32;
    U64  "u64"  8 Type::U64;
    S8   "s8"   1 Type::S8;
    S16  "s16"  2 Type::S16;
    S32  "s32"  4 Type::S32;
    S64  "s64"  8 Type::S64;
    B8   "b8"   1 Type::B8;
    B16  "b16"  2 Type::B16;
    B32  "b32"  4 Type::B32;
    B64  "b64"  8 Type::B64;
    F16  "f16"  2 Type::F16;
    Bf16 "bf16" 2 Type::Bf16;
    F32  "f32"  4 Type::F32;
    F64  "f64"  8 Type::F64;
    Tf32 "tf32" 4 Type::B32;
    E4m3 "e4m3" 1 Type::B8;
    E5m2 "e5m2" 1 Type::B8;
}

impl DType {
    pub fn from_name(name: &str) -> Result<DType, String> {
        let mut all = DType::ALL.iter().copied();
        all.find(|t| t.name() == name).ok_or_else(|| {
            let known: Vec<&str> = DType::ALL.iter().map(|t| t.name()).collect();
            format!("`{name}` is no element type; there is {}", known.join(", "))
        })
    }

    /// The type whose values a PTX parameter of type `ty` takes.
    pub fn of_parameter(ty: Type) -> Option<DType> {
        DType::ALL[..16].iter().copied().find(|t| t.ptx() == ty)
    }

    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F16 | Bf16 | F32 | F64 | Tf32 | E4m3 | E5m2)
    }

    /// Whether only its width matters.
    pub const fn is_bits(self) -> bool {
        matches!(self, DType::B8 | DType::B16 | DType::B32 | DType::B64)
    }

    /// The least and the greatest integer.
    fn range(self) -> (i128, i128) {
        use DType::*;
        let bits = 8 * self.bytes() as u32;
        let (half, all) = (1i128 << (bits - 1), 1i128 << bits);
        match self {
            S8 | S16 | S32 | S64 => (-half, half - 1),
            B8 | B16 | B32 | B64 => (-half, all - 1),
            _ => (0, all - 1),
        }
    }

    /// The bits of a number; an error when the type cannot hold it. Fractions
    /// are rounded to nearest even.
    pub fn encode(self, value: Num) -> Result<u64, String> {
        let width = 8 * self.bytes() as u32;
        if let Num::Hex(bits) = value {
            return if width == 64 || bits >> width == 0 {
                Ok(bits)
            } else {
                Err(format!("{value} has more than {width} bits"))
            };
        }
        if !self.is_float() {
            let Some(i) = value.integer() else {
                return Err(format!("{value} is no integer, as {self} needs"));
            };
            let (low, high) = self.range();
            return if (low..=high).contains(&i) {
                Ok(i as u64 & (u64::MAX >> (64 - width)))
            } else {
                Err(format!(
                    "{i} is not between {low} and {high}, as {self} needs"
                ))
            };
        }
        let x = match value {
            Num::Int(i) => i as f64,
            Num::Float(x) => x,
            Num::Hex(_) => 0.0, // Returned above.
        };
        let bits = self.round(x);
        if self.decode(bits).is_finite() == x.is_finite()
            && (self != DType::E4m3 || !x.is_infinite())
        {
            Ok(bits)
        } else {
            Err(format!("{x} is beyond the range of {self}"))
        }
    }

    /// The bits of a number, rounded to nearest even; what is too large becomes
    /// the largest finite value.
    pub fn saturate(self, x: f64) -> u64 {
        match self.encode(Num::Float(x)) {
            Ok(bits) => bits,
            Err(_) if self.is_float() => {
                let magnitude: u64 = match self {
                    DType::F64 => f64::MAX.to_bits(),
                    DType::F32 => f32::MAX.to_bits().into(),
                    DType::Tf32 => 0x7f7f_e000,
                    DType::F16 => F16.max_finite().into(),
                    DType::Bf16 => BF16.max_finite().into(),
                    DType::E5m2 => E5M2.max_finite().into(),
                    _ => E4M3.max_finite().into(),
                };
                let sign = 1u64 << (8 * self.bytes() - 1);
                magnitude | if x < 0.0 { sign } else { 0 }
            }
            Err(_) => {
                let (low, high) = self.range();
                let i = (x as i128).clamp(low, high);
                i as u64 & (u64::MAX >> (64 - 8 * self.bytes() as u32))
            }
        }
    }

    fn round(self, x: f64) -> u64 {
        let small = |format| u64::from(convert::encode(x, format, Rounding::NearestEven, false));
        match self {
            DType::F64 => x.to_bits(),
            DType::F32 => (x as f32).to_bits().into(),
            DType::Tf32 => {
                u64::from(convert::encode(
                    x,
                    convert::TF32,
                    Rounding::NearestEven,
                    false,
                )) << 13
            }
            DType::F16 => small(F16),
            DType::Bf16 => small(BF16),
            DType::E5m2 => small(E5M2),
            _ => small(E4M3),
        }
    }

    /// The value of bits. Integers beyond 2^53 lose their last digits.
    pub fn decode(self, bits: u64) -> f64 {
        let signed = |width: u32| ((bits << (64 - width)) as i64 >> (64 - width)) as f64;
        match self {
            DType::F64 => f64::from_bits(bits),
            DType::F32 | DType::Tf32 => f32::from_bits(bits as u32).into(),
            DType::F16 => convert::decode(bits as u32, F16),
            DType::Bf16 => convert::decode(bits as u32, BF16),
            DType::E4m3 => convert::decode(bits as u32, E4M3),
            DType::E5m2 => convert::decode(bits as u32, E5M2),
            DType::S8 => signed(8),
            DType::S16 => signed(16),
            DType::S32 => signed(32),
            DType::S64 => signed(64),
            _ => bits as f64,
        }
    }

    /// Element `i` of a tensor's bytes.
    pub fn element(self, bytes: &[u8], i: usize) -> u64 {
        let size = self.bytes();
        let mut word = [0u8; 8];
        if let Some(part) = bytes.get(i * size..(i + 1) * size) {
            word[..size].copy_from_slice(part);
        }
        u64::from_le_bytes(word)
    }

    /// Element bits for people: the number, or the bits where they are all
    /// that is known.
    pub fn show(self, bits: u64) -> String {
        match self {
            DType::U64 => bits.to_string(),
            DType::S64 => (bits as i64).to_string(),
            t if t.is_bits() => format!("{bits:#0width$x}", width = 2 + 2 * t.bytes()),
            t => {
                let v = t.decode(bits);
                // The shortest text that reads back as this value.
                if t == DType::F64 || !t.is_float() {
                    format!("{v}")
                } else {
                    format!("{}", v as f32)
                }
            }
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_bits_of_their_type() {
        let ok = [
            (DType::U8, Num::Int(255), 255),
            (DType::S8, Num::Int(-1), 0xff),
            (DType::B16, Num::Int(-2), 0xfffe),
            (DType::U32, Num::Float(1e6), 1_000_000),
            (DType::S64, Num::Int(-1), u64::MAX),
            (DType::F32, Num::Int(1), 0x3f80_0000),
            (DType::F32, Num::Hex(0x7fc0_0001), 0x7fc0_0001),
            (DType::F16, Num::Float(-1.5), 0xbe00),
            (DType::Bf16, Num::Float(3.0), 0x4040),
            (DType::E4m3, Num::Float(448.0), 0x7e),
            (DType::E5m2, Num::Float(f64::INFINITY), 0x7c),
            (DType::Tf32, Num::Float(1.0 + 1.0 / 2048.0), 0x3f80_0000),
            (DType::F64, Num::Float(0.5), 0x3fe0_0000_0000_0000),
        ];
        for (t, n, bits) in ok {
            assert_eq!(t.encode(n), Ok(bits), "{t} {n}");
        }
        let wrong = [
            (DType::U8, Num::Int(256)),
            (DType::U8, Num::Int(-1)),
            (DType::S8, Num::Int(128)),
            (DType::B8, Num::Hex(0x100)),
            (DType::U32, Num::Float(1.5)),
            (DType::F16, Num::Float(70000.0)),
            (DType::E4m3, Num::Float(500.0)),
            (DType::E4m3, Num::Float(f64::INFINITY)),
            (DType::S32, Num::Float(f64::NAN)),
        ];
        for (t, n) in wrong {
            assert!(t.encode(n).is_err(), "{t} {n}");
        }
        assert!(
            DType::F32
                .decode(DType::F32.encode(Num::Float(f64::NAN)).unwrap_or(0))
                .is_nan()
        );
    }

    #[test]
    fn what_is_too_large_saturates() {
        assert_eq!(DType::E4m3.saturate(1e9), 0x7e);
        assert_eq!(DType::E4m3.saturate(-1e9), 0xfe);
        assert_eq!(DType::F16.saturate(1e9), 0x7bff);
        assert_eq!(
            DType::Tf32.decode(DType::Tf32.saturate(1e300)),
            DType::Tf32.decode(0x7f7f_e000)
        );
        assert_eq!(DType::S8.saturate(-300.0), 0x80);
        assert_eq!(DType::U16.saturate(70_000.0), 0xffff);
    }

    #[test]
    fn bits_are_shown_as_what_they_are() {
        assert_eq!(DType::F32.show(0x3dcc_cccd), "0.1");
        assert_eq!(DType::S8.show(0xff), "-1");
        assert_eq!(DType::B16.show(0xff), "0x00ff");
        assert_eq!(DType::U64.show(u64::MAX), "18446744073709551615");
    }
}
