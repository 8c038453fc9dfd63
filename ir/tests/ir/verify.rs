//! The verifier: accepts the sample, and names the place of each broken rule.

use mcc_ir::{
    DimDecl, Graph, Mesh, Module, Op, Param, ParamSource, SourceLoc, State, VerifyError, parse,
    verify,
};

use crate::sample::EVERYTHING;

fn errors(module: &Module) -> Vec<String> {
    verify(module)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn sound() -> Module {
    parse::module(EVERYTHING, "all.mir").unwrap()
}

#[test]
fn the_sample_verifies() {
    assert_eq!(errors(&sound()), [""; 0]);
}

#[test]
fn dims_are_declared_and_bounded() {
    let mut m = sound();
    m.dims.retain(|d| &*d.name != "C");
    let found = errors(&m);
    assert_eq!(
        found[0],
        "state `@l0.cache` has the type bf16[C, 256]: dim `C` is not declared; write `dim C: min..=max`"
    );
    assert!(
        found[1].contains("dim `C` is not declared")
            && found[1].starts_with("entry `everything`: `@l0.cache`")
    );
    let mut m = sound();
    m.dims.push(DimDecl {
        name: "T".into(),
        min: 3,
        max: 2,
    });
    assert_eq!(
        errors(&m),
        [
            "dim `T` is declared twice",
            "dim `T` has the empty range 3..=2"
        ]
    );
    let mut m = sound();
    m.dims[0].max = u64::MAX;
    assert!(
        errors(&m)
            .iter()
            .any(|e| e.contains("more than 2^63 bytes at the upper bounds of its dims"))
    );
}

#[test]
fn types_are_inferred_again() {
    let mut m = sound();
    // The graph was typed with the old declaration of the parameter.
    m.params[1].ty = "bf16[128]".parse().unwrap();
    assert_eq!(
        errors(&m),
        ["entry `everything`: `@norm` (n16.0): is declared as bf16[128], used as bf16[256]"]
    );
    let mut m = sound();
    m.params.retain(|p| &*p.name != "router");
    assert!(
        errors(&m)[0].ends_with("is not declared on the module"),
        "{:?}",
        errors(&m)
    );
}

#[test]
fn errors_at_an_op_name_entry_value_op_and_source() {
    let mut m = sound();
    let g = m.entry_mut("everything").unwrap();
    let (_, rows) = g.inputs().find(|(name, _)| **name == "rows").unwrap();
    let loc = SourceLoc {
        file: "model.rs".into(),
        line: 7,
        column: 3,
    };
    let table = g.outputs[2].1;
    let value = g.add1(Op::Gather, &[table, rows], Some(loc)).unwrap();
    g.updates[0].1 = value;
    assert_eq!(
        errors(&m),
        [format!(
            "model.rs:7:3: entry `everything`: `gather` ({value}): updates the state `@l0.cache` of type bf16[C, 256] by \
             a value of type bf16[R, 256]"
        )]
    );
}

#[test]
fn states_and_outputs_are_named_once() {
    let mut m = sound();
    let g = &mut m.entries[0];
    let (name, value) = g.updates[0].clone();
    g.update(name, value);
    g.output("next", value);
    g.update("router", value);
    let stranger = mcc_ir::ValueId {
        node: value.node,
        result: 9,
    };
    g.output("stranger", stranger);
    assert_eq!(
        errors(&m),
        [
            "entry `everything`: state `@l0.cache` is updated twice".to_owned(),
            "entry `everything`: `@router` is updated but is no state of the module".to_owned(),
            "entry `everything`: output `next` is declared twice".to_owned(),
            format!(
                "entry `everything`: output `stranger` is {stranger}, which is no value of the graph"
            ),
        ]
    );
}

#[test]
fn names_are_unique() {
    let mut m = sound();
    m.states.push(State {
        name: "embed".into(),
        ty: m.states[0].ty.clone(),
    });
    m.entries.push(Graph::new("idle"));
    assert_eq!(
        errors(&m),
        [
            "entry `idle` is declared twice",
            "parameter or state `embed` is declared twice"
        ]
    );
}

/// Recipes: type, recipe text, and what the verifier says (`""`: nothing).
#[test]
fn recipes_can_make_their_types() {
    let yarn = "yarn(factor = 0.0, original = 1.0, beta_fast = 1.0, beta_slow = 1.0, mscale = 1.0, mscale_all_dim = 1.0)";
    let yarn = format!("rope_table(dim = 64, theta = 1e4, positions = 8, {yarn})");
    let cases = [
        (
            "bf16[8, 64]",
            "concat(tensor(\"a\"), concat(tensor(\"b\"), tensor(\"c\")))",
            "",
        ),
        ("bf16[8, 64]", "tensor(\"\")", "a tensor needs a name"),
        ("bf16[8, 64]", "concat()", "concat needs at least one part"),
        (
            "bf16[2, 8, 64]",
            "concat(tensor(\"a\"))",
            "concat makes a matrix, not 3 axes",
        ),
        ("bf16[2, 8, 64]", "stack(tensor(\"a\"), tensor(\"b\"))", ""),
        (
            "bf16[3, 8, 64]",
            "stack(tensor(\"a\"), tensor(\"b\"))",
            "stack has 2 parts for an axis of 3",
        ),
        ("bf16[8, 64]", "dequant(tensor(\"a\"))", ""),
        (
            "f32[8, 64]",
            "dequant(tensor(\"a\"))",
            "dequant makes bf16, not f32",
        ),
        (
            "bf16[8, 64]",
            "dequant(dequant(tensor(\"a\")))",
            "dequant makes bf16, not e4m3",
        ),
        (
            "e4m3[8, 64]/f32[1x128]",
            "tensor(\"a\")",
            "block-scaled parameters have 128x128 blocks",
        ),
        (
            "bf16[2, 4, 64]",
            "head_rows(tensor(\"a\"), heads = 2, start = 1, len = 4)",
            "",
        ),
        (
            "bf16[2, 64, 4]",
            "transpose(head_rows(tensor(\"a\"), heads = 2, start = 1, len = 4))",
            "",
        ),
        (
            "bf16[2, 64, 4]",
            "head_rows(tensor(\"a\"), heads = 2, start = 1, len = 4)",
            "head_rows makes [2, 4, K]",
        ),
        (
            "bf16[2, 4]",
            "head_rows(tensor(\"a\"), heads = 2, start = 1, len = 4)",
            "head_rows makes 3 axes, not 2",
        ),
        (
            "e4m3[2, 128, 64]/f32[128x128]",
            "head_rows(tensor(\"a\"), heads = 2, start = 0, len = 128)",
            "head_rows cuts scale blocks; put dequant inside of it",
        ),
        (
            "bf16[4]",
            "transpose(tensor(\"a\"))",
            "transpose needs two axes",
        ),
        ("i32[4]", "tensor(\"a\")", "no recipe makes integers"),
        (
            "bf16[T, 4]",
            "tensor(\"a\")",
            "a parameter has constant dims only",
        ),
        (
            "f32[8, 32, 2]",
            "rope_table(dim = 64, theta = 1e4, positions = 8)",
            "",
        ),
        (
            "f32[8, 64, 2]",
            "rope_table(dim = 64, theta = 1e4, positions = 8)",
            "rope_table makes f32[8, 32, 2]",
        ),
        (
            "f32[8, 31, 2]",
            "rope_table(dim = 63, theta = 1e4, positions = 8)",
            "rope_table needs an even number",
        ),
        (
            "f32[8, 32, 2]",
            "rope_table(dim = 64, theta = 0.5, positions = 8)",
            "rope_table needs finite numbers",
        ),
        ("f32[8, 32, 2]", yarn.as_str(), "yarn needs positive factor"),
    ];
    for (ty, source, message) in cases {
        let text = format!("mir 1 model \"m\" dim T: 1..=8 param @a: {ty} = {source}");
        let found = errors(&text.parse().unwrap_or_else(|e| panic!("{e}")));
        match message {
            "" => assert_eq!(found, [""; 0], "{text}"),
            message => assert!(
                found.len() == 1 && found[0].contains(message),
                "{text}\n{found:?}"
            ),
        }
    }
}

#[test]
fn a_type_that_no_value_can_have_is_refused() {
    let mut m = Module::new("m");
    let ty = mcc_ir::Type {
        scale: None,
        ..mcc_ir::Type::scaled([8u64, 8], mcc_ir::ScaleBlock::WEIGHT)
    };
    m.params.push(Param {
        name: "a".into(),
        ty,
        source: ParamSource::Tensor("a".into()),
    });
    let [
        VerifyError {
            entry: None,
            message,
            ..
        },
    ] = &verify(&m).unwrap_err()[..]
    else {
        panic!("one error")
    };
    assert!(message.contains("an e4m3 type needs block scales"));
}

#[test]
fn a_mesh_has_ranks_for_its_axes() {
    let mut m = sound();
    m.mesh = m.mesh.map(|mesh| Mesh { dp: 3, ..mesh });
    assert_eq!(errors(&m), ["mesh: tp * dp = 6 must be nodes * gpus = 8"]);
}
