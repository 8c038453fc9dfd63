//! Runs mutants and says what became of each.
//!
//! In: subjects, which kinds, how many, how long. Out: a verdict for every mutant that was run.
//! Holds: everything is drawn from one seed, so that a run can be repeated; the order is shuffled, so that a time
//! limit leaves a sample and not the first kernels.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mcc_sim::{Completion, FaultKind, SimError};
use rayon::prelude::*;

use crate::Error;
use crate::kinds::{self, Change, Class, Mutant, edited};
use crate::probe;
use crate::report::Report;
use crate::same;
use crate::subject::{Case, Left, Setting, Subject};

/// The usual number of launches of a kernel.
const CASES: usize = 4;

/// Instructions of one cluster beyond which a mutant hangs: the original's average, so many times, and as many.
const PATIENCE: (u64, u64) = (8, 200_000);

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Kernels whose names contain one of these; all when empty.
    pub kernels: Vec<String>,
    /// Names of kinds; all when empty.
    pub kinds: Vec<String>,
    /// At most so many mutants of one kind in one kernel; 0 for all.
    pub each: usize,
    /// Launches of a kernel that its mutants are run on; more where that many do not execute all that is executed.
    pub launches: usize,
    /// Of random schedules for the originals; two more are the extremes.
    pub seeds: u64,
    /// Draws the sample.
    pub seed: u64,
    /// At most so many mutants in all; 0 for all.
    pub most: usize,
    /// No mutant begins so long after the first one.
    pub limit: Option<Duration>,
    /// Whether the simulator's checkers run.
    pub check: bool,
}

impl Default for Campaign {
    fn default() -> Self {
        Self {
            kernels: Vec::new(),
            kinds: Vec::new(),
            each: 2,
            launches: CASES,
            seeds: 2,
            seed: 1,
            most: 0,
            limit: None,
            check: true,
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is no PTX, or none that a Hopper device takes: nothing to find.
    Refused(String),
    /// The simulator said so.
    Reported { schedule: String, message: String },
    /// The run ended without complaint, with other results.
    Differs { schedule: String },
    /// No recorded launch executes the place: the launch computes the same.
    Unreached,
    /// Executed, and every time with the value that the original has.
    SameValue,
    /// The same by what PTX says, and why.
    Same(&'static str),
    /// It computes other values, which no result of any recorded launch depends on.
    Masked,
    /// Nothing showed. Counted as missed.
    Survived,
    /// The simulator panicked: a defect of it.
    Panicked(String),
}

/// A mutant that was run.
#[derive(Clone, Debug)]
pub struct Done {
    pub kernel: String,
    /// Index in [`kinds::all`].
    pub kind: usize,
    /// The line of the original, its text, and what was done to it.
    pub line: u32,
    pub text: String,
    pub note: String,
    pub verdict: Verdict,
}

/// A subject that is known to be clean.
struct Ready<'s> {
    subject: &'s Subject,
    /// Those that every mutant is run on.
    cases: Vec<ReadyCase<'s>>,
    /// Those that are asked when none of the first showed anything.
    more: Vec<ReadyCase<'s>>,
}

struct ReadyCase<'s> {
    case: &'s Case,
    left: Left,
    reached: Vec<bool>,
    limit: u64,
}

impl Campaign {
    fn wanted(&self, kernel: &str) -> bool {
        self.kernels.is_empty() || self.kernels.iter().any(|k| kernel.contains(k.as_str()))
    }

    /// Runs the unchanged kernels under `seeds` random schedules and the two extreme ones: how many runs there were.
    ///
    /// # Errors
    /// At the first report: a false alarm, or a bug of the kernel.
    pub fn originals(
        &self,
        subjects: &[Subject],
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<u64, Vec<Error>> {
        let subjects = subjects.iter().filter(|s| self.wanted(&s.kernel));
        let work: Vec<(&Subject, &Case)> = subjects
            .flat_map(|s| s.cases.iter().take(self.launches).map(move |c| (s, c)))
            .collect();
        let found: Vec<Result<u64, Error>> = work
            .par_iter()
            .map(|(subject, case)| {
                let mut first: Option<Left> = None;
                let mut runs = 0;
                for completion in schedules(self.seeds) {
                    let left = clean(subject, case, completion, self.check)?;
                    runs += 1;
                    match &first {
                        None => first = Some(left),
                        Some(first) if first.memory == left.memory => {}
                        Some(_) => {
                            return Err(Error::Unstable {
                                kernel: subject.kernel.clone(),
                                setting: format!("{completion:?}"),
                                case: case.label.clone(),
                            });
                        }
                    }
                }
                progress(&subject.kernel);
                Ok(runs)
            })
            .collect();
        let (runs, alarms): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        let alarms: Vec<Error> = alarms.into_iter().filter_map(Result::err).collect();
        if alarms.is_empty() {
            Ok(runs.into_iter().flatten().sum())
        } else {
            Err(alarms)
        }
    }

    /// Plants bugs and judges what comes of them.
    ///
    /// # Errors
    /// When an original is not clean.
    pub fn run(
        &self,
        subjects: &[Subject],
        progress: &(dyn Fn(&Done) + Sync),
    ) -> Result<Report, Error> {
        let began = Instant::now();
        let subjects: Vec<&Subject> = subjects.iter().filter(|s| self.wanted(&s.kernel)).collect();
        let ready: Vec<Ready<'_>> = subjects
            .par_iter()
            .map(|s| self.prepare(s))
            .collect::<Result<_, Error>>()?;
        let mut work: Vec<(&Ready<'_>, Mutant)> = Vec::new();
        for one in &ready {
            work.extend(self.sample(one).into_iter().map(|m| (one, m)));
        }
        shuffle(&mut work, self.seed);
        if self.most > 0 {
            work.truncate(self.most);
        }
        let first = Instant::now();
        let late = || self.limit.is_some_and(|limit| first.elapsed() >= limit);
        let done: Vec<Option<Done>> = work
            .par_iter()
            .map(|(ready, mutant)| {
                if late() {
                    return None;
                }
                let done = self.judge(ready, mutant);
                progress(&done);
                Some(done)
            })
            .collect();
        let planted = done.len();
        let mut done: Vec<Done> = done.into_iter().flatten().collect();
        done.sort_by(|a, b| {
            (a.kind, &a.kernel, a.line, &a.note).cmp(&(b.kind, &b.kernel, b.line, &b.note))
        });
        Ok(Report {
            kernels: ready.iter().map(|r| r.subject.kernel.clone()).collect(),
            left_out: planted - done.len(),
            done,
            seconds: began.elapsed().as_secs_f64(),
            check: self.check,
        })
    }

    fn prepare<'s>(&self, subject: &'s Subject) -> Result<Ready<'s>, Error> {
        let mut all = Vec::new();
        for case in &subject.cases {
            let left = clean(subject, case, Completion::Early, self.check)?;
            let reached = probe::reached(subject, case).map_err(|source| Error::Unclean {
                kernel: subject.kernel.clone(),
                setting: "marking what is executed".to_owned(),
                case: case.label.clone(),
                source: Box::new(source),
            })?;
            let average = left.stats.warp_instructions / case.clusters();
            let limit = average * PATIENCE.0 + PATIENCE.1;
            all.push(ReadyCase {
                case,
                left,
                reached,
                limit,
            });
        }
        // Cheap launches that each execute something new; then others, for other extents.
        all.sort_by_key(|c| c.left.stats.warp_instructions);
        let mut seen = BTreeSet::new();
        let (mut cases, mut rest) = (Vec::new(), Vec::new());
        for case in all.into_iter().rev() {
            let new: Vec<usize> = (0..case.reached.len())
                .filter(|&n| case.reached[n] && !seen.contains(&n))
                .collect();
            if new.is_empty() {
                rest.push(case);
            } else {
                seen.extend(new);
                cases.push(case);
            }
        }
        rest.reverse();
        let free = self.launches.saturating_sub(cases.len());
        let more = rest.split_off(free.min(rest.len()));
        cases.extend(rest);
        cases.sort_by_key(|c| c.left.stats.warp_instructions);
        for case in &cases {
            for completion in [Completion::Late, Completion::Random(1)] {
                let left = clean(subject, case.case, completion, self.check)?;
                if left.memory != case.left.memory {
                    return Err(Error::Unstable {
                        kernel: subject.kernel.clone(),
                        setting: format!("{completion:?}"),
                        case: case.case.label.clone(),
                    });
                }
            }
        }
        Ok(Ready {
            subject,
            cases,
            more,
        })
    }

    /// Mutants of one kernel, at most so many of a kind.
    fn sample(&self, ready: &Ready<'_>) -> Vec<Mutant> {
        let reached = |at: usize| ready.cases.iter().any(|c| c.reached[at]);
        let mut all = kinds::mutants(ready.subject, &reached);
        if !self.kinds.is_empty() {
            all.retain(|m| self.kinds.iter().any(|k| k == m.kind().name));
        }
        if self.each == 0 {
            return all;
        }
        shuffle(&mut all, self.seed ^ hash(&ready.subject.kernel));
        let mut counts = vec![0; kinds::all().len()];
        all.retain(|m| {
            counts[m.kind] += 1;
            counts[m.kind] <= self.each
        });
        all
    }

    fn judge(&self, ready: &Ready<'_>, mutant: &Mutant) -> Done {
        let subject = ready.subject;
        let (text, line, note) = match &mutant.change {
            Change::Text(edit) => {
                let line = match &subject.body().stmts[edit.site] {
                    mcc_ptx::Stmt::Inst(inst) => inst.line,
                    _ => 0,
                };
                (edited(subject, edit), line, edit.note.clone())
            }
            Change::Map { note, at, .. } => {
                (subject.ptx.clone(), 0, format!("map at byte {at}: {note}"))
            }
        };
        let verdict = catch_unwind(AssertUnwindSafe(|| self.verdict(ready, mutant, &text)));
        let verdict = verdict.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Verdict::Panicked(text.unwrap_or_default())
        });
        let original = subject.ptx.lines().nth((line as usize).wrapping_sub(1));
        Done {
            kernel: subject.kernel.clone(),
            kind: mutant.kind,
            line,
            text: original.unwrap_or_default().trim().to_owned(),
            note,
            verdict,
        }
    }

    fn verdict(&self, ready: &Ready<'_>, mutant: &Mutant, text: &str) -> Verdict {
        let subject = ready.subject;
        if let Err(err) = mcc_ptx::parse(text) {
            return Verdict::Refused(err.to_string());
        }
        let order = mutant.kind().class == Class::Order;
        let cases: Vec<&ReadyCase<'_>> = match &mutant.change {
            Change::Text(edit) => ready
                .cases
                .iter()
                .filter(|c| c.reached[edit.site])
                .collect(),
            Change::Map { .. } => ready.cases.iter().collect(),
        };
        let mut tried = vec![Completion::Early, Completion::Late, Completion::Random(1)];
        if order {
            tried.extend((2..=6).map(Completion::Random));
        }
        let mut cost_unchanged = true;
        for (nth, completion) in tried.into_iter().enumerate() {
            // More seeds only where a launch is cheap.
            for case in cases.iter().take(if nth < 3 { usize::MAX } else { 1 }) {
                match self.once(subject, case, mutant, text, completion) {
                    Ok(left) if left.memory != case.left.memory => {
                        return Verdict::Differs {
                            schedule: format!("{completion:?}"),
                        };
                    }
                    Ok(left) => {
                        cost_unchanged &= nth > 0 || left.stats == case.left.stats;
                    }
                    Err(
                        err @ (SimError::BadPtx { .. }
                        | SimError::Unsupported { .. }
                        | SimError::Invalid { .. }
                        | SimError::TensorMap(_)),
                    ) => return Verdict::Refused(err.to_string()),
                    Err(err) => {
                        return Verdict::Reported {
                            schedule: format!("{completion:?}"),
                            message: short(&err),
                        };
                    }
                }
            }
        }
        for case in &ready.more {
            if matches!(&mutant.change, Change::Text(edit) if !case.reached[edit.site]) {
                continue;
            }
            match self.once(subject, case, mutant, text, Completion::Late) {
                Ok(left) if left.memory == case.left.memory => {}
                Ok(_) => {
                    return Verdict::Differs {
                        schedule: "Late".to_owned(),
                    };
                }
                Err(err) => {
                    return Verdict::Reported {
                        schedule: "Late".to_owned(),
                        message: short(&err),
                    };
                }
            }
        }
        self.explain(subject, &cases, mutant, cost_unchanged)
    }

    fn once(
        &self,
        subject: &Subject,
        case: &ReadyCase<'_>,
        mutant: &Mutant,
        text: &str,
        completion: Completion,
    ) -> Result<Left, SimError> {
        let change = match &mutant.change {
            Change::Map { at, change, .. } => Some((*at, *change)),
            Change::Text(_) => None,
        };
        let setting = Setting {
            completion,
            check: self.check,
            limit: Some(case.limit),
            map: change,
        };
        case.case.run(&subject.kernel, text, &setting)
    }

    /// Why nothing showed.
    fn explain(
        &self,
        subject: &Subject,
        cases: &[&ReadyCase<'_>],
        mutant: &Mutant,
        same_cost: bool,
    ) -> Verdict {
        let Change::Text(edit) = &mutant.change else {
            return if same_cost {
                Verdict::Masked
            } else {
                Verdict::Survived
            };
        };
        if cases.is_empty() {
            return Verdict::Unreached;
        }
        if let Some(reason) = same::by_definition(subject, edit, mutant.kind().name) {
            return Verdict::Same(reason);
        }
        let quiet = |probe: &str, completion| {
            cases.iter().all(|case| {
                let setting = Setting {
                    completion,
                    check: false,
                    limit: Some(case.limit),
                    map: None,
                };
                // Anything but a clean end leaves the question open.
                case.case.run(&subject.kernel, probe, &setting).is_ok()
            })
        };
        if let Some(probe) = probe::infection(subject, edit)
            && quiet(&probe, Completion::Early)
        {
            return Verdict::SameValue;
        }
        if matches!(mutant.kind().name, "drop-wait" | "wrong-wait")
            && let Some(probe) = probe::early(subject, edit)
            && schedules(6).all(|completion| quiet(&probe, completion))
        {
            return Verdict::Same(
                "under every schedule tried the phase that the original waits for has completed when the mutant goes \
                 on: the first use of a free stage, or a wait for what comes later",
            );
        }
        if mutant.kind().class == Class::Order {
            Verdict::Survived
        } else {
            Verdict::Masked
        }
    }
}

/// Early, late, and so many random ones.
pub fn schedules(seeds: u64) -> impl Iterator<Item = Completion> {
    let extremes = [Completion::Early, Completion::Late];
    extremes
        .into_iter()
        .chain((1..=seeds).map(Completion::Random))
}

/// Runs an original.
fn clean(
    subject: &Subject,
    case: &Case,
    completion: Completion,
    check: bool,
) -> Result<Left, Error> {
    let setting = Setting {
        completion,
        check,
        limit: None,
        map: None,
    };
    case.run(&subject.kernel, &subject.ptx, &setting)
        .map_err(|source| Error::Unclean {
            kernel: subject.kernel.clone(),
            setting: format!("{completion:?}"),
            case: case.label.clone(),
            source: Box::new(source),
        })
}

/// The first line of a report, without the kernel's name, which stands beside it.
fn short(err: &SimError) -> String {
    match err {
        SimError::Fault(fault) => {
            let what = match &fault.kind {
                FaultKind::InstructionLimit(_) => "it does not end".to_owned(),
                other => other.to_string(),
            };
            format!("line {}: {what}", fault.line)
        }
        SimError::Deadlock(dead) => {
            let first = dead.waits.first();
            let first = first.map(|w| format!(": line {}: {}", w.line, w.reason));
            format!("dead-lock{}", first.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// A number for a name (FNV-1a).
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Fisher and Yates, with SplitMix64.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let random = mcc_runtime::SplitMix64::new(seed);
    for n in (1..items.len()).rev() {
        let other = random.bits(n as u64) % (n as u64 + 1);
        items.swap(n, other as usize);
    }
}
