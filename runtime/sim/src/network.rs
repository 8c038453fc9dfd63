//! Messages between ranks that are under way: puts and signals of NVSHMEM.
//!
//! In: what kernels put ([`Message`]). Out: bytes and signals in the memory of
//! the target, when [`Completion`] says. Nothing orders two messages but a
//! fence between them: each is delivered at a time of its own, a put's signal
//! after its data. The source is read at delivery, so that a buffer that is
//! used again too early sends what is there then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::check::{Carried, LaunchCheck};
use crate::launch::Completion;
use crate::memory::Table;
use crate::memory::cells;
use crate::pace::spread;
use crate::world::Fabric;

/// The warp that sent a message: the number of its cluster among all that run
/// together, and its index there.
pub type Sender = (u64, u32);

/// A put, a signal, or a put with its signal.
#[derive(Debug, Clone)]
pub struct Message {
    pub sender: Sender,
    pub from: u32,
    pub to: u32,
    /// Fences that the sender had executed: earlier messages to the same rank
    /// come first.
    pub fences: u32,
    pub data: Option<Data>,
    pub signal: Option<Signal>,
}

#[derive(Debug, Clone, Copy)]
pub struct Data {
    /// In the memory of the sender's rank, and of the target.
    pub source: u64,
    pub target: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Signal {
    /// In the memory of the target.
    pub address: u64,
    pub value: u64,
    /// `NVSHMEM_SIGNAL_ADD`, not `NVSHMEM_SIGNAL_SET`.
    pub adds: bool,
    /// What whoever sees the signal then knows, when accesses are checked.
    pub carried: Option<Carried>,
}

/// The network of one run.
pub struct Network<'a> {
    pub fabric: &'a Fabric,
    /// Memory of each rank as the run began.
    tables: Vec<Arc<Table>>,
    check: Option<&'a LaunchCheck<'a>>,
    completion: Completion,
    flight: Mutex<Flight>,
}

struct Flight {
    messages: VecDeque<Message>,
    /// State of the generator for random completion.
    random: u64,
}

impl Flight {
    fn draw(&mut self) -> u64 {
        // xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    /// Whether a message has to wait for an earlier one, because of a fence.
    fn is_fenced(&self, at: usize) -> bool {
        let m = &self.messages[at];
        let before = self.messages.iter();
        before
            .into_iter()
            .any(|o| o.sender == m.sender && o.to == m.to && o.fences < m.fences)
    }
}

impl<'a> Network<'a> {
    pub fn new(
        fabric: &'a Fabric,
        check: Option<&'a LaunchCheck<'a>>,
        completion: Completion,
    ) -> Network<'a> {
        let random = match completion {
            Completion::Random(seed) => spread(!seed),
            _ => 1,
        };
        Network {
            fabric,
            tables: fabric.memories.iter().map(|m| m.view()).collect(),
            check,
            completion,
            flight: Mutex::new(Flight {
                messages: VecDeque::new(),
                random,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message over; whether something was delivered.
    pub fn send(&self, message: Message) -> bool {
        if let Some(data) = &message.data {
            self.fabric.count_put(message.from, message.to, data.bytes);
        }
        if message.signal.is_some() {
            self.fabric.count_put(message.from, message.to, 8);
        }
        let mut flight = self.lock();
        flight.messages.push_back(message);
        match self.completion {
            Completion::Early => self.deliver_where(&mut flight, |_| true),
            Completion::Late => false,
            Completion::Random(_) => flight.draw() & 3 == 0 && self.step(&mut flight),
        }
    }

    /// `nvshmem_quiet`: delivers all that a sender has sent; whether there was
    /// something.
    pub fn quiet(&self, sender: Sender) -> bool {
        self.deliver_where(&mut self.lock(), |m| m.sender == sender)
    }

    /// Nothing else can go on: what is under way arrives, with random
    /// completion a part of it.
    pub fn settle(&self) -> bool {
        let mut flight = self.lock();
        match self.completion {
            Completion::Random(_) => {
                let some = flight.draw() % 8 + 1;
                (0..some).fold(false, |any, _| self.step(&mut flight) || any)
            }
            _ => self.deliver_where(&mut flight, |_| true),
        }
    }

    /// With random completion, something may arrive at any time.
    pub fn drift(&self) -> bool {
        let mut flight = self.lock();
        let random = matches!(self.completion, Completion::Random(_));
        random && !flight.messages.is_empty() && flight.draw() & 3 == 0 && self.step(&mut flight)
    }

    /// The run has ended: all arrives.
    pub fn end(&self) {
        self.deliver_where(&mut self.lock(), |_| true);
    }

    /// A rank is dead. What it had sent may have left it before, or not.
    pub fn lose(&self, rank: u32) {
        let mut flight = self.lock();
        let mut kept = VecDeque::new();
        for m in std::mem::take(&mut flight.messages) {
            let lost = m.from == rank
                && match self.completion {
                    Completion::Random(_) => flight.draw() & 1 == 0,
                    _ => true,
                };
            if !lost {
                kept.push_back(m);
            }
        }
        flight.messages = kept;
    }

    /// Delivers what `of` names and its fences let go, each when its turn comes.
    fn deliver_where(&self, flight: &mut Flight, of: impl Fn(&Message) -> bool) -> bool {
        let mut any = false;
        loop {
            let due: Vec<usize> = (0..flight.messages.len())
                .filter(|&i| of(&flight.messages[i]) && !flight.is_fenced(i))
                .collect();
            if due.is_empty() {
                return any;
            }
            let at = match self.completion {
                Completion::Random(_) => due[flight.draw() as usize % due.len()],
                _ => due[0],
            };
            self.advance(flight, at);
            any = true;
        }
    }

    /// One random message comes one step on.
    fn step(&self, flight: &mut Flight) -> bool {
        if flight.messages.is_empty() {
            return false;
        }
        // Of a sender's messages the earliest is never held back: one can go.
        let mut at = flight.draw() as usize % flight.messages.len();
        while flight.is_fenced(at) {
            at -= 1;
        }
        self.advance(flight, at);
        true
    }

    /// The data of a message arrives, or else its signal.
    fn advance(&self, flight: &mut Flight, at: usize) {
        let message = &mut flight.messages[at];
        let (from, to) = (message.from as usize, message.to as usize);
        if let Some(data) = message.data.take() {
            self.copy(from, to, data);
        } else if let Some(signal) = message.signal.take() {
            self.signal(to, signal);
        }
        if message.data.is_none() && message.signal.is_none() {
            flight.messages.remove(at);
        }
    }

    /// Memory that was given back since is nobody's: nothing is moved then.
    fn copy(&self, from: usize, to: usize, data: Data) {
        let source = self.tables[from].resolve(data.source, data.bytes);
        let target = self.tables[to].resolve(data.target, data.bytes);
        if let (Some((source, i)), Some((target, j))) = (source, target) {
            let mut bytes = vec![0; data.bytes as usize];
            cells::read(source, i, &mut bytes);
            cells::write(target, j, &bytes);
        }
    }

    fn signal(&self, to: usize, signal: Signal) {
        let Some((cells, at)) = self.tables[to].resolve(signal.address, 8) else {
            return;
        };
        // Told before the bytes change: who sees them finds it told.
        if let (Some(check), Some(carried)) = (self.check, signal.carried) {
            check.signal(signal.address, signal.adds, carried);
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        cells::update(cells, at, 8, |old| {
            if signal.adds {
                old.wrapping_add(signal.value)
            } else {
                signal.value
            }
        });
    }
}
