//! Ranks that have met: who they are, and barriers between them.
//!
//! Barriers go through rank 0, which hears of every rank that ends: its connection ends with it. They are for the seams of
//! a run (loading, starting, stopping); what happens inside of a step is the kernels' to watch.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use crate::error::MeetError;
use crate::meeting::{GRACE, Options};
use crate::message::{Arrived, Go, Peer, Refusal, receive, send};

/// Connections between ranks.
#[derive(Debug)]
pub(crate) enum Links {
    /// Rank 0's, to rank 1 and on.
    First(Vec<TcpStream>),
    /// Another rank's, to rank 0.
    Other(TcpStream),
}

/// All ranks, from the view of one.
#[derive(Debug)]
pub struct Party {
    links: Links,
    rank: u32,
    peers: Vec<Peer>,
    token: Vec<u8>,
    options: Options,
    /// What a barrier failed with: no later one can do better.
    broken: Option<MeetError>,
}

impl Party {
    pub(crate) const fn new(
        links: Links,
        rank: u32,
        peers: Vec<Peer>,
        token: Vec<u8>,
        options: Options,
    ) -> Self {
        Self {
            links,
            rank,
            peers,
            token,
            options,
            broken: None,
        }
    }

    /// This rank.
    #[must_use]
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks, in order.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What rank 0 handed to all.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// Waits until every rank has come here; `at` names the place, the same on all of them.
    ///
    /// # Errors
    /// The same on every rank that is left, within the time-out and a grace of two seconds: which ranks are gone or did
    /// not come, or that ranks stand at different places. Later barriers fail alike.
    pub fn barrier(&mut self, at: &str) -> Result<(), MeetError> {
        if let Some(before) = &self.broken {
            return Err(before.clone());
        }
        let done = match &self.links {
            Links::First(others) => collect(others, at, self.options),
            Links::Other(first) => arrive(first, at, self.options),
        };
        self.broken = done.clone().err();
        done
    }
}

/// Rank 0's side.
fn collect(others: &[TcpStream], at: &str, options: Options) -> Result<(), MeetError> {
    let deadline = Instant::now() + options.timeout;
    let (mut lost, mut elsewhere) = (Vec::new(), None);
    for (index, stream) in others.iter().enumerate() {
        let rank = index as u32 + 1;
        match receive::<Arrived>(stream, deadline) {
            Ok(arrived) if arrived.at == at => {}
            Ok(arrived) => {
                elsewhere.get_or_insert(format!(
                    "rank 0 is at `{at}`, rank {rank} at `{}`; this is a bug of the program",
                    arrived.at
                ));
            }
            Err(_) => lost.push(rank),
        }
    }
    let refusal = match elsewhere {
        _ if !lost.is_empty() => Some(Refusal::Lost {
            lost,
            at: at.to_owned(),
            waited_s: options.timeout.as_secs(),
        }),
        Some(what) => Some(Refusal::Disagree(what)),
        None => None,
    };
    let go = refusal.clone().map_or(Go::On, Go::Refused);
    let answer_by = Instant::now() + GRACE;
    for stream in others {
        // Who has gone needs no answer.
        let _ = send(stream, &go, answer_by);
    }
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// Another rank's side.
fn arrive(first: &TcpStream, at: &str, options: Options) -> Result<(), MeetError> {
    let lost = |e: io::Error| MeetError::FirstLost { why: e.to_string() };
    let deadline = Instant::now() + options.timeout + GRACE;
    send(first, &Arrived { at: at.to_owned() }, deadline).map_err(lost)?;
    match receive(first, deadline).map_err(lost)? {
        Go::On => Ok(()),
        Go::Refused(refusal) => Err(refusal.into()),
    }
}
