//! The greedy choice: moves from the author's own graph, tried in a fixed order and kept when they lower the total, until
//! none does.
//!
//! ```text
//! one class          q   = quantize(swiglu(x))    ->  q   = swiglu_quantize(x)
//! several at once    sum = add(x, r)              ->  sum = proj0(add_rms_norm(x, r, w))
//!                    y   = rms_norm(sum, w)       ->  y   = proj1(add_rms_norm(x, r, w))
//! several leave      sum = proj0(add_rms_norm(..))    ->  sum = matmul_add(x, w, r)
//!                    y   = proj1(add_rms_norm(..))    ->  y   = rms_norm(sum, w)
//! ```
//!
//! The second kind exists because what several classes read pays only when they all do: a fused op when all of
//! its results are taken from it, one cast when each of its users gives up its own. The third undoes the second where
//! one of the results has a better way: the fused op is paid for until the last of them is gone. What a move changes is
//! counted by references, so a move costs as much as the part of the graph that comes alive or dies. Afterwards
//! the choice is acyclic and no more expensive than the input.

use std::collections::HashMap;

use super::problem::{Alt, AltKind, Problem};
use crate::egraph::cost::Cost;

/// Rounds over all classes. Each keeps only moves that lower the cost; a handful suffices for real models.
const MAX_ROUNDS: usize = 32;

/// How far an estimate looks below a class that is not computed yet.
const MAX_DEPTH: usize = 24;

/// The node chosen for each class that the roots need; `None` for the others.
///
/// # Errors
/// A root that no node of the author computes, as a sentence: a bug of the caller.
pub(super) fn choose(problem: &Problem) -> Result<Vec<Option<usize>>, String> {
    let mut state = State::new(problem);
    for root in &problem.roots {
        if !state.acquire(*root) {
            let class = problem.classes[*root].id;
            return Err(format!("class {class} has no node of the input"));
        }
    }
    state.log.clear();
    state.moving = true;
    for _ in 0..MAX_ROUNDS {
        let mut improved = false;
        for class in 0..problem.classes.len() {
            for alt in 0..problem.classes[class].alts.len() {
                improved |= state.try_moves(class, alt);
            }
        }
        if !improved {
            break;
        }
    }
    let alive = |class: usize| {
        (state.refs[class] > 0)
            .then(|| state.choice[class])
            .flatten()
    };
    Ok((0..problem.classes.len()).map(alive).collect())
}

/// A change to undo.
enum Undo {
    Choice(usize, Option<usize>),
    Refs(usize, usize),
    Used(usize, usize, usize),
}

/// The present choice and what is alive under it.
struct State<'a> {
    problem: &'a Problem,
    /// The chosen node; kept when the class dies.
    choice: Vec<Option<usize>>,
    /// How many operands of living nodes, and roots, read the class.
    refs: Vec<usize>,
    /// For tuples: how many living projections take each result.
    used: Vec<Vec<usize>>,
    total: Cost,
    /// Whether the author's own choice is alive by now.
    moving: bool,
    /// Changes of the move that is being tried.
    log: Vec<Undo>,
}

impl<'a> State<'a> {
    fn new(problem: &'a Problem) -> State<'a> {
        State {
            problem,
            choice: problem.classes.iter().map(|class| class.original).collect(),
            refs: vec![0; problem.classes.len()],
            used: problem
                .classes
                .iter()
                .map(|class| vec![0; class.results])
                .collect(),
            total: Cost::default(),
            moving: false,
            log: Vec::new(),
        }
    }

    fn chosen(&self, class: usize) -> Option<&'a Alt> {
        self.problem.classes[class].alts.get(self.choice[class]?)
    }

    /// Tries to let `class` be computed by `alt`: together with everything else that could read the same new
    /// operand, then alone. Whether a move was kept.
    fn try_moves(&mut self, class: usize, alt: usize) -> bool {
        if self.refs[class] == 0 || self.choice[class] == Some(alt) {
            return false;
        }
        for operand in self.problem.classes[class].alts[alt].operands() {
            let together = self.readers_together(*operand);
            // The first of them tries for all.
            if together.len() > 1 && together[0].0 == class && self.try_move(&together) {
                return true;
            }
        }
        if self.choice[class] == Some(alt) {
            return false;
        }
        self.try_move(&[(class, alt)])
            || self
                .leaving_together(class, alt)
                .iter()
                .any(|together| self.try_move(together))
    }

    /// For a class that is a result of a tuple, moves in which it takes `alt` and each other class leaves the tuple
    /// as well: all of them to another tuple, or each to the cheapest node that takes nothing of this one.
    fn leaving_together(&self, class: usize, alt: usize) -> Vec<Vec<(usize, usize)>> {
        let from = |alt: &Alt| match alt.kind {
            AltKind::Projection { tuple, .. } => Some(tuple),
            AltKind::Op { .. } => None,
        };
        let Some(tuple) = self.chosen(class).and_then(from) else {
            return Vec::new();
        };
        let readers = self.problem.classes[tuple].readers.iter();
        let mut others: Vec<usize> = readers.map(|(reader, _)| *reader).collect();
        others.dedup();
        others.retain(|&reader| {
            let reads = self.chosen(reader).and_then(from) == Some(tuple);
            reader != class && self.refs[reader] > 0 && reads
        });
        let Some(first) = others.first() else {
            return Vec::new();
        };
        let to = |other: usize| -> Option<Vec<(usize, usize)>> {
            let moves = others.iter().map(|&class| {
                let alts = &self.problem.classes[class].alts;
                let alt = alts.iter().position(|alt| from(alt) == Some(other))?;
                Some((class, alt))
            });
            moves.collect()
        };
        let alts = self.problem.classes[*first].alts.iter();
        let tuples = alts.filter_map(from).filter(|other| *other != tuple);
        let cheapest = others.iter().map(|&class| {
            let stays = |alt: &Alt| from(alt) != Some(tuple);
            let best = self.estimate(class, &mut Vec::new(), &mut HashMap::new(), &stays);
            best.map(|(_, alt)| (class, alt))
        });
        let ways = tuples.map(to).chain([cheapest.collect()]);
        ways.flatten()
            .map(|mut way| {
                way.insert(0, (class, alt));
                way
            })
            .collect()
    }

    /// For a tuple, or a class that is not computed yet: every living class that can be computed from it, with
    /// the node that does so.
    fn readers_together(&self, operand: usize) -> Vec<(usize, usize)> {
        let class = &self.problem.classes[operand];
        let mut together: Vec<(usize, usize)> = Vec::new();
        if self.refs[operand] == 0 || class.results > 1 {
            let living = class
                .readers
                .iter()
                .filter(|(reader, _)| self.refs[*reader] > 0);
            for (reader, alt) in living {
                if together.last().is_none_or(|(last, _)| last != reader) {
                    together.push((*reader, *alt));
                }
            }
        }
        together
    }

    /// Makes the choices, and takes them back unless they lower the cost and leave the choice acyclic.
    fn try_move(&mut self, choices: &[(usize, usize)]) -> bool {
        debug_assert!(
            self.log.is_empty(),
            "a move is undone or kept before the next"
        );
        let before = self.total;
        let made = choices.iter().all(|(class, alt)| self.choose(*class, *alt));
        if made && self.total < before && self.is_acyclic() {
            self.log.clear();
            return true;
        }
        while let Some(undo) = self.log.pop() {
            match undo {
                Undo::Choice(class, choice) => self.choice[class] = choice,
                Undo::Refs(class, refs) => self.refs[class] = refs,
                Undo::Used(class, result, used) => self.used[class][result] = used,
            }
        }
        self.total = before;
        false
    }

    /// Changes the choice of a class; false when a class that it needs cannot be computed.
    fn choose(&mut self, class: usize, alt: usize) -> bool {
        let old = self.choice[class];
        if old == Some(alt) {
            return true;
        }
        if self.refs[class] == 0 {
            self.set_choice(class, Some(alt));
            return true;
        }
        // The new operands come first: what both choices read never dies in between.
        self.total -= self.own_cost(class);
        self.set_choice(class, Some(alt));
        self.total += self.own_cost(class);
        if !self.acquire_operands(class, alt) {
            return false;
        }
        if let Some(old) = old {
            self.release_operands(class, old);
        }
        true
    }

    /// Adds a reader to a class, and to what it reads if it was dead; false when it cannot be computed.
    fn acquire(&mut self, class: usize) -> bool {
        let mut stack = vec![class];
        while let Some(class) = stack.pop() {
            let was = self.refs[class];
            self.set_refs(class, was + 1);
            if was > 0 {
                continue;
            }
            let Some(alt) = self.best(class) else {
                return false;
            };
            self.set_choice(class, Some(alt));
            self.total += self.own_cost(class);
            self.use_result(class, alt, true);
            stack.extend(self.problem.classes[class].alts[alt].operands());
        }
        true
    }

    fn acquire_operands(&mut self, class: usize, alt: usize) -> bool {
        self.use_result(class, alt, true);
        self.problem.classes[class].alts[alt]
            .operands()
            .iter()
            .all(|operand| self.acquire(*operand))
    }

    /// Takes a reader from the operands of a node, and from what they read if they die.
    fn release_operands(&mut self, class: usize, alt: usize) {
        self.use_result(class, alt, false);
        let mut stack = self.problem.classes[class].alts[alt].operands().to_vec();
        while let Some(class) = stack.pop() {
            let refs = self.refs[class] - 1;
            self.set_refs(class, refs);
            if refs > 0 {
                continue;
            }
            self.total -= self.own_cost(class);
            if let Some(alt) = self.choice[class] {
                self.use_result(class, alt, false);
                stack.extend(self.problem.classes[class].alts[alt].operands());
            }
        }
    }

    /// Counts a living projection in or out; a tuple that is alive pays for results only while they are used.
    fn use_result(&mut self, class: usize, alt: usize, taken: bool) {
        let AltKind::Projection { tuple, result } = self.problem.classes[class].alts[alt].kind
        else {
            return;
        };
        let was = self.used[tuple][result];
        self.log.push(Undo::Used(tuple, result, was));
        let alive = self.refs[tuple] > 0;
        if alive {
            self.total -= self.own_cost(tuple);
        }
        self.used[tuple][result] = if taken { was + 1 } else { was - 1 };
        if alive {
            self.total += self.own_cost(tuple);
        }
    }

    /// Cost of the chosen node of a class, without its operands.
    fn own_cost(&self, class: usize) -> Cost {
        let used = &self.used[class];
        self.chosen(class).map_or_else(Cost::default, |alt| {
            alt.cost(|result| used.len() == 1 || used[result] > 0)
        })
    }

    /// The node that a class comes to life with: at first the author's, if he wrote one, later the cheapest given what is
    /// alive.
    fn best(&self, class: usize) -> Option<usize> {
        let original = self.problem.classes[class].original;
        if self.moving || original.is_none() {
            self.estimate(class, &mut Vec::new(), &mut HashMap::new(), &|_| true)
                .map(|(_, alt)| alt)
        } else {
            original
        }
    }

    /// Cost of bringing a class to life by one of the nodes that `may` be, and by which; `None` when it would read
    /// itself or is too deep.
    fn estimate(
        &self,
        class: usize,
        path: &mut Vec<usize>,
        known: &mut HashMap<usize, Option<(Cost, usize)>>,
        may: &dyn Fn(&Alt) -> bool,
    ) -> Option<(Cost, usize)> {
        if let Some(known) = known.get(&class) {
            return *known;
        }
        if path.len() > MAX_DEPTH || path.contains(&class) {
            return None;
        }
        path.push(class);
        let mut best: Option<(Cost, usize)> = None;
        let alts = self.problem.classes[class].alts.iter().enumerate();
        for (at, alt) in alts.filter(|(_, alt)| may(alt)) {
            let mut cost = match &alt.kind {
                // The tuple's results are charged where they are taken.
                AltKind::Op { cost, .. } => cost.total(|_| self.used[class].len() == 1),
                AltKind::Projection { tuple, result } => self.result_cost(*tuple, *result),
            };
            let mut possible = true;
            for operand in alt.operands() {
                if self.refs[*operand] > 0 {
                    continue;
                }
                match self.estimate(*operand, path, known, may) {
                    Some((operand, _)) => cost += operand,
                    None => possible = false,
                }
            }
            if possible && best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, at));
            }
        }
        path.pop();
        known.insert(class, best);
        best
    }

    /// What it costs a tuple to give one more result.
    fn result_cost(&self, tuple: usize, result: usize) -> Cost {
        let used = &self.used[tuple];
        match self
            .chosen(tuple)
            .or(self.problem.classes[tuple].alts.first())
            .map(|alt| &alt.kind)
        {
            Some(AltKind::Op { cost, .. }) => {
                cost.total(|of| used[of] > 0 || of == result) - cost.total(|of| used[of] > 0)
            }
            Some(AltKind::Projection { .. }) | None => Cost::default(),
        }
    }

    fn set_choice(&mut self, class: usize, alt: Option<usize>) {
        self.log.push(Undo::Choice(class, self.choice[class]));
        self.choice[class] = alt;
    }

    fn set_refs(&mut self, class: usize, refs: usize) {
        self.log.push(Undo::Refs(class, self.refs[class]));
        self.refs[class] = refs;
    }

    /// Whether no living class whose choice this move changed is computed from itself. Every new cycle would
    /// go through one of them.
    fn is_acyclic(&self) -> bool {
        let changed = self.log.iter().filter_map(|undo| match undo {
            Undo::Choice(class, _) if self.refs[*class] > 0 => Some(*class),
            _ => None,
        });
        self.problem.walk(changed.collect(), |class| {
            Some(self.chosen(class).map(Alt::operands).unwrap_or_default())
        })
    }
}
