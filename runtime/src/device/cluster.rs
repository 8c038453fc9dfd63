//! Simulated devices of several ranks, each used from a host thread of its own.
//!
//! In: the launches that each rank hands in. Out: on each rank, what became of its own. When every rank that is left has
//! handed in a sequence, the last to come runs all of them in one schedule of `mcc-sim`, where kernels may wait for each
//! other. Memory is each rank's own, but for symmetric memory, which all ranks ask for in the same order.
//! Holds: a rank is expected until its device is gone; after the time-out the others run without it, and kernels that
//! wait for it give up by the device's clock. A rank that failed stays lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mcc_sim::{
    Death, Gpu, GpuConfig, LaunchConfig, LaunchStats, Module, Queue, QueueError, SimError, Traffic,
    World, launch_queues,
};

use super::{DeviceOptions, SimDevice};
use crate::error::DeviceError;

/// All ranks of a simulated cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct SimCluster {
    shared: Arc<Shared>,
}

struct Shared {
    world: World,
    timeout: Duration,
    board: Mutex<Board>,
    /// Somebody came, left, or has an answer.
    turn: Condvar,
}

struct Board {
    seats: Vec<Seat>,
    /// Of every rank: what ends it in its next sequence.
    deaths: Vec<Option<Death>>,
    /// Symmetric memory in the order in which ranks asked for it.
    symmetric: Vec<Symmetric>,
}

struct Symmetric {
    bytes: u64,
    addresses: Vec<u64>,
}

/// Where a rank is.
enum Seat {
    /// Nobody has opened its device yet, or it computes on the host.
    Away,
    /// It waits for the others, with what it wants to run.
    Here(Vec<OwnedLaunch>),
    /// What became of that.
    Answered(Result<Answer, SeatError>),
    /// Its device is gone.
    Gone,
}

/// A launch that any thread can run.
pub(super) struct OwnedLaunch {
    pub module: Module,
    pub kernel: String,
    pub config: LaunchConfig,
    pub params: Vec<u8>,
}

/// What a sequence did.
pub(super) struct Answer {
    pub launches: Vec<LaunchStats>,
    /// Host time of the whole turn, of all ranks.
    pub wall: Duration,
    /// Warp instructions of all ranks.
    pub instructions: u64,
}

/// Why a sequence did not end.
pub(super) enum SeatError {
    /// One of its launches failed.
    Failed(QueueError),
    /// Nothing has run.
    Refused(SimError),
}

/// A rank's place among those that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlace {
    /// Which one it is.
    pub rank: u32,
    /// Where each rank's symmetric memory is mapped on this one, itself included; 0 where it is not.
    pub peers: Vec<u64>,
}

/// A rank's part in a cluster. Dropping it says that the rank is gone.
pub(super) struct Rank {
    cluster: SimCluster,
    number: usize,
    /// Symmetric allocations so far.
    asked: usize,
}

impl SimCluster {
    /// `nodes` nodes of `gpus` devices, each as [`SimDevice::new`] makes it; `options.timeout` is how long ranks wait for
    /// each other on the host.
    #[must_use]
    pub fn new(nodes: u32, gpus: u32, options: &DeviceOptions) -> Self {
        let config = GpuConfig {
            sms: options.sms,
            global_bytes: options.global_bytes,
            threads: options.threads,
            check: options.check,
            ..GpuConfig::default()
        };
        Self::with_config(nodes, gpus, &config, options.timeout)
    }

    /// As [`Self::new`], with every property of the devices.
    #[must_use]
    pub fn with_config(nodes: u32, gpus: u32, config: &GpuConfig, timeout: Duration) -> Self {
        let world = World::new(nodes, gpus, config);
        let ranks = world.ranks();
        Self {
            shared: Arc::new(Shared {
                world,
                timeout,
                board: Mutex::new(Board {
                    seats: (0..ranks).map(|_| Seat::Away).collect(),
                    deaths: vec![None; ranks],
                    symmetric: Vec::new(),
                }),
                turn: Condvar::new(),
            }),
        }
    }

    /// How many ranks there are.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.shared.world.ranks()
    }

    /// The node of a rank.
    #[must_use]
    pub fn node_of(&self, rank: usize) -> usize {
        self.shared.world.node_of(rank)
    }

    /// The device of a rank, which counts from 0 and has one device at a time.
    ///
    /// # Errors
    /// When there is no such rank, or its device was there before: a rank that is gone does not come back.
    pub fn device(&self, rank: usize) -> Result<SimDevice, DeviceError> {
        if rank >= self.ranks() {
            return Err(DeviceError::NoHandle {
                what: "rank",
                number: rank,
            });
        }
        if matches!(self.lock().seats[rank], Seat::Gone) {
            return Err(DeviceError::Lost {
                by: format!("rank {rank} is gone"),
            });
        }
        Ok(SimDevice::of_rank(Rank {
            cluster: self.clone(),
            number: rank,
            asked: 0,
        }))
    }

    /// Ends a rank in the next sequence that it hands in.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn kill(&self, rank: usize, death: Death) {
        self.lock().deaths[rank] = Some(death);
    }

    /// A rank that never opened its device will not come.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn leave(&self, rank: usize) {
        self.lock().seats[rank] = Seat::Gone;
        self.shared.turn.notify_all();
    }

    /// What rank `from` wrote into the memory of rank `to` since the last [`Self::reset_traffic`].
    ///
    /// # Panics
    /// When there is no such rank.
    #[must_use]
    pub fn traffic(&self, from: usize, to: usize) -> Traffic {
        self.shared.world.traffic(from, to)
    }

    /// Counts traffic from zero again.
    pub fn reset_traffic(&self) {
        self.shared.world.reset_traffic();
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Seats are plain values: whole whatever happened on another thread.
        self.shared
            .board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rank {
    pub fn gpu(&self) -> &Gpu {
        self.cluster.shared.world.gpu(self.number)
    }

    /// The rank takes no part in anything any more.
    pub fn leave(&self) {
        self.cluster.leave(self.number);
    }

    pub fn ranks(&self) -> u32 {
        self.cluster.ranks() as u32
    }

    pub fn number(&self) -> u32 {
        self.number as u32
    }

    /// Memory on all ranks: the n-th call of each rank is for the same.
    pub fn alloc_symmetric(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        let mut board = self.cluster.lock();
        if board.symmetric.len() == self.asked {
            let addresses = self.cluster.shared.world.symmetric(bytes)?;
            board.symmetric.push(Symmetric { bytes, addresses });
        }
        let found = &board.symmetric[self.asked];
        if found.bytes != bytes {
            return Err(DeviceError::Symmetric {
                rank: self.number(),
                what: what.to_owned(),
                bytes,
                others: found.bytes,
            });
        }
        self.asked += 1;
        Ok(found.addresses[self.number])
    }

    /// Where symmetric memory of this rank is on all others.
    pub fn place(&self, address: u64) -> Result<RankPlace, DeviceError> {
        let board = self.cluster.lock();
        let mut all = board.symmetric.iter();
        let found = all
            .find(|s| s.addresses[self.number] == address)
            .ok_or(DeviceError::BadAddress { address, len: 1 })?;
        let world = &self.cluster.shared.world;
        let own = world.node_of(self.number);
        let mapped = |(rank, &at): (usize, &u64)| if world.node_of(rank) == own { at } else { 0 };
        Ok(RankPlace {
            rank: self.number(),
            peers: found.addresses.iter().enumerate().map(mapped).collect(),
        })
    }

    /// Runs a sequence together with those of all other ranks.
    pub fn run(&self, sequence: Vec<OwnedLaunch>) -> Result<Answer, SeatError> {
        let shared = &self.cluster.shared;
        let deadline = Instant::now() + shared.timeout;
        let mut board = self.cluster.lock();
        board.seats[self.number] = Seat::Here(sequence);
        loop {
            if let Seat::Answered(_) = board.seats[self.number]
                && let Seat::Answered(answer) =
                    std::mem::replace(&mut board.seats[self.number], Seat::Away)
            {
                return answer;
            }
            let complete = board
                .seats
                .iter()
                .all(|seat| matches!(seat, Seat::Here(_) | Seat::Gone));
            let left = deadline.saturating_duration_since(Instant::now());
            if complete || left.is_zero() {
                board.run(&shared.world);
                shared.turn.notify_all();
                continue;
            }
            let waited = shared.turn.wait_timeout(board, left);
            (board, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.cluster.leave(self.number);
    }
}

impl Board {
    /// Runs what all ranks that are here have handed in.
    fn run(&mut self, world: &World) {
        let start = Instant::now();
        let here: Vec<Option<Vec<OwnedLaunch>>> = self
            .seats
            .iter_mut()
            .map(|seat| match seat {
                Seat::Here(sequence) => Some(std::mem::take(sequence)),
                _ => None,
            })
            .collect();
        let queues: Vec<Queue<'_>> = here
            .iter()
            .enumerate()
            .map(|(rank, sequence)| Queue {
                launches: sequence
                    .iter()
                    .flatten()
                    .map(|l| mcc_sim::Launch {
                        gpu: world.gpu(rank),
                        module: &l.module,
                        kernel: &l.kernel,
                        config: l.config,
                        params: &l.params,
                    })
                    .collect(),
                dies: sequence.as_ref().and(self.deaths[rank].take()),
            })
            .collect();
        let ran = launch_queues(&queues);
        let wall = start.elapsed();
        let mut answers: Vec<Result<Vec<LaunchStats>, SeatError>> = match ran {
            Ok(all) => all
                .into_iter()
                .map(|one| one.map_err(SeatError::Failed))
                .collect(),
            Err(error) => here
                .iter()
                .map(|_| Err(SeatError::Refused(error.clone())))
                .collect(),
        };
        let instructions = answers
            .iter()
            .flatten()
            .flatten()
            .map(|s| s.warp_instructions)
            .sum();
        for (rank, sequence) in here.iter().enumerate().rev() {
            let answer = answers.pop();
            if let (Some(_), Some(answer)) = (sequence, answer) {
                self.seats[rank] = Seat::Answered(answer.map(|launches| Answer {
                    launches,
                    wall,
                    instructions,
                }));
            }
        }
    }
}
