//! What the loops of a kernel execute, read from nvdisasm's text.
//!
//! In: the text of `nvdisasm -c` (with or without `-hex`) of one kernel. Out: its loops, each with all instructions that
//! a turn may execute, and those of its shortest turn. Holds: what can only run when a wait fails is in neither.
//!
//! What is usual: a wait for a barrier is a try (`SYNCS.PHASECHK…TRYWAIT P`, CUDA Binary Utilities, Hopper
//! instruction set) whose predicate says whether the phase is over, and a branch on that predicate. The side for a
//! phase that is not over leads to the slow path: more tries, the clock, at last the trap. A branch whose predicate
//! was last written by such a try is therefore followed on its success side only. Every other branch is followed both
//! ways, so that a doubt makes the count larger, not smaller.

use std::collections::{BTreeMap, BTreeSet};

/// One machine instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// `@P0`, `@!UP1`, or nothing.
    pub guard: String,
    /// With its suffixes, such as `QGMMA.64x128x32.F32.E4M3.E4M3`.
    pub opcode: String,
    /// Operands, as printed.
    pub operands: Vec<String>,
    /// The line without addresses.
    pub text: String,
}

/// What an instruction is for, as far as a matrix kernel cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// `QGMMA`, `HGMMA`.
    Tensor,
    /// `FFMA`: the promotion.
    Ffma,
    /// `FMUL`: products of scales.
    Fmul,
    /// Integer, logic, predicate and register moves.
    Integer,
    /// The uniform data path, and the ways to it.
    Uniform,
    /// Loads and stores, of constants too.
    Memory,
    /// Barriers, fences, warpgroup and warp synchronisation.
    Sync,
    /// Branches and what prepares them.
    Branch,
    /// Anything else.
    Rest,
}

impl Instruction {
    /// Its class.
    #[must_use]
    pub fn class(&self) -> Class {
        let stem = self.opcode.split('.').next().unwrap_or_default();
        match stem {
            "QGMMA" | "HGMMA" | "IGMMA" | "BGMMA" => Class::Tensor,
            "FFMA" => Class::Ffma,
            "FMUL" => Class::Fmul,
            "SYNCS" | "WARPGROUP" | "BAR" | "DEPBAR" | "LDGDEPBAR" | "FENCE" | "MEMBAR"
            | "WARPSYNC" | "ELECT" | "NOP" | "YIELD" | "UTMACMDFLUSH" | "UCGABAR_ARV"
            | "UCGABAR_WAIT" | "ERRBAR" | "CGAERRBAR" | "CCTL" | "ACQBULK" | "PREEXIT" | "VOTE"
            | "VOTEU" | "NANOSLEEP" => Class::Sync,
            "BRA" | "BRX" | "JMP" | "EXIT" | "RET" | "CALL" | "BSSY" | "BSYNC" | "BREAK"
            | "BPT" | "BMOV" => Class::Branch,
            "LDC" | "ULDC" | "LDG" | "LDS" | "LDSM" | "LD" | "STG" | "STS" | "STSM" | "ST"
            | "ATOM" | "ATOMG" | "ATOMS" | "RED" | "REDG" | "UTMALDG" | "UTMASTG" | "UTMAREDG"
            | "UTMAPF" | "UTMACCTL" => Class::Memory,
            "R2UR" | "S2UR" => Class::Uniform,
            _ if stem.starts_with('U') => Class::Uniform,
            "IADD3" | "IMAD" | "VIADD" | "LEA" | "SHF" | "LOP3" | "MOV" | "SEL" | "PRMT"
            | "ISETP" | "PLOP3" | "IMNMX" | "VIMNMX" | "IABS" | "SGXT" | "CS2R" | "S2R"
            | "FSEL" | "P2R" | "R2P" | "VIADDMNMX" | "I2F" | "F2I" | "MUFU" | "SHFL" | "POPC"
            | "FLO" | "BREV" | "LEPC" => Class::Integer,
            _ => Class::Rest,
        }
    }

    /// Whether it is `stem`, with any suffixes.
    fn is(&self, stem: &str) -> bool {
        self.opcode.split('.').next() == Some(stem)
    }

    /// Whether it may write this predicate: destinations are the first register, then the predicates behind it.
    fn writes(&self, predicate: &str) -> bool {
        let is_predicate = |o: &str| {
            let o = o.strip_prefix('U').unwrap_or(o);
            o == "PT" || (o.len() == 2 && o.starts_with('P'))
        };
        let register = usize::from(self.operands.first().is_some_and(|o| !is_predicate(o)));
        self.operands
            .iter()
            .skip(register)
            .take_while(|o| is_predicate(o))
            .any(|o| o == predicate)
    }

    /// The label that it jumps to.
    fn target(&self) -> Option<&str> {
        let from = self.text.find("`(")? + 2;
        let rest = &self.text[from..];
        (self.is("BRA") || self.is("CALL") || self.is("JMP"))
            .then(|| rest.split(')').next())
            .flatten()
    }
}

/// Instructions of one turn of a loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loop {
    /// All of its body, in the order of their addresses.
    pub instructions: Vec<Instruction>,
}

/// A loop, counted in two ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Every side of every branch.
    pub all: Loop,
    /// Of the turns with the most tensor instructions one with the fewest others: what a turn takes when nothing
    /// special happens in it.
    pub shortest: Loop,
}

impl Loop {
    /// How many are of this class.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.instructions
            .iter()
            .filter(|i| i.class() == class)
            .count()
    }

    /// How many have an opcode that begins so.
    #[must_use]
    pub fn opcodes(&self, prefix: &str) -> usize {
        self.instructions
            .iter()
            .filter(|i| i.opcode.starts_with(prefix))
            .count()
    }

    /// The part from the first wait to the last product or promotion: the main loop's work in a loop over tiles whose
    /// K was short enough to be unrolled.
    #[must_use]
    pub fn main_part(&self) -> Self {
        let is_work = |i: &Instruction| matches!(i.class(), Class::Tensor | Class::Ffma);
        let first = self
            .instructions
            .iter()
            .position(|i| i.opcode.contains("TRYWAIT") || is_work(i));
        let last = self.instructions.iter().rposition(is_work);
        match (first, last) {
            (Some(first), Some(last)) if first <= last => Self {
                instructions: self.instructions[first..=last].to_vec(),
            },
            _ => Self::default(),
        }
    }

    /// Its text, one instruction a line.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.instructions.iter().map(|i| i.text.as_str()).collect();
        lines.join("\n")
    }
}

/// The instructions of a kernel and where control goes.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    instructions: Vec<Instruction>,
    /// Where a label stands: the index of the instruction behind it.
    labels: BTreeMap<String, usize>,
}

impl Listing {
    /// Reads nvdisasm's text; lines that are no instruction (directives, symbols) are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut listing = Self::default();
        for line in text.lines() {
            let line = without_comments(line);
            let line = line.trim();
            if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with(".L_")) {
                listing
                    .labels
                    .insert(label.to_owned(), listing.instructions.len());
            } else if let Some(instruction) = line.strip_suffix(';').and_then(instruction) {
                listing.instructions.push(instruction);
            }
        }
        listing
    }

    /// All instructions, in the order of their addresses.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The innermost loops that execute an instruction of such an opcode.
    #[must_use]
    pub fn innermost_loops(&self, prefix: &str) -> Vec<Turns> {
        let flow = Flow::new(self);
        let with: Vec<Natural> = flow
            .loops()
            .into_iter()
            .filter(|natural| {
                let mut all = natural.body.iter().flat_map(|b| flow.blocks[*b].clone());
                all.any(|i| self.instructions[i].opcode.starts_with(prefix))
            })
            .collect();
        let innermost = with.iter().filter(|natural| {
            let inside = |other: &&Natural| {
                other.body.len() < natural.body.len() && other.body.is_subset(&natural.body)
            };
            !with.iter().any(|other| inside(&other))
        });
        innermost
            .map(|natural| {
                let shortest = flow
                    .shortest_turn(natural, |at| self.instructions[at].class() == Class::Tensor);
                let body = natural.body.iter().copied();
                Turns {
                    all: self.of(body.flat_map(|b| flow.blocks[b].clone())),
                    shortest: self.of(shortest.into_iter().flat_map(|b| flow.blocks[b].clone())),
                }
            })
            .collect()
    }

    fn of(&self, at: impl Iterator<Item = usize>) -> Loop {
        Loop {
            instructions: at.map(|i| self.instructions[i].clone()).collect(),
        }
    }

    /// Where control usually goes from `at`.
    fn successors(&self, at: usize) -> Vec<usize> {
        let instruction = &self.instructions[at];
        let next = (at + 1 < self.instructions.len()).then_some(at + 1);
        let always = instruction.guard.is_empty() || instruction.guard == "@PT";
        if instruction.is("EXIT") || instruction.is("BPT") || instruction.is("RET") {
            return next.filter(|_| !always).into_iter().collect();
        }
        let Some(target) = instruction.target().filter(|_| !instruction.is("CALL")) else {
            return next.into_iter().collect();
        };
        let target = self.labels.get(target).copied();
        let both = target.into_iter().chain(next.filter(|_| !always));
        match self.usual_side(at) {
            Some(true) => target.into_iter().collect(),
            Some(false) => next.into_iter().collect(),
            None => both.collect(),
        }
    }

    /// For a branch on the success of a try: whether success takes it.
    fn usual_side(&self, at: usize) -> Option<bool> {
        let guard = self.instructions[at].guard.strip_prefix('@')?;
        let (negated, predicate) = match guard.strip_prefix('!') {
            Some(predicate) => (true, predicate),
            None => (false, guard),
        };
        let writer = self.instructions[..at]
            .iter()
            .rev()
            .find(|i| i.writes(predicate))?;
        writer.opcode.contains("TRYWAIT").then_some(!negated)
    }
}

/// Text without `/* … */`.
fn without_comments(line: &str) -> String {
    let mut rest = line;
    let mut text = String::new();
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    text + rest
}

fn instruction(text: &str) -> Option<Instruction> {
    let text = text.trim();
    let (guard, rest) = match text.starts_with('@') {
        true => text.split_once(char::is_whitespace)?,
        false => ("", text),
    };
    let rest = rest.trim();
    let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if !opcode.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    Some(Instruction {
        guard: guard.to_owned(),
        opcode: opcode.to_owned(),
        operands: operands
            .split(',')
            .map(|o| o.trim().to_owned())
            .filter(|o| !o.is_empty())
            .collect(),
        text: text.to_owned(),
    })
}

/// Basic blocks that run when waits succeed.
struct Flow {
    blocks: Vec<std::ops::Range<usize>>,
    next: Vec<Vec<usize>>,
    /// Blocks that every way to a block passes, itself among them.
    dominators: Vec<BTreeSet<usize>>,
}

impl Flow {
    fn new(listing: &Listing) -> Self {
        let count = listing.instructions.len();
        let mut starts: BTreeSet<usize> = [0].into();
        for (at, instruction) in listing.instructions.iter().enumerate() {
            let target = instruction.target().and_then(|t| listing.labels.get(t));
            if instruction.class() == Class::Branch {
                starts.extend(target.copied().into_iter().chain([at + 1]));
            }
        }
        starts.retain(|s| *s < count);
        let starts: Vec<usize> = starts.into_iter().collect();
        let ends = starts.iter().skip(1).copied().chain([count]);
        let blocks: Vec<_> = starts.iter().zip(ends).map(|(s, e)| *s..e).collect();
        let next = blocks
            .iter()
            .map(|b| {
                let to = b.clone().next_back().map(|last| listing.successors(last));
                let to = to.unwrap_or_default().into_iter();
                to.filter_map(|i| starts.binary_search(&i).ok()).collect()
            })
            .collect();
        let mut flow = Self {
            blocks,
            next,
            dominators: Vec::new(),
        };
        flow.dominators = flow.find_dominators();
        flow
    }

    /// By iteration over sets: kernels have some hundred blocks at most. Blocks that nothing usual reaches keep the
    /// empty set.
    fn find_dominators(&self) -> Vec<BTreeSet<usize>> {
        let mut reached = BTreeSet::new();
        let mut open = vec![0];
        while let Some(block) = open.pop() {
            if block < self.blocks.len() && reached.insert(block) {
                open.extend(&self.next[block]);
            }
        }
        let mut before = vec![Vec::new(); self.blocks.len()];
        for from in &reached {
            for to in &self.next[*from] {
                before[*to].push(*from);
            }
        }
        let mut dominators: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.blocks.len()];
        for block in &reached {
            dominators[*block] = if *block == 0 {
                [0].into()
            } else {
                reached.clone()
            };
        }
        loop {
            let mut changed = false;
            for &block in reached.iter().filter(|b| **b != 0) {
                let mut common = before[block].iter().map(|b| &dominators[*b]);
                let first = common.next().cloned().unwrap_or_default();
                let mut new = common.fold(first, |all, d| all.intersection(d).copied().collect());
                new.insert(block);
                if new != dominators[block] {
                    dominators[block] = new;
                    changed = true;
                }
            }
            if !changed {
                return dominators;
            }
        }
    }

    /// Natural loops; those with the same head are one.
    fn loops(&self) -> Vec<Natural> {
        let mut before = vec![Vec::new(); self.blocks.len()];
        let mut latches: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, dominators) in self.dominators.iter().enumerate() {
            if dominators.is_empty() {
                continue;
            }
            for &to in &self.next[from] {
                before[to].push(from);
                if dominators.contains(&to) {
                    latches.entry(to).or_default().push(from);
                }
            }
        }
        latches
            .into_iter()
            .map(|(head, mut open)| {
                let mut body: BTreeSet<usize> = [head].into();
                while let Some(block) = open.pop() {
                    if body.insert(block) {
                        open.extend(&before[block]);
                    }
                }
                Natural { head, body }
            })
            .collect()
    }

    /// Blocks of the way round that has the most tensor instructions, and of these the fewest others (Bellman and
    /// Ford's relaxation: an inner loop has no tensor instruction and never makes a way better).
    fn shortest_turn(&self, natural: &Natural, is_tensor: impl Fn(usize) -> bool) -> Vec<usize> {
        let cost = |block: usize| {
            let tensor = self.blocks[block].clone().filter(|at| is_tensor(*at));
            (-(tensor.count() as i64), self.blocks[block].len() as i64)
        };
        let mut best: BTreeMap<usize, ((i64, i64), usize)> = BTreeMap::new();
        best.insert(natural.head, (cost(natural.head), natural.head));
        for _ in 0..natural.body.len() {
            for &from in &natural.body {
                let Some(&((tensor, others), _)) = best.get(&from) else {
                    continue;
                };
                for &to in &self.next[from] {
                    if to == natural.head || !natural.body.contains(&to) {
                        continue;
                    }
                    let (more_tensor, more_others) = cost(to);
                    let new = (tensor + more_tensor, others + more_others);
                    if best.get(&to).is_none_or(|(old, _)| new < *old) {
                        best.insert(to, (new, from));
                    }
                }
            }
        }
        let ends = natural.body.iter().copied();
        let latches = ends.filter(|b| self.next[*b].contains(&natural.head));
        let reached = latches.filter(|b| best.contains_key(b));
        let Some(mut at) = reached.min_by_key(|b| best.get(b).map(|(cost, _)| *cost)) else {
            return Vec::new();
        };
        let mut way = vec![at];
        while let Some((_, from)) = best.get(&at).filter(|(_, from)| *from != at) {
            at = *from;
            way.push(at);
        }
        way.reverse();
        way
    }
}

/// A loop of blocks.
struct Natural {
    head: usize,
    body: BTreeSet<usize>,
}
