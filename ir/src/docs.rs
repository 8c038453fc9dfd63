//! The page about every op, made from the op table: `docs/ops.md`.

use std::fmt::Write;

use crate::op::{OPS, OpRow, ValueDecl};

/// The page as Markdown.
#[must_use]
pub fn ops_markdown() -> String {
    let mut page = String::from(
        "# Ops\n\n\
         Made from the op table in [ir/src/op/table.rs](../ir/src/op/table.rs); a test holds the two together, and \
         `MCC_BLESS=1 cargo test -p mcc-ir` writes this page anew.\n\n\
         Letters stand for extents: constants, or multiples of named dims such as `T` and `4*T`. `..` stands for any \
         axes. `e4m3[M, K]/f32[1x128]` is one value: FP8 codes with one f32 scale for each block. In the text form an \
         op reads `%1 = rms_norm %0, @w {eps = 1e-6} : bf16[T, 256]`.\n",
    );
    section(&mut page, "Plain ops", OPS.iter().filter(|row| !row.fused));
    section(&mut page, "Fused ops", OPS.iter().filter(|row| row.fused));
    page
}

fn section(page: &mut String, title: &str, rows: impl Iterator<Item = &'static OpRow>) {
    let _ = writeln!(page, "\n## {title}");
    if title == "Fused ops" {
        page.push_str("\nEach is defined by its expansion into plain ops, rounding included; the evaluator runs the expansion.\n");
    }
    for row in rows {
        let _ = writeln!(page, "\n### {}\n", row.mnemonic);
        // Doc lines keep the space that follows `///`.
        for line in row.doc.lines() {
            let _ = writeln!(page, "{}", line.strip_prefix(' ').unwrap_or(line));
        }
        let _ = writeln!(page, "\n| | | |\n|---|---|---|");
        for decl in row.operands {
            value(page, "operand", decl);
        }
        if let Some(decl) = &row.variadic {
            value(page, "operands", decl);
        }
        for attr in row.attrs {
            let word = attr.word.map(|(word, _)| format!(" or `{word}`"));
            let _ = writeln!(
                page,
                "| attribute | `{}` | {}{}: {} |",
                attr.name,
                attr.kind,
                word.unwrap_or_default(),
                attr.doc.trim()
            );
        }
        for decl in row.results {
            value(page, "result", decl);
        }
    }
}

fn value(page: &mut String, what: &str, decl: &ValueDecl) {
    let form = match decl.form {
        "any" => "any type".to_owned(),
        form => form
            .split(" or ")
            .map(|ty| format!("`{ty}`"))
            .collect::<Vec<_>>()
            .join(" or "),
    };
    let _ = writeln!(page, "| {what} | `{}` | {form} |", decl.name);
}
