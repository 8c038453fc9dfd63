//! The instruction table: every instruction that this crate knows, once.
//!
//! A row is `Op "mnemonic"` with its forms, `ptx sm "form"`: the least PTX ISA
//! version (times ten) and the least SM (`90` from sm_90 on; `901` needs the
//! architecture-specific sm_90a), then the form in the ISA's notation. Rows
//! stand under their section of the PTX ISA 8.6.
//!
//! In a form, `.x` is a required modifier, `<.x|.y>` a required choice,
//! `{.x|.y}` an optional one, and `$set` inside them a set named in [`SETS`].
//! Operands:
//!
//! | written | means |
//! |---|---|
//! | `d`, `_` | a destination register or `_`; `_` only |
//! | `d\|p`, `d{\|p}` | a destination with a predicate, or optionally so |
//! | `D` | a destination register or vector of them |
//! | `a` `b` `c` `e` | a source: register, constant, special register, symbol |
//! | `A` `B` `C`, `V` | a source or a vector of them; a vector |
//! | `!a` `!c` `!e` | a predicate that may be negated |
//! | `[a]` `[b]` `[c]` `[e]` | an address |
//! | `[t]` | a tensor map with coordinates |
//! | `i`, `L`, `F`, `R` | an immediate, a label, a callee, a parenthesised list |
//! | `{, x}` | an optional operand |
//!
//! `ptxas` 12.9 has judged a sample of every alternative of every form (see
//! `tests/table.rs`). Where it refuses a combination that a form allows, such
//! as `cvt.sat.u8.u8`, the table is looser than the language and not wrong.

/// Declares [`SETS`] from aligned lines, which rustfmt leaves as they are.
macro_rules! sets {
    ($($name:literal = $mods:literal;)+) => {
        /// Sets of modifiers that several rows share.
        pub(super) const SETS: &[(&str, &str)] = &[$(($name, $mods),)+];
    };
}

sets! {
    "int"     = ".u16|.u32|.u64|.s16|.s32|.s64";
    "int32"   = ".u32|.s32";
    "int3264" = ".u32|.u64|.s32|.s64";
    "bits"    = ".b16|.b32|.b64";
    "scalar"  = ".b8|.b16|.b32|.b64|.b128|.u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64|.f32|.f64";
    "reg"     = ".pred|.b16|.b32|.b64|.b128|.u16|.u32|.u64|.s16|.s32|.s64|.f32|.f64";
    "sel"     = ".b16|.b32|.b64|.u16|.u32|.u64|.s16|.s32|.s64|.f32|.f64";
    "cvtint"  = ".u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64";
    "cvtfp"   = ".f16|.f32|.f64";
    "half"    = ".f16|.f16x2";
    "bhalf"   = ".bf16|.bf16x2";
    "f8x2"    = ".e4m3x2|.e5m2x2";
    "rnd"     = ".rn|.rz|.rm|.rp";
    "irnd"    = ".rni|.rzi|.rmi|.rpi";
    "eqcmp"   = ".eq|.ne";
    "icmp"    = ".eq|.ne|.lt|.le|.gt|.ge";
    "ucmp"    = "$icmp|.lo|.ls|.hi|.hs";
    "fcmp"    = "$icmp|.equ|.neu|.ltu|.leu|.gtu|.geu|.num|.nan";
    "bool"    = ".and|.or|.xor";
    "redop"   = ".and|.or|.xor|.add|.inc|.dec|.min|.max";
    "sem"     = ".relaxed|.acquire|.release|.acq_rel";
    "scope"   = ".cta|.cluster|.gpu|.sys";
    "shared"  = ".shared|.shared::cta|.shared::cluster";
    "cta"     = ".shared|.shared::cta";
    "gs"      = ".global|$shared";
    "ldss"    = ".const|.global|.local|.param|.param::entry|.param::func|$shared";
    "stss"    = ".global|.local|.param|.param::func|$shared";
    "vec"     = ".v2|.v4";
    "ldcop"   = ".ca|.cg|.cs|.lu|.cv";
    "stcop"   = ".wb|.cg|.cs|.wt";
    "l1"      = ".L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate";
    "l2"      = ".L2::evict_normal|.L2::evict_first|.L2::evict_last";
    "hint"    = ".L2::cache_hint";
    "pre"     = ".L2::64B|.L2::128B|.L2::256B";
    "tx"      = ".mbarrier::complete_tx::bytes";
    "dim"     = ".1d|.2d|.3d|.4d|.5d";
    // N is 8 to 256 in steps of 8.
    "wgk8"    = ".m64nNk8";
    "wgk16"   = ".m64nNk16";
    "wgk32"   = ".m64nNk32";
}

/// Modifiers that are younger than some forms that take them: the least PTX
/// ISA version, times ten.
pub(super) const YOUNGER: &[(&str, u32)] = &[
    ("b128", 83),
    ("param::entry", 83),
    ("param::func", 83),
    ("acc::f32", 82),
];

instructions! {
    // 9.7.1 Integer arithmetic; 9.7.3 floating point; 9.7.4 half precision.
    Add "add" {
        10 0 "add<$int> d, a, b";
        10 0 "add{.sat}.s32 d, a, b";
        80 90 "add<.u16x2|.s16x2> d, a, b";
        10 0 "add{$rnd}{.ftz}{.sat}.f32 d, a, b";
        10 13 "add{$rnd}.f64 d, a, b";
        42 53 "add{.rn}{.ftz}{.sat}<$half> d, a, b";
        78 90 "add{.rn}<$bhalf> d, a, b";
        // 9.7.2 Extended precision: carry out.
        12 0 "add.cc<.u32|.s32|.u64|.s64> d, a, b";
    }
    Sub "sub" {
        10 0 "sub<$int> d, a, b";
        10 0 "sub{.sat}.s32 d, a, b";
        10 0 "sub{$rnd}{.ftz}{.sat}.f32 d, a, b";
        10 13 "sub{$rnd}.f64 d, a, b";
        42 53 "sub{.rn}{.ftz}{.sat}<$half> d, a, b";
        78 90 "sub{.rn}<$bhalf> d, a, b";
        12 0 "sub.cc<.u32|.s32|.u64|.s64> d, a, b";
    }
    Mul "mul" {
        10 0 "mul<.lo|.hi><$int> d, a, b";
        10 0 "mul.wide<.u16|.u32|.s16|.s32> d, a, b";
        10 0 "mul{$rnd}{.ftz}{.sat}.f32 d, a, b";
        10 13 "mul{$rnd}.f64 d, a, b";
        42 53 "mul{.rn}{.ftz}{.sat}<$half> d, a, b";
        78 90 "mul{.rn}<$bhalf> d, a, b";
    }
    Mad "mad" {
        10 0 "mad<.lo|.hi><$int> d, a, b, c";
        10 0 "mad.hi.sat.s32 d, a, b, c";
        10 0 "mad.wide<.u16|.u32|.s16|.s32> d, a, b, c";
        14 20 "mad<$rnd>{.ftz}{.sat}.f32 d, a, b, c";
        10 13 "mad<$rnd>.f64 d, a, b, c";
        30 20 "mad<.lo|.hi>.cc<.u32|.s32|.u64|.s64> d, a, b, c";
    }
    Mul24 "mul24" { 10 0 "mul24<.lo|.hi><$int32> d, a, b"; }
    Mad24 "mad24" {
        10 0 "mad24<.lo|.hi><$int32> d, a, b, c";
        10 0 "mad24.hi.sat.s32 d, a, b, c";
    }
    Sad "sad" { 10 0 "sad<$int> d, a, b, c"; }
    Div "div" {
        10 0 "div<$int> d, a, b";
        14 0 "div<.approx|.full>{.ftz}.f32 d, a, b";
        14 20 "div<$rnd>{.ftz}.f32 d, a, b";
        14 13 "div<$rnd>.f64 d, a, b";
    }
    Rem "rem" { 10 0 "rem<$int> d, a, b"; }
    Abs "abs" {
        10 0 "abs<.s16|.s32|.s64> d, a";
        10 0 "abs{.ftz}.f32 d, a";
        10 13 "abs.f64 d, a";
        65 53 "abs{.ftz}<$half> d, a";
        70 80 "abs<$bhalf> d, a";
    }
    Neg "neg" {
        10 0 "neg<.s16|.s32|.s64> d, a";
        10 0 "neg{.ftz}.f32 d, a";
        10 13 "neg.f64 d, a";
        60 53 "neg{.ftz}<$half> d, a";
        70 80 "neg<$bhalf> d, a";
    }
    Min "min" {
        10 0 "min<$int> d, a, b";
        80 90 "min<.u16x2|.s16x2> d, a, b";
        80 90 "min.relu<.s16x2|.s32> d, a, b";
        10 0 "min{.ftz}{.NaN}.f32 d, a, b";
        72 86 "min{.ftz}{.NaN}.xorsign.abs.f32 d, a, b";
        10 13 "min.f64 d, a, b";
        70 80 "min{.ftz}{.NaN}<$half> d, a, b";
        72 86 "min{.ftz}{.NaN}.xorsign.abs<$half> d, a, b";
        70 80 "min{.NaN}<$bhalf> d, a, b";
        72 86 "min{.NaN}.xorsign.abs<$bhalf> d, a, b";
    }
    Max "max" {
        10 0 "max<$int> d, a, b";
        80 90 "max<.u16x2|.s16x2> d, a, b";
        80 90 "max.relu<.s16x2|.s32> d, a, b";
        10 0 "max{.ftz}{.NaN}.f32 d, a, b";
        72 86 "max{.ftz}{.NaN}.xorsign.abs.f32 d, a, b";
        10 13 "max.f64 d, a, b";
        70 80 "max{.ftz}{.NaN}<$half> d, a, b";
        72 86 "max{.ftz}{.NaN}.xorsign.abs<$half> d, a, b";
        70 80 "max{.NaN}<$bhalf> d, a, b";
        72 86 "max{.NaN}.xorsign.abs<$bhalf> d, a, b";
    }
    Popc "popc" { 20 20 "popc<.b32|.b64> d, a"; }
    Clz "clz" { 20 20 "clz<.b32|.b64> d, a"; }
    Bfind "bfind" { 20 20 "bfind{.shiftamt}<$int3264> d, a"; }
    Fns "fns" { 60 30 "fns.b32 d, a, b, c"; }
    Brev "brev" { 20 20 "brev<.b32|.b64> d, a"; }
    Bfe "bfe" { 20 20 "bfe<$int3264> d, a, b, c"; }
    Bfi "bfi" { 20 20 "bfi<.b32|.b64> d, a, b, c, e"; }
    Szext "szext" { 76 70 "szext<.clamp|.wrap><$int32> d, a, b"; }
    Bmsk "bmsk" { 76 70 "bmsk<.clamp|.wrap>.b32 d, a, b"; }
    Dp4a "dp4a" { 50 61 "dp4a<$int32><$int32> d, a, b, c"; }
    Dp2a "dp2a" { 50 61 "dp2a<.lo|.hi><$int32><$int32> d, a, b, c"; }

    // 9.7.2 Extended-precision integer arithmetic: carry in.
    Addc "addc" { 12 0 "addc{.cc}<.u32|.s32|.u64|.s64> d, a, b"; }
    Subc "subc" { 12 0 "subc{.cc}<.u32|.s32|.u64|.s64> d, a, b"; }
    Madc "madc" { 30 20 "madc<.lo|.hi>{.cc}<.u32|.s32|.u64|.s64> d, a, b, c"; }

    // 9.7.3 Floating point; 9.7.4 half precision.
    Testp "testp" {
        20 20 "testp<.finite|.infinite|.number|.notanumber|.normal|.subnormal><.f32|.f64> d, a";
    }
    Copysign "copysign" { 20 20 "copysign<.f32|.f64> d, a, b"; }
    Fma "fma" {
        14 20 "fma<$rnd>{.ftz}{.sat}.f32 d, a, b, c";
        14 13 "fma<$rnd>.f64 d, a, b, c";
        42 53 "fma.rn{.ftz}{.sat}<$half> d, a, b, c";
        70 80 "fma.rn{.ftz}.relu<$half> d, a, b, c";
        70 80 "fma.rn{.relu}<$bhalf> d, a, b, c";
        81 90 "fma.rn.oob{.relu}<$half|$bhalf> d, a, b, c";
    }
    Rcp "rcp" {
        14 0 "rcp.approx{.ftz}.f32 d, a";
        14 20 "rcp<$rnd>{.ftz}.f32 d, a";
        14 13 "rcp<$rnd>.f64 d, a";
        21 20 "rcp.approx.ftz.f64 d, a";
    }
    Sqrt "sqrt" {
        14 0 "sqrt.approx{.ftz}.f32 d, a";
        14 20 "sqrt<$rnd>{.ftz}.f32 d, a";
        14 13 "sqrt<$rnd>.f64 d, a";
    }
    Rsqrt "rsqrt" {
        14 0 "rsqrt.approx{.ftz}.f32 d, a";
        14 13 "rsqrt.approx.f64 d, a";
        40 20 "rsqrt.approx.ftz.f64 d, a";
    }
    Sin "sin" { 14 0 "sin.approx{.ftz}.f32 d, a"; }
    Cos "cos" { 14 0 "cos.approx{.ftz}.f32 d, a"; }
    Lg2 "lg2" { 14 0 "lg2.approx{.ftz}.f32 d, a"; }
    Ex2 "ex2" {
        14 0 "ex2.approx{.ftz}.f32 d, a";
        70 75 "ex2.approx<$half> d, a";
        78 90 "ex2.approx.ftz<$bhalf> d, a";
    }
    Tanh "tanh" {
        70 75 "tanh.approx<.f32|$half> d, a";
        78 90 "tanh.approx<$bhalf> d, a";
    }

    // 9.7.6 Comparison and selection; 9.7.7 of half precision.
    Set "set" {
        10 0 "set<$eqcmp><.u32|.s32|.f32><$bits> d, a, b";
        10 0 "set<$icmp><.u32|.s32|.f32><.s16|.s32|.s64> d, a, b";
        10 0 "set<$ucmp><.u32|.s32|.f32><.u16|.u32|.u64> d, a, b";
        10 0 "set<$fcmp>{.ftz}<.u32|.s32|.f32>.f32 d, a, b";
        10 13 "set<$fcmp><.u32|.s32|.f32>.f64 d, a, b";
        42 53 "set<$fcmp>{.ftz}<.u16|.s16|.u32|.s32|.f16>.f16 d, a, b";
        42 53 "set<$fcmp>{.ftz}<.u32|.s32|.f16x2>.f16x2 d, a, b";
        78 90 "set<$fcmp><.u16|.s16|.u32|.s32|.bf16>.bf16 d, a, b";
        78 90 "set<$fcmp><.u32|.s32|.bf16x2>.bf16x2 d, a, b";
        10 0 "set<$eqcmp><$bool><.u32|.s32|.f32><$bits> d, a, b, !c";
        10 0 "set<$icmp><$bool><.u32|.s32|.f32><.s16|.s32|.s64> d, a, b, !c";
        10 0 "set<$ucmp><$bool><.u32|.s32|.f32><.u16|.u32|.u64> d, a, b, !c";
        10 0 "set<$fcmp><$bool>{.ftz}<.u32|.s32|.f32>.f32 d, a, b, !c";
        10 13 "set<$fcmp><$bool><.u32|.s32|.f32>.f64 d, a, b, !c";
        42 53 "set<$fcmp><$bool>{.ftz}<.u16|.s16|.u32|.s32|.f16>.f16 d, a, b, !c";
        42 53 "set<$fcmp><$bool>{.ftz}<.u32|.s32|.f16x2>.f16x2 d, a, b, !c";
        78 90 "set<$fcmp><$bool><.u16|.s16|.u32|.s32|.bf16>.bf16 d, a, b, !c";
        78 90 "set<$fcmp><$bool><.u32|.s32|.bf16x2>.bf16x2 d, a, b, !c";
    }
    Setp "setp" {
        10 0 "setp<$eqcmp><$bits> d{|p}, a, b";
        10 0 "setp<$icmp><.s16|.s32|.s64> d{|p}, a, b";
        10 0 "setp<$ucmp><.u16|.u32|.u64> d{|p}, a, b";
        10 0 "setp<$fcmp>{.ftz}.f32 d{|p}, a, b";
        10 13 "setp<$fcmp>.f64 d{|p}, a, b";
        42 53 "setp<$fcmp>{.ftz}.f16 d, a, b";
        42 53 "setp<$fcmp>{.ftz}.f16x2 d|p, a, b";
        78 90 "setp<$fcmp>.bf16 d, a, b";
        78 90 "setp<$fcmp>.bf16x2 d|p, a, b";
        10 0 "setp<$eqcmp><$bool><$bits> d{|p}, a, b, !c";
        10 0 "setp<$icmp><$bool><.s16|.s32|.s64> d{|p}, a, b, !c";
        10 0 "setp<$ucmp><$bool><.u16|.u32|.u64> d{|p}, a, b, !c";
        10 0 "setp<$fcmp><$bool>{.ftz}.f32 d{|p}, a, b, !c";
        10 13 "setp<$fcmp><$bool>.f64 d{|p}, a, b, !c";
        42 53 "setp<$fcmp><$bool>{.ftz}.f16 d, a, b, !c";
        42 53 "setp<$fcmp><$bool>{.ftz}.f16x2 d|p, a, b, !c";
        78 90 "setp<$fcmp><$bool>.bf16 d, a, b, !c";
        78 90 "setp<$fcmp><$bool>.bf16x2 d|p, a, b, !c";
    }
    Selp "selp" { 10 0 "selp<$sel> d, a, b, c"; }
    Slct "slct" {
        10 0 "slct<$sel>.s32 d, a, b, c";
        10 0 "slct{.ftz}<$sel>.f32 d, a, b, c";
    }

    // 9.7.8 Logic and shift.
    And "and" { 10 0 "and<.pred|$bits> d, a, b"; }
    Or "or" { 10 0 "or<.pred|$bits> d, a, b"; }
    Xor "xor" { 10 0 "xor<.pred|$bits> d, a, b"; }
    Not "not" { 10 0 "not<.pred|$bits> d, a"; }
    Cnot "cnot" { 10 0 "cnot<$bits> d, a"; }
    Lop3 "lop3" {
        43 50 "lop3.b32 d, a, b, c, i";
        82 70 "lop3<.or|.and>.b32 d|p, a, b, c, i, !e";
    }
    Shf "shf" { 31 32 "shf<.l|.r><.clamp|.wrap>.b32 d, a, b, c"; }
    Shl "shl" { 10 0 "shl<$bits> d, a, b"; }
    Shr "shr" { 10 0 "shr<$bits|$int> d, a, b"; }

    // 9.7.9 Data movement and conversion.
    Mov "mov" { 10 0 "mov<$reg> D, A"; }
    Shfl "shfl" {
        60 30 "shfl.sync<.up|.down|.bfly|.idx>.b32 d{|p}, a, b, c, e";
    }
    Prmt "prmt" { 20 20 "prmt.b32{.f4e|.b4e|.rc8|.ecl|.ecr|.rc16} d, a, b, c"; }
    Ld "ld" {
        10 0 "ld{.weak}{$ldss}{$ldcop}{$hint}{$pre}{$vec}<$scalar> D, [a]{, c}";
        74 70 "ld{.weak}{.global}<$l1>{$hint}{$pre}{$vec}<$scalar> D, [a]{, c}";
        10 0 "ld.volatile{$gs}{$pre}{$vec}<$scalar> D, [a]";
        60 70 "ld<.relaxed|.acquire><$scope>{$gs}{$l1}{$hint}{$pre}{$vec}<$scalar> D, [a]{, c}";
        82 70 "ld.mmio.relaxed.sys{.global}<$scalar> d, [a]";
        // Non-coherent loads.
        31 32 "ld.global{.ca|.cg|.cs}.nc{$hint}{$pre}{$vec}<$scalar> D, [a]{, c}";
        74 70 "ld.global.nc<$l1>{$hint}{$pre}{$vec}<$scalar> D, [a]{, c}";
    }
    Ldu "ldu" { 20 0 "ldu{.global}{$vec}<$scalar> D, [a]"; }
    St "st" {
        10 0 "st{.weak}{$stss}{$stcop}{$hint}{$vec}<$scalar> [a], B{, c}";
        74 70 "st{.weak}{.global}<$l1>{$hint}{$vec}<$scalar> [a], B{, c}";
        10 0 "st.volatile{$gs}{$vec}<$scalar> [a], B";
        60 70 "st<.relaxed|.release><$scope>{$gs}{$l1}{$hint}{$vec}<$scalar> [a], B{, c}";
        82 70 "st.mmio.relaxed.sys{.global}<$scalar> [a], b";
    }
    StAsync "st.async" {
        81 90 "st.async{.weak}{.shared::cluster}.mbarrier::complete_tx::bytes{.v2|.v4}<.b32|.b64|.u32|.u64|.s32|.s64|.f32|.f64> [a], B, [c]";
    }
    Prefetch "prefetch" {
        20 20 "prefetch{.global|.local}<.L1|.L2> [a]";
        74 80 "prefetch.global<.L2::evict_last|.L2::evict_normal> [a]";
        80 90 "prefetch{.const|.param}.tensormap [a]";
    }
    Prefetchu "prefetchu" { 20 20 "prefetchu.L1 [a]"; }
    Applypriority "applypriority" { 74 80 "applypriority{.global}.L2::evict_normal [a], i"; }
    Discard "discard" { 74 80 "discard{.global}.L2 [a], i"; }
    Createpolicy "createpolicy" {
        74 80 "createpolicy.fractional<$l2|.L2::evict_unchanged>{.L2::evict_first|.L2::evict_unchanged}.b64 d{, a}";
        74 80 "createpolicy.range{.global}<$l2|.L2::evict_unchanged>{.L2::evict_first|.L2::evict_unchanged}.b64 d, [a], b, c";
    }
    CreatepolicyCvt "createpolicy.cvt" { 74 80 "createpolicy.cvt.L2.b64 d, a"; }
    Isspacep "isspacep" {
        20 20 "isspacep<.const|.global|.local|.param|.param::entry|$shared> d, a";
    }
    Cvta "cvta" {
        20 20 "cvta{.to}<.const|.global|.local|.param|.param::entry|$shared><.u32|.u64> d, a";
    }
    Cvt "cvt" {
        10 0 "cvt{.sat}<$cvtint><$cvtint> d, a";
        10 0 "cvt<$rnd>{.sat}<$cvtfp><$cvtint> d, a";
        10 0 "cvt<$irnd>{.ftz}{.sat}<$cvtint><$cvtfp> d, a";
        10 0 "cvt{$rnd|$irnd}{.ftz}{.sat}<$cvtfp><$cvtfp> d, a";
        78 90 "cvt<$rnd>.bf16<$cvtint> d, a";
        78 90 "cvt<$irnd><$cvtint>.bf16 d, a";
        71 80 "cvt{.ftz}.f32.bf16 d, a";
        78 90 "cvt{.rn}<.f16|.f64>.bf16 d, a";
        78 90 "cvt<$rnd>.bf16<.f16|.f64> d, a";
        78 90 "cvt<.rm|.rp>.bf16.f32 d, a";
        70 80 "cvt<.rn|.rz>{.relu}<.f16|.bf16>.f32 d, a";
        81 80 "cvt<.rn|.rz>{.relu}.satfinite<.f16|.bf16>.f32 d, a";
        70 80 "cvt<.rn|.rz>{.relu}<.f16x2|.bf16x2>.f32 d, a, b";
        81 80 "cvt<.rn|.rz>{.relu}.satfinite<.f16x2|.bf16x2>.f32 d, a, b";
        70 80 "cvt.rna.tf32.f32 d, a";
        81 80 "cvt.rna.satfinite.tf32.f32 d, a";
        78 90 "cvt<.rn|.rz>{.relu}.tf32.f32 d, a";
        78 89 "cvt.rn.satfinite{.relu}<$f8x2>.f32 d, a, b";
        78 89 "cvt.rn.satfinite{.relu}<$f8x2>.f16x2 d, a";
        78 89 "cvt.rn{.relu}.f16x2<$f8x2> d, a";
    }
    CvtPack "cvt.pack" {
        65 72 "cvt.pack.sat<.u16|.s16>.s32 d, a, b";
        65 72 "cvt.pack.sat<.u8|.s8>.s32.b32 d, a, b, c";
    }
    Mapa "mapa" { 78 90 "mapa{.shared::cluster}<.u32|.u64> d, a, b"; }
    Getctarank "getctarank" { 78 90 "getctarank{.shared::cluster}<.u32|.u64> d, a"; }

    // 9.7.9.25 Asynchronous copies.
    CpAsync "cp.async" {
        70 80 "cp.async<.ca|.cg><$cta>.global{$hint}{$pre} [a], [b], i{, c}{, e}";
    }
    CpAsyncCommitGroup "cp.async.commit_group" { 70 80 "cp.async.commit_group"; }
    CpAsyncWaitGroup "cp.async.wait_group" { 70 80 "cp.async.wait_group i"; }
    CpAsyncWaitAll "cp.async.wait_all" { 70 80 "cp.async.wait_all"; }
    CpAsyncMbarrierArrive "cp.async.mbarrier.arrive" {
        70 80 "cp.async.mbarrier.arrive{.noinc}{$cta}.b64 [a]";
    }
    CpAsyncBulk "cp.async.bulk" {
        80 90 "cp.async.bulk.shared::cluster.global<$tx>{$hint} [a], [b], c, [e]{, a}";
        80 90 "cp.async.bulk.shared::cluster.global<$tx>.multicast::cluster{$hint} [a], [b], c, [e], a{, b}";
        86 90 "cp.async.bulk.shared::cta.global<$tx>{$hint} [a], [b], c, [e]{, a}";
        80 90 "cp.async.bulk.shared::cluster.shared::cta<$tx> [a], [b], c, [e]";
        80 90 "cp.async.bulk.global.shared::cta.bulk_group{$hint} [a], [b], c{, a}";
    }
    CpReduceAsyncBulk "cp.reduce.async.bulk" {
        80 90 "cp.reduce.async.bulk.shared::cluster.shared::cta<$tx><.and|.or|.xor>.b32 [a], [b], c, [e]";
        80 90 "cp.reduce.async.bulk.shared::cluster.shared::cta<$tx>.add<.u32|.s32|.u64> [a], [b], c, [e]";
        80 90 "cp.reduce.async.bulk.shared::cluster.shared::cta<$tx><.inc|.dec>.u32 [a], [b], c, [e]";
        80 90 "cp.reduce.async.bulk.shared::cluster.shared::cta<$tx><.min|.max><.u32|.s32> [a], [b], c, [e]";
        80 90 "cp.reduce.async.bulk.global.shared::cta.bulk_group{$hint}<.and|.or|.xor><.b32|.b64> [a], [b], c{, a}";
        80 90 "cp.reduce.async.bulk.global.shared::cta.bulk_group{$hint}.add<.u32|.s32|.u64|.f32|.f64> [a], [b], c{, a}";
        80 90 "cp.reduce.async.bulk.global.shared::cta.bulk_group{$hint}<.inc|.dec>.u32 [a], [b], c{, a}";
        80 90 "cp.reduce.async.bulk.global.shared::cta.bulk_group{$hint}<.min|.max><.u32|.s32|.u64|.s64|.f16|.bf16> [a], [b], c{, a}";
        80 90 "cp.reduce.async.bulk.global.shared::cta.bulk_group{$hint}.add.noftz<.f16|.bf16> [a], [b], c{, a}";
    }
    CpAsyncBulkPrefetch "cp.async.bulk.prefetch" {
        80 90 "cp.async.bulk.prefetch.L2.global{$hint} [a], b{, c}";
    }
    CpAsyncBulkTensor "cp.async.bulk.tensor" {
        80 90 "cp.async.bulk.tensor<$dim>.shared::cluster.global{.tile}<$tx>{.multicast::cluster}{$hint} [a], [t], [b]{, a}{, b}";
        80 90 "cp.async.bulk.tensor<.3d|.4d|.5d>.shared::cluster.global.im2col<$tx>{.multicast::cluster}{$hint} [a], [t], [b], C{, a}{, b}";
        86 90 "cp.async.bulk.tensor<$dim>.shared::cta.global{.tile}<$tx>{$hint} [a], [t], [b]{, a}";
        86 90 "cp.async.bulk.tensor<.3d|.4d|.5d>.shared::cta.global.im2col<$tx>{$hint} [a], [t], [b], C{, a}";
        80 90 "cp.async.bulk.tensor<$dim>.global.shared::cta{.tile}.bulk_group{$hint} [t], [a]{, a}";
        80 90 "cp.async.bulk.tensor<.3d|.4d|.5d>.global.shared::cta.im2col_no_offs.bulk_group{$hint} [t], [a]{, a}";
    }
    CpReduceAsyncBulkTensor "cp.reduce.async.bulk.tensor" {
        80 90 "cp.reduce.async.bulk.tensor<$dim>.global.shared::cta<$redop>{.tile}.bulk_group{$hint} [t], [a]{, a}";
        80 90 "cp.reduce.async.bulk.tensor<.3d|.4d|.5d>.global.shared::cta<$redop>.im2col_no_offs.bulk_group{$hint} [t], [a]{, a}";
    }
    CpAsyncBulkPrefetchTensor "cp.async.bulk.prefetch.tensor" {
        80 90 "cp.async.bulk.prefetch.tensor<$dim>.L2.global{.tile}{$hint} [t]{, a}";
        80 90 "cp.async.bulk.prefetch.tensor<.3d|.4d|.5d>.L2.global.im2col{$hint} [t], C{, a}";
    }
    CpAsyncBulkCommitGroup "cp.async.bulk.commit_group" { 80 90 "cp.async.bulk.commit_group"; }
    CpAsyncBulkWaitGroup "cp.async.bulk.wait_group" { 80 90 "cp.async.bulk.wait_group{.read} i"; }
    TensormapReplace "tensormap.replace" {
        83 901 "tensormap.replace.tile.global_address{.global|.shared::cta}.b1024.b64 [a], b";
        83 901 "tensormap.replace.tile.rank{.global|.shared::cta}.b1024.b32 [a], b";
        83 901 "tensormap.replace.tile<.box_dim|.global_dim|.element_stride>{.global|.shared::cta}.b1024.b32 [a], i, b";
        83 901 "tensormap.replace.tile.global_stride{.global|.shared::cta}.b1024.b64 [a], i, b";
        83 901 "tensormap.replace.tile<.elemtype|.interleave_layout|.swizzle_mode|.fill_mode>{.global|.shared::cta}.b1024.b32 [a], i";
    }
    TensormapCpFenceproxy "tensormap.cp_fenceproxy" {
        83 90 "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release<$scope>.sync.aligned [a], [b], i";
    }
    MultimemLdReduce "multimem.ld_reduce" {
        81 90 "multimem.ld_reduce{.weak}{.global}<.and|.or|.xor><.b32|.b64> D, [a]";
        81 90 "multimem.ld_reduce{.weak}{.global}.add<.u32|.s32|.u64|.f32|.f64> D, [a]";
        81 90 "multimem.ld_reduce{.weak}{.global}<.min|.max><.u32|.s32|.u64|.s64> D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}<.and|.or|.xor><.b32|.b64> D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}.add<.u32|.s32|.u64|.f32|.f64> D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}<.min|.max><.u32|.s32|.u64|.s64> D, [a]";
        81 90 "multimem.ld_reduce{.weak}{.global}.add{.acc::f32}{.v2|.v4}<.f16x2|.bf16x2> D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}.add{.acc::f32}{.v2|.v4}<.f16x2|.bf16x2> D, [a]";
        81 90 "multimem.ld_reduce{.weak}{.global}<.min|.max>{.v2|.v4}<.f16x2|.bf16x2> D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}<.min|.max>{.v2|.v4}<.f16x2|.bf16x2> D, [a]";
        81 90 "multimem.ld_reduce{.weak}{.global}.add<.v2|.v4>.f32 D, [a]";
        81 90 "multimem.ld_reduce<.relaxed|.acquire><$scope>{.global}.add<.v2|.v4>.f32 D, [a]";
    }
    MultimemSt "multimem.st" {
        81 90 "multimem.st{.weak}{.global}<.b32|.b64|.u32|.s32|.u64|.s64|.f32|.f64|.f16x2|.bf16x2> [a], b";
        81 90 "multimem.st{.weak}{.global}<.v2|.v4><.f32|.f16x2|.bf16x2> [a], B";
        81 90 "multimem.st<.relaxed|.release><$scope>{.global}<.b32|.b64|.u32|.s32|.u64|.s64|.f32|.f64|.f16x2|.bf16x2> [a], b";
        81 90 "multimem.st<.relaxed|.release><$scope>{.global}<.v2|.v4><.f32|.f16x2|.bf16x2> [a], B";
    }
    MultimemRed "multimem.red" {
        81 90 "multimem.red{.global}<.and|.or|.xor><.b32|.b64> [a], b";
        81 90 "multimem.red{.global}.add<.u32|.s32|.u64|.f32|.f64> [a], b";
        81 90 "multimem.red{.global}<.min|.max><.u32|.s32|.u64|.s64> [a], b";
        81 90 "multimem.red<.relaxed|.release><$scope>{.global}<.and|.or|.xor><.b32|.b64> [a], b";
        81 90 "multimem.red<.relaxed|.release><$scope>{.global}.add<.u32|.s32|.u64|.f32|.f64> [a], b";
        81 90 "multimem.red<.relaxed|.release><$scope>{.global}<.min|.max><.u32|.s32|.u64|.s64> [a], b";
        81 90 "multimem.red{.global}.add{.v2|.v4}<.f16x2|.bf16x2> [a], B";
        81 90 "multimem.red{.global}.add<.v2|.v4>.f32 [a], B";
        81 90 "multimem.red<.relaxed|.release><$scope>{.global}.add{.v2|.v4}<.f16x2|.bf16x2> [a], B";
        81 90 "multimem.red<.relaxed|.release><$scope>{.global}.add<.v2|.v4>.f32 [a], B";
    }

    // 9.7.12 Control flow.
    Bra "bra" { 10 0 "bra{.uni} L"; }
    BrxIdx "brx.idx" { 60 30 "brx.idx{.uni} a, L"; }
    Call "call" { 10 0 "call{.uni} R, F, R{, L}"; }
    Ret "ret" { 10 0 "ret{.uni}"; }
    Exit "exit" { 10 0 "exit"; }

    // 9.7.13 Parallel synchronisation and communication.
    Bar "bar" {
        10 0 "bar{.cta}.sync a{, b}";
        20 20 "bar{.cta}.arrive a, b";
        20 20 "bar{.cta}.red.popc.u32 d, a{, b}, !c";
        20 20 "bar{.cta}.red<.and|.or>.pred d, a{, b}, !c";
    }
    Barrier "barrier" {
        60 30 "barrier{.cta}.sync{.aligned} a{, b}";
        60 30 "barrier{.cta}.arrive{.aligned} a, b";
        60 30 "barrier{.cta}.red.popc{.aligned}.u32 d, a{, b}, !c";
        60 30 "barrier{.cta}.red<.and|.or>{.aligned}.pred d, a{, b}, !c";
    }
    BarWarpSync "bar.warp.sync" { 60 30 "bar.warp.sync a"; }
    BarrierClusterArrive "barrier.cluster.arrive" {
        78 90 "barrier.cluster.arrive{.release|.relaxed}{.aligned}";
    }
    BarrierClusterWait "barrier.cluster.wait" { 78 90 "barrier.cluster.wait{.acquire}{.aligned}"; }
    Membar "membar" { 14 0 "membar<.cta|.gl|.sys>"; }
    MembarProxy "membar.proxy" {
        75 70 "membar.proxy.alias";
    }
    Fence "fence" {
        60 70 "fence{.sc|.acq_rel}<$scope>";
        86 90 "fence<.acquire|.release><$scope>";
        86 90 "fence.acquire.sync_restrict::shared::cluster.cluster";
        86 90 "fence.release.sync_restrict::shared::cta.cluster";
    }
    FenceMbarrierInit "fence.mbarrier_init" { 80 90 "fence.mbarrier_init.release.cluster"; }
    FenceProxy "fence.proxy" {
        75 70 "fence.proxy.alias";
        80 90 "fence.proxy.async{.global|.shared::cta|.shared::cluster}";
        83 90 "fence.proxy.tensormap::generic.release<$scope>";
        83 90 "fence.proxy.tensormap::generic.acquire<$scope> [a], i";
        86 90 "fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster";
        86 90 "fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster";
    }
    Atom "atom" {
        11 11 "atom{$sem}{$scope}{$gs}<.and|.or|.xor>{$hint}<.b32|.b64> d, [a], b{, c}";
        11 11 "atom{$sem}{$scope}{$gs}.exch{$hint}<.b32|.b64> d, [a], b{, c}";
        83 90 "atom{$sem}{$scope}{$gs}.exch.b128 d, [a], b";
        11 11 "atom{$sem}{$scope}{$gs}.cas<.b32|.b64> d, [a], b, c";
        83 90 "atom{$sem}{$scope}{$gs}.cas.b128 d, [a], b, c";
        63 70 "atom{$sem}{$scope}{$gs}.cas.b16 d, [a], b, c";
        11 11 "atom{$sem}{$scope}{$gs}<.inc|.dec>{$hint}.u32 d, [a], b{, c}";
        11 11 "atom{$sem}{$scope}{$gs}<.min|.max>{$hint}<$int3264> d, [a], b{, c}";
        11 11 "atom{$sem}{$scope}{$gs}.add{$hint}<.u32|.s32|.u64|.f32|.f64> d, [a], b{, c}";
        62 70 "atom{$sem}{$scope}{$gs}.add.noftz{$hint}<$half|$bhalf> d, [a], b{, c}";
        81 90 "atom{$sem}{$scope}{.global}.add{$hint}<.v2|.v4>.f32 D, [a], B{, c}";
        81 90 "atom{$sem}{$scope}{.global}<.add|.min|.max>.noftz{$hint}<.v2|.v4|.v8><$half|$bhalf> D, [a], B{, c}";
    }
    Red "red" {
        12 20 "red{.relaxed|.release}{$scope}{$gs}<.and|.or|.xor>{$hint}<.b32|.b64> [a], b{, c}";
        12 20 "red{.relaxed|.release}{$scope}{$gs}<.inc|.dec>{$hint}.u32 [a], b{, c}";
        12 20 "red{.relaxed|.release}{$scope}{$gs}<.min|.max>{$hint}<$int3264> [a], b{, c}";
        12 20 "red{.relaxed|.release}{$scope}{$gs}.add{$hint}<.u32|.s32|.u64|.f32|.f64> [a], b{, c}";
        62 70 "red{.relaxed|.release}{$scope}{$gs}.add.noftz{$hint}<$half|$bhalf> [a], b{, c}";
        81 90 "red{.relaxed|.release}{$scope}{.global}.add{$hint}<.v2|.v4>.f32 [a], B{, c}";
        81 90 "red{.relaxed|.release}{$scope}{.global}<.add|.min|.max>.noftz{$hint}<.v2|.v4|.v8><$half|$bhalf> [a], B{, c}";
    }
    RedAsync "red.async" {
        81 90 "red.async.relaxed.cluster{.shared::cluster}<$tx><.inc|.dec>.u32 [a], b, [c]";
        81 90 "red.async.relaxed.cluster{.shared::cluster}<$tx><.min|.max><.u32|.s32> [a], b, [c]";
        81 90 "red.async.relaxed.cluster{.shared::cluster}<$tx>.add<.u32|.s32|.u64> [a], b, [c]";
        81 90 "red.async.relaxed.cluster{.shared::cluster}<$tx><.and|.or|.xor>.b32 [a], b, [c]";
    }
    Vote "vote" {
        60 30 "vote.sync<.all|.any|.uni>.pred d, !a, b";
        60 30 "vote.sync.ballot.b32 d, !a, b";
    }
    Match "match" {
        60 70 "match.any.sync<.b32|.b64> d, a, b";
        60 70 "match.all.sync<.b32|.b64> d{|p}, a, b";
    }
    Activemask "activemask" { 62 30 "activemask.b32 d"; }
    Redux "redux" {
        70 80 "redux.sync<.add|.min|.max><.u32|.s32> d, a, b";
        70 80 "redux.sync<.and|.or|.xor>.b32 d, a, b";
    }
    Elect "elect" { 80 90 "elect.sync d|p, a"; }
    Griddepcontrol "griddepcontrol" { 78 90 "griddepcontrol<.wait|.launch_dependents>"; }
    MbarrierInit "mbarrier.init" { 70 80 "mbarrier.init{$cta}.b64 [a], b"; }
    MbarrierInval "mbarrier.inval" { 70 80 "mbarrier.inval{$cta}.b64 [a]"; }
    MbarrierExpectTx "mbarrier.expect_tx" {
        80 90 "mbarrier.expect_tx{$shared}.b64 [a], b";
        80 90 "mbarrier.expect_tx.relaxed<.cta|.cluster>{$shared}.b64 [a], b";
    }
    MbarrierCompleteTx "mbarrier.complete_tx" {
        80 90 "mbarrier.complete_tx{$shared}.b64 [a], b";
        80 90 "mbarrier.complete_tx.relaxed<.cta|.cluster>{$shared}.b64 [a], b";
    }
    MbarrierArrive "mbarrier.arrive" {
        70 80 "mbarrier.arrive{$cta}.b64 d, [a]{, b}";
        70 80 "mbarrier.arrive.shared::cluster.b64 _, [a]{, b}";
        70 80 "mbarrier.arrive.release<.cta|.cluster>{$cta}.b64 d, [a]{, b}";
        86 80 "mbarrier.arrive.relaxed<.cta|.cluster>{$cta}.b64 d, [a]{, b}";
        70 80 "mbarrier.arrive.release<.cta|.cluster>.shared::cluster.b64 _, [a]{, b}";
        86 80 "mbarrier.arrive.relaxed<.cta|.cluster>.shared::cluster.b64 _, [a]{, b}";
        80 90 "mbarrier.arrive.expect_tx{$cta}.b64 d, [a], b";
        80 90 "mbarrier.arrive.expect_tx.shared::cluster.b64 _, [a], b";
        80 90 "mbarrier.arrive.expect_tx.release<.cta|.cluster>{$cta}.b64 d, [a], b";
        86 90 "mbarrier.arrive.expect_tx.relaxed<.cta|.cluster>{$cta}.b64 d, [a], b";
        80 90 "mbarrier.arrive.expect_tx.release<.cta|.cluster>.shared::cluster.b64 _, [a], b";
        86 90 "mbarrier.arrive.expect_tx.relaxed<.cta|.cluster>.shared::cluster.b64 _, [a], b";
        70 80 "mbarrier.arrive.noComplete{$cta}.b64 d, [a], b";
        70 80 "mbarrier.arrive.noComplete.release.cta{$cta}.b64 d, [a], b";
    }
    MbarrierArriveDrop "mbarrier.arrive_drop" {
        70 80 "mbarrier.arrive_drop{$cta}.b64 d, [a]{, b}";
        70 80 "mbarrier.arrive_drop.shared::cluster.b64 _, [a]{, b}";
        70 80 "mbarrier.arrive_drop.release<.cta|.cluster>{$cta}.b64 d, [a]{, b}";
        86 80 "mbarrier.arrive_drop.relaxed<.cta|.cluster>{$cta}.b64 d, [a]{, b}";
        70 80 "mbarrier.arrive_drop.release<.cta|.cluster>.shared::cluster.b64 _, [a]{, b}";
        86 80 "mbarrier.arrive_drop.relaxed<.cta|.cluster>.shared::cluster.b64 _, [a]{, b}";
        80 90 "mbarrier.arrive_drop.expect_tx{$cta}.b64 d, [a], b";
        80 90 "mbarrier.arrive_drop.expect_tx.shared::cluster.b64 _, [a], b";
        80 90 "mbarrier.arrive_drop.expect_tx.release<.cta|.cluster>{$cta}.b64 d, [a], b";
        86 90 "mbarrier.arrive_drop.expect_tx.relaxed<.cta|.cluster>{$cta}.b64 d, [a], b";
        80 90 "mbarrier.arrive_drop.expect_tx.release<.cta|.cluster>.shared::cluster.b64 _, [a], b";
        86 90 "mbarrier.arrive_drop.expect_tx.relaxed<.cta|.cluster>.shared::cluster.b64 _, [a], b";
        70 80 "mbarrier.arrive_drop.noComplete{$cta}.b64 d, [a], b";
        70 80 "mbarrier.arrive_drop.noComplete.release.cta{$cta}.b64 d, [a], b";
    }
    MbarrierTestWait "mbarrier.test_wait" {
        70 80 "mbarrier.test_wait{.parity}{$cta}.b64 d, [a], b";
        70 80 "mbarrier.test_wait{.parity}.acquire<.cta|.cluster>{$cta}.b64 d, [a], b";
        86 80 "mbarrier.test_wait{.parity}.relaxed<.cta|.cluster>{$cta}.b64 d, [a], b";
    }
    MbarrierTryWait "mbarrier.try_wait" {
        78 90 "mbarrier.try_wait{.parity}{$cta}.b64 d, [a], b{, c}";
        78 90 "mbarrier.try_wait{.parity}.acquire<.cta|.cluster>{$cta}.b64 d, [a], b{, c}";
        86 90 "mbarrier.try_wait{.parity}.relaxed<.cta|.cluster>{$cta}.b64 d, [a], b{, c}";
    }
    MbarrierPendingCount "mbarrier.pending_count" { 70 80 "mbarrier.pending_count.b64 d, a"; }

    // 9.7.14 Warp-level matrix instructions.
    Ldmatrix "ldmatrix" {
        65 75 "ldmatrix.sync.aligned.m8n8<.x1|.x2|.x4>{.trans}{$cta}.b16 D, [a]";
    }
    Stmatrix "stmatrix" {
        78 90 "stmatrix.sync.aligned.m8n8<.x1|.x2|.x4>{.trans}{$cta}.b16 [a], B";
    }
    Movmatrix "movmatrix" { 78 75 "movmatrix.sync.aligned.m8n8.trans.b16 d, a"; }
    Mma "mma" {
        65 75 "mma.sync.aligned<.m16n8k8|.m16n8k16>.row.col.f16.f16.f16.f16 D, A, B, C";
        65 75 "mma.sync.aligned<.m16n8k8|.m16n8k16>.row.col.f32.f16.f16.f32 D, A, B, C";
        70 80 "mma.sync.aligned<.m16n8k8|.m16n8k16>.row.col.f32.bf16.bf16.f32 D, A, B, C";
        70 80 "mma.sync.aligned<.m16n8k4|.m16n8k8>.row.col.f32.tf32.tf32.f32 D, A, B, C";
        84 89 "mma.sync.aligned.m16n8k32.row.col.f32<.e4m3|.e5m2><.e4m3|.e5m2>.f32 D, A, B, C";
        87 89 "mma.sync.aligned.m16n8k16.row.col.f32<.e4m3|.e5m2><.e4m3|.e5m2>.f32 D, A, B, C";
        87 89 "mma.sync.aligned<.m16n8k16|.m16n8k32>.row.col.f16<.e4m3|.e5m2><.e4m3|.e5m2>.f16 D, A, B, C";
        65 75 "mma.sync.aligned<.m8n8k16|.m16n8k16|.m16n8k32>.row.col{.satfinite}.s32<.u8|.s8><.u8|.s8>.s32 D, A, B, C";
        70 80 "mma.sync.aligned<.m8n8k4|.m16n8k4|.m16n8k8|.m16n8k16>.row.col.f64.f64.f64.f64 D, A, B, C";
    }

    // 9.7.15 Asynchronous warpgroup-level matrix instructions. The operands
    // are d, a (registers or descriptor), b-desc, scale-d, then immediates:
    // scale-a, scale-b and, for 16-bit types, trans-a (descriptor only) and
    // trans-b.
    WgmmaMmaAsync "wgmma.mma_async" {
        80 901 "wgmma.mma_async.sync.aligned<$wgk16><.f16|.f32>.f16.f16 D, a, b, c, i, i, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk16><.f16|.f32>.f16.f16 D, V, b, c, i, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk16>.f32.bf16.bf16 D, a, b, c, i, i, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk16>.f32.bf16.bf16 D, V, b, c, i, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk8>.f32.tf32.tf32 D, A, b, c, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk32><.f16|.f32><.e4m3|.e5m2><.e4m3|.e5m2> D, A, b, c, i, i";
        80 901 "wgmma.mma_async.sync.aligned<$wgk32>{.satfinite}.s32.s8.s8 D, A, b, c";
        80 901 "wgmma.mma_async.sync.aligned<$wgk32>{.satfinite}.s32.u8.u8 D, A, b, c";
        84 901 "wgmma.mma_async.sync.aligned<$wgk32>{.satfinite}.s32.s8.u8 D, A, b, c";
        84 901 "wgmma.mma_async.sync.aligned<$wgk32>{.satfinite}.s32.u8.s8 D, A, b, c";
    }
    WgmmaFence "wgmma.fence" { 80 901 "wgmma.fence.sync.aligned"; }
    WgmmaCommitGroup "wgmma.commit_group" { 80 901 "wgmma.commit_group.sync.aligned"; }
    WgmmaWaitGroup "wgmma.wait_group" { 80 901 "wgmma.wait_group.sync.aligned i"; }

    // 9.7.17 Stack manipulation.
    Stacksave "stacksave" { 73 52 "stacksave<.u32|.u64> d"; }
    Stackrestore "stackrestore" { 73 52 "stackrestore<.u32|.u64> a"; }
    Alloca "alloca" { 73 52 "alloca<.u32|.u64> d, a{, i}"; }

    // 9.7.19 Miscellaneous.
    Brkpt "brkpt" { 10 11 "brkpt"; }
    Nanosleep "nanosleep" { 63 70 "nanosleep.u32 a"; }
    Pmevent "pmevent" { 14 0 "pmevent i"; 30 20 "pmevent.mask i"; }
    Trap "trap" { 10 0 "trap"; }
    Setmaxnreg "setmaxnreg" { 80 901 "setmaxnreg<.inc|.dec>.sync.aligned.u32 i"; }
}
