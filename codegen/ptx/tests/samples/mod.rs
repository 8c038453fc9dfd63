//! Sample instructions, generated from the rows of the instruction table.
//!
//! A form gives one sample for each alternative of each modifier slot, and one
//! each without and with all that is optional. Operands get registers of the
//! width that the types ask for, so that `ptxas` can judge the samples as well.

use mcc_ptx::{Alt, Form, Kind, Mod, Op, Shape, Type, Version};

/// Declarations that every sample may use: registers of each width, a
/// predicate pair, shared and global memory, a tensor map, a label, a callee.
const HEADER: &str = "\
.target sm_90a
.address_size 64
.func callee(.param .b32 x) { ret; }
.shared .align 128 .b8 smem[1024];
.global .align 128 .b8 gmem[1024];
.entry k(.param .align 64 .b8 tm[128])
{
    .reg .pred %p<4>;
    .reg .b16 %h<8>;
    .reg .b32 %r<140>;
    .reg .b64 %d<8>;
    .param .b32 arg;
table: .branchtargets end;
";

/// A kernel with the instruction, for the least PTX version of its form, but
/// not below that of `sm_90a`.
pub fn module(form: &Form, instruction: &str) -> String {
    // The younger modifiers that the samples use are all as old as 8.4.
    let young = [".b128", "::entry", "::func", "::f32"]
        .iter()
        .any(|m| instruction.contains(m));
    let floor = Version {
        major: 8,
        minor: if young { 4 } else { 0 },
    };
    let ptx = form.ptx.max(floor);
    let wide = if instruction.contains("%q") {
        "    .reg .b128 %q<4>;\n"
    } else {
        ""
    };
    format!(
        ".version {}.{}\n{HEADER}{wide}    {instruction}\nend:\n    ret;\n}}\n",
        ptx.major, ptx.minor
    )
}

/// Every sample of a form: the instruction's text.
pub fn of(form: &Form) -> Vec<String> {
    let pick = |choose: &dyn Fn(usize) -> Option<usize>| {
        let slots = form.slots.iter().enumerate();
        let mods = slots.filter_map(|(n, s)| choose(n).map(|alt| word(s.alts[alt])));
        instruction(form, &mods.collect::<Vec<_>>())
    };
    let least = |n: usize| (!form.slots[n].optional).then_some(0);
    let mut samples = vec![pick(&least)];
    for (slot, s) in form.slots.iter().enumerate() {
        for alt in 0..s.alts.len() {
            samples.push(pick(&|n| if n == slot { Some(alt) } else { least(n) }));
        }
    }
    samples.push(pick(&|_| Some(0)));
    samples.dedup();
    samples
}

fn word(alt: Alt) -> Mod {
    match alt {
        Alt::One(m) => m,
        Alt::Wgmma { k } => Mod::Shape(Shape {
            m: 64,
            n: 24,
            k: Some(k),
        }),
    }
}

fn instruction(form: &Form, mods: &[Mod]) -> String {
    let mut text = form.op.mnemonic().to_owned();
    for m in mods {
        text.push_str(&format!(".{m}"));
    }
    let mut operands = Vec::new();
    let count = form.operands.len();
    for (n, (kind, optional)) in form.operands.iter().enumerate() {
        // A last optional operand is the cache policy where there may be one.
        let hinted = form.text.contains("hint}");
        let has_hint = mods.contains(&Mod::L2CacheHint);
        let multicast = mods.contains(&Mod::MulticastCluster);
        let absent = *optional
            && match form.op {
                Op::CpAsyncBulkTensor if count - n == 2 => !multicast,
                Op::WgmmaMmaAsync => false,
                Op::CpAsync => n + 1 < count || !has_hint,
                _ if hinted && n + 1 == count => !has_hint,
                _ => n % 2 == 0,
            };
        if !absent {
            operands.push(operand(form, mods, n, *kind));
        }
    }
    if form.op == Op::Call {
        return format!("{text} callee, (arg);");
    }
    let space = if operands.is_empty() { "" } else { " " };
    format!("{text}{space}{};", operands.join(", "))
}

fn types(mods: &[Mod]) -> Vec<Type> {
    mods.iter().filter_map(|m| m.ty()).collect()
}

fn register(bits: u32, n: usize) -> String {
    match bits {
        1 => format!("%p{}", n % 3),
        0..=16 => format!("%h{n}"),
        17..=32 => format!("%r{n}"),
        33..=64 => format!("%d{n}"),
        _ => format!("%q{}", n % 4),
    }
}

/// The width of operand `n`.
fn width(op: Op, mods: &[Mod], n: usize) -> u32 {
    let types = types(mods);
    let first = types.first().map_or(32, |t| t.bits());
    let last = types.last().map_or(32, |t| t.bits());
    let bits = if n == 0 { first } else { last };
    let wait = matches!(op, Op::MbarrierTestWait | Op::MbarrierTryWait);
    let policy = mods.contains(&Mod::L2CacheHint);
    match (op, n) {
        (Op::Mul | Op::Mad, 0) if mods.contains(&Mod::Wide) => 2 * first,
        (Op::Mad, 3) if mods.contains(&Mod::Wide) => 2 * first,
        (Op::Shl | Op::Shr | Op::Bfe | Op::Mapa, 2) | (Op::Bfe, 3) | (Op::Bfi, 3 | 4) => 32,
        (Op::Popc | Op::Clz | Op::Bfind | Op::CvtPack | Op::Getctarank, 0) => 32,
        (Op::CvtPack, _) => 32,
        (Op::Testp | Op::Setp | Op::Isspacep, 0) => 1,
        (Op::Isspacep, _) => 64,
        (Op::Setp | Op::Set | Op::Selp, 3) => 1,
        (Op::Slct, 1 | 2) => first,
        (Op::Lop3, 5) => 1,
        (Op::Vote, 1) => 1,
        (Op::Vote | Op::Redux, 2) | (Op::Match, 0 | 2) => 32,
        (Op::Bar | Op::Barrier, 3) => 1,
        (Op::Bar | Op::Barrier, 1 | 2) => 32,
        (Op::MbarrierInit | Op::MbarrierExpectTx | Op::MbarrierCompleteTx, _) => 32,
        (Op::MbarrierArrive | Op::MbarrierArriveDrop, 2) => 32,
        (Op::MbarrierPendingCount, 0) => 32,
        (Op::MbarrierPendingCount, 1) => 64,
        (_, 0) if wait => 1,
        (_, 2) if wait => {
            if mods.contains(&Mod::Parity) {
                32
            } else {
                64
            }
        }
        (_, 3) if wait => 32,
        (Op::Createpolicy, 1..) => 32,
        (Op::CreatepolicyCvt, _) => 64,
        (Op::Griddepcontrol, _) => 32,
        (Op::Ld | Op::St | Op::Red, 2) | (Op::Atom, 3 | 4) if policy => {
            if op == Op::Atom && n == 3 && mods.contains(&Mod::Cas) {
                last
            } else {
                64
            }
        }
        (Op::CpAsync | Op::CpAsyncBulkPrefetch | Op::CpAsyncBulkPrefetchTensor, 2..) if policy => {
            64
        }
        (Op::CpReduceAsyncBulkTensor, 2) => 64,
        (Op::CpReduceAsyncBulk, 2) => 32,
        (Op::CpReduceAsyncBulk, 3) => 64,
        (Op::CpAsyncBulk, 3..) if mods.contains(&Mod::MulticastCluster) => {
            if n == 4 {
                16
            } else {
                64
            }
        }
        (Op::CpAsyncBulk, 3..) => 64,
        (Op::CpAsyncBulkTensor, 3..) if mods.contains(&Mod::MulticastCluster) && !policy => 16,
        (Op::CpAsyncBulkTensor, 3)
            if mods.contains(&Mod::MulticastCluster) && !mods.contains(&Mod::Im2col) =>
        {
            16
        }
        (Op::CpAsyncBulkTensor, 4)
            if mods.contains(&Mod::MulticastCluster) && mods.contains(&Mod::Im2col) =>
        {
            16
        }
        (Op::CpAsyncBulkTensor, 2..) => 64,
        (Op::CpAsyncBulkPrefetchTensor, 1..) => 64,
        (Op::WgmmaMmaAsync, 1 | 2) => 64,
        (Op::WgmmaMmaAsync, 3) => 1,
        (Op::Ldmatrix | Op::Stmatrix | Op::Movmatrix, _) => 32,
        (Op::WgmmaMmaAsync, _) => 32,
        (Op::Mma, _) => bits.max(32),
        _ => bits,
    }
}

/// How many registers operand `n` takes; 1 is a bare register.
fn lanes(op: Op, mods: &[Mod], n: usize) -> usize {
    let has = |m| mods.contains(&m);
    let shape = mods.iter().find_map(|m| {
        if let Mod::Shape(s) = m {
            Some(*s)
        } else {
            None
        }
    });
    let types = types(mods);
    match (op, n, shape) {
        (Op::Ldmatrix | Op::Stmatrix, ..) if has(Mod::X4) => 4,
        (Op::Ldmatrix | Op::Stmatrix, ..) if has(Mod::X2) => 2,
        (Op::WgmmaMmaAsync, 0, Some(s)) => usize::from(s.n) / 2 * types[0].bits() as usize / 32,
        // A fragment is spread over 32 lanes, in words of at least 32 bits.
        (Op::Mma, n, Some(s)) => {
            let (m, nn, k) = (
                usize::from(s.m),
                usize::from(s.n),
                usize::from(s.k.unwrap_or(0)),
            );
            let elements = [m * nn, m * k, k * nn, m * nn][n];
            let bits = types[n].bits() as usize;
            (elements * bits / 32 / bits.max(32)).max(1)
        }
        _ if has(Mod::V8) => 8,
        _ if has(Mod::V4) => 4,
        _ if has(Mod::V2) => 2,
        _ => 1,
    }
}

fn operand(form: &Form, mods: &[Mod], n: usize, kind: Kind) -> String {
    let bits = if kind == Kind::Vector {
        32
    } else {
        width(form.op, mods, n)
    };
    let reg = register(bits, n + 1);
    let shared = || {
        let first = mods.iter().find_map(|m| {
            if let Mod::Space(s) = m {
                Some(*s)
            } else {
                None
            }
        });
        first.is_some_and(|s| s.name().starts_with("shared"))
    };
    match kind {
        Kind::Dst | Kind::Src | Kind::SrcNot => reg,
        Kind::DstPair => format!("{reg}|%p3"),
        Kind::DstMaybePair => format!("{reg}|%p3"),
        Kind::Vector if form.op == Op::WgmmaMmaAsync => "{%r0, %r1, %r2, %r3}".to_owned(),
        Kind::DstVec | Kind::SrcVec | Kind::Vector => match lanes(form.op, mods, n) {
            1 if matches!(form.op, Op::Ldmatrix | Op::Stmatrix | Op::Mma) => format!("{{{reg}}}"),
            1 if form.op == Op::CpAsyncBulkTensor || form.op == Op::CpAsyncBulkPrefetchTensor => {
                let count = match mods[0] {
                    Mod::D3 => 1,
                    Mod::D4 => 2,
                    _ => 3,
                };
                let list: Vec<_> = (0..count).map(|i| format!("%h{i}")).collect();
                format!("{{{}}}", list.join(", "))
            }
            1 => reg,
            count => {
                let list: Vec<_> = (0..count).map(|i| register(bits, i)).collect();
                format!("{{{}}}", list.join(", "))
            }
        },
        Kind::Mem if n == 0 && shared() => "[smem+16]".to_owned(),
        Kind::Mem => format!("[%d{}]", n + 1),
        Kind::Tensor => {
            let dims = match mods[0] {
                Mod::D1 => 1,
                Mod::D2 => 2,
                Mod::D3 => 3,
                Mod::D4 => 4,
                _ => 5,
            };
            let coords: Vec<_> = (0..dims).map(|i| format!("%r{i}")).collect();
            format!("[%d7, {{{}}}]", coords.join(", "))
        }
        Kind::Imm => match form.op {
            Op::CpAsync if mods.contains(&Mod::Ca) => "4",
            Op::CpAsync => "16",
            Op::Discard | Op::Applypriority | Op::FenceProxy => "128",
            Op::Setmaxnreg => "232",
            Op::Alloca => "8",
            Op::WgmmaMmaAsync if n < 6 => "1",
            _ => "0",
        }
        .to_owned(),
        Kind::Label if form.op == Op::BrxIdx => "table".to_owned(),
        Kind::Label => "end".to_owned(),
        Kind::Sink => "_".to_owned(),
        Kind::Callee => "callee".to_owned(),
        Kind::Args => "(arg)".to_owned(),
    }
}
