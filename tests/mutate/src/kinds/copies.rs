//! What copy engines are told: addresses, coordinates, sizes, tensor maps, the block of a cluster.
//!
//! PTX ISA 9.7.9.25 "asynchronous copy", 5.5.8 "tensor-map".

use mcc_ptx::{Inst, Mod, Op, Operand, Reg, Stmt, Type};
use mcc_sim::Swizzle;

use crate::subject::MapChange;

use super::engines as kind;
use super::{
    Change, Code, Edit, Kind, displaced, drops, instead, instead_as, int, is_copy, plain,
    with_operand,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind("drop-copy", "an asynchronous copy left out", |c| {
            drops(c, is_copy)
        }),
        kind("double-copy", "an asynchronous copy made twice", |c| {
            c.insts()
                .filter(|(_, i)| is_copy(i))
                .map(|(at, i)| {
                    Change::Text(
                        Edit::at(at).with(at, vec![Stmt::Inst(i.clone()), Stmt::Inst(i.clone())]),
                    )
                })
                .collect()
        }),
        kind(
            "swap-coordinates",
            "two coordinates of a tensor copy exchanged",
            |c| {
                tensor_copies(c, |coords| {
                    let n = coords.len();
                    (n > 1 && coords[0] != coords[1]).then(|| coords.swap(0, 1))
                })
            },
        ),
        kind(
            "next-coordinate",
            "a coordinate of a tensor copy one further",
            |c| shifted(c, 1),
        ),
        kind(
            "next-tile",
            "a coordinate of a tensor copy 64 further",
            |c| shifted(c, 64),
        ),
        kind(
            "wrong-copy-place",
            "a copy to or from shared memory 16 or 128 bytes further",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.insts().filter(|(_, i)| is_copy(i)) {
                    for by in [16, 128] {
                        let moved = displaced(inst, 0, by)
                            .map(|i| instead_as(at, i, format!("{by} bytes")));
                        out.extend(moved);
                    }
                }
                out
            },
        ),
        kind(
            "wrong-copy-source",
            "a bulk copy's other address 16 bytes further",
            |c| {
                let bulk = |i: &Inst| {
                    matches!(i.op, Op::CpAsync | Op::CpAsyncBulk | Op::CpReduceAsyncBulk)
                };
                let sites = c.insts().filter(|(_, i)| bulk(i));
                sites
                    .filter_map(|(at, i)| Some(instead(at, displaced(i, 1, 16)?)))
                    .collect()
            },
        ),
        kind(
            "wrong-copy-barrier",
            "a copy that signals the neighbouring mbarrier",
            |c| {
                let sites = c
                    .insts()
                    .filter(|(_, i)| is_copy(i) && i.has(Mod::MbarrierCompleteTx));
                sites
                    .filter_map(|(at, i)| {
                        let n = i
                            .operands
                            .iter()
                            .filter(|o| matches!(o, Operand::Mem(_)))
                            .count();
                        Some(instead(at, displaced(i, n.checked_sub(1)?, 8)?))
                    })
                    .collect()
            },
        ),
        kind(
            "wrong-bulk-size",
            "a bulk copy of 16 bytes more or fewer",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c
                    .insts()
                    .filter(|(_, i)| matches!(i.op, Op::CpAsyncBulk | Op::CpReduceAsyncBulk))
                {
                    let size = &inst.operands[2];
                    for by in [16, -16] {
                        let (edit, fresh) = shifted_word(c, at, size, by);
                        let inst = with_operand(inst, 2, fresh);
                        out.push(finish(edit, at, inst, format!("{by:+}")));
                    }
                }
                out
            },
        ),
        kind(
            "wrong-multicast",
            "a copy to fewer blocks of the cluster",
            |c| {
                let sites = c.insts().filter(|(_, i)| i.has(Mod::MulticastCluster));
                sites
                    .map(|(at, i)| {
                        let last = i.operands.len() - 1;
                        let fresh = c.fresh(0);
                        let mask = Operand::Reg(fresh);
                        let one = plain(Op::Mov, &[Mod::Ty(Type::B16)], vec![mask.clone(), int(1)]);
                        let mut edit = Edit::at(at);
                        edit.fresh.push(Type::B16);
                        let new = with_operand(i, last, mask);
                        Change::Text(edit.with(at, vec![Stmt::Inst(one), Stmt::Inst(new)]))
                    })
                    .collect()
            },
        ),
        kind("wrong-rank", "another block of the cluster", |c| {
            c.of(Op::Mapa)
                .map(|(at, i)| {
                    let fresh: Reg = c.fresh(0);
                    let next = Operand::Reg(fresh);
                    let xor = plain(
                        Op::Mov,
                        &[Mod::Ty(Type::B32)],
                        vec![next.clone(), i.operands[2].clone()],
                    );
                    let flip = plain(
                        Op::Xor,
                        &[Mod::Ty(Type::B32)],
                        vec![next.clone(), next.clone(), int(1)],
                    );
                    let mut edit = Edit::at(at);
                    edit.fresh.push(Type::B32);
                    let new = with_operand(i, 2, next);
                    Change::Text(
                        edit.with(at, vec![Stmt::Inst(xor), Stmt::Inst(flip), Stmt::Inst(new)]),
                    )
                })
                .collect()
        }),
        kind(
            "map-box",
            "a tensor map with half the box along an axis",
            |c| {
                maps(
                    c,
                    &[
                        ("inner axis", |m| m.box_dims[0] = (m.box_dims[0] / 2).max(1)),
                        ("next axis", |m| {
                            if let Some(b) = m.box_dims.get_mut(1) {
                                *b = (*b / 2).max(1);
                            }
                        }),
                    ],
                )
            },
        ),
        kind("map-swizzle", "a tensor map with another swizzle", |c| {
            maps(
                c,
                &[
                    ("none", |m| m.swizzle = other(m.swizzle, Swizzle::None)),
                    ("64 bytes", |m| m.swizzle = other(m.swizzle, Swizzle::B64)),
                    ("32 bytes", |m| m.swizzle = other(m.swizzle, Swizzle::B32)),
                ],
            )
        }),
        kind(
            "map-extent",
            "a tensor map that ends earlier or later",
            |c| {
                maps(
                    c,
                    &[
                        ("inner axis, 16 bytes less", |m| {
                            let n = 16 / m.elem.bytes();
                            m.dims[0] = m.dims[0].saturating_sub(n).max(1);
                        }),
                        ("next axis, one less", |m| {
                            if let Some(d) = m.dims.get_mut(1) {
                                *d = d.saturating_sub(1).max(1);
                            }
                        }),
                        ("last axis, one more", |m| {
                            if let Some(d) = m.dims.last_mut() {
                                *d += 1;
                            }
                        }),
                    ],
                )
            },
        ),
        kind("map-stride", "a tensor map with another stride", |c| {
            maps(
                c,
                &[
                    ("16 bytes more", |m| {
                        if let Some(s) = m.strides.first_mut() {
                            *s += 16;
                        }
                    }),
                    ("half", |m| {
                        if let Some(s) = m.strides.first_mut() {
                            *s /= 2;
                        }
                    }),
                ],
            )
        }),
        kind(
            "map-address",
            "a tensor map that begins 16 bytes further",
            |c| maps(c, &[("", |m| m.global_address += 16)]),
        ),
    ]
}

/// A swizzle that is not the one in use.
fn other(now: Swizzle, wanted: Swizzle) -> Swizzle {
    if now == wanted { Swizzle::B128 } else { wanted }
}

fn maps(c: &Code<'_>, changes: &[(&'static str, MapChange)]) -> Vec<Change> {
    let mut out = Vec::new();
    for at in c.maps() {
        for &(note, change) in changes {
            out.push(Change::Map { at, note, change });
        }
    }
    out
}

/// Tensor copies whose coordinates `change` has changed.
fn tensor_copies(c: &Code<'_>, change: fn(&mut Vec<Operand>) -> Option<()>) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c.insts() {
        let mut inst = inst.clone();
        let tensor = inst.operands.iter_mut().find_map(|o| match o {
            Operand::Tensor { coords, .. } => Some(coords),
            _ => None,
        });
        if tensor.and_then(change).is_some() {
            out.push(instead(at, inst));
        }
    }
    out
}

/// Each coordinate of each tensor copy, moved.
fn shifted(c: &Code<'_>, by: i64) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c.insts() {
        let Some(place) = inst
            .operands
            .iter()
            .position(|o| matches!(o, Operand::Tensor { .. }))
        else {
            continue;
        };
        let Operand::Tensor { map, coords } = &inst.operands[place] else {
            continue;
        };
        for (axis, was) in coords.iter().enumerate() {
            let (edit, fresh) = shifted_word(c, at, was, by);
            let mut coords = coords.clone();
            coords[axis] = fresh;
            let new = with_operand(inst, place, Operand::Tensor { map: *map, coords });
            out.push(finish(edit, at, new, format!("coordinate {axis}")));
        }
    }
    out
}

/// An edit that computes an operand anew, and the register that holds it.
fn shifted_word(c: &Code<'_>, at: usize, was: &Operand, by: i64) -> (Edit, Operand) {
    let fresh = Operand::Reg(c.fresh(0));
    let copy = plain(
        Op::Mov,
        &[Mod::Ty(Type::B32)],
        vec![fresh.clone(), was.clone()],
    );
    let add = plain(
        Op::Add,
        &[Mod::Ty(Type::S32)],
        vec![fresh.clone(), fresh.clone(), int(by)],
    );
    let mut edit = Edit::at(at).with(at, vec![Stmt::Inst(copy), Stmt::Inst(add)]);
    edit.fresh.push(Type::B32);
    (edit, fresh)
}

/// Appends the instruction that the edit was for.
fn finish(mut edit: Edit, at: usize, inst: Inst, note: String) -> Change {
    edit.note = note;
    for (place, stmts) in &mut edit.replaced {
        if *place == at {
            stmts.push(Stmt::Inst(inst.clone()));
        }
    }
    Change::Text(edit)
}
