//! Paths through a kernel.
//!
//! In: statements. Out: whether some path from a place meets one instruction before another.
//! Holds: every branch is taken to go both ways, so that what holds on all paths here holds on all that are taken.

use mcc_ptx::{Body, Inst, LabelId, Op, Operand, Stmt};

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// An instruction that was looked for.
    pub wanted: bool,
    /// The kernel's beginning or end.
    pub edge: bool,
}

/// Walks all paths behind (or, backwards, before) a statement until `stop`, and says whether one of them meets
/// `wanted` or leaves the kernel.
pub fn walk(
    body: &Body,
    from: usize,
    backwards: bool,
    stop: impl Fn(&Inst) -> bool,
    wanted: impl Fn(&Inst) -> bool,
) -> Found {
    let next = neighbours(body, backwards);
    let mut seen = vec![false; body.stmts.len()];
    let mut open = next[from].clone();
    let mut found = Found {
        wanted: false,
        edge: if backwards {
            from == 0
        } else {
            next[from].is_empty()
        },
    };
    while let Some(at) = open.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        if let Stmt::Inst(inst) = &body.stmts[at] {
            if stop(inst) {
                continue;
            }
            found.wanted |= wanted(inst);
        }
        // Behind an unconditional jump stands what nothing leads to: no beginning.
        found.edge |= if backwards {
            at == 0
        } else {
            next[at].is_empty()
        };
        open.extend(&next[at]);
    }
    found
}

/// For each statement those that may be executed next, or before.
fn neighbours(body: &Body, backwards: bool) -> Vec<Vec<usize>> {
    let count = body.stmts.len();
    let place = |label: LabelId| {
        let is = |s: &Stmt| matches!(s, Stmt::Label(l) if *l == label);
        body.stmts.iter().position(is)
    };
    let mut forwards = vec![Vec::new(); count];
    for (at, stmt) in body.stmts.iter().enumerate() {
        let mut falls = true;
        if let Stmt::Inst(inst) = stmt {
            match inst.op {
                Op::Bra => {
                    if let Some(Operand::Label(label)) = inst.operands.first() {
                        forwards[at].extend(place(*label));
                    }
                    falls = inst.guard.is_some();
                }
                Op::BrxIdx => {
                    if let Some(Operand::Label(table)) = inst.operands.get(1) {
                        let targets = body.branch_targets(*table).unwrap_or_default();
                        forwards[at].extend(targets.iter().filter_map(|l| place(*l)));
                    }
                    falls = false;
                }
                Op::Ret | Op::Exit | Op::Trap => falls = inst.guard.is_some(),
                _ => {}
            }
        }
        if falls && at + 1 < count {
            forwards[at].push(at + 1);
        }
    }
    if !backwards {
        return forwards;
    }
    let mut before = vec![Vec::new(); count];
    for (at, next) in forwards.iter().enumerate() {
        for &to in next {
            before[to].push(at);
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{\n
        .reg .pred %p<2>; .reg .b32 %r<4>;
        mov.u32 %r1, 0;
        bar.sync 0;
        TOP: add.s32 %r1, %r1, 1;
        setp.lt.s32 %p1, %r1, 3;
        @%p1 bra TOP;
        membar.gl;
        ret;\n}\n";

    #[test]
    fn paths_go_round_loops_and_end_at_the_edges() {
        let module = mcc_ptx::parse(LOOP).expect("PTX");
        let body = module
            .functions()
            .next()
            .and_then(|f| f.body.clone())
            .expect("a body");
        let at = |op: Op| {
            let is = |s: &Stmt| matches!(s, Stmt::Inst(i) if i.op == op);
            body.stmts.iter().position(is).expect("there")
        };
        let is = |op: Op| move |i: &Inst| i.op == op;
        let both = Found {
            wanted: true,
            edge: true,
        };
        assert_eq!(
            walk(&body, at(Op::Bra), false, |_| false, is(Op::Add)),
            both
        );
        assert_eq!(
            walk(&body, at(Op::Bra), false, is(Op::Membar), is(Op::Ret)),
            Found::default()
        );
        assert_eq!(
            walk(&body, at(Op::Membar), true, is(Op::Bar), is(Op::Mov)),
            Found::default()
        );
        assert_eq!(
            walk(&body, at(Op::Membar), true, is(Op::Add), is(Op::Setp)),
            Found {
                wanted: true,
                edge: false
            }
        );
    }
}
