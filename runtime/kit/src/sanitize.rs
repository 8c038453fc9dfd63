//! NVIDIA's compute-sanitizer over a short run.
//!
//! In: a tool (`memcheck`, `initcheck`, `synccheck`, `racecheck`) and a command. Out: how many errors its summary
//! counts and its first lines on them. Holds: a run without a summary is not a clean one.
//! The format is that of compute-sanitizer's own documentation: every line of it begins with `=========`, the last is
//! `ERROR SUMMARY: N errors`.

use serde::Serialize;

/// Most lines that are kept of what the tool said.
const LINES: usize = 40;

/// What the tool found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sanitized {
    /// Which one.
    pub tool: String,
    /// Of its summary; `None` when there was none.
    pub errors: Option<u64>,
    /// What it said, from the start.
    pub lines: Vec<String>,
}

/// Reads the tool's output.
#[must_use]
pub fn read(tool: &str, output: &str) -> Sanitized {
    let said: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("========="))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let errors = said.iter().rev().find_map(|line| {
        let count = line.strip_prefix("ERROR SUMMARY:")?;
        count.split_whitespace().next()?.parse().ok()
    });
    Sanitized {
        tool: tool.to_owned(),
        errors,
        lines: said
            .iter()
            .filter(|line| {
                !line.starts_with("COMPUTE-SANITIZER") && !line.starts_with("ERROR SUMMARY")
            })
            .take(LINES)
            .map(|line| (*line).to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_run_and_a_faulty_one() {
        let clean =
            "========= COMPUTE-SANITIZER\n{\"tokens\":[1]}\n========= ERROR SUMMARY: 0 errors\n";
        let read_clean = read("memcheck", clean);
        assert_eq!((read_clean.errors, read_clean.lines.len()), (Some(0), 0));

        let faulty = "========= COMPUTE-SANITIZER\n\
                      ========= Invalid __global__ read of size 4 bytes\n\
                      =========     at quantize+0x120\n\
                      ========= \n\
                      ========= ERROR SUMMARY: 1 error\n";
        let read_faulty = read("memcheck", faulty);
        assert_eq!(read_faulty.errors, Some(1));
        assert_eq!(read_faulty.lines[1], "at quantize+0x120");
    }

    #[test]
    fn no_summary_is_not_a_clean_run() {
        assert_eq!(
            read("memcheck", "========= Error: no device\n").errors,
            None
        );
    }
}
