//! What can go wrong before ranks work together, and whose fault it is.

use std::time::Duration;

use thiserror::Error;

use crate::launcher::{Launcher, Place};

/// A launcher's variables that make no rank: the environment's fault.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    /// One of several variables is not there.
    #[error("{launcher} sets {variable}, which is not there; was this rank started by it?")]
    Missing {
        /// Whose variables were found.
        launcher: Launcher,
        /// Which one is missing.
        variable: &'static str,
    },
    /// A variable that is no number.
    #[error("{variable} is `{value}`, which is no {what}")]
    Bad {
        /// Which.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        what: &'static str,
    },
    /// A rank that there is not.
    #[error("{launcher} says rank {rank} of {ranks}")]
    Range {
        /// Whose variables.
        launcher: Launcher,
        /// The rank.
        rank: u32,
        /// Ranks in all.
        ranks: u32,
    },
    /// Nobody says where to meet.
    #[error(
        "{launcher} does not say where the ranks of several nodes meet: set MCC_RENDEZVOUS=HOST:PORT on all of them, \
         HOST being that of rank 0{}", hint(*launcher)
    )]
    NoPlace {
        /// Whose variables.
        launcher: Launcher,
    },
}

fn hint(launcher: Launcher) -> &'static str {
    match launcher {
        Launcher::OpenMpi => " (mpirun -x MCC_RENDEZVOUS passes it on)",
        Launcher::Mpich => " (mpirun -genv MCC_RENDEZVOUS HOST:PORT passes it on)",
        _ => "",
    }
}

/// Why ranks do not work together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MeetError {
    /// Rank 0 cannot listen.
    #[error(
        "rank 0 cannot listen on port {port}: {why}; MCC_RENDEZVOUS=HOST:PORT names another one"
    )]
    Listen {
        /// Where.
        port: u16,
        /// What the system says.
        why: String,
    },
    /// Nobody answers.
    #[error("rank {rank} found no rank 0 at {place} within {} s: {why}", waited.as_secs_f32())]
    NobodyThere {
        /// Who looked.
        rank: u32,
        /// Where.
        place: Place,
        /// How long.
        waited: Duration,
        /// The last answer of the system.
        why: String,
    },
    /// Rank 0 answered, then no more.
    #[error("rank 0 went away: {why}")]
    FirstLost {
        /// What the system says.
        why: String,
    },
    /// Ranks that never came.
    #[error("{} of {ranks} ranks did not come within {waited_s} s: {}", missing.len(), list(missing))]
    Missing {
        /// Which.
        missing: Vec<u32>,
        /// Ranks in all.
        ranks: u32,
        /// Whole seconds that rank 0 waited.
        waited_s: u64,
    },
    /// Ranks that do not fit together.
    #[error("the ranks do not fit together: {0}")]
    Disagree(String),
    /// Ranks that were there and are no more.
    #[error("{} {} lost at `{at}` (ended, or silent for {waited_s} s)", list(lost), if lost.len() == 1 { "was" } else { "were" })]
    Lost {
        /// Which.
        lost: Vec<u32>,
        /// The barrier.
        at: String,
        /// Whole seconds that rank 0 waited for them.
        waited_s: u64,
    },
}

/// `rank 3`, or `ranks 1, 4-7, 9`.
fn list(ranks: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let text = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    let text = text.collect::<Vec<_>>().join(", ");
    if ranks.len() == 1 {
        format!("rank {text}")
    } else {
        format!("ranks {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn neighbours_are_one_run() {
        assert_eq!(list(&[3]), "rank 3");
        assert_eq!(list(&[1, 4, 5, 6, 9]), "ranks 1, 4-6, 9");
    }
}
