//! The flags of `mcc sim` and `mccrt sim`, and what they do.
//!
//! Exit codes: 0 all fine; 1 a finding, a result that depends on the schedule,
//! or one that is not as expected; 2 something is wrong with what was handed in.

use std::path::{Path, PathBuf};

use mcc_sim::Completion;

use crate::error::InputError;
use crate::file::LaunchFile;
use crate::json::parse_bytes;
use crate::report::Report;
use crate::run::{Options, Schedules, run};
use crate::timeline::to_json;

/// What stands below the flags in the help of both commands.
pub const EXIT_CODES: &str = "Exit codes: 0 fine; 1 a finding, a result that depends on the schedule, or one that is \
    not as expected; 2 the PTX or the launch file has a mistake, or cannot be read.";

/// Larger ones keep their values in files.
const MOST_TEXT: u64 = 256 << 20;

#[derive(clap::Args, Debug, Clone)]
pub struct SimFlags {
    /// The PTX text, from any compiler.
    pub ptx: PathBuf,
    /// The launch file: what to launch, with which arguments, and what to expect.
    #[arg(long)]
    pub launch: PathBuf,
    /// Reports races, missing fences and uses of what nothing has written.
    #[arg(long)]
    pub check: bool,
    /// When asynchronous work takes effect: `early`, `late`, or at random times drawn from this number.
    #[arg(long, conflicts_with = "seeds", default_value = "early", value_parser = schedule)]
    pub seed: Completion,
    /// Runs so many schedules, the earliest, the latest and random ones, and compares their results.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: Option<u32>,
    /// Writes a time line of warps, barriers and asynchronous work to this file, for Perfetto or chrome://tracing.
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Prints the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// The most bytes of all buffers together, e.g. 16GiB.
    #[arg(long, default_value = "8GiB", value_parser = parse_bytes)]
    pub memory_limit: u64,
    /// The most warp instructions that one launch may execute.
    #[arg(long, default_value_t = Options::default().instruction_limit)]
    pub instruction_limit: u64,
    /// Threads of this machine to use [default: all].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// What to print, and what to end with.
#[derive(Debug)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    pub passed: bool,
}

impl SimFlags {
    /// Runs the command.
    pub fn run(&self) -> Result<Answer, InputError> {
        let ptx = read(&self.ptx)?;
        let file = LaunchFile::parse(&read(&self.launch)?)?;
        let dir = self.launch.parent().unwrap_or_else(|| Path::new(""));
        // Better to know now than after the run that it cannot be written.
        self.write_trace("")?;
        let report = run(&ptx, &file, dir, &self.options())?;
        self.write_trace(&to_json(&report.timeline, &ptx))?;
        Ok(self.answer(&report))
    }

    fn write_trace(&self, text: &str) -> Result<(), InputError> {
        let Some(path) = &self.trace else {
            return Ok(());
        };
        std::fs::write(path, text).map_err(|source| InputError::Io {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    fn options(&self) -> Options {
        Options {
            check: self.check,
            schedules: match self.seeds {
                Some(n) => Schedules::Many(n),
                None => Schedules::One(self.seed),
            },
            threads: self.threads,
            memory_limit: self.memory_limit,
            instruction_limit: self.instruction_limit,
            trace: self.trace.is_some(),
        }
    }

    fn answer(&self, report: &Report) -> Answer {
        Answer {
            text: if self.json {
                report.to_json()
            } else {
                report.to_string()
            },
            passed: report.passed(),
        }
    }
}

/// `early`, `late`, or a seed.
fn schedule(text: &str) -> Result<Completion, String> {
    match text {
        "early" => Ok(Completion::Early),
        "late" => Ok(Completion::Late),
        _ => text
            .parse()
            .map(Completion::Random)
            .map_err(|_| format!("`{text}` is no schedule: early, late, or a number")),
    }
}

fn read(path: &Path) -> Result<String, InputError> {
    let io = |source| InputError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MOST_TEXT {
        return Err(io(std::io::Error::other(format!(
            "{length} bytes of text, more than {MOST_TEXT}"
        ))));
    }
    std::fs::read_to_string(path).map_err(io)
}
