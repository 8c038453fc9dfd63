//! Ranks that take every step together.
//!
//! In: on each rank, the entry that it wants to execute next, or none. Out: the same entry on all of them. Kernels that
//! exchange rows wait for every rank of their group, so a rank that has nothing to do takes part with no tokens: whoever
//! wants another entry than the one agreed on does so, too, and asks again. Among the entries wanted the first of the
//! manifest is taken.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The ranks of one run. Clones are the same run.
#[derive(Clone)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    board: Mutex<Board>,
    agreed: Condvar,
}

struct Board {
    seats: Vec<Seat>,
    /// Agreements so far, and the latest.
    round: u64,
    entry: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seat {
    Busy,
    Asks(Option<usize>),
    Gone,
}

/// A rank's part in it. Dropping it says that the rank takes no step any more.
pub(crate) struct Turn {
    turns: Turns,
    rank: usize,
}

impl Turns {
    pub fn new(ranks: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                board: Mutex::new(Board {
                    seats: vec![Seat::Busy; ranks],
                    round: 0,
                    entry: None,
                }),
                agreed: Condvar::new(),
            }),
        }
    }

    /// The part of one rank, which counts from 0.
    pub fn of(&self, rank: usize) -> Turn {
        Turn {
            turns: self.clone(),
            rank,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Seats are plain values: whole whatever happened on another thread.
        self.shared
            .board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until all ranks have asked; what they execute next. `None` when nobody wants anything any more.
    pub fn agree(&self, wanted: Option<usize>) -> Option<usize> {
        let mut board = self.turns.lock();
        board.seats[self.rank] = Seat::Asks(wanted);
        let round = board.round;
        self.turns.settle(&mut board);
        while board.round == round {
            let waited = self.turns.shared.agreed.wait(board);
            board = waited.unwrap_or_else(PoisonError::into_inner);
        }
        board.entry
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut board = self.turns.lock();
        board.seats[self.rank] = Seat::Gone;
        self.turns.settle(&mut board);
    }
}

impl Turns {
    /// Agrees, when nobody is missing.
    fn settle(&self, board: &mut Board) {
        let asking = board.seats.iter().any(|s| matches!(s, Seat::Asks(_)));
        if !asking || board.seats.contains(&Seat::Busy) {
            return;
        }
        let wanted = board.seats.iter().filter_map(|seat| match seat {
            Seat::Asks(entry) => *entry,
            _ => None,
        });
        board.entry = wanted.min();
        board.round += 1;
        for seat in &mut board.seats {
            if matches!(seat, Seat::Asks(_)) {
                *seat = Seat::Busy;
            }
        }
        self.shared.agreed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_agree_on_the_first_entry_that_somebody_wants() {
        // Rank r wants `wants[r]` in order; what it took part in is noted.
        let wants = [vec![0, 0, 1, 1, 1], vec![0, 1], vec![]];
        let turns = Turns::new(3);
        let took: Vec<Vec<usize>> = std::thread::scope(|s| {
            let ranks: Vec<_> = wants
                .iter()
                .enumerate()
                .map(|(rank, wants)| {
                    let turn = turns.of(rank);
                    s.spawn(move || {
                        let mut took = Vec::new();
                        let mut left = wants.iter().copied().peekable();
                        while let Some(entry) = turn.agree(left.peek().copied()) {
                            took.push(entry);
                            left.next_if_eq(&entry);
                        }
                        took
                    })
                })
                .collect();
            ranks
                .into_iter()
                .map(|rank| rank.join().expect("no panic"))
                .collect()
        });
        assert_eq!(took, vec![vec![0, 0, 1, 1, 1]; 3]);
    }

    #[test]
    fn a_rank_that_leaves_is_not_waited_for() {
        let turns = Turns::new(2);
        let (stays, leaves) = (turns.of(0), turns.of(1));
        std::thread::scope(|s| {
            s.spawn(move || {
                leaves.agree(Some(1));
                drop(leaves);
            });
            assert_eq!(stays.agree(None), Some(1));
            assert_eq!(stays.agree(Some(0)), Some(0));
            assert_eq!(stays.agree(None), None);
        });
    }
}
