//! Cuts an extraction problem where no choice can matter to another.
//!
//! A class that every choice computes is a wall: what is chosen above it does not change what is paid below it.
//!
//! ```text
//! q    = quantize(y) | proj1(rms_norm_quantize(x, w))        one part: q, y, the tuple
//! x    = add(r, h)   | matmul_add(p, v, r)                   another: x, h
//! ```
//!
//! Here `x` is read by all that could compute `q`, so the upper part takes it as given. Classes are in one part when one
//! of them is read by a node of the other and not computed by every choice, when one is a tuple and the other a result of
//! it (the tuple pays for the results that are used), or when they could be computed from each other (a choice must
//! not read itself). Parts are optimised apart, and the sum of their optima is the optimum.

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;
use petgraph::unionfind::UnionFind;

use super::problem::{AltKind, Problem};

/// How many nodes a class is followed down to find what all of its nodes need. A class missed is no error: its parts
/// are larger than they need be.
const DEPTH: usize = 5;

/// How many such classes are kept for each class.
const NEEDS: usize = 64;

/// A problem in parts.
pub(super) struct Parts {
    /// Classes of each part, ascending; parts in the order of their first class. Leaves are in none.
    pub(super) parts: Vec<Vec<usize>>,
    /// Whether every choice computes the class.
    pub(super) always: Vec<bool>,
}

impl Parts {
    /// The parts of what the roots can reach.
    pub(super) fn of(problem: &Problem) -> Parts {
        let classes = &problem.classes;
        let leaf = |class: usize| {
            classes[class]
                .alts
                .iter()
                .any(|alt| alt.operands().is_empty())
        };
        let reached = reached(problem, &leaf);
        let always = always(problem, &reached, &leaf);

        let mut sets = UnionFind::<usize>::new(classes.len());
        let mut graph = DiGraph::<(), ()>::new();
        let nodes: Vec<_> = classes.iter().map(|_| graph.add_node(())).collect();
        for class in (0..classes.len()).filter(|class| reached[*class]) {
            for alt in &classes[class].alts {
                for operand in alt.operands().iter().copied().filter(|of| !leaf(*of)) {
                    graph.add_edge(nodes[class], nodes[operand], ());
                    let is_result = matches!(alt.kind, AltKind::Projection { .. });
                    if is_result || !always[operand] {
                        sets.union(class, operand);
                    }
                }
            }
        }
        for component in tarjan_scc(&graph) {
            for pair in component.windows(2) {
                sets.union(pair[0].index(), pair[1].index());
            }
        }
        let labels = sets.into_labeling();
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut place = vec![None; classes.len()];
        for class in (0..classes.len()).filter(|class| reached[*class]) {
            let at = *place[labels[class]].get_or_insert_with(|| {
                parts.push(Vec::new());
                parts.len() - 1
            });
            parts[at].push(class);
        }
        Parts { parts, always }
    }
}

/// Classes that some choice computes, leaves left out.
fn reached(problem: &Problem, leaf: &dyn Fn(usize) -> bool) -> Vec<bool> {
    let mut reached = vec![false; problem.classes.len()];
    let mut stack: Vec<usize> = problem.roots.clone();
    while let Some(class) = stack.pop() {
        if leaf(class) || std::mem::replace(&mut reached[class], true) {
            continue;
        }
        for alt in &problem.classes[class].alts {
            stack.extend(alt.operands());
        }
    }
    reached
}

/// Classes that every choice computes, as far as a look of [`DEPTH`] nodes down finds them.
fn always(problem: &Problem, reached: &[bool], leaf: &dyn Fn(usize) -> bool) -> Vec<bool> {
    let classes = &problem.classes;
    // What computing a class needs, itself included; each round sees one node further down.
    let mut needs: Vec<Vec<usize>> = (0..classes.len()).map(|class| vec![class]).collect();
    for _ in 0..DEPTH {
        let below = needs.clone();
        for class in (0..classes.len()).filter(|class| reached[*class]) {
            let mut common: Option<Vec<usize>> = None;
            // A node that reads its own class computes nothing.
            let alts = classes[class].alts.iter();
            for alt in alts.filter(|alt| !alt.operands().contains(&class)) {
                let operands = alt.operands().iter().filter(|operand| !leaf(**operand));
                let mut of: Vec<usize> = operands
                    .flat_map(|operand| below[*operand].clone())
                    .collect();
                of.sort_unstable();
                of.dedup();
                common = Some(match common {
                    None => of,
                    Some(common) => common
                        .into_iter()
                        .filter(|class| of.binary_search(class).is_ok())
                        .collect(),
                });
            }
            let mut all = common.unwrap_or_default();
            all.truncate(NEEDS);
            if let Err(at) = all.binary_search(&class) {
                all.insert(at, class);
            }
            needs[class] = all;
        }
    }
    let mut always = vec![false; classes.len()];
    let mut stack: Vec<usize> = problem.roots.clone();
    while let Some(class) = stack.pop() {
        if !leaf(class) && !std::mem::replace(&mut always[class], true) {
            stack.extend(&needs[class]);
        }
    }
    always
}
