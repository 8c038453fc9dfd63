//! The rendezvous: rank 0 listens until all have come or the time is over, then tells everybody the same.
//!
//! In: who this rank is, what must be equal. Out: a [`Party`], or why there is none. A verdict is only given at the end, so
//! that ranks that came early learn about those that came late and differ.

use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::MeetError;
use crate::launcher::{Identity, Place};
use crate::message::{Hello, Peer, Refusal, VERSION, Verdict, receive, send};
use crate::party::{Links, Party};

/// What all ranks must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The mesh, as text.
    pub mesh: String,
    /// Hash of the bundle.
    pub bundle: String,
}

/// Limits of the rendezvous.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long ranks wait for each other, in the rendezvous and at every barrier.
    pub timeout: Duration,
}

impl Default for Options {
    /// Ten seconds.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
        }
    }
}

/// How much longer other ranks wait than rank 0, whose verdict says more than their own time-out.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// Pause between two looks for who has come, or for rank 0.
const PAUSE: Duration = Duration::from_millis(20);

/// Meets the other ranks. `token` makes what rank 0 hands to all.
///
/// # Errors
/// Within the time-out and a grace of two seconds: who is missing, differs, or cannot be reached.
pub fn meet(
    identity: &Identity,
    terms: &Terms,
    token: impl FnOnce() -> Vec<u8>,
    options: Options,
) -> Result<Party, MeetError> {
    let hello = Hello {
        version: VERSION,
        ranks: identity.ranks,
        peer: Peer {
            rank: identity.rank,
            local_rank: identity.local_rank,
            host: host_name(),
        },
        mesh: terms.mesh.clone(),
        bundle: terms.bundle.clone(),
    };
    if identity.ranks == 1 {
        let links = Links::First(Vec::new());
        return Ok(Party::new(links, 0, vec![hello.peer], token(), options));
    }
    if identity.rank == 0 {
        first(identity, hello, token, options)
    } else {
        other(identity, &hello, options)
    }
}

/// Name of this node: for people to read only.
fn host_name() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = file.or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or_else(|| "?".to_owned(), |name| name.trim().to_owned())
}

fn first(
    identity: &Identity,
    own: Hello,
    token: impl FnOnce() -> Vec<u8>,
    options: Options,
) -> Result<Party, MeetError> {
    let listen = |e: io::Error| MeetError::Listen {
        port: identity.place.port,
        why: e.to_string(),
    };
    let deadline = Instant::now() + options.timeout;
    let listener = TcpListener::bind(("0.0.0.0", identity.place.port)).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;

    let ranks = identity.ranks as usize;
    let mut came: Vec<Option<(Hello, Option<TcpStream>)>> = Vec::new();
    came.resize_with(ranks, || None);
    came[0] = Some((own.clone(), None));
    let mut disagreement = None;
    // Ranks that were heard but have no place: they are told, too.
    let mut odd: Vec<TcpStream> = Vec::new();
    let (heard, hellos) = mpsc::channel::<(Hello, TcpStream)>();
    while came.iter().any(Option::is_none) && Instant::now() < deadline {
        if let Ok((stream, _)) = listener.accept() {
            // A connection that says nothing, or not what ranks say, holds up nobody.
            let heard = heard.clone();
            std::thread::spawn(move || {
                let hello = stream
                    .set_nonblocking(false)
                    .and_then(|()| receive(&stream, deadline));
                if let Ok(hello) = hello {
                    // Nobody listens any more when the time is over.
                    let _ = heard.send((hello, stream));
                }
            });
        }
        match hellos.recv_timeout(PAUSE) {
            Ok((hello, stream)) => {
                let place = came.get_mut(hello.peer.rank as usize);
                let differs = difference(&own, &hello);
                match (differs, place) {
                    (None, Some(place @ None)) => *place = Some((hello, Some(stream))),
                    (None, Some(Some((before, _)))) => {
                        let (rank, a, b) = (hello.peer.rank, &before.peer.host, &hello.peer.host);
                        let twice = format!("rank {rank} came twice, from {a} and from {b}");
                        disagreement.get_or_insert(twice);
                        odd.push(stream);
                    }
                    (differs, place) => {
                        let rank = hello.peer.rank;
                        let what = differs
                            .unwrap_or_else(|| format!("rank {rank} is none of {ranks} ranks"));
                        disagreement.get_or_insert(what);
                        match place {
                            Some(place @ None) => *place = Some((hello, Some(stream))),
                            _ => odd.push(stream),
                        }
                    }
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    let missing: Vec<u32> = (0..identity.ranks)
        .filter(|rank| came[*rank as usize].is_none())
        .collect();
    let refusal = match disagreement {
        Some(what) => Some(Refusal::Disagree(what)),
        None if !missing.is_empty() => Some(Refusal::Missing {
            missing,
            ranks: identity.ranks,
            waited_s: options.timeout.as_secs(),
        }),
        None => None,
    };
    let (hellos, streams): (Vec<Hello>, Vec<Option<TcpStream>>) =
        came.into_iter().flatten().unzip();
    let peers: Vec<Peer> = hellos.into_iter().map(|hello| hello.peer).collect();
    let streams: Vec<TcpStream> = streams.into_iter().flatten().collect();
    // All get their answer even when time is over.
    let answer_by = Instant::now() + GRACE;
    if let Some(refusal) = refusal {
        let verdict = Verdict::Refused(refusal.clone());
        for stream in streams.iter().chain(&odd) {
            // Who has gone needs no answer.
            let _ = send(stream, &verdict, answer_by);
        }
        return Err(refusal.into());
    }
    let token = token();
    let verdict = Verdict::Welcome {
        peers: peers.clone(),
        token: token.clone(),
    };
    for stream in &streams {
        // Who has gone by now is lost at the first barrier, and named there.
        let _ = stream.set_nodelay(true);
        let _ = send(stream, &verdict, answer_by);
    }
    Ok(Party::new(Links::First(streams), 0, peers, token, options))
}

/// How a rank's words differ from rank 0's.
fn difference(first: &Hello, other: &Hello) -> Option<String> {
    let rank = other.peer.rank;
    let say = |what: &str, own: &str, its: &str| {
        Some(format!("{what} of rank 0 is {own}, of rank {rank} {its}"))
    };
    if first.version != other.version {
        let (own, its) = (first.version.to_string(), other.version.to_string());
        return say("the version of the rendezvous", &own, &its);
    }
    if first.ranks != other.ranks {
        let (own, its) = (first.ranks.to_string(), other.ranks.to_string());
        return say("the number of ranks", &own, &its);
    }
    if first.mesh != other.mesh {
        return say("the mesh", &first.mesh, &other.mesh);
    }
    if first.bundle != other.bundle {
        return say("the bundle", &first.bundle, &other.bundle);
    }
    None
}

fn other(identity: &Identity, hello: &Hello, options: Options) -> Result<Party, MeetError> {
    let start = Instant::now();
    let deadline = start + options.timeout + GRACE;
    let stream = loop {
        let why = match connect(&identity.place, deadline) {
            Ok(stream) => break stream,
            Err(e) => e.to_string(),
        };
        if Instant::now() + PAUSE >= start + options.timeout {
            return Err(MeetError::NobodyThere {
                rank: identity.rank,
                place: identity.place.clone(),
                waited: options.timeout,
                why,
            });
        }
        std::thread::sleep(PAUSE);
    };
    let lost = |e: io::Error| MeetError::FirstLost { why: e.to_string() };
    let _ = stream.set_nodelay(true);
    send(&stream, hello, deadline).map_err(lost)?;
    match receive(&stream, deadline).map_err(lost)? {
        Verdict::Welcome { peers, token } => {
            let links = Links::Other(stream);
            Ok(Party::new(links, identity.rank, peers, token, options))
        }
        Verdict::Refused(refusal) => Err(refusal.into()),
    }
}

/// Any of the host's addresses.
fn connect(place: &Place, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (place.host.as_str(), place.port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&address, left.max(PAUSE)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}
