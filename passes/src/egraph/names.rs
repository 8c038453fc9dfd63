//! Names of rules that people write: in an author's `never`, in options. Each must be a rule's.

use mcc_ir::graph::SourceLoc;
use mcc_ir::module::Module;

use super::rules;
use crate::error::PassError;

/// Checks every name of a rule in the module and in `without`.
///
/// # Errors
/// [`PassError::UnknownRule`] for the first that no rule has.
pub(super) fn check(module: &Module, without: &[String]) -> Result<(), PassError> {
    for entry in &module.entries {
        for id in entry.topo() {
            let node = entry.node(id);
            for name in &node.marks.never {
                known(name, node.loc.as_ref())?;
            }
        }
    }
    without.iter().try_for_each(|name| known(name, None))
}

fn known(name: &str, loc: Option<&SourceLoc>) -> Result<(), PassError> {
    if rules::all().any(|rule| rule.name == name) {
        return Ok(());
    }
    // The fewest edits; of several the first in the order of the tables.
    let nearest = rules::all().min_by_key(|rule| edits(rule.name, name));
    Err(PassError::UnknownRule {
        place: loc.map_or(String::new(), |loc| format!("{loc}: ")),
        name: name.to_owned(),
        nearest: nearest.map_or("", |rule| rule.name),
    })
}

/// Insertions, deletions and replacements between two words (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
