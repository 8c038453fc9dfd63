//! Modifiers: the dotted words that follow a mnemonic.
//!
//! Types, state spaces, scopes and matrix shapes are data variants; every other
//! word is one unit variant. [`Mod::parse`] and `Display` are inverse.

use std::fmt;

use crate::kinds::{Scope, Space, Type};

/// A matrix shape such as `.m64n128k16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    pub m: u16,
    pub n: u16,
    /// `None` for the shapes of `ldmatrix`, which have two extents only.
    pub k: Option<u16>,
}

impl Shape {
    fn parse(text: &str) -> Option<Shape> {
        let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
        let (n, k) = match rest.split_once('k') {
            Some((n, k)) => (n, Some(extent(k)?)),
            None => (rest, None),
        };
        Some(Shape {
            m: extent(m)?,
            n: extent(n)?,
            k,
        })
    }
}

/// Digits without sign or leading zero, so that printing restores the text.
fn extent(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}n{}", self.m, self.n)?;
        match self.k {
            Some(k) => write!(f, "k{k}"),
            None => Ok(()),
        }
    }
}

macro_rules! mods {
    ($($var:ident = $text:literal,)*) => {
        /// One modifier of an instruction.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mod {
            Ty(Type),
            Space(Space),
            Scope(Scope),
            Shape(Shape),
            $($var,)*
        }

        const WORDS: &[Mod] = &[$(Mod::$var,)*];

        impl Mod {
            /// Reads a modifier, given without its leading dot.
            pub fn parse(text: &str) -> Option<Mod> {
                match text {
                    $($text => Some(Mod::$var),)*
                    _ => Type::from_name(text).map(Mod::Ty)
                        .or_else(|| Space::from_name(text).map(Mod::Space))
                        .or_else(|| Scope::from_name(text).map(Mod::Scope))
                        .or_else(|| Shape::parse(text).map(Mod::Shape)),
                }
            }
        }

        /// Writes the modifier without its leading dot.
        impl fmt::Display for Mod {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Mod::Ty(x) => x.fmt(f),
                    Mod::Space(x) => x.fmt(f),
                    Mod::Scope(x) => x.fmt(f),
                    Mod::Shape(x) => x.fmt(f),
                    $(Mod::$var => f.write_str($text),)*
                }
            }
        }
    };
}

mods! {
    // Rounding, saturation and other arithmetic attributes.
    Rn = "rn", Rz = "rz", Rm = "rm", Rp = "rp", Rna = "rna",
    Rni = "rni", Rzi = "rzi", Rmi = "rmi", Rpi = "rpi",
    Ftz = "ftz", Noftz = "noftz", Sat = "sat", Satfinite = "satfinite", Relu = "relu",
    Approx = "approx", Full = "full", Nan = "NaN", Xorsign = "xorsign", Abs = "abs",
    Lo = "lo", Hi = "hi", Wide = "wide", Cc = "cc", Oob = "oob",
    // Comparisons; `lo` and `hi` are the unsigned ones as well.
    Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge", Ls = "ls", Hs = "hs",
    Equ = "equ", Neu = "neu", Ltu = "ltu", Leu = "leu", Gtu = "gtu", Geu = "geu",
    Num = "num", IsNan = "nan",
    // Boolean and atomic operations.
    And = "and", Or = "or", Xor = "xor", Popc = "popc", Add = "add", Inc = "inc", Dec = "dec",
    Min = "min", Max = "max", Exch = "exch", Cas = "cas",
    // `testp`.
    Finite = "finite", Infinite = "infinite", Number = "number", Notanumber = "notanumber",
    Normal = "normal", Subnormal = "subnormal",
    // Bits: `shf`, `bfind`, `szext`, `bmsk`, `prmt`, `fns`.
    L = "l", R = "r", Clamp = "clamp", Wrap = "wrap", Shiftamt = "shiftamt",
    F4e = "f4e", B4e = "b4e", Rc8 = "rc8", Ecl = "ecl", Ecr = "ecr", Rc16 = "rc16",
    // Memory: semantics, cache and vectors.
    Weak = "weak", Volatile = "volatile", Relaxed = "relaxed", Acquire = "acquire",
    Release = "release", AcqRel = "acq_rel", Sc = "sc", Mmio = "mmio", Nc = "nc",
    Ca = "ca", Cg = "cg", Cs = "cs", Lu = "lu", Cv = "cv", Wb = "wb", Wt = "wt",
    L1EvictNormal = "L1::evict_normal", L1EvictUnchanged = "L1::evict_unchanged",
    L1EvictFirst = "L1::evict_first", L1EvictLast = "L1::evict_last",
    L1NoAllocate = "L1::no_allocate",
    L2EvictNormal = "L2::evict_normal", L2EvictFirst = "L2::evict_first",
    L2EvictLast = "L2::evict_last", L2EvictUnchanged = "L2::evict_unchanged",
    L2CacheHint = "L2::cache_hint",
    L2Prefetch64 = "L2::64B", L2Prefetch128 = "L2::128B", L2Prefetch256 = "L2::256B",
    V2 = "v2", V4 = "v4", V8 = "v8", To = "to",
    L1 = "L1", L2 = "L2", TensormapMod = "tensormap",
    // Control flow and barriers.
    Uni = "uni", Sync = "sync", Arrive = "arrive", Red = "red", Aligned = "aligned",
    Wait = "wait", Gl = "gl", LaunchDependents = "launch_dependents", Mask = "mask",
    AccF32 = "acc::f32",
    // Warp operations.
    All = "all", Any = "any", Ballot = "ballot",
    Up = "up", Down = "down", Bfly = "bfly", Idx = "idx",
    // Proxies and fences.
    Async = "async",
    Alias = "alias", TensormapGeneric = "tensormap::generic", AsyncGeneric = "async::generic",
    SyncRestrictSharedCta = "sync_restrict::shared::cta",
    SyncRestrictSharedCluster = "sync_restrict::shared::cluster",
    // `mbarrier`.
    ExpectTx = "expect_tx", NoComplete = "noComplete", Parity = "parity",
    // Bulk copies.
    Read = "read", BulkGroup = "bulk_group",
    MbarrierCompleteTx = "mbarrier::complete_tx::bytes",
    Noinc = "noinc",
    MulticastCluster = "multicast::cluster",
    D1 = "1d", D2 = "2d", D3 = "3d", D4 = "4d", D5 = "5d",
    Tile = "tile",
    Im2col = "im2col", Im2colNoOffs = "im2col_no_offs",
    // `tensormap.replace` fields.
    GlobalAddress = "global_address", Rank = "rank", BoxDim = "box_dim",
    GlobalDim = "global_dim", GlobalStride = "global_stride",
    ElementStride = "element_stride", Elemtype = "elemtype",
    InterleaveLayout = "interleave_layout", SwizzleMode = "swizzle_mode",
    FillMode = "fill_mode",
    // Matrices.
    Row = "row", Col = "col", Trans = "trans", X1 = "x1", X2 = "x2", X4 = "x4",
    // `createpolicy`.
    Fractional = "fractional", Range = "range",
}

impl Mod {
    /// Every modifier that is one fixed word.
    pub const WORDS: &'static [Mod] = WORDS;

    /// The type, when this modifier is one.
    pub const fn ty(self) -> Option<Type> {
        match self {
            Mod::Ty(t) => Some(t),
            _ => None,
        }
    }
}
