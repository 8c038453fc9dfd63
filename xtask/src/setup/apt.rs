//! Installing Debian packages, after asking.
//!
//! In: package names. Out: installed packages, or an error that holds the
//! commands to type. Nothing is installed without `--yes`, `CI` or a `y`.

use std::io::{IsTerminal, Write as _};
use std::process::Command;

use crate::error::{Error, Result};
use crate::shell;

pub fn is_here() -> bool {
    shell::on_path("apt-get").is_some()
}

pub fn install(packages: &[&str], yes: bool) -> Result<()> {
    let list = packages.join(" ");
    eprintln!("mcc needs these packages, which are not installed: {list}");
    let consent = match consent(yes) {
        Consent::Given => true,
        Consent::Ask => ask("Install them with apt-get?")?,
        Consent::Impossible => false,
    };
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {list}");
    if !consent {
        return Err(Error::Environment(format!(
            "nothing was installed. Run again with --yes, or install them as root:\n\n  {by_hand}"
        )));
    }
    let Some(privilege) = privilege() else {
        return Err(Error::Environment(format!(
            "installing packages needs root, and there is no sudo. Run as root:\n\n  {by_hand}"
        )));
    };
    shell::run(apt_get(privilege).arg("update")).map_err(|e| {
        Error::Environment(format!(
            "{e}. Is the network there, and are apt's sources right?"
        ))
    })?;
    require_known(packages)?;
    shell::run(
        apt_get(privilege)
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
    .map_err(|e| Error::Environment(e.to_string()))
}

enum Consent {
    Given,
    Ask,
    Impossible,
}

fn consent(yes: bool) -> Consent {
    let ci = std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false" && v != "0");
    if yes || ci {
        Consent::Given
    } else if std::io::stdin().is_terminal() {
        Consent::Ask
    } else {
        Consent::Impossible
    }
}

fn ask(question: &str) -> Result<bool> {
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| Error::Environment(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[derive(Clone, Copy)]
enum Privilege {
    Root,
    Sudo,
}

fn privilege() -> Option<Privilege> {
    let uid = shell::capture(Command::new("id").arg("-u"));
    if uid.is_some_and(|uid| uid.trim() == "0") {
        return Some(Privilege::Root);
    }
    shell::on_path("sudo").map(|_| Privilege::Sudo)
}

/// `apt-get` that asks nothing and waits for another apt to finish.
fn apt_get(privilege: Privilege) -> Command {
    let mut command = match privilege {
        Privilege::Root => Command::new("env"),
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            // Without a terminal a password question would wait for ever.
            if !std::io::stdin().is_terminal() {
                sudo.arg("-n");
            }
            sudo.arg("env");
            sudo
        }
    };
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    command
}

/// Says which packages apt has never heard of, before it fails on the first.
fn require_known(packages: &[&str]) -> Result<()> {
    let unknown: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| {
            let policy = shell::capture(Command::new("apt-cache").args(["policy", package]));
            !policy.is_some_and(|text| has_candidate(&text))
        })
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "this system's apt has no package {}.\n\
         Debian 12 and 13 have LLVM 22 in their security archives, for Debian 12:\n\
         deb http://security.debian.org/debian-security bookworm-security main\n\
         https://apt.llvm.org has it for other releases. With LLVM and MLIR 22 elsewhere, set\n\
         LLVM_SYS_221_PREFIX, MLIR_SYS_220_PREFIX and TABLEGEN_220_PREFIX to its folder.",
        unknown.join(", ")
    )))
}

/// Whether `apt-cache policy` names a version that could be installed.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        assert!(has_candidate(
            "zlib1g-dev:\n  Installed: (none)\n  Candidate: 1:1.2.13\n"
        ));
        assert!(!has_candidate(
            "x:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(!has_candidate(""));
    }
}
