//! The op table agrees with itself: forms of types with inference, attributes with their uniform form.

use mcc_ir::attr::AttrValue;
use mcc_ir::exchange::{TwoHopRecord, direct_record_words};
use mcc_ir::op::{OPS, OpRow};
use mcc_ir::{DType, Dim, Name, Op, Type};

/// Extents for the letters of the forms, chosen so that every rule of every op holds.
fn extent(letter: &str) -> Dim {
    match letter {
        "T" | "C" | "R" | "M" => Dim::sym(letter),
        // Of the ops between ranks: experts of a rank, rows that they have room for.
        "L" => 4.into(),
        "S" => 512.into(),
        "X" => 3.into(),
        "D" | "K" | "N" | "V" | "P" => 256.into(),
        "I" | "dk" | "dv" => 128.into(),
        "H" | "Hk" => 2.into(),
        "E" => 8.into(),
        "k" => 2.into(),
        "dc" => 192.into(),
        "dr" => 64.into(),
        number => Dim::Const(
            number
                .parse()
                .unwrap_or_else(|_| panic!("no extent for `{number}`")),
        ),
    }
}

/// `2*I`, `dr/2`, `E + 1`, `dc + dr`, `k*T`
fn dim(form: &str) -> Dim {
    if let Some((a, b)) = form.split_once(" + ") {
        dim(a).plus(&dim(b)).unwrap()
    } else if let Some((a, b)) = form.split_once('*') {
        dim(b).times(dim(a).as_const().unwrap()).unwrap()
    } else if let Some((a, b)) = form.split_once('/') {
        Dim::Const(dim(a).as_const().unwrap() / dim(b).as_const().unwrap())
    } else {
        extent(form)
    }
}

/// The type that a form of an op stands for, with `T, 3` for `..`, and `out` for the attribute's element type.
fn instance(op: &Op, form: &str, out: DType) -> Type {
    // `quantize_wide` takes the length of its groups from an attribute.
    let mut form = form.replace("1xG", "1x256");
    if let Some(group) = op.expert_group(2) {
        let words = match op {
            Op::DispatchTwoHop { .. } | Op::CombineTwoHop { .. } => {
                TwoHopRecord::new(&group, 3).words
            }
            _ => direct_record_words(&group),
        };
        form = form.replace("[W]", &format!("[{words}]"));
    }
    let form = &form;
    let (dtype, rest) = form.split_once('[').unwrap();
    let (shape, scale) = rest.split_once(']').unwrap();
    let dtype = DType::from_keyword(dtype).unwrap_or(out);
    let shape: Vec<Dim> = shape
        .split(", ")
        .flat_map(|form| {
            if form == ".." {
                vec![Dim::sym("T"), 3.into()]
            } else {
                vec![dim(form)]
            }
        })
        .collect();
    format!("{}{scale}", Type::new(dtype, shape))
        .parse()
        .unwrap()
}

fn sample_op(row: &'static OpRow, out: DType) -> Op {
    let attrs = row.attrs.iter().map(|attr| {
        let value = match attr.name {
            "eps" => AttrValue::Float(1e-6.into()),
            "scale" | "scaling" => AttrValue::Float(2.5.into()),
            "out" => AttrValue::DType(out),
            "promote" => AttrValue::Int(128),
            "expert" => AttrValue::Int(8),
            "weight" => AttrValue::Float(1.0.into()),
            "start" => AttrValue::Int(192),
            "group" => AttrValue::Int(256),
            "top_k" | "n_group" | "topk_group" => AttrValue::Int(2),
            "n_experts" => AttrValue::Int(8),
            "nodes" => AttrValue::Int(1),
            "gpus" => AttrValue::Int(2),
            "tokens" => AttrValue::Int(256),
            "capacity" => AttrValue::Int(512),
            "channels" => AttrValue::Int(3),
            "weighted" => AttrValue::Bool(true),
            "normalize" => AttrValue::Bool(true),
            other => panic!("no sample for `{other}` of `{}`", row.mnemonic),
        };
        (Name::from(attr.name), value)
    });
    row.build(attrs.collect()).unwrap()
}

/// For each alternative of the operands' forms, inference accepts them and gives the results' forms.
#[test]
fn forms_in_the_table_are_what_inference_does() {
    for row in OPS {
        if row
            .operands
            .iter()
            .chain(&row.variadic)
            .any(|decl| decl.form == "any")
        {
            continue;
        }
        let count = row.operands[0].form.split(" or ").count();
        for (alternative, out) in (0..count).flat_map(|a| [(a, DType::BF16), (a, DType::F32)]) {
            let op = sample_op(row, out);
            let pick = |form: &'static str| {
                let forms: Vec<_> = form.split(" or ").collect();
                instance(&op, forms[alternative.min(forms.len() - 1)], out)
            };
            let operands: Vec<_> = row.operands.iter().map(|decl| pick(decl.form)).collect();
            let results: Vec<_> = row.results.iter().map(|decl| pick(decl.form)).collect();
            assert_eq!(
                op.infer(&operands).unwrap_or_else(|e| panic!("{e}")),
                results,
                "{op}"
            );
        }
    }
}

/// Each operand that has a fixed element type is refused with another one, and the error names the operand.
#[test]
fn each_operand_is_checked() {
    for row in OPS
        .iter()
        .filter(|row| row.operands.iter().all(|decl| decl.form != "any") && row.variadic.is_none())
    {
        let op = sample_op(row, DType::BF16);
        let pick = |form: &str| instance(&op, form.split(" or ").next().unwrap(), DType::BF16);
        let good: Vec<_> = row.operands.iter().map(|decl| pick(decl.form)).collect();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] = Type::new(
                if good[i].dtype == DType::I32 {
                    DType::BF16
                } else {
                    DType::I32
                },
                &good[i].shape,
            );
            let error = op.infer(&bad).expect_err(row.mnemonic);
            // When the first operand decides what the others must be, a change of it may be blamed on them.
            let named = error
                .to_string()
                .contains(&format!("operand `{}`", row.operands[i]));
            assert!(named, "{error}");
            if row.operands[i].form.contains("..") {
                continue;
            }
            let mut more_axes = good.clone();
            more_axes[i]
                .shape
                .extend([Dim::Const(7), Dim::Const(7), Dim::Const(7)]);
            let error = op.infer(&more_axes).expect_err(row.mnemonic);
            assert_eq!(error.op, row.mnemonic);
        }
        assert!(
            op.infer(&good[1..]).is_err() && op.infer(&[&good[..], &good[..1]].concat()).is_err()
        );
    }
}

#[test]
fn attributes_survive_their_uniform_form() {
    for row in OPS.iter().filter(|row| {
        !matches!(
            row.mnemonic,
            "slice" | "concat" | "reshape" | "transpose" | "expand"
        )
    }) {
        let op = sample_op(row, DType::F32);
        let attrs = op
            .attrs()
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect();
        assert_eq!(op.row().unwrap().build(attrs).unwrap(), op);
        assert_eq!(op.mnemonic(), row.mnemonic);
    }
}

#[test]
fn mnemonics_are_unique_and_documented() {
    for (i, row) in OPS.iter().enumerate() {
        assert!(OPS[..i].iter().all(|other| other.mnemonic != row.mnemonic));
        assert!(
            row.doc.trim().len() > 10 && row.attrs.iter().all(|attr| !attr.doc.trim().is_empty())
        );
    }
}
