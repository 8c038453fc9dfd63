//! One program with a time limit.
//!
//! In: a command and a limit. Out: how it ended; what it printed, in two files.
//! Holds afterwards: the program and everything that it started in its process group are gone, or it is said that
//! the kernel would not let them go (a process inside of a hung driver call cannot be killed). Nothing here waits
//! on a pipe that a survivor could hold open.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a killed program may take to disappear.
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It ran past the limit and was killed.
    TimedOut {
        /// Whether it is gone.
        gone: bool,
    },
    /// It never ran.
    NotStarted(String),
}

/// Runs `command` for at most `limit`; its output goes to `stdout` and `stderr`.
///
/// # Errors
/// When the files cannot be made.
pub fn run(
    command: &mut Command,
    stdout: &Path,
    stderr: &Path,
    limit: Duration,
) -> io::Result<End> {
    command
        .stdin(Stdio::null())
        .stdout(File::create(stdout)?)
        .stderr(File::create(stderr)?)
        .process_group(0);
    // SAFETY: the closure runs between fork and exec; it makes one system call and does not allocate.
    unsafe {
        // The group of its own hides the child from Ctrl-C: it has to end with its parent.
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(io::Error::from)
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(err) => return Ok(End::NotStarted(err.to_string())),
    };
    if let Some(status) = wait(&mut child, limit)? {
        return Ok(ended(status));
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The group is there as long as its leader is not reaped; an error means that it ended just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let gone = wait(&mut child, GRACE)?.is_some();
    Ok(End::TimedOut { gone })
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(POLL.min(limit));
    }
}

fn ended(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> (End, String, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let start = Instant::now();
        let end = run(
            Command::new("sh").args(["-c", script]),
            &out,
            &dir.path().join("err"),
            limit,
        )
        .unwrap();
        (end, std::fs::read_to_string(out).unwrap(), start.elapsed())
    }

    #[test]
    fn a_program_that_ends_tells_its_code() {
        let (end, out, _) = sh("echo hello; exit 3", Duration::from_secs(20));
        assert_eq!((end, out.as_str()), (End::Code(3), "hello\n"));
        let (end, _, _) = sh("kill -SEGV $$", Duration::from_secs(20));
        assert_eq!(end, End::Signal(11));
    }

    #[test]
    fn a_hanging_program_is_killed_with_all_that_it_started() {
        // The grandchild ignores everything that can be ignored and would write after two seconds.
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("survived");
        let script = format!(
            "trap '' TERM INT HUP; (sleep 2; touch {}) & wait",
            mark.display()
        );
        let (end, _, wall) = sh(&script, Duration::from_millis(200));
        assert_eq!(end, End::TimedOut { gone: true });
        assert!(wall < Duration::from_secs(2), "{wall:?}");
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!mark.exists(), "a grandchild outlived its group");
    }

    #[test]
    fn a_missing_program_is_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let end = run(
            &mut Command::new("/no/such/program"),
            &dir.path().join("out"),
            &dir.path().join("err"),
            Duration::from_secs(1),
        )
        .unwrap();
        assert!(matches!(end, End::NotStarted(_)), "{end:?}");
    }
}
