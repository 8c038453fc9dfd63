//! An opcode's text to its row, its modifiers and the forms they fit.

use super::{Parser, Result};
use crate::error::{ParseError, ParseErrorKind};
use crate::inst::Operand;
use crate::lexer::{Tok, Token, error_at};
use crate::mods::Mod;
use crate::table::{Form, Op};
use std::rc::Rc;

/// A looked-up opcode, shared by all its occurrences in a module.
pub(super) struct Opcode {
    pub op: Op,
    pub mods: Vec<Mod>,
    /// The forms of the row that take these modifiers; never empty.
    forms: Vec<&'static Form>,
}

impl<'a> Parser<'a> {
    pub(super) fn opcode(&mut self) -> Result<Rc<Opcode>> {
        let token = self.peek();
        let text = self.word()?;
        // PTX allows a space inside an opcode: `ld.global .b32`.
        if self.peek().tok == Tok::Directive {
            let mut joined = text.to_owned();
            while self.peek().tok == Tok::Directive {
                joined.push_str(self.text(self.peek()));
                self.at += 1;
            }
            return Ok(Rc::new(resolve(self.source, token, &joined)?));
        }
        if let Some(known) = self.opcodes.get(text) {
            return Ok(Rc::clone(known));
        }
        let opcode = Rc::new(resolve(self.source, token, text)?);
        self.opcodes.insert(text, Rc::clone(&opcode));
        Ok(opcode)
    }

    /// Checks the operands against the forms; `starts` are their positions.
    pub(super) fn check_operands(
        &self,
        opcode: &Opcode,
        token: Token,
        operands: &[Operand],
        starts: &[Token],
    ) -> Result<()> {
        if opcode
            .forms
            .iter()
            .any(|f| f.match_operands(&opcode.mods, operands))
        {
            return Ok(());
        }
        let text = self.text(token).to_owned();
        let expected = opcode
            .forms
            .iter()
            .map(|f| describe(f))
            .collect::<Vec<_>>()
            .join(" or ");
        let counts = |f: &&'static Form| {
            let least = f.operands.iter().filter(|(_, optional)| !optional).count();
            (least..=f.operands.len()).contains(&operands.len())
        };
        if !opcode.forms.iter().any(counts) {
            let kind = ParseErrorKind::OperandCount {
                opcode: text,
                expected,
                found: operands.len(),
            };
            return Err(self.error(token, kind));
        }
        // The operand to blame is the first that no form takes after its
        // predecessors.
        let bad = (1..=operands.len())
            .find(|n| {
                !opcode
                    .forms
                    .iter()
                    .any(|f| f.match_prefix(&opcode.mods, &operands[..*n]))
            })
            .unwrap_or(operands.len());
        let place = starts.get(bad.wrapping_sub(1)).copied().unwrap_or(token);
        let kind = ParseErrorKind::OperandKind {
            opcode: text,
            index: bad,
            expected,
        };
        Err(self.error(place, kind))
    }
}

/// The operands of a form in words.
fn describe(form: &Form) -> String {
    if form.operands.is_empty() {
        return "no operands".to_owned();
    }
    let word = |(kind, optional): &(crate::table::Kind, bool)| {
        let word = kind.describe();
        if *optional {
            format!("optionally {word}")
        } else {
            word.to_owned()
        }
    };
    form.operands
        .iter()
        .map(word)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Brings the semantics, scope and state space that begin a memory instruction
/// into the order of the PTX ISA. `ptxas` takes them in any order, and what
/// Triton and CUTLASS write is `atom.global.gpu.acq_rel` and
/// `ld.global.acquire.gpu`.
fn order_memory_words(op: Op, mods: &mut [Mod], places: &mut [(usize, &str)]) {
    if !matches!(op, Op::Ld | Op::St | Op::Atom | Op::Red) {
        return;
    }
    let rank = |m: &Mod| match m {
        Mod::Weak
        | Mod::Volatile
        | Mod::Relaxed
        | Mod::Acquire
        | Mod::Release
        | Mod::AcqRel
        | Mod::Mmio => Some(0),
        Mod::Scope(_) => Some(1),
        Mod::Space(_) => Some(2),
        _ => None,
    };
    let count = mods.iter().take_while(|m| rank(m).is_some()).count();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&i| rank(&mods[i]));
    let (old_mods, old_places) = (mods.to_vec(), places.to_vec());
    for (to, from) in order.into_iter().enumerate() {
        (mods[to], places[to]) = (old_mods[from], old_places[from]);
    }
}

fn resolve(source: &str, token: Token, text: &str) -> Result<Opcode> {
    let fail = |offset: usize, kind| -> ParseError {
        error_at(source, token.start as usize + offset, kind)
    };
    let Some((op, rest)) = Op::lookup(text) else {
        return Err(fail(0, ParseErrorKind::UnknownInstruction(text.to_owned())));
    };
    let takes = || {
        op.forms()
            .iter()
            .map(|f| format!("`{}`", f.text))
            .collect::<Vec<_>>()
            .join(" or ")
    };
    // The offset of each modifier's name, after its dot.
    let mut offset = op.mnemonic().len();
    let mut mods = Vec::new();
    let mut places = Vec::new();
    let mut unknown = None;
    for word in rest.split('.').skip(1) {
        offset += 1;
        places.push((offset, word));
        offset += word.len();
        match Mod::parse(word) {
            Some(m) if unknown.is_none() => mods.push(m),
            Some(_) => {}
            None => {
                unknown.get_or_insert(places.len() - 1);
            }
        }
    }
    if unknown.is_none() {
        order_memory_words(op, &mut mods, &mut places);
    }
    let mut forms = Vec::new();
    let mut furthest = 0;
    for form in op.forms() {
        match form.match_mods(&mods) {
            Ok(()) => forms.push(form),
            Err(fitted) => furthest = furthest.max(fitted),
        }
    }
    let culprit = match unknown {
        Some(at) if forms.is_empty() => Some(at.min(furthest)),
        Some(at) => Some(at),
        None if forms.is_empty() && furthest < mods.len() => Some(furthest),
        None => None,
    };
    if let Some((offset, word)) = culprit.and_then(|at| places.get(at)) {
        let kind = ParseErrorKind::Modifier {
            mnemonic: op.mnemonic(),
            modifier: (*word).to_owned(),
            forms: takes(),
        };
        return Err(fail(*offset, kind));
    }
    if forms.is_empty() {
        let kind = ParseErrorKind::MissingModifier {
            opcode: text.to_owned(),
            forms: takes(),
        };
        return Err(fail(0, kind));
    }
    Ok(Opcode { op, mods, forms })
}
