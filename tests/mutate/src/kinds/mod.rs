//! The kinds of bugs, one row each.
//!
//! In: a kernel's statements. Out: mutants: edits of one place each.
//! Holds: a kind looks at syntax alone and knows nothing of what the kernel is for; a mutant differs from the
//! original in its text.

mod copies;
mod fences;
mod matrix;
mod meeting;
mod values;

pub(crate) use fences::meets;

use crate::subject::{MapChange, Subject};
use mcc_ptx::{
    Address, Base, Body, Guard, Imm, Inst, Mod, Op, Operand, Reg, RegDecl, Scope, Stmt, Symbol,
    Type,
};

/// What a kind of bug breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The order between threads and engines: the checkers are there to report these.
    Order,
    /// What the asynchronous engines are told: copies, tensor maps, matrix descriptors.
    Engines,
    /// What a thread computes.
    Values,
}

impl Class {
    /// The word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Engines => "engines",
            Self::Values => "values",
        }
    }
}

/// One kind of bug.
pub struct Kind {
    pub name: &'static str,
    pub class: Class,
    /// What it does, for the report.
    pub what: &'static str,
    sites: Sites,
}

type Sites = fn(&Code<'_>) -> Vec<Change>;

const fn of(class: Class, name: &'static str, what: &'static str, sites: Sites) -> Kind {
    Kind {
        name,
        class,
        what,
        sites,
    }
}

const fn order(name: &'static str, what: &'static str, sites: Sites) -> Kind {
    of(Class::Order, name, what, sites)
}

const fn engines(name: &'static str, what: &'static str, sites: Sites) -> Kind {
    of(Class::Engines, name, what, sites)
}

const fn values(name: &'static str, what: &'static str, sites: Sites) -> Kind {
    of(Class::Values, name, what, sites)
}

/// An edit of the kernel or of its launch.
#[derive(Clone)]
pub enum Change {
    Text(Edit),
    /// The tensor map at this offset of the parameters.
    Map {
        at: usize,
        note: &'static str,
        change: MapChange,
    },
}

/// Statements replaced by others.
#[derive(Clone, Default)]
pub struct Edit {
    /// The statement that is to blame.
    pub site: usize,
    /// What was done, where the kind leaves it open.
    pub note: String,
    /// New registers, numbered behind those of the body.
    pub fresh: Vec<Type>,
    /// Statements, by index, each once.
    pub replaced: Vec<(usize, Vec<Stmt>)>,
}

/// A kernel with one bug in it.
#[derive(Clone)]
pub struct Mutant {
    /// Index in [`all`].
    pub kind: usize,
    pub change: Change,
}

impl Mutant {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        &all()[self.kind]
    }
}

/// Every kind, in the order of the report.
#[must_use]
pub fn all() -> &'static [Kind] {
    static ALL: std::sync::OnceLock<Vec<Kind>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let mut kinds = fences::kinds();
        kinds.extend(meeting::kinds());
        kinds.extend(copies::kinds());
        kinds.extend(matrix::kinds());
        kinds.extend(values::kinds());
        kinds
    })
}

/// All mutants of a kernel whose sites `reached` accepts.
#[must_use]
pub fn mutants(subject: &Subject, reached: &dyn Fn(usize) -> bool) -> Vec<Mutant> {
    let code = Code::new(subject);
    let mut out = Vec::new();
    for (kind, row) in all().iter().enumerate() {
        for change in (row.sites)(&code) {
            let keep = match &change {
                Change::Text(edit) => reached(edit.site),
                Change::Map { .. } => true,
            };
            if keep {
                out.push(Mutant { kind, change });
            }
        }
    }
    out
}

/// The kernel with an edit, as text.
#[must_use]
pub fn edited(subject: &Subject, edit: &Edit) -> String {
    let mut module = subject.module.clone();
    if let mcc_ptx::Item::Function(f) = &mut module.items[subject.item]
        && let Some(body) = &mut f.body
    {
        let mut declared = Vec::new();
        let first = body.reg_count();
        for (n, &ty) in edit.fresh.iter().enumerate() {
            declared.push(Stmt::Reg(body.regs.len() as u32));
            body.regs.push(RegDecl {
                ty,
                name: format!("%planted{n}"),
                range: None,
                first: Reg(first + n as u32),
            });
        }
        let old = std::mem::replace(&mut body.stmts, declared);
        for (n, stmt) in old.into_iter().enumerate() {
            match edit.replaced.iter().find(|(at, _)| *at == n) {
                Some((_, new)) => body.stmts.extend(new.iter().cloned()),
                None => body.stmts.push(stmt),
            }
        }
    }
    module.to_string()
}

/// A kernel's statements with what kinds ask of them.
pub struct Code<'a> {
    pub subject: &'a Subject,
    pub body: &'a Body,
}

impl<'a> Code<'a> {
    /// Of a subject.
    #[must_use]
    pub fn new(subject: &'a Subject) -> Self {
        let body = subject.body();
        Self { subject, body }
    }

    /// Instructions with their places.
    pub fn insts(&self) -> impl Iterator<Item = (usize, &'a Inst)> + use<'a> {
        let stmts = self.body.stmts.iter().enumerate();
        stmts.filter_map(|(n, stmt)| match stmt {
            Stmt::Inst(inst) => Some((n, inst)),
            _ => None,
        })
    }

    /// Instructions of one mnemonic.
    fn of(&self, op: Op) -> impl Iterator<Item = (usize, &'a Inst)> + use<'a> {
        self.insts().filter(move |(_, inst)| inst.op == op)
    }

    /// The n-th new register of an edit.
    fn fresh(&self, n: u32) -> Reg {
        Reg(self.body.reg_count() + n)
    }

    /// The next instruction that is executed after this one whenever it is, and that `wanted` accepts: in the
    /// same straight line, scopes not counted.
    pub(crate) fn next(&self, at: usize, wanted: impl Fn(&Inst) -> bool) -> Option<usize> {
        for n in at + 1..self.body.stmts.len() {
            match &self.body.stmts[n] {
                Stmt::Inst(inst) if wanted(inst) => return Some(n),
                Stmt::Inst(inst) if leaves(inst) => return None,
                Stmt::Label(_) => return None,
                _ => {}
            }
        }
        None
    }

    /// The one before, likewise.
    pub(crate) fn previous(&self, at: usize, wanted: impl Fn(&Inst) -> bool) -> Option<usize> {
        for n in (0..at).rev() {
            match &self.body.stmts[n] {
                Stmt::Inst(inst) if wanted(inst) => return Some(n),
                Stmt::Inst(inst) if leaves(inst) => return None,
                Stmt::Label(_) => return None,
                _ => {}
            }
        }
        None
    }

    /// The constant that a register holds, where one `mov` is all that writes it.
    fn constant(&self, reg: Reg) -> Option<i64> {
        let mut writers = self
            .insts()
            .filter(|(_, i)| i.operands.first() == Some(&Operand::Reg(reg)) && writes(i));
        let (_, only) = writers.next()?;
        if writers.next().is_some() || only.op != Op::Mov {
            return None;
        }
        match only.operands[1] {
            Operand::Imm(Imm::Int(n)) => Some(n),
            _ => None,
        }
    }

    /// Offsets in the parameters of tensor maps, of the first case.
    fn maps(&self) -> Vec<usize> {
        let case = self.subject.cases.first();
        let pointers = case.map_or(&[][..], |case| &case.pointers);
        pointers.iter().filter(|p| p.map).map(|p| p.at).collect()
    }
}

/// Whether control may leave a straight line here.
fn leaves(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::Bra | Op::BrxIdx | Op::Ret | Op::Exit | Op::Call | Op::Trap
    )
}

/// Whether the first operand is a result.
pub(crate) fn writes(inst: &Inst) -> bool {
    use mcc_ptx::Kind as K;
    let kind = inst
        .form()
        .and_then(|f| f.operands.first().map(|(kind, _)| *kind));
    matches!(
        kind,
        Some(K::Dst | K::DstPair | K::DstMaybePair | K::DstVec)
    )
}

/// An instruction without guard.
pub(crate) fn plain(op: Op, mods: &[Mod], operands: Vec<Operand>) -> Inst {
    Inst {
        guard: None,
        op,
        mods: mods.to_vec(),
        operands,
        line: 0,
    }
}

fn int(n: i64) -> Operand {
    Operand::Imm(Imm::Int(n))
}

impl Edit {
    fn at(site: usize) -> Self {
        Self {
            site,
            ..Self::default()
        }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn with(mut self, at: usize, stmts: Vec<Stmt>) -> Self {
        self.replaced.push((at, stmts));
        self
    }
}

/// Leaves an instruction out.
fn without(at: usize) -> Change {
    Change::Text(Edit::at(at).with(at, Vec::new()))
}

/// Puts another in its place.
fn instead(at: usize, inst: Inst) -> Change {
    Change::Text(Edit::at(at).with(at, vec![Stmt::Inst(inst)]))
}

/// As [`instead`], saying what was done.
fn instead_as(at: usize, inst: Inst, note: impl Into<String>) -> Change {
    Change::Text(Edit::at(at).note(note).with(at, vec![Stmt::Inst(inst)]))
}

/// Moves an instruction behind another.
fn behind(code: &Code<'_>, at: usize, other: usize) -> Change {
    let (moved, stays) = (code.body.stmts[at].clone(), code.body.stmts[other].clone());
    Change::Text(
        Edit::at(at)
            .with(at, Vec::new())
            .with(other, vec![stays, moved]),
    )
}

/// Moves an instruction before another.
fn ahead(code: &Code<'_>, at: usize, other: usize) -> Change {
    let (moved, stays) = (code.body.stmts[at].clone(), code.body.stmts[other].clone());
    Change::Text(
        Edit::at(at)
            .with(at, Vec::new())
            .with(other, vec![moved, stays]),
    )
}

/// Replaces a modifier.
fn swapped(inst: &Inst, from: Mod, to: Mod) -> Inst {
    let mut inst = inst.clone();
    for m in &mut inst.mods {
        if *m == from {
            *m = to;
        }
    }
    inst
}

/// Whether an instruction touches memory that others see.
pub(crate) fn touches_memory(inst: &Inst) -> bool {
    let visible = || {
        !inst
            .mods
            .iter()
            .any(|m| matches!(m, Mod::Space(s) if s.is_param()))
    };
    match inst.op {
        Op::Ld | Op::St => visible(),
        Op::Atom | Op::Red | Op::Ldmatrix | Op::Stmatrix => true,
        _ => is_copy(inst),
    }
}

/// Whether an instruction starts an asynchronous copy.
pub(crate) fn is_copy(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::CpAsync
            | Op::CpAsyncBulk
            | Op::CpReduceAsyncBulk
            | Op::CpAsyncBulkTensor
            | Op::CpReduceAsyncBulkTensor
            | Op::StAsync
            | Op::RedAsync
    )
}

fn is_arrive(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::MbarrierArrive | Op::MbarrierArriveDrop | Op::CpAsyncMbarrierArrive
    )
}

fn is_wait(inst: &Inst) -> bool {
    matches!(inst.op, Op::MbarrierTryWait | Op::MbarrierTestWait)
}

/// The index of the n-th address among the operands.
fn memory_operand(inst: &Inst, n: usize) -> Option<usize> {
    let mem = inst.operands.iter().enumerate();
    mem.filter(|(_, o)| matches!(o, Operand::Mem(_)))
        .nth(n)
        .map(|(i, _)| i)
}

/// The instruction with its n-th address moved.
fn displaced(inst: &Inst, n: usize, by: i64) -> Option<Inst> {
    let at = memory_operand(inst, n)?;
    let mut inst = inst.clone();
    if let Operand::Mem(address) = &mut inst.operands[at] {
        // `[imm]` and symbols of other spaces have no neighbour to go to.
        if matches!(
            address,
            Address {
                base: Base::Abs,
                ..
            }
        ) || matches!(address.base, Base::Sym(Symbol::Param(_)))
        {
            return None;
        }
        address.offset += by;
    }
    Some(inst)
}

/// The instruction with one operand replaced.
fn with_operand(inst: &Inst, at: usize, operand: Operand) -> Inst {
    let mut inst = inst.clone();
    inst.operands[at] = operand;
    inst
}

/// The immediate that an operand is, or that the register in it is known to hold.
fn known(code: &Code<'_>, operand: &Operand) -> Option<i64> {
    match operand {
        Operand::Imm(Imm::Int(n)) => Some(*n),
        Operand::Reg(reg) => code.constant(*reg),
        _ => None,
    }
}

/// For every instruction that `wanted` accepts, without it.
fn drops(code: &Code<'_>, wanted: impl Fn(&Inst) -> bool) -> Vec<Change> {
    code.insts()
        .filter(|(_, i)| wanted(i))
        .map(|(at, _)| without(at))
        .collect()
}

/// A guard that is turned round.
fn negated(guard: Guard) -> Guard {
    Guard {
        negated: !guard.negated,
        ..guard
    }
}

/// Scopes, each with the next narrower one.
const NARROWER: [(Scope, Scope); 3] = [
    (Scope::Sys, Scope::Gpu),
    (Scope::Gpu, Scope::Cta),
    (Scope::Cluster, Scope::Cta),
];
