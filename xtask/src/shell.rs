//! Running other programs: echoed with their output visible, or captured.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Prints the command line, then runs it with this process's terminal.
///
/// A program that cannot be started is the environment's fault; one that ends
/// with an error is a failed step.
pub fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .map_err(|e| Error::Environment(format!("cannot start `{line}`: {e}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Step(format!("`{line}` failed ({status})")))
}

/// Runs quietly; the standard output if the program exists and succeeds.
pub fn capture(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first executable of this name on the PATH.
pub fn on_path(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

pub fn is_executable(file: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    file.is_file()
}

/// The command as a person would type it, with the variables set for it.
fn command_line(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))))
        .collect();
    words.push(program_name(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

/// `cargo` for the long path that cargo itself puts into `$CARGO`.
fn program_name(program: &OsStr) -> String {
    let path = Path::new(program);
    if path.file_name() == Some(OsStr::new("cargo")) {
        return "cargo".to_owned();
    }
    quoted(program)
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_it_would_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command
            .args(["run", "--prompt", "In the beginning", "it's"])
            .env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            command_line(&command),
            r"RUSTDOCFLAGS='-D warnings' cargo run --prompt 'In the beginning' 'it'\''s'"
        );
    }

    #[test]
    fn a_missing_program_is_the_environments_fault() {
        let error = run(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(matches!(error, Error::Environment(_)), "{error}");
        let error = run(&mut Command::new("false")).unwrap_err();
        assert!(matches!(error, Error::Step(_)), "{error}");
    }
}
