//! The instruction table and its compiled form.
//!
//! `rows.rs` holds the text that a person reads; on first use each form is
//! compiled to modifier slots and operand kinds, against which the parser
//! checks an instruction and from which the tests generate samples.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::ast::Version;
use crate::inst::{Inst, Operand};
use crate::mods::{Mod, Shape};

/// Turns the rows into `enum Op` and the array `ROWS`.
macro_rules! instructions {
    ($($op:ident $mnemonic:literal { $($ptx:literal $sm:literal $form:literal;)+ })+) => {
        /// An opcode: one row of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op { $($op,)+ }

        impl Op {
            /// Every opcode, in the order of the table.
            pub const ALL: &'static [Op] = &[$(Op::$op,)+];

            /// The fixed start of the opcode's text, such as `cp.async.bulk`.
            pub const fn mnemonic(self) -> &'static str {
                match self { $(Op::$op => $mnemonic,)+ }
            }
        }

        /// Forms of each opcode, indexed by `Op as usize`.
        pub(super) const ROWS: &[&[(u32, u32, &str)]] = &[$(&[$(($ptx, $sm, $form),)+],)+];
    };
}

mod rows;

pub use rows::Op;

/// What may stand at one operand position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A register to write, or `_`.
    Dst,
    /// `_` alone.
    Sink,
    /// `d|p`, with the predicate required.
    DstPair,
    /// `d` or `d|p`.
    DstMaybePair,
    /// A register or a vector of registers to write.
    DstVec,
    /// A register, constant, special register or address of a variable.
    Src,
    /// A source or a vector of them.
    SrcVec,
    /// A vector of sources.
    Vector,
    /// A predicate, possibly negated.
    SrcNot,
    Mem,
    Tensor,
    Imm,
    Label,
    Callee,
    Args,
}

impl Kind {
    /// The kind in words, for error messages.
    pub const fn describe(self) -> &'static str {
        match self {
            Kind::Dst => "register",
            Kind::Sink => "_",
            Kind::DstPair => "register|predicate",
            Kind::DstMaybePair => "register[|predicate]",
            Kind::DstVec => "register or {registers}",
            Kind::Src => "register or constant",
            Kind::SrcVec => "register, constant or {vector}",
            Kind::Vector => "{vector}",
            Kind::SrcNot => "[!]predicate",
            Kind::Mem => "[address]",
            Kind::Tensor => "[tensor map, {coordinates}]",
            Kind::Imm => "constant",
            Kind::Label => "label",
            Kind::Callee => "function",
            Kind::Args => "(list)",
        }
    }

    fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "d" => Kind::Dst,
            "_" => Kind::Sink,
            "d|p" => Kind::DstPair,
            "d{|p}" => Kind::DstMaybePair,
            "D" => Kind::DstVec,
            "a" | "b" | "c" | "e" => Kind::Src,
            "A" | "B" | "C" => Kind::SrcVec,
            "V" => Kind::Vector,
            "!a" | "!c" | "!e" => Kind::SrcNot,
            "[a]" | "[b]" | "[c]" | "[e]" => Kind::Mem,
            "[t]" => Kind::Tensor,
            "i" => Kind::Imm,
            "L" => Kind::Label,
            "F" => Kind::Callee,
            "R" => Kind::Args,
            _ => return None,
        })
    }

    fn accepts(self, operand: &Operand) -> bool {
        let dst = |o: &Operand| matches!(o, Operand::Reg(_) | Operand::Sink);
        let src = |o: &Operand| {
            matches!(
                o,
                Operand::Reg(_) | Operand::Imm(_) | Operand::Special(_) | Operand::Sym(..)
            )
        };
        match (self, operand) {
            (Kind::DstPair | Kind::DstMaybePair, Operand::Pair(a, b)) => dst(a) && dst(b),
            (Kind::Dst | Kind::DstMaybePair | Kind::DstVec, o) if dst(o) => true,
            (Kind::DstVec, Operand::Vector(list)) => list.iter().all(dst),
            (Kind::Src | Kind::SrcVec, o) if src(o) => true,
            (Kind::SrcVec | Kind::Vector, Operand::Vector(list)) => {
                list.iter().all(|o| src(o) || *o == Operand::Sink)
            }
            (Kind::SrcNot, Operand::Reg(_) | Operand::Not(_) | Operand::Imm(_)) => true,
            (Kind::Sink, Operand::Sink)
            | (Kind::Mem, Operand::Mem(_))
            | (Kind::Tensor, Operand::Tensor { .. })
            | (Kind::Imm, Operand::Imm(_))
            | (Kind::Label, Operand::Label(_))
            | (Kind::Callee, Operand::Sym(..) | Operand::Reg(_))
            | (Kind::Args, Operand::Args(_)) => true,
            _ => false,
        }
    }
}

/// One alternative of a modifier slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alt {
    One(Mod),
    /// `.m64nNkK` of `wgmma`, with N from 8 to 256 in steps of 8.
    Wgmma {
        k: u16,
    },
}

impl Alt {
    pub fn accepts(self, m: Mod) -> bool {
        match (self, m) {
            (Alt::One(one), _) => one == m,
            (
                Alt::Wgmma { k },
                Mod::Shape(Shape {
                    m: 64,
                    n,
                    k: Some(mk),
                }),
            ) => mk == k && (8..=256).contains(&n) && n % 8 == 0,
            _ => false,
        }
    }
}

/// One position in the sequence of modifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub optional: bool,
    pub alts: Vec<Alt>,
}

/// One compiled form of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    pub op: Op,
    /// Least PTX ISA version.
    pub ptx: Version,
    /// Least SM as in the table: 90, or 901 for `sm_90a`.
    pub sm: u32,
    /// The form as the table writes it.
    pub text: &'static str,
    pub slots: Vec<Slot>,
    /// Kind, and whether the operand may be absent.
    pub operands: Vec<(Kind, bool)>,
}

impl Form {
    /// The least PTX ISA version of this form with these modifiers.
    pub fn least_ptx(&self, mods: &[Mod]) -> Version {
        let younger = rows::YOUNGER.iter().filter(|(word, _)| {
            let word = Mod::parse(word);
            mods.iter().any(|m| Some(*m) == word)
        });
        younger
            .map(|(_, ptx)| version(*ptx))
            .fold(self.ptx, Version::max)
    }

    /// Matches the modifiers against the slots. On failure, gives how many
    /// modifiers fitted before.
    pub fn match_mods(&self, mods: &[Mod]) -> Result<(), usize> {
        fn go(slots: &[Slot], mods: &[Mod], done: usize, best: &mut usize) -> bool {
            *best = (*best).max(done);
            let Some((slot, rest)) = slots.split_first() else {
                return done == mods.len();
            };
            let taken = mods
                .get(done)
                .is_some_and(|m| slot.alts.iter().any(|a| a.accepts(*m)));
            (taken && go(rest, mods, done + 1, best))
                || (slot.optional && go(rest, mods, done, best))
        }
        let mut best = 0;
        if go(&self.slots, mods, 0, &mut best) {
            Ok(())
        } else {
            Err(best)
        }
    }

    /// Matches the operands against their kinds, and the length of a vector
    /// against `.v2`, `.v4` and `.v8`.
    pub fn match_operands(&self, mods: &[Mod], operands: &[Operand]) -> bool {
        fits(&self.operands, operands, self.lanes(mods), false)
    }

    /// As [`Form::match_operands`], where further operands may follow.
    pub(crate) fn match_prefix(&self, mods: &[Mod], operands: &[Operand]) -> bool {
        fits(&self.operands, operands, self.lanes(mods), true)
    }

    /// The vector length that the modifiers ask for, where the form has
    /// vector modifiers at all.
    fn lanes(&self, mods: &[Mod]) -> Option<usize> {
        let vector = |s: &Slot| s.alts.contains(&Alt::One(Mod::V2));
        let lanes = |m: &Mod| match m {
            Mod::V2 => Some(2),
            Mod::V4 => Some(4),
            Mod::V8 => Some(8),
            _ => None,
        };
        let has_slot = self.slots.iter().any(vector);
        has_slot.then(|| mods.iter().find_map(lanes).unwrap_or(1))
    }
}

fn fits(kinds: &[(Kind, bool)], operands: &[Operand], lanes: Option<usize>, prefix: bool) -> bool {
    let Some((operand, others)) = operands.split_first() else {
        return prefix || kinds.iter().all(|(_, optional)| *optional);
    };
    let Some(((kind, optional), rest)) = kinds.split_first() else {
        return false;
    };
    let found = if let Operand::Vector(list) = operand {
        list.len()
    } else {
        1
    };
    let lanes_fit = match (kind, lanes) {
        (Kind::DstVec | Kind::SrcVec, Some(n)) => found == n,
        _ => true,
    };
    (lanes_fit && kind.accepts(operand) && fits(rest, others, lanes, prefix))
        || (*optional && fits(rest, operands, lanes, prefix))
}

struct Table {
    /// Forms by `Op as usize`.
    forms: Vec<Vec<Form>>,
    by_mnemonic: HashMap<&'static str, Op>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let compile = |op: &Op| {
            let rows = rows::ROWS[*op as usize].iter();
            // A form that does not compile is a mistake in this crate's
            // source; the test `every_form_compiles` finds it.
            rows.filter_map(|row| compile_form(*op, row)).collect()
        };
        Table {
            forms: Op::ALL.iter().map(compile).collect(),
            by_mnemonic: Op::ALL.iter().map(|op| (op.mnemonic(), *op)).collect(),
        }
    })
}

impl Op {
    /// The compiled forms of this row.
    pub fn forms(self) -> &'static [Form] {
        &table().forms[self as usize]
    }

    /// Splits an opcode's text into the row with the longest mnemonic that
    /// fits and the dotted rest, which is empty or starts with a dot.
    pub fn lookup(text: &str) -> Option<(Op, &str)> {
        let mut end = text.len();
        loop {
            if let Some(op) = table().by_mnemonic.get(&text[..end]) {
                return Some((*op, &text[end..]));
            }
            end = text[..end].rfind('.')?;
        }
    }
}

impl Inst {
    /// The form of the table that this instruction has; `None` only for an
    /// instruction that was not parsed and is not well formed.
    pub fn form(&self) -> Option<&'static Form> {
        self.op.forms().iter().find(|f| {
            f.match_mods(&self.mods).is_ok() && f.match_operands(&self.mods, &self.operands)
        })
    }
}

fn version(times_ten: u32) -> Version {
    Version {
        major: times_ten / 10,
        minor: times_ten % 10,
    }
}

/// Compiles `mnemonic{.x|.y}<$set>.z d, a{, b}`.
fn compile_form(op: Op, &(ptx, sm, text): &(u32, u32, &'static str)) -> Option<Form> {
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    let mut rest = opcode.strip_prefix(op.mnemonic())?;
    let mut slots = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (body, tail, optional) = match first {
            '{' => rest[1..].split_once('}').map(|(b, t)| (b, t, true))?,
            '<' => rest[1..].split_once('>').map(|(b, t)| (b, t, false))?,
            _ => {
                let end = rest[1..]
                    .find(['.', '{', '<'])
                    .map_or(rest.len(), |n| n + 1);
                (&rest[..end], &rest[end..], false)
            }
        };
        let mut alts = Vec::new();
        expand(body, &mut alts)?;
        slots.push(Slot { optional, alts });
        rest = tail;
    }
    Some(Form {
        op,
        ptx: version(ptx),
        sm,
        text,
        slots,
        operands: compile_operands(operands)?,
    })
}

/// Expands `.x|$set|.y` into its alternatives.
fn expand(body: &str, alts: &mut Vec<Alt>) -> Option<()> {
    for word in body.split('|') {
        if let Some(set) = word.strip_prefix('$') {
            let (_, inner) = rows::SETS.iter().find(|(name, _)| *name == set)?;
            expand(inner, alts)?;
            continue;
        }
        let word = word.strip_prefix('.')?;
        alts.push(match word.strip_prefix("m64nNk") {
            Some(k) => Alt::Wgmma { k: k.parse().ok()? },
            None => Alt::One(Mod::parse(word)?),
        });
    }
    Some(())
}

fn compile_operands(text: &str) -> Option<Vec<(Kind, bool)>> {
    let mut kinds = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("{,") {
            let (name, tail) = inner.split_once('}')?;
            kinds.push((Kind::parse(name.trim())?, true));
            rest = tail;
        } else {
            let rest_now = rest.trim_start_matches(',').trim_start();
            let end = rest_now
                .match_indices([',', '{'])
                .map(|(at, _)| at)
                .find(|&at| !rest_now[at..].starts_with("{|"))
                .unwrap_or(rest_now.len());
            kinds.push((Kind::parse(rest_now[..end].trim())?, false));
            rest = &rest_now[end..];
        }
        rest = rest.trim_start();
    }
    Some(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_compiles() {
        for op in Op::ALL {
            for row in rows::ROWS[*op as usize] {
                assert!(compile_form(*op, row).is_some(), "{}", row.2);
            }
        }
    }

    #[test]
    fn every_modifier_is_in_some_row() {
        let forms = Op::ALL.iter().flat_map(|op| op.forms());
        let used: Vec<Alt> = forms
            .flat_map(|f| &f.slots)
            .flat_map(|s| s.alts.clone())
            .collect();
        for m in Mod::WORDS {
            assert!(used.contains(&Alt::One(*m)), "no row takes .{m}");
            assert_eq!(
                Mod::parse(&m.to_string()),
                Some(*m),
                ".{m} reads as something else"
            );
        }
    }

    #[test]
    fn lookup_takes_the_longest_mnemonic() {
        assert_eq!(Op::lookup("bar.warp.sync"), Some((Op::BarWarpSync, "")));
        assert_eq!(Op::lookup("bar.sync"), Some((Op::Bar, ".sync")));
        assert_eq!(
            Op::lookup("cp.async.bulk.tensor.2d"),
            Some((Op::CpAsyncBulkTensor, ".2d"))
        );
        assert_eq!(Op::lookup("nonsense.f32"), None);
    }
}
