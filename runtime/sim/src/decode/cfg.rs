//! Where diverged lanes meet: the immediate post-dominator of every branch.
//!
//! In: decoded code whose branches have targets. Out: the same with `join` set
//! to the first instruction that every path from the branch must reach, or
//! [`NO_JOIN`] when there is none.
//!
//! Post-dominators by Cooper, Harvey and Kennedy (2001) on the reversed graph
//! of basic blocks, with one virtual exit.

use crate::exec::state::NO_JOIN;
use crate::isa::{Inst, Op, PSrc};

/// Instructions that may follow `at`; none after an exit.
fn successors(code: &[Inst], at: usize) -> Vec<usize> {
    let inst = &code[at];
    let always = inst.guard == PSrc::TRUE;
    let mut next = match &inst.op {
        Op::Bra { target, .. } => vec![*target as usize],
        Op::BrxIdx { targets, .. } => targets.iter().map(|&t| t as usize).collect(),
        Op::Exit => vec![],
        // Nothing comes after a trap, so that it parts no lanes: whoever branches around it meets the others again where
        // they would without it.
        Op::Trap if at + 1 == code.len() => vec![],
        _ => return vec![at + 1],
    };
    if !always {
        next.push(at + 1);
    }
    next
}

pub fn set_joins(code: &mut [Inst]) {
    let n = code.len();
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    let control = |op: &Op| matches!(op, Op::Bra { .. } | Op::BrxIdx { .. } | Op::Exit | Op::Trap);
    for at in 0..n {
        if control(&code[at].op) {
            leader[at + 1] = true;
            for s in successors(code, at) {
                leader[s] = true;
            }
        }
    }
    let starts: Vec<usize> = (0..n).filter(|&i| leader[i]).collect();
    let block_of = |pc: usize| starts.partition_point(|&s| s <= pc) - 1;
    let blocks = starts.len();
    let end = |b: usize| starts.get(b + 1).copied().unwrap_or(n) - 1;
    // Node `blocks` is the virtual exit.
    let exit = blocks;
    let mut succ: Vec<Vec<usize>> = (0..blocks)
        .map(|b| {
            let s = successors(code, end(b));
            if s.is_empty() {
                vec![exit]
            } else {
                s.into_iter().map(block_of).collect()
            }
        })
        .collect();
    let mut pred: Vec<Vec<usize>> = vec![vec![]; blocks + 1];
    for (b, list) in succ.iter().enumerate() {
        for &s in list {
            pred[s].push(b);
        }
    }
    // Order by a depth-first walk of the reversed graph from the exit. Blocks
    // that never reach it (endless loops) are tied to it first.
    let mut order = Vec::with_capacity(blocks + 1);
    let mut seen = vec![false; blocks + 1];
    walk(exit, &pred, &mut seen, &mut order);
    for b in (0..blocks).rev() {
        if !seen[b] {
            succ[b].push(exit);
            pred[exit].push(b);
            walk(b, &pred, &mut seen, &mut order);
        }
    }
    // The exit comes last in post-order whatever was tied to it.
    order.retain(|&b| b != exit);
    order.push(exit);
    let mut rank = vec![0; blocks + 1];
    for (i, &b) in order.iter().enumerate() {
        rank[b] = i;
    }
    let mut ipdom: Vec<Option<usize>> = vec![None; blocks + 1];
    ipdom[exit] = Some(exit);
    loop {
        let mut changed = false;
        for &b in order.iter().rev().filter(|&&b| b != exit) {
            let mut new: Option<usize> = None;
            for &s in &succ[b] {
                if ipdom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(other) => meet(s, other, &ipdom, &rank),
                });
            }
            if new.is_some() && ipdom[b] != new {
                ipdom[b] = new;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for b in 0..blocks {
        let at = match ipdom[b] {
            Some(p) if p != exit => starts[p] as u32,
            _ => NO_JOIN,
        };
        if let Op::Bra { join, .. } | Op::BrxIdx { join, .. } = &mut code[end(b)].op {
            *join = at;
        }
    }
}

fn walk(from: usize, pred: &[Vec<usize>], seen: &mut [bool], order: &mut Vec<usize>) {
    if seen[from] {
        return;
    }
    seen[from] = true;
    let mut stack = vec![(from, 0)];
    while let Some((b, i)) = stack.last_mut() {
        if let Some(&p) = pred[*b].get(*i) {
            *i += 1;
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            order.push(*b);
            stack.pop();
        }
    }
}

fn meet(mut a: usize, mut b: usize, ipdom: &[Option<usize>], rank: &[usize]) -> usize {
    while a != b {
        while rank[a] < rank[b] {
            a = ipdom[a].unwrap_or(b);
        }
        while rank[b] < rank[a] {
            b = ipdom[b].unwrap_or(a);
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bra(target: u32, guarded: bool) -> Inst {
        let guard = if guarded {
            PSrc {
                p: 3,
                negated: false,
            }
        } else {
            PSrc::TRUE
        };
        Inst {
            guard,
            op: Op::Bra { target, join: 0 },
        }
    }

    fn plain(op: Op) -> Inst {
        Inst {
            guard: PSrc::TRUE,
            op,
        }
    }

    fn join(code: &[Inst], at: usize) -> u32 {
        match code[at].op {
            Op::Bra { join, .. } => join,
            _ => panic!("no branch at {at}"),
        }
    }

    #[test]
    fn if_else_loop_and_early_exit() {
        // 0: if p goto 3; 1: nop; 2: goto 4; 3: nop; 4: loop: if p goto 4;
        // 5: if p goto 7; 6: exit; 7: exit
        let mut code = vec![
            bra(3, true),
            plain(Op::Nop),
            bra(4, false),
            plain(Op::Nop),
            bra(4, true),
            bra(7, true),
            plain(Op::Exit),
            plain(Op::Exit),
        ];
        set_joins(&mut code);
        assert_eq!(join(&code, 0), 4);
        assert_eq!(join(&code, 4), 5);
        assert_eq!(join(&code, 5), NO_JOIN);
    }

    #[test]
    fn a_trap_on_the_way_parts_nobody() {
        // 0: if p goto 4; 1: if p goto 3; 2: trap; 3: if p goto 1; 4: exit
        let mut code = vec![
            bra(4, true),
            bra(3, true),
            plain(Op::Trap),
            bra(1, true),
            plain(Op::Exit),
        ];
        set_joins(&mut code);
        assert_eq!(join(&code, 0), 4);
        assert_eq!(join(&code, 1), 3);
    }

    #[test]
    fn endless_loop_has_no_join_but_others_do() {
        // 0: if p goto 2; 1: nop; 2: goto 2
        let mut code = vec![bra(2, true), plain(Op::Nop), bra(2, false)];
        set_joins(&mut code);
        assert_eq!(join(&code, 0), 2);
    }
}
