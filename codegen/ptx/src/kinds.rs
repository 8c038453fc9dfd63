//! The closed vocabularies of PTX that carry meaning by themselves: types,
//! state spaces and scopes.
//!
//! Each is an enum with its spelling beside it; [`crate::Mod`] wraps them, so
//! that a consumer can match on `Mod::Ty(Type::F32)` and not on text.

use std::fmt;

/// Declares an enum whose variants have one spelling each, with `name()` and
/// `from_name()` derived from the same list.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $var:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $var,)* }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$var,)*];

            /// The spelling, without the leading dot.
            pub const fn name(self) -> &'static str {
                match self { $($name::$var => $text,)* }
            }

            /// The inverse of [`Self::name`].
            pub fn from_name(text: &str) -> Option<$name> {
                match text { $($text => Some($name::$var),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use spelled;

spelled! {
    /// PTX ISA 5.2: fundamental, packed and alternate types.
    Type {
        Pred = "pred",
        B1 = "b1", B4 = "b4", B8 = "b8", B16 = "b16", B32 = "b32", B64 = "b64", B128 = "b128",
        /// Only the size qualifier of `tensormap.replace`.
        B1024 = "b1024",
        U4 = "u4", U8 = "u8", U16 = "u16", U32 = "u32", U64 = "u64",
        S4 = "s4", S8 = "s8", S16 = "s16", S32 = "s32", S64 = "s64",
        U16x2 = "u16x2", S16x2 = "s16x2",
        F16 = "f16", F16x2 = "f16x2", Bf16 = "bf16", Bf16x2 = "bf16x2",
        Tf32 = "tf32", F32 = "f32", F64 = "f64",
        E4m3 = "e4m3", E5m2 = "e5m2", E4m3x2 = "e4m3x2", E5m2x2 = "e5m2x2",
        /// Opaque types of texture references and the like, in declarations only.
        Texref = "texref", Samplerref = "samplerref", Surfref = "surfref",
    }
}

impl Type {
    /// Width of one value in bits; a packed type counts all its lanes.
    pub const fn bits(self) -> u32 {
        use Type::*;
        match self {
            Pred | B1 => 1,
            B4 | U4 | S4 => 4,
            B8 | U8 | S8 | E4m3 | E5m2 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F16x2 | Bf16x2 | U16x2 | S16x2 | Tf32 | F32 => 32,
            B64 | U64 | S64 | F64 | Texref | Samplerref | Surfref => 64,
            B128 => 128,
            B1024 => 1024,
        }
    }

    /// Bytes that one value takes in memory.
    pub const fn bytes(self) -> u64 {
        (self.bits() as u64).div_ceil(8)
    }

    pub const fn is_signed(self) -> bool {
        use Type::*;
        matches!(self, S4 | S8 | S16 | S32 | S64 | S16x2)
    }

    pub const fn is_float(self) -> bool {
        use Type::*;
        matches!(
            self,
            F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64 | E4m3 | E5m2 | E4m3x2 | E5m2x2
        )
    }
}

spelled! {
    /// PTX ISA 5.1: state spaces. A bare `.shared` stays apart from
    /// `.shared::cta`, because the text must come back as it was written.
    Space {
        Const = "const", Global = "global", Local = "local",
        Param = "param", ParamEntry = "param::entry", ParamFunc = "param::func",
        Shared = "shared", SharedCta = "shared::cta", SharedCluster = "shared::cluster",
    }
}

impl Space {
    /// `.shared` and `.shared::cta` name the same window.
    pub const fn is_shared_cta(self) -> bool {
        matches!(self, Space::Shared | Space::SharedCta)
    }

    /// `.param` in any of its spellings.
    pub const fn is_param(self) -> bool {
        matches!(self, Space::Param | Space::ParamEntry | Space::ParamFunc)
    }
}

spelled! {
    /// PTX ISA 8.5: the set of threads to which a strong operation is visible.
    Scope { Cta = "cta", Cluster = "cluster", Gpu = "gpu", Sys = "sys", }
}
