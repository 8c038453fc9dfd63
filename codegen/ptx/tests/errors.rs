//! Wrong PTX: each error names the line, the column and what is wrong.

use mcc_ptx::{ParseErrorKind, parse};

/// Parses `lines` as the body of a kernel whose first line is line 1, and
/// gives line, column and message of the error.
fn fail(lines: &str) -> (u32, u32, String) {
    let header = ".version 8.6 .target sm_90a .address_size 64 .entry k(.param .b64 a) { \
                  .reg .b32 %r<8>; .reg .pred %p<4>; .reg .b64 %d<4>;\n";
    match parse(&format!("{header}{lines}\n}}\n")) {
        Ok(module) => panic!("accepted:\n{module}"),
        Err(e) => (e.line - 1, e.column, e.kind.to_string()),
    }
}

fn check(lines: &str, line: u32, column: u32, message: &str) {
    let found = fail(lines);
    assert_eq!((found.0, found.1), (line, column), "{lines}\n{}", found.2);
    assert!(found.2.contains(message), "{lines}\n{}", found.2);
}

#[test]
fn instructions() {
    check(
        "ret;\n  frobnicate.u32 %r1, %r2;",
        2,
        3,
        "unknown instruction `frobnicate.u32`",
    );
    check("add.u33 %r1, %r2, %r3;", 1, 5, "modifier `.u33`");
    check("add.s32.ftz %r1, %r2, %r3;", 1, 9, "modifier `.ftz`");
    check(
        "ld.global.v2.volatile.b32 %r1, [%d1];",
        1,
        14,
        "modifier `.volatile`",
    );
    check(
        "wgmma.mma_async.sync.aligned.m64n12k16.f32.f16.f16 %r1;",
        1,
        30,
        "`.m64n12k16`",
    );
    check("mul.lo %r1, %r2, %r3;", 1, 1, "lacks a modifier");
}

#[test]
fn operands() {
    check("add.s32 %r1, %r2;", 1, 1, "found 2 operands");
    check("ret %r1;", 1, 1, "no operands");
    check(
        "ld.global.b32 %r1, %r2;",
        1,
        20,
        "operand 2 of `ld.global.b32`",
    );
    check("st.global.b32 %r1, %r2;", 1, 15, "operand 1");
    check("add.s32 5, %r2, %r3;", 1, 9, "operand 1");
    check("cp.async.wait_group %r1;", 1, 21, "operand 1");
    check("ld.global.v4.b32 {%r1, %r2}, [%d1];", 1, 18, "operand 1");
    check("ld.global.b32 {%r1, %r2}, [%d1];", 1, 15, "operand 1");
    check(
        "add.s32 %r1, %r2, ;",
        1,
        19,
        "expected an operand, found `;`",
    );
    check("add.s32 %r1, %r2, 0x;", 1, 19, "malformed number `0x`");
    check(
        "mbarrier.arrive.shared::cluster.b64 %d1, [%d2];",
        1,
        37,
        "operand 1",
    );
}

#[test]
fn names() {
    check("add.s32 %r1, %r2, %r8;", 1, 19, "`%r8` is not declared");
    check("add.s32 %r1, %r2, %r07;", 1, 19, "`%r07` is not declared");
    check("ld.param.b64 %d1, [b];", 1, 20, "`b` is not declared");
    check(
        "{ .reg .b32 t; }\nmov.b32 t, 1;",
        2,
        9,
        "`t` is not declared",
    );
    check("bra nowhere;", 1, 5, "label `nowhere` is not defined");
    check(
        "{ inner: }\nbra inner;",
        2,
        5,
        "label `inner` is not defined",
    );
    check("@%r1 bra x;\nx: ret;", 1, 2, "not a predicate");
    check("x: ret;\nx: ret;", 2, 1, "`x` is declared twice");
    check(".reg .b32 t;\n.reg .b64 t;", 2, 11, "`t` is declared twice");
    check(".reg .b32 %big<4294967295>;", 1, 11, "too many registers");
    check(".reg .b33 t;", 1, 6, "unknown type `.b33`");
}

#[test]
fn structure() {
    check(
        "add.s32 %r1, %r2, %r3\nret;",
        2,
        1,
        "expected `;`, found `ret`",
    );
    check("ret; /* never closed", 1, 6, "unterminated comment");
    check(".frequency 3;", 1, 1, "directive `.frequency`");
    check("mov.b32 %r1, ?;", 1, 14, "unexpected character '?'");
    let e = parse(".version 8.6\n.target sm_90a\n.entry k()\n{\n  {\n").expect_err("open scopes");
    assert_eq!(
        (e.line, e.column, e.kind),
        (5, 3, ParseErrorKind::Unterminated("scope"))
    );
    let e = parse("mov.b32 %r1, 1;").expect_err("no header");
    assert_eq!(e.to_string(), "1:1: expected `.version`, found `mov.b32`");
    let e = parse("").expect_err("empty");
    assert_eq!(
        e.to_string(),
        "1:1: expected `.version`, found the end of the text"
    );
}
