//! Text forms read back as what was printed: graphs, programs. (PTX: [`crate::ptx`].)

use mcc::stages::Emit;
use mcc_ir::program::Program;
use mcc_ir::{Module, parse};

use crate::sources::{build, published, source, tiny, tiny_built};

fn round_trip(module: &Module) {
    let text = module.to_string();
    let again =
        parse::module(&text, "printed.mir").unwrap_or_else(|e| panic!("{}: {e}", module.name));
    assert_eq!(again.to_string(), text, "{}: the text changed", module.name);
    assert_eq!(
        (&again.name, &again.dims, &again.params, &again.states),
        (&module.name, &module.dims, &module.params, &module.states)
    );
    for (a, b) in again.entries.iter().zip(&module.entries) {
        assert_eq!(
            a.len(),
            b.len(),
            "{}: nodes of entry {}",
            module.name,
            a.name
        );
    }
}

#[test]
fn graphs_read_back_as_printed() {
    round_trip(&tiny().module);
    round_trip(&tiny_built().1.graph);
    round_trip(&published(61));
    round_trip(&build(&source(published(5)), false, Some(Emit::Graph)).graph);
}

#[test]
fn programs_read_back_as_printed() {
    let published = build(&source(published(5)), false, Some(Emit::Program));
    for program in [&tiny_built().1.program, &published.program] {
        let program = program.as_ref().expect("a program");
        let text = program.to_json().expect("floats are finite");
        let again = Program::from_json(&text).unwrap_or_else(|e| panic!("{e}"));
        assert!(again == *program, "{}: another program", program.model);
        assert_eq!(again.to_json().expect("floats are finite"), text);
    }
}
