//! Variables as launchers set them, and who a process then is.

use std::collections::HashMap;

use mcc_ranks::{Identity, LaunchError, Launcher};

fn identity(variables: &[(&str, &str)]) -> Result<Identity, LaunchError> {
    let map: HashMap<&str, &str> = variables.iter().copied().collect();
    Identity::from_variables(&|name| map.get(name).map(|v| (*v).to_owned()))
}

#[track_caller]
fn is(variables: &[(&str, &str)], launcher: Launcher, numbers: [u32; 3], place: &str) {
    let id = identity(variables).expect("an identity");
    assert_eq!(id.launcher, launcher);
    assert_eq!([id.rank, id.ranks, id.local_rank], numbers);
    assert_eq!(id.place.to_string(), place);
}

const TORCHRUN: [(&str, &str); 6] = [
    ("RANK", "9"),
    ("WORLD_SIZE", "16"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "8"),
    ("MASTER_ADDR", "node-a"),
    ("MASTER_PORT", "29500"),
];

const SRUN: [(&str, &str); 7] = [
    ("SLURM_PROCID", "3"),
    ("SLURM_STEP_NUM_TASKS", "16"),
    ("SLURM_LOCALID", "3"),
    ("SLURM_STEP_TASKS_PER_NODE", "8(x2)"),
    ("SLURM_STEP_NODELIST", "gpu[03-04]"),
    ("SLURM_JOB_ID", "1000"),
    ("SLURM_STEP_ID", "2"),
];

const OPEN_MPI: [(&str, &str); 5] = [
    ("OMPI_COMM_WORLD_RANK", "2"),
    ("OMPI_COMM_WORLD_SIZE", "4"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
    ("PMIX_NAMESPACE", "3093102593"),
];

#[test]
fn each_launcher_is_known_by_its_variables() {
    is(&[], Launcher::Alone, [0, 1, 0], "127.0.0.1:29876");
    is(&TORCHRUN, Launcher::Torchrun, [9, 16, 1], "node-a:29501");
    // 1000 * 31 + 2, over 10,000 ports from 20,000 on.
    is(&SRUN, Launcher::Srun, [3, 16, 3], "gpu03:21002");
    let own = [
        ("MCC_RANK", "1"),
        ("MCC_RANKS", "2"),
        ("MCC_RENDEZVOUS", "[fe80::1]:4000"),
    ];
    is(&own, Launcher::Own, [1, 2, 0], "fe80::1:4000");
    let mpich = [
        ("PMI_RANK", "1"),
        ("PMI_SIZE", "2"),
        ("MPI_LOCALRANKID", "1"),
        ("MPI_LOCALNRANKS", "2"),
    ];
    is(&mpich, Launcher::Mpich, [1, 2, 1], "127.0.0.1:29876");
}

#[test]
fn ranks_of_one_open_mpi_job_meet_at_one_port() {
    let port = |change: &[(&str, &str)]| {
        let id = identity(&[&OPEN_MPI[..], change].concat()).expect("an identity");
        assert_eq!(id.place.host, "127.0.0.1");
        id.place.port
    };
    assert_eq!(port(&[]), port(&[("OMPI_COMM_WORLD_RANK", "0")]));
    assert_ne!(port(&[]), port(&[("PMIX_NAMESPACE", "3093102594")]));
    assert!((20_000..30_000).contains(&port(&[])));
}

#[test]
fn the_innermost_launcher_wins() {
    let both = [&SRUN[..], &TORCHRUN].concat();
    assert_eq!(identity(&both).expect("one").launcher, Launcher::Torchrun);
    let both = [&SRUN[..], &OPEN_MPI].concat();
    assert_eq!(identity(&both).expect("one").launcher, Launcher::OpenMpi);
    // A batch script is no rank, though it has some of the variables.
    let batch = [
        ("SLURM_PROCID", "0"),
        ("SLURM_JOB_ID", "7"),
        ("SLURM_NTASKS", "8"),
    ];
    assert_eq!(identity(&batch).expect("one").launcher, Launcher::Alone);
}

#[test]
fn several_nodes_need_a_meeting_place() {
    let two = [("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
    let error = identity(&[&OPEN_MPI[..], &two].concat()).expect_err("no place");
    assert_eq!(
        error,
        LaunchError::NoPlace {
            launcher: Launcher::OpenMpi
        }
    );
    assert!(error.to_string().contains("-x MCC_RENDEZVOUS"), "{error}");
    let place = [two[0], ("MCC_RENDEZVOUS", "node-a:5000")];
    is(
        &[&OPEN_MPI[..], &place].concat(),
        Launcher::OpenMpi,
        [2, 4, 2],
        "node-a:5000",
    );
}

#[test]
fn wrong_variables_are_named() {
    for (variables, says) in [
        (&[("RANK", "1"), ("WORLD_SIZE", "2")][..], "MASTER_ADDR"),
        (&[("WORLD_SIZE", "2")], "torchrun sets RANK"),
        (
            &[("RANK", "x"), ("WORLD_SIZE", "2")],
            "RANK is `x`, which is no number of ranks",
        ),
        (
            &[("RANK", "2"), ("WORLD_SIZE", "2")],
            "torchrun says rank 2 of 2",
        ),
        (
            &[
                ("MCC_RANK", "0"),
                ("MCC_RANKS", "2"),
                ("MCC_RENDEZVOUS", "here"),
            ],
            "MCC_RENDEZVOUS is `here`, which is no HOST:PORT",
        ),
        (
            &[
                ("MCC_RANK", "0"),
                ("MCC_RANKS", "2"),
                ("MCC_RENDEZVOUS", "here:0"),
            ],
            "MCC_RENDEZVOUS",
        ),
    ] {
        let error = identity(variables).expect_err("is refused").to_string();
        assert!(error.contains(says), "{error} does not say {says}");
    }
    let last = [("MASTER_PORT", "65535")];
    let error = identity(&[&TORCHRUN[..], &last].concat()).expect_err("no port behind it");
    assert!(error.to_string().contains("MASTER_PORT"), "{error}");
}
