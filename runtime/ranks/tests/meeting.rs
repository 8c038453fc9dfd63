//! Ranks as threads of this process: they meet, they do not, and every one of them says why.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mcc_ranks::{Identity, Launcher, MeetError, Options, Party, Place, Terms, meet};

/// Long enough for a busy machine, short enough for a test that waits for it.
const TIMEOUT: Duration = Duration::from_millis(2500);
const OPTIONS: Options = Options { timeout: TIMEOUT };

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

fn identity(rank: u32, ranks: u32, port: u16) -> Identity {
    Identity {
        launcher: Launcher::Own,
        rank,
        ranks,
        local_rank: rank,
        place: Place {
            host: "127.0.0.1".to_owned(),
            port,
        },
    }
}

fn terms(bundle: &str) -> Terms {
    Terms {
        mesh: "nodes = 1, gpus = 4".to_owned(),
        bundle: bundle.to_owned(),
    }
}

/// Runs a rank a thread; what each returns, in order.
fn ranks<T: Send>(all: &[Identity], body: impl Fn(&Identity) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = all.iter().map(|id| scope.spawn(move || body(id))).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    })
}

fn all(count: u32) -> Vec<Identity> {
    let port = free_port();
    (0..count).map(|rank| identity(rank, count, port)).collect()
}

fn join(id: &Identity) -> Result<Party, MeetError> {
    meet(id, &terms("abc"), || vec![1, 2, id.rank as u8], OPTIONS)
}

#[test]
fn every_rank_knows_every_other_and_has_rank_0s_token() {
    for count in [1, 2, 7, 64] {
        let parties = ranks(&all(count), |id| {
            // Late ranks are waited for, early ones wait.
            thread::sleep(Duration::from_millis(u64::from(id.rank * 37 % 200)));
            let mut party = join(id).expect("all are there");
            party.barrier("loaded").expect("all are there");
            party.barrier("done").expect("all are there");
            party
        });
        for (rank, party) in parties.iter().enumerate() {
            assert_eq!(party.rank(), rank as u32);
            assert_eq!(party.token(), [1, 2, 0]);
            let numbers: Vec<u32> = party.peers().iter().map(|p| p.rank).collect();
            assert!(numbers.iter().copied().eq(0..count), "{numbers:?}");
        }
    }
}

#[test]
fn ranks_that_never_come_are_named_on_all_that_did() {
    let all = all(6);
    let present = [all[0].clone(), all[2].clone(), all[5].clone()];
    let start = Instant::now();
    for result in ranks(&present, join) {
        let error = result.expect_err("ranks are missing");
        let missing = vec![1, 3, 4];
        assert_eq!(
            error,
            MeetError::Missing {
                missing,
                ranks: 6,
                waited_s: 2
            }
        );
        assert_eq!(
            error.to_string(),
            "3 of 6 ranks did not come within 2 s: ranks 1, 3-4"
        );
    }
    // The time-out, the grace, and what a busy machine adds.
    assert!(start.elapsed() < TIMEOUT + Duration::from_secs(10));
}

#[test]
fn without_rank_0_the_others_say_where_they_looked() {
    let all = all(3);
    for result in ranks(&all[1..], join) {
        let error = result.expect_err("nobody listens");
        assert!(matches!(error, MeetError::NobodyThere { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&all[0].place.to_string()), "{text}");
    }
}

#[test]
fn all_ranks_learn_who_differs() {
    let differing = |change: &(dyn Fn(&mut Identity, &mut Terms) + Sync), says: &str| {
        for result in ranks(&all(4), |id| {
            let (mut id, mut terms) = (id.clone(), terms("abc"));
            if id.rank == 2 {
                change(&mut id, &mut terms);
            }
            meet(&id, &terms, Vec::new, OPTIONS)
        }) {
            let error = result.expect_err("a rank differs").to_string();
            assert!(error.contains(says), "{error} does not say {says}");
        }
    };
    differing(
        &|_, terms| terms.bundle = "def".to_owned(),
        "the bundle of rank 0 is abc, of rank 2 def",
    );
    differing(
        &|_, terms| terms.mesh = "nodes = 2, gpus = 2".to_owned(),
        "the mesh of rank 0 is nodes = 1, gpus = 4, of rank 2 nodes = 2, gpus = 2",
    );
    differing(
        &|id, _| id.ranks = 8,
        "the number of ranks of rank 0 is 4, of rank 2 8",
    );
    differing(&|id, _| id.rank = 1, "rank 1 came twice");
}

#[test]
fn strangers_on_the_port_hold_up_nobody() {
    let all = all(3);
    let place = all[0].place.clone();
    let results = ranks(&all, |id| {
        if id.rank == 2 {
            // One that says nothing, one that says something else, one that promises too much.
            let knock = || TcpStream::connect((place.host.as_str(), place.port));
            let until = Instant::now() + TIMEOUT;
            let silent = loop {
                match knock() {
                    Ok(stream) => break stream,
                    Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                    Err(e) => panic!("{e}"),
                }
            };
            let mut http = knock().expect("somebody listens");
            http.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
            let mut large = knock().expect("somebody listens");
            large.write_all(b"mccr\xff\xff\xff\xff").expect("written");
            let party = join(id);
            drop((silent, http, large));
            return party.map(|_| ());
        }
        join(id).map(|_| ())
    });
    assert_eq!(results, [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn a_rank_that_ends_is_named_at_the_next_barrier_on_all_others() {
    let start = Instant::now();
    let results = ranks(&all(5), |id| {
        let mut party = join(id)?;
        party.barrier("loaded")?;
        if id.rank == 3 {
            return Ok(());
        }
        let first = party.barrier("step 1");
        // There is no way back.
        assert_eq!(party.barrier("step 2"), first);
        first
    });
    for (rank, result) in results.into_iter().enumerate() {
        if rank == 3 {
            assert_eq!(result, Ok(()));
            continue;
        }
        let error = result.expect_err("rank 3 is gone");
        let expected = "rank 3 was lost at `step 1` (ended, or silent for 2 s)";
        assert_eq!(error.to_string(), expected);
    }
    // Its connection ended with it: nobody waited for the time-out.
    assert!(start.elapsed() < TIMEOUT + Duration::from_secs(5));
}

#[test]
fn a_rank_that_hangs_is_named_after_the_time_out_and_no_other_is() {
    let results = ranks(&all(4), |id| {
        let mut party = join(id)?;
        if id.rank == 1 {
            thread::sleep(TIMEOUT * 2);
            return Ok(());
        }
        party.barrier("step")
    });
    for (rank, result) in results
        .into_iter()
        .enumerate()
        .filter(|(rank, _)| *rank != 1)
    {
        let error = result.expect_err("rank 1 hangs");
        assert!(
            matches!(&error, MeetError::Lost { lost, .. } if *lost == [1]),
            "rank {rank}: {error}"
        );
    }
}

#[test]
fn when_rank_0_ends_the_others_say_so() {
    let results = ranks(&all(3), |id| {
        let mut party = join(id)?;
        if id.rank == 0 {
            return Ok(());
        }
        party.barrier("step")
    });
    for result in &results[1..] {
        assert!(
            matches!(result, Err(MeetError::FirstLost { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn ranks_at_different_places_are_told_apart() {
    let results = ranks(&all(2), |id| {
        let mut party = join(id)?;
        party.barrier(if id.rank == 0 { "here" } else { "there" })
    });
    for result in results {
        let error = result.expect_err("places differ").to_string();
        assert!(
            error.contains("`here`") && error.contains("`there`"),
            "{error}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("0.0.0.0", 0)).expect("a port");
    let port = taken.local_addr().expect("its number").port();
    let error = join(&identity(0, 2, port)).expect_err("the port is taken");
    assert!(matches!(error, MeetError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
