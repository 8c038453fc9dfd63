//! What ranks say to each other, and how it travels: four bytes `mccr`, the length in four bytes, JSON.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::MeetError;

/// Ranks of different builds say so.
pub(crate) const VERSION: u32 = 1;
const MAGIC: [u8; 4] = *b"mccr";
/// No message is longer: the table of 2^16 ranks fits.
const MAX_BYTES: u32 = 16 << 20;

/// A rank, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub rank: u32,
    /// Its number on its node.
    pub local_rank: u32,
    /// Name of its node.
    pub host: String,
}

/// A rank's first words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version: u32,
    pub ranks: u32,
    pub peer: Peer,
    pub mesh: String,
    pub bundle: String,
}

/// Rank 0's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// All are there and agree.
    Welcome { peers: Vec<Peer>, token: Vec<u8> },
    /// They are not.
    Refused(Refusal),
}

/// Why nobody goes on; the same on every rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Missing {
        missing: Vec<u32>,
        ranks: u32,
        waited_s: u64,
    },
    Disagree(String),
    Lost {
        lost: Vec<u32>,
        at: String,
        waited_s: u64,
    },
}

impl From<Refusal> for MeetError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing {
                missing,
                ranks,
                waited_s,
            } => Self::Missing {
                missing,
                ranks,
                waited_s,
            },
            Refusal::Disagree(what) => Self::Disagree(what),
            Refusal::Lost { lost, at, waited_s } => Self::Lost { lost, at, waited_s },
        }
    }
}

/// A rank is at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrived {
    pub at: String,
}

/// All ranks are, or some never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Go {
    On,
    Refused(Refusal),
}

/// Sends a message before the deadline.
pub(crate) fn send<T: Serialize>(
    mut stream: &TcpStream,
    message: &T,
    deadline: Instant,
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(left.max(LATE)))?;
    stream.write_all(&bytes)
}

/// Reads a message before the deadline.
pub(crate) fn receive<T: DeserializeOwned>(stream: &TcpStream, deadline: Instant) -> io::Result<T> {
    let mut head = [0; 8];
    read(stream, &mut head, deadline)?;
    let [a, b, c, d, length @ ..] = head;
    let length = u32::from_le_bytes(length);
    if [a, b, c, d] != MAGIC || length > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what came is no message of a rank",
        ));
    }
    let mut body = vec![0; length as usize];
    read(stream, &mut body, deadline)?;
    serde_json::from_slice(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Fills the buffer before the deadline, however slowly the bytes come. What has come by then is read in any case: a
/// silent rank, for which the time was spent, may not make the ones after it look silent, too.
fn read(mut stream: &TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut late = 0;
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        late += u32::from(left.is_zero());
        if late > LATE_READS {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left.max(LATE)))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How long a read or write waits when the time is over: sockets take zero for no limit.
const LATE: Duration = Duration::from_millis(1);
/// So many reads may follow then: enough for a message that is there, too few for one that trickles.
const LATE_READS: u32 = 64;
