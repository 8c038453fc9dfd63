//! `mccrt check --ranks` as processes, started with the variables of each launcher, and by Open MPI's mpirun where it is
//! installed.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/parts.rs"]
mod parts;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let bundle = counting::bundle();
        bundle.write(dir.path().join("model.mccb")).expect("writes");
        Self { dir }
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("model.mccb")
    }

    /// A rank with these variables and no other launcher's.
    fn rank(&self, bundle: &PathBuf, variables: &[(&str, String)], flags: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mccrt"));
        command.arg("check").arg(bundle).arg("--ranks").args(flags);
        let launchers = [
            "MCC_", "OMPI_", "PMI", "SLURM_", "RANK", "WORLD_", "LOCAL_", "MPI_",
        ];
        for (name, _) in std::env::vars() {
            if launchers.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    }
}

fn finish(ranks: Vec<Child>) -> Vec<(Option<i32>, String, String)> {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    ranks
        .into_iter()
        .map(|rank| {
            let Output {
                status,
                stdout,
                stderr,
            } = rank.wait_with_output().expect("ends");
            (status.code(), text(stdout), text(stderr))
        })
        .collect()
}

/// A port whose successor is free, too.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = port.local_addr().expect("its number").port();
        if port < u16::MAX && TcpListener::bind(("0.0.0.0", port + 1)).is_ok() {
            return port;
        }
    }
}

fn torchrun(rank: u32, ranks: u32, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", ranks.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("LOCAL_WORLD_SIZE", ranks.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
    ]
}

fn srun(rank: u32, ranks: u32, job: u16) -> Vec<(&'static str, String)> {
    vec![
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_STEP_NUM_TASKS", ranks.to_string()),
        ("SLURM_LOCALID", rank.to_string()),
        ("SLURM_STEP_NODELIST", "localhost".to_owned()),
        ("SLURM_JOB_ID", job.to_string()),
        ("SLURM_STEP_ID", "0".to_owned()),
    ]
}

#[test]
fn ranks_of_each_launcher_meet() {
    let bench = Bench::new();
    let port = free_port();
    // Any job number has a port; most of them are free.
    let job = port % 10_000;
    for (launcher, variables) in [
        (
            "torchrun",
            &(|rank| torchrun(rank, 4, port)) as &dyn Fn(u32) -> Vec<_>,
        ),
        ("srun", &|rank| srun(rank, 4, job)),
    ] {
        // Rank 0 last: the others wait for it.
        let start = |rank| {
            bench.rank(
                &bench.bundle(),
                &variables(rank),
                &["--mesh", "nodes=1,gpus=4"],
            )
        };
        let ranks = (0..4).rev().map(start).collect();
        let mut results = finish(ranks);
        let (code, out, err) = results.pop().expect("rank 0");
        assert_eq!(code, Some(0), "{err}");
        assert!(
            out.contains(&format!("4 ranks of {launcher} met at")),
            "{out}"
        );
        assert_eq!(out.matches("rank ").count(), 4, "{out}");
        for (code, out, err) in results {
            assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
        }
    }
}

#[test]
fn without_a_launcher_there_is_one_rank() {
    let bench = Bench::new();
    let results = finish(vec![bench.rank(&bench.bundle(), &[], &[])]);
    let (code, out, err) = &results[0];
    assert_eq!(*code, Some(0), "{err}");
    assert!(out.contains("1 ranks of no launcher"), "{out}");
}

#[test]
fn a_rank_that_never_comes_ends_all_others_in_time() {
    let bench = Bench::new();
    let port = free_port();
    let start = Instant::now();
    let flags = ["--timeout", "1.5"];
    let ranks = [0, 1, 3].map(|rank| bench.rank(&bench.bundle(), &torchrun(rank, 4, port), &flags));
    for (code, _, err) in finish(ranks.into()) {
        assert_eq!(code, Some(2), "{err}");
        assert!(
            err.contains("1 of 4 ranks did not come within 1 s: rank 2"),
            "{err}"
        );
    }
    // Time-out, grace, and a busy machine.
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_rank_with_another_bundle_or_mesh_is_named_on_all() {
    let bench = Bench::new();
    let other = bench.dir.path().join("other.mccb");
    let mut bundle = counting::bundle();
    bundle.manifest.model = "another".to_owned();
    bundle.write(&other).expect("writes");
    let port = free_port();
    let start = |rank: u32| {
        let bundle = if rank == 2 { &other } else { &bench.bundle() };
        bench.rank(bundle, &torchrun(rank, 3, port), &[])
    };
    for (code, _, err) in finish((0..3).map(start).collect()) {
        assert_eq!(code, Some(2), "{err}");
        assert!(
            err.contains("the bundle of rank 0 is") && err.contains("of rank 2"),
            "{err}"
        );
    }
    let port = free_port();
    let start = |rank: u32| {
        let mesh = if rank == 1 {
            "nodes=3,gpus=1"
        } else {
            "nodes=1,gpus=3"
        };
        bench.rank(&bench.bundle(), &torchrun(rank, 3, port), &["--mesh", mesh])
    };
    for (code, _, err) in finish((0..3).map(start).collect()) {
        assert_eq!(code, Some(2), "{err}");
        assert!(
            err.contains("the mesh of rank 0 is nodes=1,gpus=3, of rank 1 nodes=3,gpus=1"),
            "{err}"
        );
    }
}

#[test]
fn what_is_this_ranks_own_fault_is_said_at_once() {
    let bench = Bench::new();
    let start = Instant::now();
    let one = |bundle: &PathBuf, flags: &[&str], port| {
        let rank = bench.rank(bundle, &torchrun(0, 2, port), flags);
        finish(vec![rank]).remove(0)
    };
    let port = free_port();
    let (code, _, err) = one(&bench.dir.path().join("none.mccb"), &[], port);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("none.mccb"), "{err}");
    let (code, _, err) = one(&bench.bundle(), &["--mesh", "nodes=2,gpus=8"], port);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("16 GPUs, and the launcher started 2 ranks"),
        "{err}"
    );
    let (code, _, err) = one(&bench.bundle(), &["--timeout", "0"], port);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "nobody was waited for"
    );
}

/// With the real launcher, where there is one.
#[test]
fn open_mpis_mpirun_starts_ranks_that_meet() {
    let Ok(version) = Command::new("mpirun").arg("--version").output() else {
        eprintln!("skipped: mpirun is not installed (Debian: openmpi-bin)");
        return;
    };
    if !String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        eprintln!("skipped: mpirun is not Open MPI's");
        return;
    }
    let bench = Bench::new();
    let output = Command::new("mpirun")
        .args(["--allow-run-as-root", "--oversubscribe", "-n", "4"])
        .arg(env!("CARGO_BIN_EXE_mccrt"))
        .arg("check")
        .arg(bench.bundle())
        .arg("--ranks")
        .output()
        .expect("starts");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(
        out.contains("4 ranks of Open MPI's mpirun met at 127.0.0.1:"),
        "{out}{err}"
    );
}
