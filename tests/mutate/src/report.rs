//! Scores and survivors, for people and programs.
//!
//! In: verdicts. Out: text, Markdown, JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::judge::{Done, Verdict};
use crate::kinds::{self, Class};

/// A campaign's outcome.
#[derive(Clone, Debug)]
pub struct Report {
    pub kernels: Vec<String>,
    /// Mutants that a time limit left out.
    pub left_out: usize,
    /// Those that were run, by kind and kernel.
    pub done: Vec<Done>,
    pub seconds: f64,
    /// Whether the checkers ran.
    pub check: bool,
}

/// What the columns mean.
const WORDS: &str = "\
Written by `cargo xtask mutate --markdown tests/mutate/report.md`; sampled with a seed, so that it can be repeated. \
Each mutant is a kernel with one bug. It is run as early as possible, as late as allowed and at random, on launches \
of several sizes.

- refused: the text is no PTX for a Hopper device, or the tensor map is none. Not counted.
- same: shown to compute what the original computes; the reasons are at the end. Not counted.
- reported: the simulator stops with a fault, a race, a dead-lock, or because the kernel does not end.
- results: nothing is reported, and a byte that the kernel leaves behind differs from the original's.
- missed: neither, and nothing shows that it is the same.
- masked: it computes other values, of which no byte depends that any recorded launch leaves behind under any \
schedule. As far as anyone can see it behaves as the original does: `found` leaves it out, the last column counts it \
as missed.";

/// Why a kind of bug was missed where it was: found by reading the kernels, by kind and the beginning of the
/// kernel's name. What is not here is unexplained.
const WHY: [(&str, &str, &str); 2] = [
    (
        "wrong-init",
        "attention",
        "one arrive fewer at a stage: the checkers take a product of a warpgroup for read as soon as one of its four \
         warps has waited for it, so that the fourth warp's arrive is not missed; at the query's mbarrier: every block \
         has one tile, and nothing waits for it again",
    ),
    (
        "swap-setmaxnreg",
        "attention",
        "how many registers a thread has at the launch is the assembler's choice and not in the PTX, so that a \
         `.dec` to more than it has is not seen",
    ),
];

/// Counts of verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    pub run: usize,
    pub refused: usize,
    /// By the simulator itself.
    pub reported: usize,
    /// By results alone.
    pub differs: usize,
    /// Shown to compute the same.
    pub same: usize,
    /// Other values that no result depends on.
    pub masked: usize,
    pub survived: usize,
}

impl Score {
    fn add(&mut self, verdict: &Verdict) {
        self.run += 1;
        match verdict {
            Verdict::Refused(_) => self.refused += 1,
            Verdict::Reported { .. } => self.reported += 1,
            Verdict::Differs { .. } => self.differs += 1,
            Verdict::Unreached | Verdict::SameValue | Verdict::Same(_) => self.same += 1,
            Verdict::Masked => self.masked += 1,
            Verdict::Survived | Verdict::Panicked(_) => self.survived += 1,
        }
    }

    /// Mutants that change behaviour, as far as is known.
    #[must_use]
    pub const fn behave(&self) -> usize {
        self.reported + self.differs + self.survived
    }

    /// The share of those that was reported or gave itself away; 1 when there are none.
    #[must_use]
    pub fn found(&self) -> f64 {
        share(self.reported + self.differs, self.behave())
    }

    /// The share that the simulator reported without looking at results.
    #[must_use]
    pub fn by_simulator(&self) -> f64 {
        share(self.reported, self.behave())
    }

    /// As [`Self::found`], with every masked mutant counted as missed.
    #[must_use]
    pub fn strict(&self) -> f64 {
        share(self.reported + self.differs, self.behave() + self.masked)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

impl Report {
    /// Of the mutants that `which` accepts.
    pub fn score(&self, which: impl Fn(&Done) -> bool) -> Score {
        let mut score = Score::default();
        self.done
            .iter()
            .filter(|d| which(d))
            .for_each(|d| score.add(&d.verdict));
        score
    }

    /// Of a class of kinds.
    #[must_use]
    pub fn class(&self, class: Class) -> Score {
        self.score(|d| kinds::all()[d.kind].class == class)
    }

    /// The page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let _ = self.write_markdown(&mut out);
        out
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let kinds_run: std::collections::BTreeSet<usize> =
            self.done.iter().map(|d| d.kind).collect();
        let all = self.score(|_| true);
        writeln!(out, "# Mutation score\n")?;
        writeln!(out, "{WORDS}\n")?;
        let checkers = if self.check { "on" } else { "off" };
        writeln!(
            out,
            "The simulator's checkers were {checkers}; the run took {:.0} s.\n",
            self.seconds
        )?;
        writeln!(
            out,
            "{} mutants of {} kinds in {} kernels",
            all.run,
            kinds_run.len(),
            self.kernels.len()
        )?;
        if self.left_out > 0 {
            writeln!(
                out,
                "{} more were left out by the time limit",
                self.left_out
            )?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "| class | run | refused | same | change behaviour | reported by the simulator | by results alone | missed | masked | found | simulator alone | found, masked ones missed |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        let rows = [Class::Order, Class::Engines, Class::Values].map(|c| (c.name(), self.class(c)));
        for (name, s) in rows.into_iter().chain([("all", all)]) {
            score_row(out, name, &s)?;
        }
        writeln!(out, "\n## Kinds\n")?;
        writeln!(
            out,
            "| kind | what it does | class | run | refused | same | reported | results | missed | masked |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
        for (n, kind) in kinds::all().iter().enumerate() {
            let s = self.score(|d| d.kind == n);
            if s.run > 0 {
                writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    kind.name,
                    kind.what,
                    kind.class.name(),
                    s.run,
                    s.refused,
                    s.same,
                    s.reported,
                    s.differs,
                    s.survived,
                    s.masked
                )?;
            }
        }
        writeln!(out, "\n## Kernels\n")?;
        writeln!(
            out,
            "| kernel | run | refused | same | reported | results | missed | masked |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for kernel in &self.kernels {
            let s = self.score(|d| d.kernel == *kernel);
            writeln!(
                out,
                "| {kernel} | {} | {} | {} | {} | {} | {} | {} |",
                s.run, s.refused, s.same, s.reported, s.differs, s.survived, s.masked
            )?;
        }
        writeln!(out, "\n## Missed\n")?;
        self.list(out, |v| {
            matches!(v, Verdict::Survived | Verdict::Panicked(_))
        })?;
        writeln!(out, "\n## Masked\n")?;
        self.list(out, |v| matches!(v, Verdict::Masked))?;
        writeln!(out, "\n## Shown to be the same\n")?;
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for done in &self.done {
            *reasons
                .entry(match &done.verdict {
                    Verdict::Unreached => "the place is executed by no recorded launch",
                    Verdict::SameValue => {
                        "every execution computes the value that the original computes"
                    }
                    Verdict::Same(why) => why,
                    _ => continue,
                })
                .or_default() += 1;
        }
        for (reason, n) in reasons {
            writeln!(out, "- {n}: {reason}")?;
        }
        Ok(())
    }

    fn list(&self, out: &mut String, which: fn(&Verdict) -> bool) -> std::fmt::Result {
        let mut any = false;
        for d in self.done.iter().filter(|d| which(&d.verdict)) {
            any = true;
            let kind = kinds::all()[d.kind].name;
            let panic = match &d.verdict {
                Verdict::Panicked(text) => format!(": the simulator panicked: {text}"),
                Verdict::Survived => {
                    let why = WHY
                        .iter()
                        .find(|(k, start, _)| *k == kind && d.kernel.starts_with(start));
                    format!(": {}", why.map_or("unexplained", |(.., why)| *why))
                }
                _ => String::new(),
            };
            let note = if d.note.is_empty() {
                String::new()
            } else {
                format!(" ({})", d.note)
            };
            writeln!(
                out,
                "- {kind}{note}, {}, line {}: `{}`{panic}",
                d.kernel, d.line, d.text
            )?;
        }
        if !any {
            writeln!(out, "None.")?;
        }
        Ok(())
    }

    /// Everything, for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let done: Vec<serde_json::Value> = self
            .done
            .iter()
            .map(|d| {
                let (verdict, detail) = match &d.verdict {
                    Verdict::Refused(why) => ("refused", why.clone()),
                    Verdict::Reported { schedule, message } => ("reported", format!("{schedule}: {message}")),
                    Verdict::Differs { schedule } => ("differs", schedule.clone()),
                    Verdict::Unreached => ("unreached", String::new()),
                    Verdict::SameValue => ("same value", String::new()),
                    Verdict::Same(why) => ("same", (*why).to_owned()),
                    Verdict::Masked => ("masked", String::new()),
                    Verdict::Survived => ("survived", String::new()),
                    Verdict::Panicked(why) => ("panicked", why.clone()),
                };
                serde_json::json!({
                    "kernel": d.kernel, "kind": kinds::all()[d.kind].name, "line": d.line, "text": d.text,
                    "note": d.note, "verdict": verdict, "detail": detail,
                })
            })
            .collect();
        serde_json::json!({
            "kernels": self.kernels, "check": self.check, "seconds": self.seconds, "left_out": self.left_out,
            "mutants": done,
        })
    }
}

fn score_row(out: &mut String, name: &str, s: &Score) -> std::fmt::Result {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    writeln!(
        out,
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        s.run,
        s.refused,
        s.same,
        s.behave(),
        s.reported,
        s.differs,
        s.survived,
        s.masked,
        percent(s.found()),
        percent(s.by_simulator()),
        percent(s.strict())
    )
}
