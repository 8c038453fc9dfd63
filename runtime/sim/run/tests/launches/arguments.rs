//! Each kind of argument and each source of a buffer, through a kernel that
//! tells what it was given.

use std::path::Path;

use crate::{echo, increment, passes, try_in};

/// Runs a kernel that copies its parameters after the first, 32-bit word by
/// word, and expects `want` there.
fn gives(params: &str, args: &str, want: &[u32]) {
    let words: Vec<String> = want.iter().map(|w| format!("\"{w:#x}\"")).collect();
    let file = format!(
        r#"{{"buffers": {{"out": {{"dtype": "b32", "shape": [{n}]}},
                          "x": {{"dtype": "f32", "shape": [64, 32]}}}},
            "launch": {{"grid": 1, "block": 1, "args": ["out", {args}]}},
            "expect": [{{"buffer": "out", "values": [{}]}}]}}"#,
        words.join(", "),
        n = want.len()
    );
    passes(&echo(params, want.len() as u32), &file);
}

#[test]
fn scalars_of_every_type() {
    gives(", .param .u32 n", r#"{"u32": 7}"#, &[7]);
    gives(", .param .u32 n", "4294967295", &[u32::MAX]);
    gives(", .param .s32 n", "-2", &[0xffff_fffe]);
    gives(", .param .u32 n", r#"{"s32": -1}"#, &[u32::MAX]);
    gives(", .param .b32 n", r#"{"f32": 1.5}"#, &[0x3fc0_0000]);
    gives(", .param .f32 n", "3", &[0x4040_0000]);
    gives(
        ", .param .f32 n",
        r#"{"f32": "0x7fc00001"}"#,
        &[0x7fc0_0001],
    );
    gives(", .param .f32 n", r#"{"f32": "-inf"}"#, &[0xff80_0000]);
    gives(
        ", .param .f32 n",
        r#"{"tf32": 1.00048828125}"#,
        &[0x3f80_0000],
    );
    gives(", .param .f64 n", "0.5", &[0, 0x3fe0_0000]);
    gives(
        ", .param .u64 n",
        r#"{"u64": "0x123456789a"}"#,
        &[0x3456_789a, 0x12],
    );
    gives(", .param .s64 n", r#"{"s64": -1}"#, &[u32::MAX, u32::MAX]);
    // Two to a word: the second word of 16 bits tells of the order.
    gives(
        ", .param .f16 a, .param .align 2 .b8 b[2]",
        r#"{"f16": 1.0}, {"bf16": 1.0}"#,
        &[0x3f80_3c00],
    );
    gives(
        ", .param .u8 a, .param .s8 b, .param .b8 c, .param .b8 d",
        r#"{"u8": 200}, {"s8": -1}, {"e4m3": 448}, {"e5m2": 1}"#,
        &[0x3c7e_ffc8],
    );
    gives(
        ", .param .u16 a, .param .b16 b",
        r#"65535, {"b16": "0x1234"}"#,
        &[0x1234_ffff],
    );
    gives(
        ", .param .s16 a, .param .u16 b",
        r#"{"s16": -1}, 1"#,
        &[0x0001_ffff],
    );
}

#[test]
fn structures_are_laid_out_as_c_does() {
    // struct { char a; int b; short c; } has 12 bytes.
    gives(
        ", .param .align 4 .b8 s[12]",
        r#"{"struct": [{"u8": 1}, {"u32": 2}, {"u16": 3}]}"#,
        &[1, 2, 3],
    );
    gives(
        ", .param .align 4 .b8 s[8]",
        r#"{"struct": [{"struct": [{"u8": 1}, {"u16": 2}]}, {"bytes": "aabb ccdd"}]}"#,
        &[0x0002_0001, 0xddcc_bbaa],
    );
    gives(
        ", .param .align 8 .b8 s[4]",
        r#"{"bytes": "01020304"}"#,
        &[0x0403_0201],
    );
}

#[test]
fn buffers_are_shared_and_have_offsets() {
    // Two launches of one kernel on two halves of one buffer.
    let file = r#"{
        "buffers": {"x": {"dtype": "u32", "shape": [64], "fill": {"ramp": {"start": 10}}}},
        "launch": [
            {"grid": 1, "block": 32, "args": ["x"]},
            {"kernel": "k", "grid": [1, 1], "block": [32, 1, 1], "args": [{"buffer": "x", "offset": 128}]}
        ],
        "expect": [
            {"buffer": "x", "fill": {"ramp": {"start": 11}}},
            {"buffer": "x", "at_byte": 128, "dtype": "u32", "shape": [2], "values": [43, 44]}
        ]
    }"#;
    let report = passes(&increment(), file);
    assert_eq!(report.launches.len(), 2);
    assert_eq!(report.launches[0].blocks, 1);
    assert!(report.launches[0].warp_instructions >= 8, "{report}");
}

#[test]
fn buffers_come_from_files_and_go_to_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let words: Vec<u8> = (0..40u32).flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(at("in.bin"), &words).expect("written");
    // The first run makes the safetensors file that the second one reads.
    let first = r#"{
        "buffers": {
            "x": {"dtype": "u32", "shape": [4, 8], "file": "in.bin", "offset": 32},
            "z": {"file": "in.bin"}
        },
        "launch": {"grid": 1, "block": 32, "args": ["x"]},
        "outputs": [
            {"buffer": "x", "file": "out.bin"},
            {"buffer": "x", "safetensors": "out.safetensors", "tensor": "layer.x"},
            {"buffer": "z", "safetensors": "out.safetensors"}
        ]
    }"#;
    let report = try_in(dir.path(), &increment(), first).expect("runs");
    assert_eq!(report.outputs.len(), 3);
    assert_eq!(report.outputs[0].first, ["9", "10", "11", "12"]);
    let want: Vec<u8> = (9..41u32).flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(std::fs::read(at("out.bin")).expect("written"), want);
    let second = r#"{
        "buffers": {"x": {"safetensors": "out.safetensors", "tensor": "layer.x"}},
        "launch": {"grid": 1, "block": 32, "args": ["x"]},
        "expect": [{"buffer": "x", "dtype": "u32", "shape": [4, 8], "fill": {"ramp": {"start": 10}}}]
    }"#;
    let report = try_in(dir.path(), &increment(), second).expect("runs");
    assert!(report.passed(), "{report}");
    // An expectation from a file, which is not what comes out.
    let third = second.replace(
        r#""dtype": "u32", "shape": [4, 8], "fill": {"ramp": {"start": 10}}"#,
        r#""file": "out.bin""#,
    );
    let report = try_in(dir.path(), &increment(), &third).expect("runs");
    assert!(!report.passed());
    let m = &report.expected[0];
    assert_eq!((m.elements, m.mismatches), (32, 32));
    assert!(
        report
            .to_string()
            .contains("32 of 32 elements do not match, first element 0: 10 in place of 9"),
        "{report}"
    );
}

#[test]
fn fills_repeat_and_differ_by_name() {
    let file = r#"{
        "buffers": {
            "x": {"dtype": "f32", "shape": 32, "fill": "normal"},
            "same": {"dtype": "f32", "shape": [32], "fill": "normal", "seed": 5},
            "z": {"dtype": "e4m3", "shape": [32], "fill": {"uniform": {"low": -1, "high": 1}}},
            "i": {"dtype": "s64", "shape": [8], "fill": {"integers": {"low": -3, "high": 3}}},
            "c": {"dtype": "bf16", "shape": [2, 2], "fill": {"constant": 1.5}},
            "v": {"dtype": "f16", "values": [[1, 2], [3, "0x4400"]]},
            "raw": {"bytes": "1KiB", "fill": "zeros"}
        },
        "launch": {"grid": 1, "block": 1, "args": []},
        "expect": [
            {"buffer": "same", "fill": "normal", "seed": 5},
            {"buffer": "c", "values": [1.5, 1.5, 1.5, 1.5]},
            {"buffer": "v", "dtype": "b16", "values": ["0x3c00", "0x4000", "0x4200", "0x4400"]},
            {"buffer": "raw", "fill": {"constant": 0}}
        ]
    }"#;
    let ptx = crate::kernel("", "ret;");
    passes(&ptx, file);
    let other = file.replace(
        r#""buffer": "same", "fill": "normal", "seed": 5"#,
        r#""buffer": "x", "fill": "normal", "seed": 5"#,
    );
    let report = crate::attempt(&ptx, &other).expect("runs");
    assert!(!report.passed(), "the name is a seed of its own");
}

/// Loads a 2-d box at (x, y) to shared memory and copies 2048 bytes out.
const TMA: &str = ".reg .pred %p<2>; .reg .b32 %r<12>; .reg .b64 %rd<4>;
    .shared .align 1024 .b8 tile[2048]; .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [cx]; ld.param.u32 %r2, [cy]; MAP
    mov.u32 %r3, tile; mov.u32 %r4, bar;
    mbarrier.init.shared::cta.b64 [%r4], 1; fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 2048;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd2, {%r1, %r2}], [%r4];
    SPIN: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r4], 0; @!%p1 bra SPIN;
    mov.u32 %r5, 0;
    COPY: add.u32 %r6, %r3, %r5; ld.shared.b32 %r7, [%r6];
    cvt.u64.u32 %rd3, %r5; add.s64 %rd3, %rd1, %rd3; st.global.b32 [%rd3], %r7;
    add.u32 %r5, %r5, 4; setp.lt.u32 %p1, %r5, 2048; @%p1 bra COPY; ret;";

#[test]
fn tensor_maps_by_value_and_by_address() {
    let by_value = crate::kernel(
        ".param .u64 out, .param .u32 cx, .param .u32 cy, .param .align 64 .b8 map[128]",
        &TMA.replace("MAP", "mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2;"),
    );
    let by_address = crate::kernel(
        ".param .u64 out, .param .u32 cx, .param .u32 cy, .param .u64 map",
        &TMA.replace("MAP", "ld.param.u64 %rd2, [map];"),
    );
    // Box (32, 16) of a 64 x 64 matrix at (32, 56): rows 64 and up are outside.
    let want: Vec<String> = (0..512)
        .map(|i| match 56 + i / 32 {
            row if row < 64 => format!("{}", row * 64 + 32 + i % 32),
            _ => "\"nan\"".into(),
        })
        .collect();
    let file = |map: &str| {
        format!(
            r#"{{"buffers": {{"out": {{"dtype": "f32", "shape": [512]}},
                              "x": {{"dtype": "f32", "shape": [64, 64], "fill": "ramp"}}}},
                "launch": {{"grid": 1, "block": 1, "args": ["out", 32, 56, {{"tensor_map": {map}}}]}},
                "expect": [{{"buffer": "out", "values": [{}], "abs": 1e-9}}]}}"#,
            want.join(", ")
        )
    };
    let map = r#"{"buffer": "x", "type": "f32", "dims": [64, 64], "box": [32, 16], "strides": [256],
        "element_strides": [1, 1], "swizzle": "none", "interleave": "none", "l2_promotion": "128B", "oob_fill": "nan"}"#;
    assert!(passes(&by_value, &file(map)).notes.is_empty());
    passes(&by_address, &file(map));
    // The same box of the same matrix, described from its second half on.
    let late = r#"{"buffer": "x", "offset": 8192, "type": "f32", "dims": [64, 32], "box": [32, 16], "oob_fill": "nan"}"#;
    passes(&by_value, &file(late).replace("32, 56,", "32, 24,"));
    // A swizzled tile comes out permuted.
    let swizzled = map.replace("none\", \"interleave", "128B\", \"interleave");
    let report = crate::attempt(&by_value, &file(&swizzled)).expect("runs");
    assert!(!report.passed());
    // A map over the end of its buffer is legal as long as nothing touches it.
    let long = map.replace("[64, 64]", "[64, 65]").replace("nan", "zeros");
    let report = crate::attempt(&by_value, &file(&long).replace("32, 56,", "0, 0,")).expect("runs");
    assert!(
        report.notes[0].contains("describes 16640 bytes, but buffer `x` has 16384"),
        "{report}"
    );
}

#[test]
fn the_device_is_what_the_file_says() {
    let ptx = crate::kernel(
        ".param .u64 out",
        ".reg .b32 %r<2>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [out]; mov.u32 %r1, %nsmid;
        st.global.u32 [%rd1], %r1; ret;",
    );
    let file = r#"{"device": {"sms": 7, "memory": "1MiB"},
        "buffers": {"out": {"dtype": "u32", "shape": [1]}},
        "launch": {"grid": 1, "block": 1, "args": ["out"]},
        "expect": [{"buffer": "out", "values": [7]}]}"#;
    passes(&ptx, file);
    let small = file.replace("1MiB", "3");
    let error = try_in(Path::new(""), &ptx, &small)
        .expect_err("4 bytes of 3")
        .to_string();
    assert!(
        error.contains("`buffers.out`: 4 bytes where 3 of 3 are left"),
        "{error}"
    );
}
