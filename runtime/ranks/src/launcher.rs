//! Launchers, and the variables by which a process knows its rank.
//!
//! In: environment variables. Out: an [`Identity`]. The innermost launcher wins: torchrun inside of srun, and mpirun
//! on a Slurm allocation, whose daemons srun starts. Without any launcher a process is rank 0 of 1.
//!
//! | launcher | rank, ranks | on this node | meeting place |
//! |---|---|---|---|
//! | own | `MCC_RANK`, `MCC_RANKS` | `MCC_LOCAL_RANK`, `MCC_LOCAL_RANKS` | `MCC_RENDEZVOUS` |
//! | torchrun | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, `LOCAL_WORLD_SIZE` | `MASTER_ADDR`, `MASTER_PORT` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` | `_LOCAL_RANK`, `_LOCAL_SIZE` | one node: this one |
//! | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE` | `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` | one node: this one |
//! | srun | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` | `SLURM_LOCALID` | first host of `SLURM_STEP_NODELIST` |
//!
//! `MCC_RENDEZVOUS=HOST:PORT` goes before all of them.

use std::fmt;

use crate::error::LaunchError;
use crate::hosts;

/// Who started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: one rank.
    Alone,
    /// A script that sets mcc's own variables.
    Own,
    /// PyTorch's.
    Torchrun,
    /// Open MPI's mpirun.
    OpenMpi,
    /// Hydra, the launcher of MPICH and its relatives.
    Mpich,
    /// Slurm's.
    Srun,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "no launcher",
            Self::Own => "MCC_RANK's launcher",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Mpich => "MPICH's mpirun",
            Self::Srun => "srun",
        })
    }
}

/// Where rank 0 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which rank a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who says so.
    pub launcher: Launcher,
    /// Number among all ranks.
    pub rank: u32,
    /// Ranks in all.
    pub ranks: u32,
    /// Number on its node, which is its GPU's.
    pub local_rank: u32,
    /// Where to meet.
    pub place: Place,
}

/// Ports that jobs' numbers are spread over, below those that systems give out by themselves.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// The port of ranks on one node whose launcher gives jobs no number.
const LOCAL_PORT: u16 = 29_876;

/// A launcher's variables.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    ranks: &'static str,
    local_rank: &'static str,
    local_ranks: &'static str,
    /// Also there when, and only when, this launcher started the process.
    sign: &'static str,
}

/// The innermost first.
const LAUNCHERS: [Names; 5] = [
    Names {
        launcher: Launcher::Own,
        rank: "MCC_RANK",
        ranks: "MCC_RANKS",
        local_rank: "MCC_LOCAL_RANK",
        local_ranks: "MCC_LOCAL_RANKS",
        sign: "MCC_RANK",
    },
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        ranks: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_ranks: "LOCAL_WORLD_SIZE",
        sign: "WORLD_SIZE",
    },
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_ranks: "OMPI_COMM_WORLD_LOCAL_SIZE",
        sign: "OMPI_COMM_WORLD_RANK",
    },
    Names {
        launcher: Launcher::Mpich,
        rank: "PMI_RANK",
        ranks: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_ranks: "MPI_LOCALNRANKS",
        sign: "MPI_LOCALRANKID",
    },
    Names {
        launcher: Launcher::Srun,
        rank: "SLURM_PROCID",
        ranks: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        // A list such as `8(x4)`: the first number is that of the first node.
        local_ranks: "SLURM_STEP_TASKS_PER_NODE",
        // A batch script has the other variables, too, and is no step.
        sign: "SLURM_STEP_NODELIST",
    },
];

impl Identity {
    /// This process, by its environment.
    ///
    /// # Errors
    /// Variables that contradict each other, or are no numbers.
    pub fn from_environment() -> Result<Self, LaunchError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// A process with these variables.
    ///
    /// # Errors
    /// As [`Identity::from_environment`].
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let found = LAUNCHERS.iter().find(|l| variable(l.sign).is_some());
        let Some(names) = found else {
            return Ok(Self {
                launcher: Launcher::Alone,
                rank: 0,
                ranks: 1,
                local_rank: 0,
                place: Place {
                    host: "127.0.0.1".to_owned(),
                    port: LOCAL_PORT,
                },
            });
        };
        let launcher = names.launcher;
        let number = |name: &'static str| -> Result<u32, LaunchError> {
            let value = variable(name).ok_or(LaunchError::Missing {
                launcher,
                variable: name,
            })?;
            value.trim().parse().map_err(|_| LaunchError::Bad {
                variable: name,
                value,
                what: "number of ranks",
            })
        };
        let (rank, ranks) = (number(names.rank)?, number(names.ranks)?);
        if rank >= ranks {
            return Err(LaunchError::Range {
                launcher,
                rank,
                ranks,
            });
        }
        // Scripts of one rank a node need not say so.
        let local_rank = match variable(names.local_rank) {
            None => 0,
            Some(_) => number(names.local_rank)?,
        };
        let local_ranks = variable(names.local_ranks).and_then(|text| {
            let digits = text.trim().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u32>().ok()
        });
        let one_node = ranks == 1 || local_ranks == Some(ranks);
        Ok(Self {
            launcher,
            rank,
            ranks,
            local_rank,
            place: place(launcher, one_node, variable)?,
        })
    }
}

fn place(
    launcher: Launcher,
    one_node: bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Place, LaunchError> {
    if let Some(text) = variable("MCC_RENDEZVOUS") {
        let place = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Place {
                host: host.to_owned(),
                port,
            })
        });
        return place.ok_or(LaunchError::Bad {
            variable: "MCC_RENDEZVOUS",
            value: text,
            what: "HOST:PORT",
        });
    }
    let local = |port| Place {
        host: "127.0.0.1".to_owned(),
        port,
    };
    match launcher {
        Launcher::Torchrun => {
            let missing = |variable| LaunchError::Missing { launcher, variable };
            let host = variable("MASTER_ADDR").ok_or(missing("MASTER_ADDR"))?;
            let value = variable("MASTER_PORT").ok_or(missing("MASTER_PORT"))?;
            let bad = || LaunchError::Bad {
                variable: "MASTER_PORT",
                value: value.clone(),
                what: "port",
            };
            let port: u16 = value.trim().parse().map_err(|_| bad())?;
            // torchrun itself, or torch in rank 0, listens there: the next port is ours.
            let port = port.checked_add(1).ok_or_else(bad)?;
            Ok(Place { host, port })
        }
        Launcher::Srun => {
            let list = variable("SLURM_STEP_NODELIST").unwrap_or_default();
            let host = hosts::first(&list).ok_or(LaunchError::Bad {
                variable: "SLURM_STEP_NODELIST",
                value: list,
                what: "list of hosts",
            })?;
            // Jobs may share a node, and so may the steps of a job.
            let number = |name| variable(name).and_then(|v| v.trim().parse::<u64>().ok());
            let job = number("SLURM_JOB_ID").unwrap_or(0);
            let step = number("SLURM_STEP_ID").unwrap_or(0);
            Ok(Place {
                host,
                port: port_of(job.wrapping_mul(31).wrapping_add(step)),
            })
        }
        _ if !one_node => Err(LaunchError::NoPlace { launcher }),
        Launcher::OpenMpi => {
            // The name of the job, which all its ranks have: 4.x and 5.x.
            let job = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"];
            let job = job.into_iter().find_map(variable);
            Ok(local(
                job.map_or(LOCAL_PORT, |job| port_of(number_of(&job))),
            ))
        }
        Launcher::Alone | Launcher::Own | Launcher::Mpich => Ok(local(LOCAL_PORT)),
    }
}

/// A port for a job of this number.
fn port_of(job: u64) -> u16 {
    let ports = u64::from(PORTS.end - PORTS.start);
    PORTS.start + (job % ports) as u16
}

/// FNV-1a of a job's name.
fn number_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
