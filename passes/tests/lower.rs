//! Lowering of hand-written graphs, as the e-graph would leave them: which kernels run in which order over
//! which views, what is shared, and what is refused with which words.

use std::fmt::Write;

use mcc_ir::kernel::{Epilogue, GemmForm, KernelConfig};
use mcc_ir::program::{BufferKind, Program, View};
use mcc_ir::{DType, Module, parse};
use mcc_passes::PassError;
use mcc_passes::lower::{lower, lower_explained};
use mcc_passes::select::Options;
use mcc_passes::target::Target;

fn module(text: &str) -> Module {
    let module = parse::module(text, "test.mir").unwrap_or_else(|e| panic!("{e}"));
    mcc_ir::verify(&module).unwrap_or_else(|e| panic!("{e:?}"));
    module
}

fn lowered(text: &str) -> Program {
    lower(
        &module(text),
        &Target::load("h800").unwrap(),
        &Options::default(),
    )
    .unwrap_or_else(|e| panic!("{e}"))
}

fn refused(text: &str) -> String {
    match lower(
        &module(text),
        &Target::load("h800").unwrap(),
        &Options::default(),
    ) {
        Err(PassError::Unsupported(error)) => error.to_string(),
        other => panic!("expected an unsupported op, got {other:?}"),
    }
}

/// One line a launch: family and label.
fn steps(program: &Program, entry: usize) -> Vec<String> {
    let line = |s: &mcc_ir::program::Step| {
        format!(
            "{}: {}",
            program.kernels[s.kernel.0 as usize].config.family(),
            s.label
        )
    };
    program.entries[entry].steps.iter().map(line).collect()
}

/// Operands of the launch with that label, as text.
fn operands(program: &Program, label: &str) -> String {
    let step = program
        .entries
        .iter()
        .flat_map(|e| &e.steps)
        .find(|s| s.label == label);
    let step = step.unwrap_or_else(|| panic!("no step `{label}`"));
    let decls = program.kernels[step.kernel.0 as usize].config.operands();
    let mut text = String::new();
    for (decl, view) in decls.iter().zip(&step.operands) {
        writeln!(text, "{} = {}", decl.name, shown(program, view)).unwrap();
    }
    text
}

/// Views of named buffers; temporaries are `temp`, since their numbers do not matter here.
fn shown(program: &Program, view: &View) -> String {
    let buffer = &program.buffers[view.buffer.0 as usize];
    let name = if matches!(buffer.kind, BufferKind::Temp { .. }) {
        "temp"
    } else {
        &buffer.name
    };
    let shape: Vec<String> = view.shape.iter().map(ToString::to_string).collect();
    format!(
        "{name}+{} [{}] {:?}",
        view.offset,
        shape.join(", "),
        view.strides
    )
}

const DENSE: &str = include_str!("lower/dense.mir");
const MOE: &str = include_str!("lower/moe.mir");
const DECODE: &str = include_str!("lower/decode.mir");

#[test]
fn a_dense_layer_is_one_launch_an_op_and_none_for_views() {
    let program = lowered(DENSE);
    assert_eq!(
        steps(&program, 0),
        [
            "gather: embed gather",
            "rms_norm: layers.0.attn_norm rms_norm_quantize",
            "gemm_fp8: layers.0.q_a matmul",
            "rms_norm: layers.0.q_norm rms_norm_quantize",
            "gemm_fp8: layers.0.q_b matmul",
            "rope: layers.0 rope",
            "gemm_fp8: layers.0.kv_a matmul",
            "mla_cache_write: layers.0.cache mla_cache_write",
            "quantize: layers.0 quantize",
            "gemm_fp8: layers.0.kv_b matmul",
            "attention_prefill: layers.0 attention",
            "quantize: layers.0 quantize",
            "gemm_fp8: layers.0.o matmul",
            "rms_norm: layers.0.mlp_norm add_rms_norm_quantize",
            "gemm_fp8: layers.0.gate_up matmul",
            "swiglu: layers.0 swiglu_quantize",
            "gemm_fp8: layers.0.down matmul",
            "add: layers.0 add",
            "gather: layers.0 gather",
            "rms_norm: norm rms_norm",
            "gemm_bf16: head matmul",
            "sample: sample",
        ]
    );
}

#[test]
fn slices_and_reshapes_are_offsets_and_strides() {
    let program = lowered(DENSE);
    assert_eq!(
        operands(&program, "layers.0 attention"),
        "q = temp+0 [T, 4, 64] [512, 128, 1]\n\
         q_rope = temp+128 [T, 4, 64] [512, 128, 1]\n\
         k = temp+0 [C, 4, 64] [512, 128, 1]\n\
         k_rope = layers.0.cache+256 [C, 64] [192, 1]\n\
         v = temp+128 [C, 4, 64] [512, 128, 1]\n\
         positions = positions+0 [T] [1]\n\
         out = temp+0 [T, 4, 64] [256, 64, 1]\n"
    );
    assert_eq!(
        operands(&program, "layers.0.kv_a matmul"),
        "a = temp+0 [T, 256] [256, 1]\n\
         a_scales = temp+0 [T, 2] [1, 64]\n\
         b = layers.0.kv_a+0 [192, 256] [256, 1]\n\
         b_scales = layers.0.kv_a.scales+0 [2, 2] [2, 1]\n\
         d = temp+0 [T, 192] [192, 1]\n"
    );
}

#[test]
fn results_that_nothing_reads_are_switched_off() {
    let program = lowered(DENSE);
    let names: Vec<&str> = program.kernels.iter().map(|k| k.name.as_str()).collect();
    assert!(names.contains(&"rms_norm_w256_e1em6_quant"), "{names:?}");
    assert!(
        names.contains(&"rms_norm_w256_e1em6_add_sum_quant"),
        "{names:?}"
    );
    assert!(names.contains(&"rms_norm_w256_e1em6_norm"), "{names:?}");
}

#[test]
fn outputs_are_written_in_place_of_temporaries() {
    let program = lowered(DENSE);
    let logits = program.entries[0].outputs[0].buffer;
    let head = &program.entries[0].steps[20];
    assert_eq!(head.operands[2].buffer, logits);
    assert_eq!(program.buffers[logits.0 as usize].kind, BufferKind::Output);
    // The reshape behind the last product does not matter.
    let program = lowered(DECODE);
    let last = program.entries[0].steps.last().unwrap();
    assert_eq!(
        last.operands[2].buffer,
        program.entries[0].outputs[0].buffer
    );
}

#[test]
fn dispatches_of_one_routing_share_a_plan() {
    let program = lowered(MOE);
    assert_eq!(
        steps(&program, 0),
        [
            "gemm_bf16: layers.1.router matmul",
            "route: layers.1.bias route",
            "quantize: layers.1 quantize",
            "moe_plan: layers.1 dispatch",
            "expand: layers.1 dispatch",
            "expand: layers.1 dispatch",
            "gemm_fp8: layers.1.gate_up grouped_matmul",
            "swiglu: layers.1 swiglu_quantize",
            "gemm_fp8: layers.1.down grouped_matmul",
            "add: layers.1 add",
            "combine: layers.1 combine",
        ]
    );
    assert_eq!(
        operands(&program, "layers.1.down grouped_matmul"),
        "a = temp+0 [4*T, 128] [128, 1]\n\
         a_scales = temp+0 [4*T, 1] [1, 256]\n\
         b = layers.1.down+0 [16, 256, 128] [32768, 128, 1]\n\
         b_scales = layers.1.down.scales+0 [16, 2, 1] [2, 1, 1]\n\
         offsets = temp+0 [17] [1]\n\
         d = temp+0 [4*T, 256] [256, 1]\n"
    );
}

#[test]
fn absorbed_attention_reads_the_cache_in_place() {
    let program = lowered(DECODE);
    assert_eq!(
        operands(&program, "layers.0 attention"),
        "q = temp+0 [T, 4, 128] [512, 128, 1]\n\
         q_rope = q+128 [T, 4, 64] [512, 128, 1]\n\
         k = layers.0.cache+0 [C, 1, 128] [192, 192, 1]\n\
         k_rope = layers.0.cache+256 [C, 64] [192, 1]\n\
         v = layers.0.cache+0 [C, 1, 128] [192, 192, 1]\n\
         positions = positions+0 [T] [1]\n\
         out = temp+0 [T, 4, 128] [512, 128, 1]\n"
    );
    assert!(steps(&program, 0).contains(&"attention_decode: layers.0 attention".to_owned()));
}

#[test]
fn the_arena_shares_and_reports() {
    let lowered = lower_explained(
        &module(DENSE),
        &Target::load("h800").unwrap(),
        &Options::default(),
    )
    .unwrap();
    let used = &lowered.memory.entries[0];
    assert_eq!(used.peak_bytes, lowered.program.arena_bytes);
    assert!(
        used.live_bytes <= used.peak_bytes && used.peak_bytes < used.total_bytes,
        "{used}"
    );
    assert_eq!(lowered.choices.len(), 9, "eight products and one attention");
}

#[test]
fn programs_survive_their_text_form() {
    for text in [DENSE, MOE, DECODE] {
        let program = lowered(text);
        let json = program.to_json().unwrap();
        let read = Program::from_json(&json).unwrap();
        assert_eq!(read, program);
        assert_eq!(read.to_json().unwrap(), json);
        assert_eq!(
            lowered(text).to_json().unwrap(),
            json,
            "same input, same bytes"
        );
    }
}

#[test]
fn hints_change_tiles_and_nothing_else() {
    let module = module(
        &DENSE
            .replace("dim T: 1..=64", "dim T: 1..=8192")
            .replace("[C, ", "[T, ")
            .replace("[C]", "[T]"),
    );
    let target = Target::load("h800").unwrap();
    let large = lower(&module, &target, &Options { hints: vec![] }).unwrap();
    let hint = mcc_passes::select::DimHint {
        entry: "prefill".into(),
        dim: "T".into(),
        usual: 8,
    };
    let small = lower(&module, &target, &Options { hints: vec![hint] }).unwrap();
    assert_ne!(large.kernels, small.kernels);
    assert_eq!(
        (large.buffers, large.arena_bytes),
        (small.buffers, small.arena_bytes)
    );
}

const GEMM: &str = include_str!("lower/gemm.mir");
const GATED: &str = include_str!("lower/gated.mir");

/// Form, epilogue, result type, N, K and interval of a launch of the FP8 kernel.
fn fp8(program: &Program, label: &str) -> (GemmForm, Epilogue, DType, u32, u32, u32) {
    let mut steps = program.entries.iter().flat_map(|e| &e.steps);
    let step = steps.find(|s| s.label == label);
    let step = step.unwrap_or_else(|| panic!("no step `{label}`"));
    match &program.kernels[step.kernel.0 as usize].config {
        KernelConfig::GemmFp8(c) => (c.form, c.epilogue, c.out, c.n, c.k, c.promote),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_form_of_a_product_is_one_launch() {
    let program = lowered(GEMM);
    assert_eq!(
        steps(&program, 0),
        [
            "quantize: quantize",
            "gemm_fp8: experts masked_matmul",
            "gemm_bf16: shared masked_matmul",
            "quantize: quantize",
            "gemm_fp8: down matmul_add",
            "gemm_bf16: tied matmul_add",
        ]
    );
    let masked = GemmForm::Masked { groups: 4 };
    assert_eq!(
        fp8(&program, "experts masked_matmul"),
        (masked, Epilogue::Store, DType::BF16, 512, 256, 64)
    );
    assert_eq!(
        fp8(&program, "down matmul_add"),
        (GemmForm::Dense, Epilogue::Add, DType::BF16, 256, 256, 128)
    );
    let gradient = GemmForm::KGrouped { groups: 4 };
    assert_eq!(
        fp8(&program, "gradient weight_grad"),
        (gradient, Epilogue::Accumulate, DType::F32, 48, 640, 128)
    );
}

/// Scales of rows lie one beside the other, whatever expert they belong to: the strides of a masked product's experts
/// and rows are 32 and 1, and that of groups along K is all rows.
#[test]
fn products_take_their_operands_in_one_order() {
    let program = lowered(GEMM);
    assert_eq!(
        operands(&program, "experts masked_matmul"),
        "a = temp+0 [4, 32, 256] [8192, 256, 1]\n\
         a_scales = temp+0 [4, 32, 2] [32, 1, 128]\n\
         b = experts+0 [4, 512, 256] [131072, 256, 1]\n\
         b_scales = experts.scales+0 [4, 4, 2] [8, 2, 1]\n\
         counts = counts+0 [4] [1]\n\
         d = masked+0 [4, 32, 512] [16384, 512, 1]\n"
    );
    assert_eq!(
        operands(&program, "down matmul_add"),
        "a = temp+0 [T, 256] [256, 1]\n\
         a_scales = temp+0 [T, 2] [1, 64]\n\
         b = down+0 [256, 256] [256, 1]\n\
         b_scales = down.scales+0 [2, 2] [2, 1]\n\
         residual = x+0 [T, 256] [256, 1]\n\
         d = sum+0 [T, 256] [256, 1]\n"
    );
    // The gradient has no operand of its own for what was accumulated: it is `d`.
    assert_eq!(
        operands(&program, "gradient weight_grad"),
        "a = temp+0 [64, 640] [640, 1]\n\
         a_scales = temp+0 [64, 5] [1, 64]\n\
         b = temp+0 [48, 640] [640, 1]\n\
         b_scales = temp+0 [48, 5] [1, 48]\n\
         offsets = offsets+0 [5] [1]\n\
         d = gradient+0 [4, 64, 48] [3072, 48, 1]\n"
    );
}

#[test]
fn swiglu_behind_a_product_is_part_of_its_launch() {
    let program = lowered(GATED);
    assert_eq!(
        steps(&program, 0),
        [
            "quantize: quantize",
            "gemm_fp8: experts grouped_matmul_swiglu_quantize",
            "gemm_fp8: experts grouped_matmul_swiglu_scale_quantize",
            "gemm_fp8: one matmul_swiglu_quantize",
            "gemm_fp8: one matmul_swiglu_scale_quantize",
            "gemm_fp8: down matmul",
        ]
    );
    let epilogue = |weighted| Epilogue::SwigluQuantize { weighted };
    let grouped = GemmForm::Grouped { groups: 4 };
    assert_eq!(
        fp8(&program, "experts grouped_matmul_swiglu_quantize"),
        (grouped, epilogue(false), DType::E4M3, 512, 256, 128)
    );
    assert_eq!(
        fp8(&program, "one matmul_swiglu_quantize"),
        (GemmForm::Dense, epilogue(false), DType::E4M3, 512, 256, 64)
    );
    assert_eq!(
        fp8(&program, "one matmul_swiglu_scale_quantize"),
        (GemmForm::Dense, epilogue(true), DType::E4M3, 512, 256, 128)
    );
    assert_eq!(
        operands(&program, "experts grouped_matmul_swiglu_scale_quantize"),
        "a = temp+0 [T, 256] [256, 1]\n\
         a_scales = temp+0 [T, 2] [1, 64]\n\
         b = experts+0 [4, 512, 256] [131072, 256, 1]\n\
         b_scales = experts.scales+0 [4, 4, 2] [8, 2, 1]\n\
         offsets = offsets+0 [5] [1]\n\
         row_weights = weights+0 [T] [1]\n\
         d = temp+0 [T, 256] [256, 1]\n\
         d_scales = temp+0 [T, 2] [1, 64]\n"
    );
}

// What is refused, in words that name the op, the value and the place.

fn small(body: &str) -> String {
    format!(
        "mir 1\nmodel \"small\"\ndim T: 1..=64\ndim C: 1..=256\n\
         param @w: bf16[128] = tensor(\"w\")\n\
         param @m: bf16[64, 64] = tensor(\"m\")\n\
         param @rope: f32[256, 32, 2] = rope_table(dim = 64, theta = 10000.0, positions = 256)\n\
         state @cache: bf16[C, 192]\n\
         entry @prefill(x: bf16[T, 256], kv: bf16[T, 192], positions: i32[T]) {{\n{body}\n}}\n"
    )
}

const WRITE: &str =
    "%0 = mla_cache_write @cache, %kv, @w, %positions, @rope {eps = 1e-6} : bf16[C, 192]";

#[test]
fn concat_and_cache_write_name_the_rewrite_that_absorbs_them() {
    let concat = refused(&small(
        "%7 = concat %x, %x {axis = 1} : bf16[T, 512]\nreturn y = %7",
    ));
    assert!(concat.starts_with("test.mir:10:6: "), "{concat}");
    assert!(
        concat.contains("`concat {axis = 1}` in entry `prefill`")
            && concat.contains("`mla_cache_write`"),
        "{concat}"
    );
    let write = refused(&small(
        "%0 = cache_write @cache, %kv, %positions : bf16[C, 192]\n%8 = add %x, %x : bf16[T, 256]\n\
         update @cache = %0\nreturn y = %8",
    ));
    assert!(
        write.contains("`cache_write`") && write.contains("`mla_cache_write`"),
        "{write}"
    );
}

#[test]
fn a_slice_that_no_kernel_can_address_is_named() {
    let error = refused(&small(
        "%3 = slice %x {axis = 1, start = 4, len = 128} : bf16[T, 128]\n\
         %7 = rms_norm %3, @w {eps = 1e-6} : bf16[T, 128]\nreturn y = %7",
    ));
    assert!(
        error.contains("operand `x` of `rms_norm`") && error.contains("byte offset 8"),
        "{error}"
    );
    let error = refused(&small(
        "%4 = reshape %x {shape = [T, 4, 64]} : bf16[T, 4, 64]\n\
         %3 = slice %4 {axis = 2, start = 0, len = 32} : bf16[T, 4, 32]\n\
         %5 = reshape %3 {shape = [T, 128]} : bf16[T, 128]\n\
         %7 = rms_norm %5, @w {eps = 1e-6} : bf16[T, 128]\nreturn y = %7",
    ));
    assert!(
        error.contains("`reshape {shape = [T, 128]}`") && error.contains("strides [256, 64, 1]"),
        "{error}"
    );
}

#[test]
fn reads_of_a_state_come_before_its_write_or_are_refused() {
    // Written after the write in the text, but it asks for the old value: it runs first.
    let program = lowered(&small(&format!(
        "{WRITE}\n%1 = slice @cache {{axis = 1, start = 0, len = 128}} : bf16[C, 128]\n\
         %7 = rms_norm %1, @w {{eps = 1e-6}} : bf16[C, 128]\nupdate @cache = %0\nreturn y = %7"
    )));
    assert_eq!(
        steps(&program, 0),
        [
            "rms_norm: w rms_norm",
            "mla_cache_write: cache mla_cache_write"
        ]
    );

    // It asks for the old value and the new one at once.
    let error = refused(&small(&format!(
        "{WRITE}\n%7 = add @cache, %0 : bf16[C, 192]\nupdate @cache = %0\nreturn y = %7"
    )));
    assert!(
        error.contains("`add`") && error.contains("`@cache`") && error.contains("overwrote it"),
        "{error}"
    );
}

#[test]
fn a_state_changes_if_and_only_if_the_entry_says_so() {
    let error = refused(&small(&format!(
        "{WRITE}\n%7 = add %0, %0 : bf16[C, 192]\nreturn y = %7"
    )));
    assert!(error.contains("no update"), "{error}");
    let error = refused(&small(
        "%7 = add @cache, @cache : bf16[C, 192]\n%8 = add %x, %x : bf16[T, 256]\n\
         update @cache = %7\nreturn z = %8",
    ));
    assert!(error.contains("state `cache`"), "{error}");
}

#[test]
fn outputs_must_be_whole_results() {
    let error = refused(&small(
        "%3 = slice %x {axis = 1, start = 0, len = 128} : bf16[T, 128]\nreturn y = %3",
    ));
    assert!(error.contains("output `y`"), "{error}");
    let error = refused(&small("return y = %x"));
    assert!(error.contains("no kernel computes it"), "{error}");
}

#[test]
fn sizes_beyond_any_memory_are_refused() {
    let huge = small("%7 = add %x, %x : bf16[T, 256]\nreturn y = %7")
        .replace("1..=64", "1..=1000000000000000");
    let error = lower(
        &module(&huge),
        &Target::load("h800").unwrap(),
        &Options::default(),
    )
    .unwrap_err();
    assert!(matches!(error, PassError::TooLarge { .. }), "{error}");
}

#[test]
fn products_that_no_kernel_computes_say_what_is_there_instead() {
    let cases = [
        (
            "%0 = matmul_swiglu_quantize %x, @gate {promote = 128} : e4m3[T, 128]/f32[1x128]",
            "no kernel quantises the SwiGLU of a BF16 product",
        ),
        (
            "%1 = quantize %x : e4m3[T, 256]/f32[1x128]\n\
             %0 = matmul_swiglu_quantize %1, @narrow {promote = 128} : e4m3[T, 64]/f32[1x128]",
            "no multiple of 128",
        ),
        (
            "%0 = quantize_wide %x {group = none} : e4m3[T, 256]/f32[1x256]",
            "promote products of it every 32, 64 or 128",
        ),
        (
            "%0 = weight_grad %grown, %grown, %offsets, %acc {promote = 128} : f32[4, 64, 64]",
            "accumulate into a state of the model",
        ),
        (
            "%0 = weight_grad %grown, %grown, %offsets, @gradient {promote = 128} : f32[4, 64, 64]",
            "no update of the entry says so",
        ),
    ];
    for (body, words) in cases {
        let error = refused(&format!(
            "mir 1\nmodel \"products\"\ndim T: 1..=64\n\
             param @gate: bf16[256, 256] = tensor(\"gate\")\n\
             param @narrow: e4m3[128, 256]/f32[128x128] = tensor(\"narrow\")\n\
             state @gradient: f32[4, 64, 64]\n\
             entry @prefill(x: bf16[T, 256], s: f32[T], grown: bf16[64, 512], offsets: i32[5], acc: f32[4, 64, 64]) {{\n\
             {body}\n%9 = add %x, %x : bf16[T, 256]\nreturn y = %9\n}}\n"
        ));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_input_with_an_open_inner_extent_is_named() {
    let error = refused(
        "mir 1\nmodel \"tokens\"\ndim T: 1..=64\nstate @gradient: f32[4, 64, 64]\n\
         entry @backward(grown: bf16[64, 128*T], offsets: i32[5]) {\n\
         %0 = quantize %grown : e4m3[64, 128*T]/f32[1x128]\n\
         %1 = weight_grad %0, %0, %offsets, @gradient {promote = 128} : f32[4, 64, 64]\n\
         update @gradient = %1\nreturn\n}\n",
    );
    assert!(
        error.contains("only its outermost extent may be open")
            && error.contains("bf16[64, 128*T]"),
        "{error}"
    );
}

// Programs that a person edited.

#[test]
fn a_broken_program_is_refused_with_its_place() {
    let program = lowered(DENSE);
    let broken = |edit: &dyn Fn(&mut Program)| {
        let mut program = program.clone();
        edit(&mut program);
        program.verify().unwrap_err().to_string()
    };
    let error = broken(&|p| p.entries[0].steps[2].operands[0].offset += 8);
    assert!(
        error.contains("step 2 (`layers.0.q_a matmul`), operand `a`"),
        "{error}"
    );
    let error = broken(&|p| p.entries[0].steps[2].operands[0].strides[0] = 1 << 40);
    assert!(error.contains("ends at byte"), "{error}");
    let error = broken(&|p| p.entries[0].steps.swap(2, 3));
    assert!(error.contains("no earlier step left a value"), "{error}");
    let error = broken(&|p| {
        p.entries[0].steps.pop();
    });
    assert!(
        error.contains("output `next`: no step writes it"),
        "{error}"
    );
    let error = broken(&|p| p.kernels[1].name = p.kernels[0].name.clone());
    assert!(error.contains("appears twice"), "{error}");
    // All temporaries at one place: somebody's value is overwritten before it is read.
    let error = broken(&|p| {
        for buffer in &mut p.buffers {
            if let BufferKind::Temp { offset } = &mut buffer.kind {
                *offset = 0;
            }
        }
    });
    assert!(
        error.contains("another operand has bytes") || error.contains("no earlier step"),
        "{error}"
    );
}

#[test]
fn a_text_of_another_version_is_told_apart_from_a_broken_one() {
    let json = lowered(MOE).to_json().unwrap();
    let error =
        Program::from_json(&json.replace("\"mcc_program\": 1", "\"mcc_program\": 7")).unwrap_err();
    assert!(error.to_string().contains("version 7"), "{error}");
    let error = Program::from_json(&json.replace("\"arena_bytes\"", "\"arena\"")).unwrap_err();
    assert!(error.to_string().contains("arena_bytes"), "{error}");
}
