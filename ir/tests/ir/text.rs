//! Printer and parser: round trips, and errors that point at their place.

use mcc_ir::op::OPS;
use mcc_ir::{F32, Graph, Module, Op, Param, Type, parse};

use crate::sample::EVERYTHING;

#[test]
fn everything_round_trips_and_is_canonical() {
    let module: Module = EVERYTHING.parse().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.to_string(), EVERYTHING);
    let again: Module = module.to_string().parse().unwrap();
    assert_eq!(again, module);
}

#[test]
fn the_sample_uses_every_op() {
    let module: Module = EVERYTHING.parse().unwrap();
    let used: Vec<_> = module
        .entries
        .iter()
        .flat_map(|g| g.topo().into_iter().map(|n| g.op(n).mnemonic()))
        .collect();
    for row in OPS {
        assert!(
            used.contains(&row.mnemonic),
            "{} is missing in the sample",
            row.mnemonic
        );
    }
}

#[test]
fn comments_and_layout_do_not_matter() {
    let text = "mir 1 // format\r\n\tmodel \"m\" dim T:1..=8 // all on one line\nentry@e(x:bf16[T,2]){%7=add %x,%x:bf16[T,2] return y=%7}";
    let module: Module = text.parse().unwrap_or_else(|e| panic!("{e}"));
    let canonical = "mir 1\nmodel \"m\"\ndim T: 1..=8\n\nentry @e(x: bf16[T, 2]) {\n  %0 = add %x, %x : bf16[T, 2]\n  return y = %0\n}\n";
    assert_eq!(module.to_string(), canonical);
}

/// All bit patterns of a coarse grid, and those around powers of ten, survive the text.
#[test]
fn floats_round_trip_bit_for_bit() {
    let grid = (0..=0x7f7f_ffff_u32).step_by(0x000f_0f0f);
    let near_tens = (-45..=38).flat_map(|e| {
        let bits = 10f64.powi(e) as f32;
        let bits = bits.to_bits();
        bits.saturating_sub(2)..=bits + 2
    });
    for bits in grid.chain(near_tens).flat_map(|b| [b, b | 0x8000_0000]) {
        let scale = F32::new(f32::from_bits(bits));
        if !scale.get().is_finite() {
            continue;
        }
        let mut g = Graph::new("e");
        let x = |g: &mut Graph, name: &str, ty: &str| g.input(name, ty.parse().unwrap()).unwrap();
        let q = x(&mut g, "q", "bf16[1, 1, 1]");
        let k = x(&mut g, "k", "bf16[1, 1]");
        let p = x(&mut g, "p", "i32[1]");
        g.add(Op::Attention { scale }, &[q, q, q, k, q, p], None)
            .unwrap();
        let text = format!("mir 1 model \"m\" {g}return_");
        let text = text.trim_end_matches("return_");
        let module: Module = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(module.entries[0], g, "{scale}");
    }
}

#[test]
fn types_and_dims_parse_on_their_own() {
    for text in [
        "bf16[T, 256]",
        "e4m3[4*T, 256]/f32[1x128]",
        "f32[\"a b\", 2*x.y]",
        "i32[1]",
    ] {
        let ty: Type = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ty.to_string(), text);
        let json = serde_json::to_string(&ty).unwrap();
        assert_eq!(serde_json::from_str::<Type>(&json).unwrap(), ty, "{json}");
    }
    assert!("bf16[T, 256] x".parse::<Type>().is_err());
    assert!(parse::dim("1*T").is_err(), "one spelling for each dim");
}

#[test]
fn json_of_dims_is_a_number_or_the_text() {
    let ty: Type = "bf16[4*T, 256]".parse().unwrap();
    assert_eq!(
        serde_json::to_string(&ty).unwrap(),
        r#"{"dtype":"bf16","shape":["4*T",256]}"#
    );
}

/// Programs and manifests carry these as JSON.
#[test]
fn recipes_round_trip_through_json() {
    let module: Module = EVERYTHING.parse().unwrap();
    for param in &module.params {
        let json = serde_json::to_string(param).unwrap();
        assert_eq!(
            serde_json::from_str::<Param>(&json).unwrap(),
            *param,
            "{json}"
        );
    }
}

#[test]
fn ops_carry_the_place_of_their_line() {
    let module = parse::module(EVERYTHING, "all.mir").unwrap();
    let g = &module.entries[0];
    let add = g.topo().into_iter().find(|n| *g.op(*n) == Op::Add).unwrap();
    assert_eq!(
        g.node(add).loc.as_ref().unwrap().to_string(),
        "all.mir:28:8"
    );
}

/// The whole message for one error, so that its shape is fixed.
#[test]
fn an_error_shows_the_line_and_a_caret() {
    let text = "mir 1\nmodel \"m\"\n\tdim T = 1..=8\n";
    let error = parse::module(text, "bad.mir").unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad.mir:3:8: expected `:`, got `=`\n 3 | \tdim T = 1..=8\n   | \t      ^"
    );
}

/// Text put into the body of an entry over `x: bf16[T, 256]`, `i: i32[T]`; place and start of the message.
#[test]
fn errors_in_statements_name_what_was_expected() {
    let cases = [
        (
            "%0 = addd %x, %x : bf16[T, 256]",
            5,
            "expected an op of the table (docs/ops.md), got `addd`",
        ),
        (
            "%0 = add %x, %y : bf16[T, 256]",
            13,
            "`%y` is no input of the entry",
        ),
        (
            "%0 = add %x, %1 : bf16[T, 256]",
            13,
            "`%1` is not defined above",
        ),
        (
            "%0 = add %x, @w : bf16[T, 256]",
            13,
            "`@w` is no parameter or state of the module",
        ),
        (
            "%0 = add %x : bf16[T, 256]",
            5,
            "`add`: expected 2 operand(s): a, b, got 1",
        ),
        (
            "%0 = add %x, %i : bf16[T, 256]",
            5,
            "`add`, operand `b`: expected bf16[T, 256], the type of `a`, got i32[T]",
        ),
        (
            "%0 = add %x, %x : bf16[C, 256]",
            18,
            "expected the type of the result, bf16[T, 256], got bf16[C, 256]",
        ),
        (
            "%0, %1 = add %x, %x : bf16[T, 256]",
            1,
            "`add` has 1 results (out)",
        ),
        (
            "%0 = add %x, %x : bf16[T, 256] %0 = add %x, %x : bf16[T, 256]",
            32,
            "`%0` is defined twice",
        ),
        (
            "%0 = add %x, %x bf16[T, 256]",
            16,
            "expected `:`, got `bf16`",
        ),
        (
            "%0 = add %x, %x {eps = 1} : bf16[T, 256]",
            17,
            "`add` has no attribute `eps`; it has: ",
        ),
        (
            "%0 = slice %x {axis = 1, start = 0} : bf16[T, 2]",
            5,
            "`slice` needs the attribute `len` (integer)",
        ),
        (
            "%0 = slice %x {axis = 1.5, start = 0} : bf16[T, 2]",
            22,
            "expected an integer, got `1.5`",
        ),
        (
            "%0 = concat %x {axis = 0, axis = 0} : bf16[T, 2]",
            5,
            "`concat` has no further attribute `axis`",
        ),
        (
            "%0 = concat : bf16[T, 2]",
            12,
            "`concat` needs the attribute `axis`",
        ),
        (
            "%0 = slice %x {axis = 99999999999999999999} : i32[1]",
            22,
            "this integer does not fit in 64 bits",
        ),
        (
            "%0 = quantize %x : e4m3[T, 256]/f32[128]",
            36,
            "expected a scale block such as `1x128`",
        ),
        (
            "%0 = quantize %x : fp8[T, 256]",
            19,
            "expected an element type (f32, bf16, e4m3, i32), got `fp8`",
        ),
        ("update @c = %x", 8, "`@c` is no state of the module"),
        ("$", 0, "unexpected character '$'"),
        ("\"open", 0, "this string has no closing quote on its line"),
    ];
    for (body, column, message) in cases {
        let text = format!(
            "mir 1\nmodel \"m\"\ndim T: 1..=8\nentry @e(x: bf16[T, 256], i: i32[T]) {{\n{body}\nreturn y = %x }}"
        );
        let error = parse::module(&text, "").expect_err(body);
        // A missing attribute is the statement's fault, wherever it was noticed.
        let column = if message.starts_with("`concat` needs") {
            5
        } else {
            column
        };
        assert_eq!(
            (error.line, error.column),
            (5, column + 1),
            "{body}\n{error}"
        );
        assert!(error.message.starts_with(message), "{body}\n{error}");
    }
}

#[test]
fn errors_in_declarations_name_what_was_expected() {
    let cases = [
        ("", "expected `mir`, got the end of the text"),
        ("mir 2", "expected version 1 of the format, got 2"),
        ("mir 1 model tiny", "expected a quoted string, got `tiny`"),
        (
            "mir 1 model \"m\" dim T: 8..=1",
            "dim `T` has the empty range 8..=1",
        ),
        (
            "mir 1 model \"m\" dim T: 1..=1 dim T: 1..=1",
            "dim `T` is declared twice",
        ),
        (
            "mir 1 model \"m\" state @a: bf16[1] param @a: bf16[1] = tensor(\"a\")",
            "parameter `a` is declared twice",
        ),
        (
            "mir 1 model \"m\" state @a: e4m3[1]",
            "`a` has the type e4m3[1]: an e4m3 type needs block scales",
        ),
        (
            "mir 1 model \"m\" state @a: bf16[1]/f32[1x128]",
            "`a` has the type bf16[1]/f32[1x128]: bf16 is never",
        ),
        (
            "mir 1 model \"m\" state @a: bf16[0]",
            "`a` has the type bf16[0]: an axis needs at least one element",
        ),
        (
            "mir 1 model \"m\" param @a: bf16[1] = load(\"a\")",
            "expected a recipe (tensor, concat, stack",
        ),
        (
            "mir 1 model \"m\" param @a: bf16[1] = tensor(a)",
            "expected a quoted string, got `a`",
        ),
        (
            "mir 1 model \"m\" entry @e() { return } entry @e() { return }",
            "entry `e` is declared twice",
        ),
        (
            "mir 1 model \"m\" entry @e(x: bf16[1], x: bf16[1]) { return }",
            "input `x` is declared twice",
        ),
        (
            "mir 1 model \"m\" entry @e() { return",
            "expected a name, got the end of the text",
        ),
        (
            "mir 1 model \"m\" allow fast",
            "expected `exact`, `reassociate` or `round`, got `fast`",
        ),
        (
            "mir 1 model \"m\" entry @e() allow { return }",
            "expected `exact`, `reassociate` or `round`, got `{`",
        ),
        (
            "mir 1 model \"m\" entry @e(x: bf16[1]) { %0 = add %x, %x : bf16[1] never() return }",
            "expected names of rules in quotes",
        ),
        (
            "mir 1 model \"m\" entry @e(x: bf16[1]) { %0 = add %x, %x : bf16[1] never(a) return }",
            "expected a quoted string, got `a`",
        ),
        (
            "mir 1 model \"m\" entry @e(x: bf16[1]) { %0 = add %x, %x : bf16[1] keep keep return }",
            "expected a value such as `%0`, `update` or `return`, got `keep`",
        ),
        (
            "mir 1 model \"\\q\"",
            "expected one of \\\" \\\\ \\n \\t \\u{..}",
        ),
    ];
    for (text, message) in cases {
        let error = parse::module(text, "").expect_err(text);
        assert!(error.message.starts_with(message), "{text}\n{error}");
    }
    let deep = format!(
        "mir 1 model \"m\" param @a: bf16[1] = {}",
        "dequant(".repeat(100_000)
    );
    assert!(
        parse::module(&deep, "")
            .unwrap_err()
            .message
            .starts_with("expected a recipe nested at most 32 deep")
    );
}

#[test]
fn a_mesh_is_checked_where_it_stands() {
    let error = |mesh: &str| {
        let text = format!("mir 1\nmodel \"m\"\nmesh {mesh}\n");
        text.parse::<Module>().unwrap_err().to_string()
    };
    let wrong = error("nodes = 4, gpus = 8, ep = 32, tp = 1, dp = 8");
    assert!(
        wrong.contains("tp * dp = 8 must be nodes * gpus = 32"),
        "{wrong}"
    );
    let wrong = error("nodes = 4, gpus = 8, ep = 32");
    assert!(wrong.contains("expected `,`"), "{wrong}");
    let wrong = error("nodes = 4294967296, gpus = 1, ep = 1, tp = 1, dp = 1");
    assert!(wrong.contains("`nodes` has at most 32 bits"), "{wrong}");
}
