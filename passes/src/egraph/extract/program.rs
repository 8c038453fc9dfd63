//! Integer programs for the parts of an extraction problem.
//!
//! In: a problem and its greedy choice. Out: a choice that is no worse, and a bound that no choice beats. Variables are
//! 0 or 1; `x(n)` says that node `n` computes its class, and for a node with several results there is one variable
//! for each set of them that is used, `x(n, S)`, since what it costs is no sum over results.
//!
//! ```text
//! least  sum of cost(n, S) x(n, S)
//! with   sum of x over a class's nodes              = 1 where every choice computes the class, else <= 1
//!        sum of x over a class's nodes that read c <= sum of x over c's nodes
//!        sum of x over projections to result r     <= sum of x(n, S) over the tuple's nodes with r in S
//!        sum of x along a cycle                    <= its length - 1
//! ```
//!
//! The last kind is added when a solution has that cycle. Equal parts, of which there is one for each layer of a model,
//! are solved once. HiGHS works on one thread from a fixed seed, and is stopped by a number of nodes: the same
//! problem gives the same choice on every host. The clock is a guard alone: a part that it cuts short keeps the greedy
//! choice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use highs::{HighsModelStatus, RowProblem, Sense};

use super::Proof;
use super::parts::Parts;
use super::problem::{AltKind, Problem};
use crate::egraph::cost::{Cost, Femtoseconds};

/// How hard the programs try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Nodes of the branch-and-bound tree of a part.
    pub nodes: u32,
    /// Solutions with a cycle that are cut off from a part.
    pub cuts: usize,
    /// Time for all parts of an entry, after which the rest keeps the greedy choice.
    pub guard: Duration,
}

impl Default for Effort {
    /// Far above what models need: a part of DeepSeek-V3 takes one node and some milliseconds.
    fn default() -> Effort {
        Effort {
            nodes: 10_000,
            cuts: 64,
            guard: Duration::from_secs(10),
        }
    }
}

/// Results of a tuple that are told apart. No op of the table has as many.
const MAX_RESULTS: usize = 5;

/// Costs up to here, in nanoseconds, keep their digits in floating point.
const MAX_NS: f64 = 1e12;

const FS_PER_NS: f64 = 1e6;

/// Improves a choice part by part; what it proves goes into `proof`.
pub(super) fn improve(
    problem: &Problem,
    choice: &[Option<usize>],
    effort: &Effort,
    proof: &mut Proof,
) -> Vec<Option<usize>> {
    let cut = Parts::of(problem);
    let deadline = Instant::now() + effort.guard;
    let mut known: HashMap<Part, Solved> = HashMap::new();
    let mut better = choice.to_vec();
    for classes in &cut.parts {
        let part = Part::new(problem, classes, &cut.always, choice);
        let greedy = part.cost(&part.greedy);
        if !part.has_choice() {
            proof.bound += greedy.time;
            continue;
        }
        proof.parts += 1;
        let solved = known.entry(part).or_insert_with_key(|part| {
            let solved = part.solve(effort, deadline);
            proof.distinct += 1;
            if let Some(why) = &solved.open {
                proof.open.push(why.clone());
            }
            solved
        });
        proof.bound += solved.bound.min(greedy.time);
        if let Some(taken) = &solved.choice {
            for (class, alt) in classes.iter().zip(taken) {
                better[*class] = *alt;
            }
        }
    }
    better
}

/// A part by itself: classes are numbered from 0, and what lies outside is gone. Equal parts have equal programs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    classes: Vec<PartClass>,
    /// The greedy choice.
    greedy: Vec<Option<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PartClass {
    always: bool,
    results: usize,
    alts: Vec<PartAlt>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PartAlt {
    /// Classes of this part that it reads.
    operands: Vec<usize>,
    /// The result that it takes, for a projection.
    result: Option<usize>,
    /// For each set of used results, as bits from set 1 on; one entry where there is one result.
    costs: Vec<(Femtoseconds, i128)>,
}

/// What is known of a part.
struct Solved {
    /// The best choice, where it is better than the greedy one.
    choice: Option<Vec<Option<usize>>>,
    /// No choice takes less time.
    bound: Femtoseconds,
    /// Why it is not the best for sure.
    open: Option<String>,
}

impl Part {
    fn new(
        problem: &Problem,
        classes: &[usize],
        always: &[bool],
        choice: &[Option<usize>],
    ) -> Part {
        let local = |class: &usize| classes.binary_search(class).ok();
        let of = |class: &usize| {
            let at = &problem.classes[*class];
            let sets = if at.results > 1 {
                1u32 << at.results.min(MAX_RESULTS)
            } else {
                2
            };
            let alts = at.alts.iter().map(|alt| PartAlt {
                operands: alt.operands().iter().filter_map(local).collect(),
                result: match alt.kind {
                    AltKind::Projection { result, .. } => Some(result),
                    AltKind::Op { .. } => None,
                },
                costs: (1..sets)
                    .map(|set| {
                        let cost = alt.cost(|result| at.results == 1 || set >> result & 1 == 1);
                        (cost.time, cost.ops)
                    })
                    .collect(),
            });
            PartClass {
                always: always[*class],
                results: at.results,
                alts: alts.collect(),
            }
        };
        Part {
            classes: classes.iter().map(of).collect(),
            greedy: classes.iter().map(|class| choice[*class]).collect(),
        }
    }

    fn has_choice(&self) -> bool {
        self.classes.iter().any(|class| class.alts.len() > 1)
    }

    /// Which results of a tuple a choice uses, as bits; 1 for a class with one result.
    fn used(&self, choice: &[Option<usize>], class: usize) -> usize {
        if self.classes[class].results < 2 {
            return 1;
        }
        let mut used = 0;
        for (at, alt) in choice.iter().enumerate() {
            let Some(alt) = alt.map(|alt| &self.classes[at].alts[alt]) else {
                continue;
            };
            if let Some(result) = alt.result
                && alt.operands.contains(&class)
            {
                used |= 1 << result;
            }
        }
        used
    }

    /// The cost of a choice, of the classes that it computes.
    fn cost(&self, choice: &[Option<usize>]) -> Cost {
        let mut cost = Cost::default();
        for (class, alt) in choice.iter().enumerate() {
            if let Some(alt) = alt
                && let Some(set) = self.used(choice, class).checked_sub(1)
                && let Some((time, ops)) = self.classes[class].alts[*alt].costs.get(set)
            {
                cost += Cost {
                    time: *time,
                    ops: *ops,
                };
            }
        }
        cost
    }

    /// What the classes that must be computed take at least.
    fn floor(&self) -> Femtoseconds {
        let least = |class: &PartClass| {
            let costs = class.alts.iter().flat_map(|alt| &alt.costs);
            costs.map(|(time, _)| *time).min().unwrap_or(0)
        };
        let classes = self.classes.iter().filter(|class| class.always);
        classes.map(least).sum()
    }

    fn solve(&self, effort: &Effort, deadline: Instant) -> Solved {
        let open = |why: &str, bound: Femtoseconds| Solved {
            choice: None,
            bound: bound.max(self.floor()),
            open: Some(why.to_owned()),
        };
        if self.classes.iter().any(|class| class.results > MAX_RESULTS) {
            return open("an op with too many results", 0);
        }
        let largest = self.classes.iter().flat_map(|class| &class.alts);
        let largest = largest
            .flat_map(|alt| &alt.costs)
            .map(|(time, _)| *time)
            .max();
        if largest.is_some_and(|time| time as f64 / FS_PER_NS > MAX_NS) {
            return open("costs beyond the digits of floating point", 0);
        }
        let mut cuts: Vec<Cycle> = Vec::new();
        let mut bound = 0;
        for _ in 0..=effort.cuts {
            let answer = match self.run(effort, deadline, &cuts) {
                Ok(answer) => answer,
                Err(why) => return open(why, bound),
            };
            bound = bound.max(answer.bound);
            if let Some(cycle) = self.cycle(&answer.choice) {
                cuts.push(cycle);
                continue;
            }
            let (cost, greedy) = (self.cost(&answer.choice), self.cost(&self.greedy));
            let better = cost < greedy;
            return Solved {
                // The best is its own bound: what the solver says of it has been through floating point.
                bound: if answer.proven {
                    cost.time.min(greedy.time)
                } else {
                    bound
                },
                choice: better.then_some(answer.choice),
                open: (!answer.proven).then(|| "stopped by the limit on nodes".to_owned()),
            };
        }
        open("stopped by the limit on cycles", bound)
    }

    /// One run of the solver, with these cycles cut off.
    fn run(
        &self,
        effort: &Effort,
        deadline: Instant,
        cuts: &[Cycle],
    ) -> Result<Answer, &'static str> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no time was left");
        }
        let mut program = RowProblem::new();
        let mut start = Vec::new();
        // Columns of each class, node and set of results.
        let mut columns = Vec::new();
        for (at, class) in self.classes.iter().enumerate() {
            let used = self.used(&self.greedy, at);
            let mut of_class = Vec::new();
            for (number, alt) in class.alts.iter().enumerate() {
                let mut of_alt = Vec::new();
                for (set, (time, _)) in alt.costs.iter().enumerate() {
                    let most = if alt.operands.contains(&at) { 0 } else { 1 };
                    of_alt.push(program.add_integer_column(*time as f64 / FS_PER_NS, 0..=most));
                    let taken = self.greedy[at] == Some(number) && used == set + 1;
                    start.push(if taken { 1.0 } else { 0.0 });
                }
                of_class.push(of_alt);
            }
            columns.push(of_class);
        }
        let all = |class: usize, factor: f64| {
            let columns = columns[class].iter().flatten();
            columns.map(move |column| (*column, factor))
        };
        for (at, class) in self.classes.iter().enumerate() {
            let row: Vec<_> = all(at, 1.0).collect();
            if class.always {
                program.add_row(1..=1, row);
            } else {
                program.add_row(..=1, row);
            }
            // What the nodes of the class read: a class, or a result of a tuple.
            let mut reads: Vec<(usize, Option<usize>)> = class
                .alts
                .iter()
                .flat_map(|alt| alt.operands.iter().map(|operand| (*operand, alt.result)))
                .filter(|(operand, result)| {
                    *operand != at && (result.is_some() || !self.classes[*operand].always)
                })
                .collect();
            reads.sort_unstable();
            reads.dedup();
            for (operand, result) in reads {
                let readers = class.alts.iter().zip(&columns[at]);
                let readers = readers
                    .filter(|(alt, _)| alt.operands.contains(&operand) && alt.result == result);
                let mut row: Vec<_> = readers
                    .flat_map(|(_, columns)| columns.iter().map(|column| (*column, -1.0)))
                    .collect();
                for columns in &columns[operand] {
                    let sets = columns.iter().enumerate();
                    let fits =
                        sets.filter(|(set, _)| result.is_none_or(|r| (set + 1) >> r & 1 == 1));
                    row.extend(fits.map(|(_, column)| (*column, 1.0)));
                }
                program.add_row(0.., row);
            }
        }
        for Cycle(classes) in cuts {
            let mut row = Vec::new();
            for (at, class) in classes.iter().enumerate() {
                let next = classes[(at + 1) % classes.len()];
                let readers = self.classes[*class].alts.iter().zip(&columns[*class]);
                let readers = readers.filter(|(alt, _)| alt.operands.contains(&next));
                row.extend(readers.flat_map(|(_, columns)| columns.iter().map(|c| (*c, 1.0))));
            }
            program.add_row(..=(classes.len() as f64 - 1.0), row);
        }

        let fails = "the solver failed";
        let mut model = program.try_optimise(Sense::Minimise).map_err(|_| fails)?;
        model.make_quiet();
        let nodes = i32::try_from(effort.nodes).unwrap_or(i32::MAX);
        let set = [
            model.try_set_option("threads", 1),
            model.try_set_option("parallel", "off"),
            model.try_set_option("random_seed", 0),
            model.try_set_option("mip_rel_gap", 0.0),
            model.try_set_option("mip_max_nodes", nodes),
            // Takes most of the time of a small program, which the first relaxation all but solves.
            model.try_set_option("mip_heuristic_run_feasibility_jump", false),
            model.try_set_option("time_limit", left.as_secs_f64()),
        ];
        if set.iter().any(Result::is_err) {
            return Err(fails);
        }
        // A start that a cut forbids would be refused with a warning; the solver then finds its own.
        let _ = model.try_set_solution(Some(&start), None, None, None);
        let solved = model.try_solve().map_err(|_| fails)?;
        let proven = match solved.status() {
            HighsModelStatus::Optimal => true,
            HighsModelStatus::ReachedSolutionLimit | HighsModelStatus::ReachedIterationLimit => {
                false
            }
            HighsModelStatus::ReachedTimeLimit => return Err("stopped by the guard on time"),
            _ => return Err(fails),
        };
        let bound = solved
            .double_info_value(c"mip_dual_bound")
            .map_err(|_| fails)?;
        let solution = solved.get_solution();
        let values = solution.columns();
        let taken = columns.iter().map(|of_class| {
            of_class.iter().position(|of_alt| {
                let mut columns = of_alt.iter();
                columns.any(|column| values.get(column.index()).is_some_and(|value| *value > 0.5))
            })
        });
        Ok(Answer {
            choice: self.needed(taken.collect()),
            bound: (bound * FS_PER_NS).floor().max(0.0) as Femtoseconds,
            proven,
        })
    }

    /// The choice without what nothing reads.
    fn needed(&self, mut choice: Vec<Option<usize>>) -> Vec<Option<usize>> {
        let mut needed: Vec<bool> = self.classes.iter().map(|class| class.always).collect();
        let mut stack: Vec<usize> = (0..needed.len()).filter(|at| needed[*at]).collect();
        while let Some(class) = stack.pop() {
            let alt = choice[class].map(|alt| &self.classes[class].alts[alt]);
            for operand in alt.map_or(&[][..], |alt| &alt.operands) {
                if !std::mem::replace(&mut needed[*operand], true) {
                    stack.push(*operand);
                }
            }
        }
        for (alt, needed) in choice.iter_mut().zip(needed) {
            if !needed {
                *alt = None;
            }
        }
        choice
    }

    /// Classes that a choice computes from each other, if there are any.
    fn cycle(&self, choice: &[Option<usize>]) -> Option<Cycle> {
        let operands = |class: usize| {
            let alt = choice[class].map(|alt| &self.classes[class].alts[alt]);
            alt.map_or(&[][..], |alt| &alt.operands)
        };
        let mut done = vec![false; choice.len()];
        for first in 0..choice.len() {
            // The path down, with the operand that is next at each class.
            let mut path: Vec<(usize, usize)> = if done[first] {
                vec![]
            } else {
                vec![(first, 0)]
            };
            while let Some((class, next)) = path.last_mut() {
                let Some(operand) = operands(*class).get(*next).copied() else {
                    done[*class] = true;
                    path.pop();
                    continue;
                };
                *next += 1;
                if let Some(at) = path.iter().position(|(class, _)| *class == operand) {
                    return Some(Cycle(path[at..].iter().map(|(class, _)| *class).collect()));
                }
                if !done[operand] {
                    path.push((operand, 0));
                }
            }
        }
        None
    }
}

/// Classes of which each reads the next, and the last one the first.
struct Cycle(Vec<usize>);

/// The solver's answer.
struct Answer {
    choice: Vec<Option<usize>>,
    bound: Femtoseconds,
    /// Whether the choice is the best, cycles allowed.
    proven: bool,
}
