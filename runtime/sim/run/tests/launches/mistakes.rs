//! Each mistake in a launch file, and the answer: where it is, what is wrong,
//! what would be right.

use std::path::Path;

use crate::{increment, kernel, refused, try_in};

const GOOD: &str = r#"{"buffers": {"x": {"dtype": "u32", "shape": [32], "fill": "zeros"}},
    "launch": {"grid": 1, "block": 32, "args": ["x"]}}"#;

/// `GOOD` with one thing changed is refused with a message that has all of
/// `want`.
fn wrong(from: &str, to: &str, want: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    let message = refused(&increment(), &GOOD.replacen(from, to, 1));
    for w in want {
        assert!(message.contains(w), "`{message}` lacks `{w}`");
    }
}

#[test]
fn the_text_and_its_fields() {
    wrong("}}", "}", &["not JSON", "line 2"]);
    wrong(
        "\"grid\"",
        "\"gird\"",
        &["`launch.gird`", "there is kernel, grid, block"],
    );
    wrong(
        "\"launch\"",
        "\"run\"",
        &["`run`", "nothing has this name here"],
    );
    wrong(
        "\"grid\": 1,",
        "",
        &["`launch`: the field `grid` is missing"],
    );
    wrong(
        "\"grid\": 1",
        "\"grid\": 1, \"grid\": 2",
        &["`grid` occurs twice"],
    );
    wrong("{\"grid\"", "[], \"device\": {\"grid\"", &["`device.grid`"]);
    wrong(
        "\"buffers\"",
        "\"launch\": [], \"buffers\"",
        &["`launch` occurs twice"],
    );
    wrong(
        "\"u32\"",
        "32",
        &["`buffers.x.dtype`: a number where a string is needed"],
    );
}

#[test]
fn extents_of_a_launch() {
    wrong(
        "\"grid\": 1",
        "\"grid\": 0",
        &["`launch.grid`: 0 is not between 1 and"],
    );
    wrong(
        "\"grid\": 1",
        "\"grid\": [1, 2, 3, 4]",
        &["`launch.grid`", "4 extents"],
    );
    wrong(
        "\"grid\": 1",
        "\"grid\": 1.5",
        &["`launch.grid`: 1.5 is no integer"],
    );
    wrong(
        "\"grid\": 1",
        "\"grid\": [4, 6], \"cluster\": [2, 4]",
        &["`launch.grid`: 6 blocks along y are no multiple of the cluster's 4"],
    );
    wrong(
        "\"block\": 32",
        "\"block\": 2048",
        &["`launch.block`: 2048 threads", "takes 1024"],
    );
    wrong(
        "\"block\": 32, ",
        "",
        &["`launch.block`: the field is missing", "no .reqntid"],
    );
    wrong(
        "\"grid\": 1",
        "\"grid\": 1, \"shared\": \"1MiB\"",
        &["`launch.shared`: 1048576 bytes", "232448"],
    );
    wrong("\"grid\": 1", "\"grid\": [1, 70000]", &["`launch`"]);
    wrong(
        "\"grid\": 1",
        "\"grid\": 32, \"cluster\": 32",
        &["`launch`", "cluster"],
    );
    // What the kernel demands.
    let strict = kernel(".param .u64 x", "ret;").replace(")\n{", ")\n.reqntid 64\n{");
    let message = refused(&strict, GOOD);
    assert!(
        message.contains("`launch.block`: [32, 1, 1], but kernel `k` has .reqntid [64, 1, 1]"),
        "{message}"
    );
    let clustered = kernel(".param .u64 x", "ret;")
        .replace(")\n{", ")\n.explicitcluster .reqnctapercluster 2\n{");
    let message = refused(
        &clustered,
        &GOOD.replace("\"grid\": 1", "\"grid\": 4, \"cluster\": 4"),
    );
    assert!(
        message.contains("`launch.cluster`: [4, 1, 1], but kernel `k` has .reqnctapercluster"),
        "{message}"
    );
}

#[test]
fn kernels_and_ptx() {
    wrong(
        "\"grid\": 1",
        "\"grid\": 1, \"kernel\": \"q\"",
        &["`launch.kernel`: the PTX has no kernel `q`; it has k"],
    );
    let two = format!("{}{}", increment(), ".visible .entry k2() { ret; }\n");
    let message = refused(&two, GOOD);
    assert!(
        message.contains("`launch`: the PTX has several kernels; `kernel` says which: k, k2"),
        "{message}"
    );
    let message = refused("int main() {}", GOOD);
    assert!(message.contains("the PTX cannot be read"), "{message}");
}

#[test]
fn arguments_against_parameters() {
    wrong(
        "[\"x\"]",
        "[]",
        &["`launch.args`: 0 arguments, but kernel `k` takes 1: .u64 x"],
    );
    wrong(
        "[\"x\"]",
        "[\"y\"]",
        &["`launch.args[0]`: there is no buffer `y`; `buffers` has x"],
    );
    wrong(
        "[\"x\"]",
        "[{\"u32\": 1}]",
        &["`launch.args[0]`: 4 bytes for the parameter `.u64 x`, which has 8"],
    );
    wrong(
        "[\"x\"]",
        "[{\"f64\": 1}]",
        &["`launch.args[0]`: f64 for the parameter `.u64 x`", "b64"],
    );
    wrong(
        "[\"x\"]",
        "[-1]",
        &["`launch.args[0]`: parameter `.u64 x`: -1 is not between 0"],
    );
    wrong(
        "[\"x\"]",
        "[{\"u8\": 256}]",
        &["`launch.args[0].u8`: 256 is not between 0 and 255"],
    );
    wrong(
        "[\"x\"]",
        "[{\"f16\": 1e9}]",
        &["`launch.args[0].f16`: 1000000000 is beyond the range of f16"],
    );
    wrong(
        "[\"x\"]",
        "[{\"u32\": \"7\"}]",
        &["`launch.args[0].u32`: `7` is no number", "hexadecimal"],
    );
    wrong(
        "[\"x\"]",
        "[{}]",
        &["`launch.args[0]`: an argument is one thing, and this is nothing"],
    );
    wrong(
        "[\"x\"]",
        "[{\"u32\": 1, \"u64\": 1}]",
        &["this is u32 and u64"],
    );
    wrong(
        "[\"x\"]",
        "[true]",
        &["`launch.args[0]`: an argument is a number, the name of a buffer"],
    );
    wrong(
        "[\"x\"]",
        "[{\"buffer\": \"x\", \"offset\": 129}]",
        &["`launch.args[0].offset`: byte 129 of buffer `x`, which has 128"],
    );
    wrong(
        "[\"x\"]",
        "[{\"u32\": 1, \"offset\": 1}]",
        &["`launch.args[0].offset`: `offset` goes with `buffer`"],
    );
    wrong(
        "[\"x\"]",
        "[{\"bytes\": \"0g\"}]",
        &["`launch.args[0].bytes`: `g` is no hexadecimal digit"],
    );
    wrong("[\"x\"]", "[{\"bytes\": \"012\"}]", &["half a byte"]);
    wrong(
        "[\"x\"]",
        "[{\"struct\": [1]}]",
        &["`launch.args[0].struct[0]`: a member of a structure needs its type"],
    );
    wrong(
        "[\"x\"]",
        "[{\"struct\": [{\"u32\": 1}]}]",
        &["4 bytes for the parameter"],
    );
    let array = kernel(".param .align 8 .b8 s[16]", "ret;");
    let message = refused(&array, &GOOD.replace("[\"x\"]", "[1]"));
    assert!(
        message.contains("a number for the parameter `.b8 s[16]`; say of which type"),
        "{message}"
    );
}

#[test]
fn tensor_maps() {
    let map = |fields: &str| {
        let arg = format!("[{{\"tensor_map\": {{\"buffer\": \"x\", {fields}}}}}]");
        refused(&increment(), &GOOD.replace("[\"x\"]", &arg))
    };
    let cases = [
        (
            "\"type\": \"f8\", \"dims\": [4], \"box\": [4]",
            "`launch.args[0].tensor_map.type`: `f8` is no element type",
        ),
        (
            "\"type\": \"e4m3\", \"dims\": [4], \"box\": [4]",
            "take FP8 as `u8`",
        ),
        (
            "\"type\": \"f32\", \"dims\": [], \"box\": []",
            "rank 0 is not between 1 and 5",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8, 4], \"box\": [8]",
            "box_dims has 1 entries; rank 2 needs 2",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8], \"box\": [512]",
            "is not between 1 and 256",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8], \"box\": [3]",
            "not a multiple of 16",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8, 4], \"box\": [8, 4], \"strides\": [40]",
            "not a multiple of 16",
        ),
        (
            "\"type\": \"f32\", \"dims\": [64], \"box\": [64], \"swizzle\": \"128B\"",
            "more than the swizzle span of 128",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8], \"box\": [8], \"swizzle\": \"96B\"",
            "`96B` is no swizzle; there is none, 32B",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8], \"box\": [8], \"interleave\": \"32B\"",
            "no interleaved tensor maps",
        ),
        (
            "\"type\": \"u8\", \"dims\": [16], \"box\": [16], \"oob_fill\": \"nan\"",
            "floating-point element type",
        ),
        (
            "\"type\": \"f32\", \"dims\": [8], \"box\": [8], \"offset\": 4",
            "not a multiple of 16",
        ),
        (
            "\"type\": \"f32\", \"box\": [8]",
            "the field `dims` is missing",
        ),
    ];
    for (fields, want) in cases {
        let message = map(fields);
        assert!(message.contains(want), "`{message}` lacks `{want}`");
        assert!(message.contains("launch.args[0].tensor_map"), "{message}");
    }
    wrong(
        "[\"x\"]",
        "[{\"tensor_map\": {\"buffer\": \"q\", \"type\": \"f32\", \"dims\": [8], \"box\": [8]}}]",
        &["`launch.args[0].tensor_map.buffer`: there is no buffer `q`"],
    );
}

#[test]
fn buffers() {
    let x = "\"dtype\": \"u32\", \"shape\": [32], \"fill\": \"zeros\"";
    wrong(x, "", &["`buffers.x`: nothing says how large it is"]);
    wrong(x, "\"bytes\": 0", &["`buffers.x`: a buffer without bytes"]);
    wrong(
        x,
        "\"bytes\": \"9GiB\"",
        &["`buffers.x`: 9663676416 bytes where", "--memory-limit"],
    );
    wrong(
        x,
        "\"bytes\": \"9GB\"",
        &["`buffers.x.bytes`: `9GB` is no number of bytes", "64KiB"],
    );
    wrong(
        x,
        "\"bytes\": 4, \"dtype\": \"u8\"",
        &["`buffers.x.bytes`: either `bytes`, or `dtype` and `shape`"],
    );
    wrong(
        "\"u32\"",
        "\"int\"",
        &["`buffers.x.dtype`: `int` is no element type; there is u8"],
    );
    wrong(
        "[32]",
        "[4294967296, 4294967296]",
        &["`buffers.x.shape`: more than 2^48 elements"],
    );
    wrong(
        "\"zeros\"",
        "\"ones\"",
        &["`buffers.x.fill`: `ones` is no way to fill a buffer; there are zeros"],
    );
    wrong(
        "\"zeros\"",
        "\"normal\"",
        &["`buffers.x.fill`: fractions do not go into u32"],
    );
    wrong(
        "\"zeros\"",
        "{\"integers\": {\"low\": 3, \"high\": 1}}",
        &["no 64-bit integers from 3 to 1"],
    );
    wrong(
        "\"zeros\"",
        "{\"integers\": {\"low\": -1, \"high\": 1}}",
        &["-1 is not between 0"],
    );
    wrong(
        "\"zeros\"",
        "{\"constant\": 1, \"ramp\": {}}",
        &["2 ways to fill one buffer"],
    );
    wrong(
        "\"zeros\"",
        "{\"constant\": 0.5}",
        &["`buffers.x.fill`: 0.5 is no integer"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"values\": [1, 2]",
        &["`buffers.x.values`: 2 values; u32 [32] needs 32"],
    );
    wrong(
        "\"shape\": [32], \"fill\": \"zeros\"",
        "\"values\": [1, [2, 0.5]]",
        &["`buffers.x.values[2]`: 0.5 is no integer"],
    );
    wrong(
        x,
        "\"values\": [1]",
        &["`buffers.x.values`: `values` need a `dtype`"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"fill\": \"zeros\", \"file\": \"a\"",
        &["`buffers.x`: the contents have 2 sources (file, fill)"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"seed\": 1",
        &["`buffers.x.seed`: `seed` goes with `fill`"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"safetensors\": \"a\"",
        &["`buffers.x`: the field `tensor` is missing"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"file\": \"/no/such/file\"",
        &["cannot read /no/such/file: No such file"],
    );
    wrong(
        "\"fill\": \"zeros\"",
        "\"file\": \"/dev/zero\"",
        &["`buffers.x.file`: /dev/zero is no plain file"],
    );
    wrong(x, "\"bytes\": 4, \"device\": 1", &["`buffers.x.device`"]);
}

#[test]
fn files_and_expectations() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("short.bin"), [0; 100]).expect("written");
    std::fs::write(dir.path().join("bad.safetensors"), [0xff; 64]).expect("written");
    let header = br#"{"t":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"u":{"dtype":"F32","shape":[9],"data_offsets":[0,32]}}"#;
    let mut good = (header.len() as u64).to_le_bytes().to_vec();
    good.extend_from_slice(header);
    good.extend_from_slice(&[0; 32]);
    std::fs::write(dir.path().join("good.safetensors"), good).expect("written");
    let x = "\"dtype\": \"u32\", \"shape\": [32], \"fill\": \"zeros\"";
    let cases = [
        (
            "\"dtype\": \"u32\", \"shape\": [32], \"file\": \"short.bin\"",
            "short.bin has 100 bytes from byte 0 on; u32 [32] needs 128",
        ),
        (
            "\"file\": \"short.bin\", \"offset\": 101",
            "`buffers.x.offset`: the file has 100 bytes",
        ),
        (
            "\"safetensors\": \"bad.safetensors\", \"tensor\": \"t\"",
            "bad.safetensors is no safetensors file: its header",
        ),
        (
            "\"safetensors\": \"good.safetensors\", \"tensor\": \"v\"",
            "`buffers.x.tensor`",
        ),
        (
            "\"safetensors\": \"good.safetensors\", \"tensor\": \"v\"",
            "has no tensor `v`; it has t, u",
        ),
        (
            "\"safetensors\": \"good.safetensors\", \"tensor\": \"u\"",
            "the place of tensor `u` is impossible",
        ),
        (
            "\"safetensors\": \"good.safetensors\", \"tensor\": \"t\", \"dtype\": \"u32\"",
            "`buffers.x.dtype`: tensor `t` of good.safetensors holds f32",
        ),
        (
            "\"safetensors\": \"good.safetensors\", \"tensor\": \"t\", \"shape\": [4]",
            "`buffers.x.shape`: tensor `t` of good.safetensors has the shape [8]",
        ),
    ];
    for (to, want) in cases {
        let message = match try_in(dir.path(), &increment(), &GOOD.replace(x, to)) {
            Err(e) => e.to_string(),
            Ok(report) => panic!("accepted: {to}\n{report}"),
        };
        assert!(message.contains(want), "`{message}` lacks `{want}`");
    }
    let more = |section: &str| {
        let file = GOOD.replace("\"launch\"", &format!("{section}, \"launch\""));
        match try_in(dir.path(), &increment(), &file) {
            Err(e) => e.to_string(),
            Ok(report) => panic!("accepted: {section}\n{report}"),
        }
    };
    let cases = [
        (
            "\"expect\": [{\"buffer\": \"q\", \"values\": [1], \"dtype\": \"u32\"}]",
            "`expect[0].buffer`: there is no buffer `q`",
        ),
        (
            "\"expect\": [{\"buffer\": \"x\"}]",
            "`expect[0]`: nothing says what to expect",
        ),
        (
            "\"expect\": [{\"buffer\": \"x\", \"fill\": \"zeros\", \"abs\": -1}]",
            "`expect[0].abs`: a tolerance of -1 is below zero",
        ),
        (
            "\"expect\": [{\"buffer\": \"x\", \"dtype\": \"u32\", \"shape\": [32], \"fill\": \"zeros\", \"at_byte\": 4}]",
            "`expect[0]`: 128 bytes from byte 4 on are expected of buffer `x`, which has 128",
        ),
        (
            "\"outputs\": [{\"buffer\": \"x\"}]",
            "`outputs[0]`: an output needs either `file`, or `safetensors`",
        ),
        (
            "\"outputs\": [{\"buffer\": \"x\", \"file\": \"no/folder/y.bin\"}]",
            "cannot write",
        ),
        (
            "\"outputs\": [{\"buffer\": \"q\", \"file\": \"y.bin\"}]",
            "`outputs[0].buffer`: there is no buffer `q`",
        ),
        (
            "\"outputs\": [{\"buffer\": \"x\", \"safetensors\": \"y\"}, {\"buffer\": \"x\", \"safetensors\": \"y\"}]",
            "`outputs[1]`",
        ),
        (
            "\"device\": {\"sms\": 0}",
            "`device.sms`: 0 is not between 1 and 1024",
        ),
    ];
    for (section, want) in cases {
        let message = more(section);
        assert!(message.contains(want), "`{message}` lacks `{want}`");
    }
}

#[test]
fn what_the_simulator_lacks_is_named_before_anything_runs() {
    let ptx = kernel(
        ".param .u64 x",
        ".reg .b32 %r<2>; tex.1d.v4.u32.u32 {%r0, %r1, %r0, %r1}, [x, %r0]; ret;",
    );
    let error = try_in(Path::new(""), &ptx, GOOD)
        .expect_err("no textures")
        .to_string();
    assert!(error.contains("tex"), "{error}");
}
