//! Registers that `wgmma` reads and writes behind the program's back.
//!
//! Accumulators and fragments of A belong to the tensor core from
//! `wgmma.mma_async` until the group is waited for; and what other instructions
//! wrote into them reaches it only across `wgmma.fence` (PTX ISA, "Asynchronous
//! warpgroup level matrix instructions", register access rules).
//!
//! Rows of such registers are not shared with others (see `decode::slots`), so
//! that a row is a register here.

use crate::isa::R;

/// What an instruction does to registers of `wgmma`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touch {
    pub reads: Vec<R>,
    pub writes: Vec<R>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Row {
    /// Nothing has written it.
    #[default]
    Unwritten,
    Quiet,
    /// Written here, with no fence since.
    Dirty {
        pc: u32,
    },
    /// In use by a wgmma of a group.
    Busy {
        pc: u32,
        group: u32,
        accumulator: bool,
    },
}

/// The registers of one warp.
#[derive(Debug, Default)]
pub struct Registers {
    rows: Vec<Row>,
    /// A `wgmma.fence` has been executed.
    fenced: bool,
    any: bool,
}

/// A rule that was broken, and by which earlier instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misuse {
    /// Written at `pc`, and no fence before the product.
    NoFence { pc: Option<u32> },
    /// Used while the product at `pc` is in flight.
    InFlight { pc: u32, written: bool },
    /// Nothing has written it.
    Unwritten,
}

impl Registers {
    pub fn reset(&mut self, rows: usize) {
        self.rows.clear();
        self.rows.resize(rows, Row::Unwritten);
        (self.fenced, self.any) = (false, false);
    }

    /// An instruction other than `wgmma`.
    pub fn touch(&mut self, touch: &Touch, pc: u32) -> Result<(), Misuse> {
        for &r in &touch.reads {
            // Fragments of A may be read meanwhile.
            if let Row::Busy {
                pc,
                accumulator: true,
                ..
            } = self.rows[usize::from(r)]
            {
                return Err(Misuse::InFlight { pc, written: false });
            }
        }
        for &r in &touch.writes {
            let row = &mut self.rows[usize::from(r)];
            if let Row::Busy { pc: product, .. } = *row {
                return Err(Misuse::InFlight {
                    pc: product,
                    written: true,
                });
            }
            *row = Row::Dirty { pc };
        }
        Ok(())
    }

    pub fn fence(&mut self) {
        self.fenced = true;
        for r in &mut self.rows {
            if matches!(r, Row::Dirty { .. }) {
                *r = Row::Quiet;
            }
        }
    }

    /// `wgmma.mma_async` of a group; `adds` says that it reads its accumulators.
    pub fn product(
        &mut self,
        d: &[R],
        a: &[R],
        adds: bool,
        pc: u32,
        group: u32,
    ) -> Result<(), Misuse> {
        if !self.fenced {
            return Err(Misuse::NoFence { pc: None });
        }
        for (&r, accumulator) in d
            .iter()
            .map(|r| (r, true))
            .chain(a.iter().map(|r| (r, false)))
        {
            let row = &mut self.rows[usize::from(r)];
            match *row {
                Row::Unwritten if adds || !accumulator => return Err(Misuse::Unwritten),
                Row::Dirty { pc } => return Err(Misuse::NoFence { pc: Some(pc) }),
                // Products that accumulate into the same registers follow each
                // other; an accumulator in flight is no operand yet.
                Row::Busy {
                    pc,
                    accumulator: true,
                    ..
                } if !accumulator => return Err(Misuse::InFlight { pc, written: false }),
                _ => {}
            }
            *row = Row::Busy {
                pc,
                group,
                accumulator,
            };
        }
        self.any = true;
        Ok(())
    }

    /// Groups below `upto` are done.
    pub fn wait(&mut self, upto: u32) {
        if !self.any {
            return;
        }
        self.any = false;
        for r in &mut self.rows {
            if let Row::Busy { group, .. } = *r {
                if group < upto {
                    *r = Row::Quiet;
                } else {
                    self.any = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(reads: &[R], writes: &[R]) -> Touch {
        Touch {
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        }
    }

    #[test]
    fn fences_and_waits_are_needed() {
        let mut r = Registers::default();
        r.reset(8);
        let none = r.product(&[1, 2], &[3], false, 5, 0);
        assert_eq!(none, Err(Misuse::NoFence { pc: None }));
        r.fence();
        let nothing = Registers {
            rows: r.rows.clone(),
            ..r
        }
        .product(&[1, 2], &[], true, 5, 0);
        assert_eq!(nothing, Err(Misuse::Unwritten));
        r.touch(&touch(&[], &[3]), 4).expect("nothing in flight");
        r.fence();
        r.touch(&touch(&[], &[2]), 6).expect("nothing in flight");
        let dirty = r.product(&[1, 2], &[3], false, 7, 0);
        assert_eq!(dirty, Err(Misuse::NoFence { pc: Some(6) }));
        r.fence();
        r.product(&[1, 2], &[3], false, 7, 0).expect("fenced");
        r.product(&[1, 2], &[3], true, 8, 1)
            .expect("the same accumulators");
        let early = r.touch(&touch(&[1], &[]), 9);
        let busy = |written| Err(Misuse::InFlight { pc: 8, written });
        assert_eq!(early, busy(false));
        r.wait(1);
        assert_eq!(r.touch(&touch(&[], &[2]), 9), busy(true));
        assert_eq!(r.touch(&touch(&[3], &[]), 9), Ok(()), "A may be read");
        assert_eq!(r.touch(&touch(&[], &[3]), 9), busy(true));
        r.wait(2);
        assert_eq!(r.touch(&touch(&[1, 3], &[2]), 9), Ok(()));
    }
}
