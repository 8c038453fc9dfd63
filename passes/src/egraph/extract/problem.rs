//! The e-graph as extraction sees it: values and tuples, densely numbered in the order of class numbers.

use std::collections::{HashMap, HashSet};

use egg::Id;

use super::Selection;
use super::parts::Parts;
use crate::egraph::analysis::{Data, Placement};
use crate::egraph::cost::{Cost, CostModel, OpCost, Operand, Sums, keeps_store};
use crate::egraph::language::{EGraph, Node};

/// What there is to choose from.
pub(crate) struct Problem {
    pub(super) classes: Vec<Class>,
    /// Classes that must be computed; may name one several times.
    pub(super) roots: Vec<usize>,
}

#[derive(Clone)]
pub(super) struct Class {
    pub(super) id: Id,
    pub(super) alts: Vec<Alt>,
    /// Results, for a tuple.
    pub(super) results: usize,
    /// The author's choice: his oldest node of the class. Its operands were older, so these choices are acyclic.
    pub(super) original: Option<usize>,
    /// Nodes that read it, as class and node of that class, in the order of classes.
    pub(super) readers: Vec<(usize, usize)>,
}

/// A node of a class.
#[derive(Clone)]
pub(super) struct Alt {
    pub(super) node: Node,
    pub(super) kind: AltKind,
}

#[derive(Clone)]
pub(super) enum AltKind {
    Projection { tuple: usize, result: usize },
    Op { operands: Vec<usize>, cost: OpCost },
}

impl Alt {
    /// Classes that the node reads.
    pub(super) fn operands(&self) -> &[usize] {
        match &self.kind {
            AltKind::Projection { tuple, .. } => std::slice::from_ref(tuple),
            AltKind::Op { operands, .. } => operands,
        }
    }

    /// Its own cost when only these results are used.
    pub(super) fn cost(&self, used: impl Fn(usize) -> bool) -> Cost {
        match &self.kind {
            AltKind::Projection { .. } => Cost::default(),
            AltKind::Op { cost, .. } => cost.total(used),
        }
    }
}

impl Problem {
    /// The choices for what `roots` need. `age` orders the author's nodes, operands before users; other nodes have none.
    ///
    /// # Errors
    /// A root that is no value, as a sentence: a bug of the caller.
    pub(crate) fn new(
        graph: &EGraph,
        roots: &[Id],
        age: impl Fn(&Node) -> Option<usize>,
        model: &CostModel<'_>,
    ) -> Result<Problem, String> {
        let mut ids: Vec<Id> = graph
            .classes()
            .filter(|class| matches!(class.data, Data::Value(..) | Data::Tuple(_)))
            .map(|class| class.id)
            .collect();
        ids.sort_unstable();
        let index: HashMap<Id, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let stored = stored(graph);
        let mut classes: Vec<Class> = Vec::with_capacity(ids.len());
        for id in ids {
            let class = &graph[id];
            let types = match &class.data {
                Data::Tuple(types) => types.as_slice(),
                Data::Value(ty, _) => std::slice::from_ref(ty),
                Data::Attr(_) | Data::Ill(_) => &[],
            };
            let mut alts: Vec<Alt> = Vec::new();
            let mut original: Option<(usize, usize)> = None;
            for node in &class.nodes {
                let kind = match node {
                    Node::Proj(result, [tuple]) => AltKind::Projection {
                        tuple: index[&graph.find(*tuple)],
                        result: *result,
                    },
                    node => {
                        let Some((op, operands)) = node.to_op(graph) else {
                            continue;
                        };
                        let of: Vec<Operand<'_>> = operands
                            .iter()
                            .enumerate()
                            .filter_map(|(at, id)| {
                                Some(Operand {
                                    ty: graph[*id].data.ty()?,
                                    stored: stored.contains(&graph.find(*id)),
                                    again: operands[..at]
                                        .iter()
                                        .any(|other| graph.find(*other) == graph.find(*id)),
                                })
                            })
                            .collect();
                        let cost = match class.data.placement() {
                            // Computed once, while weights are loaded.
                            Placement::Load(_) => model.free(types),
                            Placement::Step => model.of(&op, &of, types),
                        };
                        AltKind::Op {
                            operands: operands.iter().map(|id| index[&graph.find(*id)]).collect(),
                            cost,
                        }
                    }
                };
                if let Some(age) = age(node)
                    && original.is_none_or(|(oldest, _)| age < oldest)
                {
                    original = Some((age, alts.len()));
                }
                alts.push(Alt {
                    node: node.clone(),
                    kind,
                });
            }
            classes.push(Class {
                id,
                alts,
                results: types.len(),
                original: original.map(|(_, alt)| alt),
                readers: Vec::new(),
            });
        }
        let root = |id: &Id| {
            let at = index.get(id).copied();
            at.ok_or_else(|| format!("class {id} is no value"))
        };
        let roots = roots.iter().map(root).collect::<Result<_, _>>()?;
        let mut problem = Problem { classes, roots };
        problem.find_readers();
        Ok(problem)
    }

    /// The part of the problem that decides how some classes are computed: whole [`Parts`], with what they read from
    /// outside given for nothing. The roots are what every choice computes.
    pub(crate) fn window(&self, of: impl Fn(Id) -> bool) -> Problem {
        let cut = Parts::of(self);
        let mut kept: Vec<usize> = cut
            .parts
            .iter()
            .filter(|part| part.iter().any(|class| of(self.classes[*class].id)))
            .flatten()
            .copied()
            .collect();
        kept.sort_unstable();
        let mut all = kept.clone();
        for class in &kept {
            all.extend(self.classes[*class].alts.iter().flat_map(Alt::operands));
        }
        all.sort_unstable();
        all.dedup();
        let local = |class: usize| all.partition_point(|other| *other < class);
        let classes = all.iter().map(|at| {
            let class = &self.classes[*at];
            if kept.binary_search(at).is_err() {
                let given = class.alts.first().map(|alt| Alt {
                    node: alt.node.clone(),
                    kind: AltKind::Op {
                        operands: Vec::new(),
                        cost: OpCost::default(),
                    },
                });
                return Class {
                    id: class.id,
                    original: given.is_some().then_some(0),
                    alts: given.into_iter().collect(),
                    results: 1,
                    readers: Vec::new(),
                };
            }
            let alts = class.alts.iter().map(|alt| Alt {
                node: alt.node.clone(),
                kind: match &alt.kind {
                    AltKind::Projection { tuple, result } => AltKind::Projection {
                        tuple: local(*tuple),
                        result: *result,
                    },
                    AltKind::Op { operands, cost } => AltKind::Op {
                        operands: operands.iter().map(|of| local(*of)).collect(),
                        cost: cost.clone(),
                    },
                },
            });
            Class {
                id: class.id,
                alts: alts.collect(),
                results: class.results,
                original: class.original,
                readers: Vec::new(),
            }
        });
        let classes: Vec<Class> = classes.collect();
        let roots = kept.iter().filter(|class| cut.always[**class]);
        let roots = roots.map(|class| local(*class)).collect();
        let mut problem = Problem { classes, roots };
        problem.find_readers();
        problem
    }

    /// The same problem with those nodes alone that `may` be chosen; the author's always may.
    pub(crate) fn restricted(&self, may: impl Fn(&Node) -> bool) -> Problem {
        let classes = self.classes.iter().map(|class| {
            let kept: Vec<usize> = (0..class.alts.len())
                .filter(|alt| class.original == Some(*alt) || may(&class.alts[*alt].node))
                .collect();
            let original = class.original;
            Class {
                id: class.id,
                alts: kept.iter().map(|alt| class.alts[*alt].clone()).collect(),
                results: class.results,
                original: original.and_then(|of| kept.iter().position(|alt| *alt == of)),
                readers: Vec::new(),
            }
        });
        let mut problem = Problem {
            classes: classes.collect(),
            roots: self.roots.clone(),
        };
        problem.find_readers();
        problem
    }

    /// The same problem with a class that is computed by `node`, needed or not; `None` when it has no such node.
    pub(crate) fn forced(&self, class: Id, node: &Node) -> Option<Problem> {
        let at = self.place(class)?;
        let mut classes = self.classes.clone();
        let forced = &mut classes[at];
        forced.alts.retain(|alt| alt.node == *node);
        forced.original = (!forced.alts.is_empty()).then_some(0);
        forced.original?;
        let mut roots = self.roots.clone();
        roots.push(at);
        let mut problem = Problem { classes, roots };
        problem.find_readers();
        Some(problem)
    }

    /// The nodes of a class.
    pub(crate) fn nodes(&self, class: Id) -> impl Iterator<Item = &Node> {
        let class = self.place(class).map(|at| &self.classes[at]);
        class
            .into_iter()
            .flat_map(|class| class.alts.iter().map(|alt| &alt.node))
    }

    /// Its classes, ascending.
    pub(crate) fn classes(&self) -> impl Iterator<Item = Id> {
        self.classes.iter().map(|class| class.id)
    }

    /// Whether it is given, or computed for nothing.
    pub(crate) fn is_leaf(&self, class: Id) -> bool {
        let class = self.place(class).map(|at| &self.classes[at]);
        class.is_none_or(|class| class.alts.iter().any(|alt| alt.operands().is_empty()))
    }

    /// What a selection launches and moves, of the classes that it computes.
    pub(crate) fn sums(&self, selection: &Selection) -> Sums {
        let taken: Vec<Option<&Alt>> = self
            .classes
            .iter()
            .map(|class| {
                let node = selection.node(class.id)?;
                class.alts.iter().find(|alt| alt.node == *node)
            })
            .collect();
        let mut used: Vec<u64> = vec![0; taken.len()];
        for alt in taken.iter().flatten() {
            if let AltKind::Projection { tuple, result } = alt.kind {
                used[tuple] |= 1 << result.min(63);
            }
        }
        let mut sums = Sums::default();
        for (at, alt) in taken.iter().enumerate() {
            if let Some(Alt {
                kind: AltKind::Op { cost, .. },
                ..
            }) = alt
            {
                let tuple = self.classes[at].results > 1;
                sums.add(cost, |result| !tuple || used[at] >> result.min(63) & 1 == 1);
            }
        }
        sums
    }

    fn place(&self, class: Id) -> Option<usize> {
        self.classes
            .binary_search_by_key(&class, |class| class.id)
            .ok()
    }

    /// A problem of these classes; the first node of each is the author's.
    #[cfg(test)]
    pub(super) fn of_classes(classes: Vec<Class>, roots: &[usize]) -> Problem {
        let mut problem = Problem {
            roots: roots.to_vec(),
            classes,
        };
        problem.find_readers();
        problem
    }

    fn find_readers(&mut self) {
        for class in &mut self.classes {
            class.readers.clear();
        }
        for class in 0..self.classes.len() {
            for alt in 0..self.classes[class].alts.len() {
                for operand in self.classes[class].alts[alt].operands().to_vec() {
                    self.classes[operand].readers.push((class, alt));
                }
            }
        }
    }

    /// Goes down from these classes through what each is computed from, which `operands` says once for every class that
    /// is reached. False when a class is computed from itself, or when `operands` gives up.
    pub(super) fn walk<'p>(
        &self,
        mut stack: Vec<usize>,
        mut operands: impl FnMut(usize) -> Option<&'p [usize]>,
    ) -> bool {
        let mut marks = vec![Mark::New; self.classes.len()];
        while let Some(class) = stack.last().copied() {
            match marks[class] {
                Mark::Done => {
                    stack.pop();
                }
                // Everything below it is done.
                Mark::Open => {
                    marks[class] = Mark::Done;
                    stack.pop();
                }
                Mark::New => {
                    marks[class] = Mark::Open;
                    let Some(below) = operands(class) else {
                        return false;
                    };
                    for operand in below {
                        match marks[*operand] {
                            Mark::New => stack.push(*operand),
                            Mark::Open => return false,
                            Mark::Done => {}
                        }
                    }
                }
            }
        }
        true
    }

    /// The cost of a choice, counted from the roots; `None` when it lacks a class that it needs or reads itself.
    /// Choices of classes that the roots do not need do not matter.
    pub(super) fn value(&self, choice: &[Option<usize>]) -> Option<Cost> {
        let chosen = |class: usize| self.classes[class].alts.get(choice[class]?);
        let mut used: Vec<u64> = vec![0; self.classes.len()];
        let mut alive = Vec::new();
        let whole = self.walk(self.roots.clone(), |class| {
            alive.push(class);
            let alt = chosen(class)?;
            if let AltKind::Projection { tuple, result } = alt.kind {
                used[tuple] |= 1 << result.min(63);
            }
            Some(alt.operands())
        });
        if !whole {
            return None;
        }
        let mut cost = Cost::default();
        for class in alive {
            let tuple = self.classes[class].results > 1;
            cost += chosen(class)?.cost(|result| !tuple || used[class] >> result.min(63) & 1 == 1);
        }
        Some(cost)
    }
}

/// Where a walk over a choice stands with a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    /// Entered; its operands are still being walked.
    Open,
    Done,
}

/// Classes of values that lie in memory since before the entry: leaves, and what one of its nodes says is a view of one
/// or written in place.
fn stored(graph: &EGraph) -> HashSet<Id> {
    let mut stored = HashSet::new();
    loop {
        let before = stored.len();
        for class in graph.classes().filter(|class| class.data.ty().is_some()) {
            let is_stored = class.nodes.iter().any(|node| match node {
                Node::Leaf(_) => true,
                node => node.to_op(graph).is_some_and(|(op, operands)| {
                    let first = operands.first().map(|id| graph.find(*id));
                    keeps_store(&op) && first.is_some_and(|id| stored.contains(&id))
                }),
            });
            if is_stored || matches!(class.data.placement(), Placement::Load(_)) {
                stored.insert(class.id);
            }
        }
        if stored.len() == before {
            return stored;
        }
    }
}
