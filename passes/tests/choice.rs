//! `mcc explain` of a model, as data and as text: what was chosen and why, what lost and by how much, on one rank and on a
//! mesh of ranks, and why a rule was not taken.

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_ir::Module;
use mcc_ir::kernel::GemmForm;
use mcc_ir::types::DType;
use mcc_passes::PassError;
use mcc_passes::egraph::explain::{Explanation, Kind, Question, dot, explain, html, table};
use mcc_passes::egraph::{Options, optimize};
use mcc_passes::heuristics::gemm::{GemmProblem, choose};
use mcc_passes::select::DimHint;
use mcc_passes::target::Target;

/// Layers of the published model: a dense one and three with experts.
fn published() -> Module {
    let limits = Limits {
        max_step_tokens: 4096,
        max_context: 4096,
    };
    let config = Config {
        num_hidden_layers: 4,
        first_k_dense_replace: 1,
        yarn: None,
        ..Config::v3(limits)
    };
    deepseek_v3(&config).unwrap()
}

/// The same for one of 32 ranks.
fn on_32_ranks() -> Module {
    let mut module = published();
    module.mesh = Some("nodes=4,gpus=8,ep=32".parse().unwrap());
    module
}

/// A decode step has one token.
fn options() -> Options {
    let usual = ["T", "R"].map(|dim| DimHint {
        entry: "decode".into(),
        dim: dim.into(),
        usual: 1,
    });
    Options {
        usual: usual.into(),
        ..Options::default()
    }
}

fn h800() -> Target {
    Target::load("h800").unwrap()
}

fn prefill(module: &Module, target: &Target, question: Question) -> Explanation {
    let question = Question {
        entry: Some("prefill".into()),
        ..question
    };
    explain(module, target, &options(), &question).unwrap()
}

fn experts(explanation: &Explanation) -> &Kind {
    let kinds = &explanation.entries[0].kinds;
    kinds.iter().find(|kind| kind.shown == "layers.2").unwrap()
}

fn mir(text: &str) -> Module {
    let module: Module = text.parse().unwrap_or_else(|e| panic!("{e}"));
    mcc_ir::verify(&module).unwrap();
    module
}

/// A gated MLP behind a norm: what its product, its activation and its cast become.
const GATED: &str = "mir 1
model \"gated\"
dim T: 1..=4096
param @l0.norm: bf16[7168] = tensor(\"n\")
param @l0.gate_up: e4m3[36864, 7168]/f32[128x128] = tensor(\"g\")
param @l0.down: e4m3[7168, 18432]/f32[128x128] = tensor(\"d\")
entry @main(x: bf16[T, 7168]) {
  %0 = rms_norm %x, @l0.norm {eps = 1e-6} : bf16[T, 7168]
  %1 = quantize %0 : e4m3[T, 7168]/f32[1x128]
  %2 = matmul %1, @l0.gate_up {out = bf16, promote = 128} : bf16[T, 36864]
  %3 = swiglu %2 : bf16[T, 18432]
  %4 = quantize %3 : e4m3[T, 18432]/f32[1x128]
  %5 = matmul %4, @l0.down {out = bf16, promote = 128} : bf16[T, 7168]
  %6 = add %x, %5 : bf16[T, 7168]
  return y = %6
}
";

#[test]
fn an_explanation_has_the_rewrites_in_order_with_graphs_savings_and_what_lost() {
    let explanation = explain(
        &mir(GATED),
        &h800(),
        &Options::default(),
        &Question::default(),
    );
    insta::assert_snapshot!(explanation.unwrap());
}

#[test]
fn why_not_tells_where_a_rule_matched_and_by_how_much_it_lost() {
    let question = Question {
        why_not: Some("fuse-swiglu-quantize".into()),
        ..Question::default()
    };
    let explanation = explain(&mir(GATED), &h800(), &Options::default(), &question);
    insta::assert_snapshot!(explanation.unwrap());
}

#[test]
fn why_not_tells_a_rule_that_was_taken_one_that_matches_nowhere_and_one_that_there_is_not() {
    let module = published();
    let ask = |rule: &str| {
        let question = Question {
            why_not: Some(rule.into()),
            ..Question::default()
        };
        explain(&module, &h800(), &options(), &question)
    };
    let answer = |rule: &str| ask(rule).unwrap().entries[0].why_not.clone().unwrap();
    let taken = answer("quantize-dispatch");
    assert_eq!((taken.matches, taken.taken, taken.lost.len()), (3, 3, 0));
    let nowhere = answer("fuse-matmul-swiglu-scale");
    assert_eq!(
        (nowhere.matches, &nowhere.missing[..]),
        (0, &["scale_rows".to_owned()][..])
    );
    let error = ask("quantise-dispatch").unwrap_err();
    assert!(
        matches!(&error, PassError::Unknown { what: "rule", name, known } if name == "quantise-dispatch"
            && known.iter().any(|name| name == "quantize-dispatch")),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("no rule `quantise-dispatch`; there are ")
    );
}

/// 64 channels are no whole group of scales, so the cast must stay behind the slice.
#[test]
fn why_not_tells_where_a_condition_does_not_hold() {
    let module = mir("mir 1
model \"cut\"
dim T: 1..=16
entry @main(x: bf16[T, 512]) {
  %0 = slice %x {axis = 1, start = 64, len = 128} : bf16[T, 128]
  %1 = quantize %0 : e4m3[T, 128]/f32[1x128]
  return q = %1
}
");
    let question = Question {
        why_not: Some("quantize-slice".into()),
        ..Question::default()
    };
    let explanation = explain(&module, &h800(), &Options::default(), &question).unwrap();
    let answer = explanation.entries[0].why_not.clone().unwrap();
    assert_eq!(
        (answer.matches, answer.taken, answer.refused.len()),
        (1, 0, 1)
    );
    assert!(
        answer.refused[0].ops[0].starts_with("%0 = slice %x"),
        "{answer}"
    );
}

#[test]
fn rules_that_are_left_out_are_said_to_be() {
    let options = Options {
        without: vec!["fuse-swiglu-quantize".into()],
        ..Options::default()
    };
    let question = Question {
        why_not: Some("fuse-swiglu-quantize".into()),
        ..Question::default()
    };
    let explanation = explain(&mir(GATED), &h800(), &options, &question).unwrap();
    let answer = explanation.entries[0].why_not.clone().unwrap();
    assert_eq!(answer.left_out.as_deref(), Some("the options leave it out"));
    assert!(!answer.lost[0].found);
}

#[test]
fn an_entry_or_a_layer_that_there_is_not_is_an_error_with_those_that_there_are() {
    let module = published();
    let ask = |entry: Option<&str>, layer: Option<&str>| {
        let question = Question {
            entry: entry.map(str::to_owned),
            layer: layer.map(str::to_owned),
            why_not: None,
        };
        explain(&module, &h800(), &options(), &question)
    };
    let error = ask(Some("train"), None).unwrap_err().to_string();
    assert_eq!(error, "no entry `train`; there are prefill, decode");
    let error = ask(None, Some("layers.9")).unwrap_err().to_string();
    assert_eq!(
        error,
        "no layer `layers.9`; there are layers.0, layers.1, layers.2, layers.3"
    );
    let one = ask(Some("decode"), Some("layers.0")).unwrap();
    assert_eq!(one.entries.len(), 1);
    assert_eq!(one.entries[0].kinds.len(), 1);
}

/// 7168 codes and 56 scales a token and destination, where the plain graph sends 7168 values of two bytes. Free links take
/// the reason away, and the choice stays for the bytes of memory: the same rewrite then saves less.
#[test]
fn rows_go_to_experts_in_fp8_for_their_links_and_stay_so_for_memory_where_links_are_free() {
    let module = on_32_ranks();
    let free = Target {
        nvlink_bytes_per_s: u64::MAX,
        ib_bytes_per_s: u64::MAX,
        ..h800()
    };
    let (on_links, on_free) = (
        prefill(&module, &h800(), Question::default()),
        prefill(&module, &free, Question::default()),
    );
    for explanation in [&on_links, &on_free] {
        let kind = experts(explanation);
        let rows: Vec<_> = kind
            .sends
            .iter()
            .map(|sends| (&*sends.op, sends.row_bytes))
            .collect();
        assert_eq!(
            rows,
            [
                ("dispatch", (14_336, 7168 + 224)),
                ("combine", (14_336, 14_336))
            ]
        );
    }
    let saved = |explanation: &Explanation| {
        let kind = experts(explanation);
        let rewrite = kind
            .rewrites
            .iter()
            .find(|of| of.rule == "quantize-dispatch");
        rewrite.unwrap().saved
    };
    let (links, memory) = (saved(&on_links), saved(&on_free));
    // The bytes are the same ones; on free links they take no time.
    assert_eq!(
        (links.ib_bytes, links.bytes),
        (memory.ib_bytes, memory.bytes)
    );
    assert!(links.ib_bytes > 0 && links.nvlink_bytes > 0);
    assert!(
        memory.time > 0 && memory.time < links.time / 4,
        "{memory:?} {links:?}"
    );
    // 4096 tokens to 2.7 nodes over InfiniBand at 50 GB/s: 6944 bytes less for each take 1.5 ms less.
    let ib_ms = links.ib_bytes as f64 / 50e9 * 1e3;
    assert!((1.4..1.7).contains(&ib_ms), "{ib_ms}");
    let text = on_links.to_string();
    assert!(
        text.contains("dispatch: 7392 bytes a token and destination (14336 as written)"),
        "{text}"
    );
}

/// One graph, written with keys and values of every head. One token reads the latents faster than it could expand them; of
/// 4,096 tokens each would pay for scores over 512 channels in place of 128.
#[test]
fn attention_is_absorbed_in_decode_and_expanded_in_prefill() {
    let question = Question {
        layer: Some("layers.2".into()),
        ..Question::default()
    };
    let explanation = explain(&published(), &h800(), &options(), &question).unwrap();
    let absorbed = |entry: usize| {
        let rewrites = &explanation.entries[entry].kinds[0].rewrites;
        rewrites.iter().find(|of| of.rule == "absorb-fp8")
    };
    assert!(absorbed(0).is_none());
    let saved = absorbed(1).unwrap().saved;
    assert!(saved.time > 0 && saved.bytes > 0, "{saved:?}");
    let question = Question {
        entry: Some("prefill".into()),
        why_not: Some("absorb-fp8".into()),
        ..Question::default()
    };
    let explanation = explain(&published(), &h800(), &options(), &question).unwrap();
    let answer = explanation.entries[0].why_not.clone().unwrap();
    assert_eq!((answer.matches, answer.taken), (4, 0));
    assert!(
        answer.lost.iter().all(|lost| lost.more.unwrap().time > 0),
        "{answer}"
    );
}

/// The choice is that of the cheapest graph: what lost takes more, and what was taken saves what is between.
#[test]
fn savings_are_positive_and_no_alternative_is_cheaper() {
    let explanation = explain(&published(), &h800(), &options(), &Question::default()).unwrap();
    for entry in &explanation.entries {
        assert_eq!(entry.report.proof.gap(entry.report.proof.chosen), Some(0));
        for kind in &entry.kinds {
            assert!(kind.chosen.time <= kind.written.time);
            for rewrite in &kind.rewrites {
                assert!(rewrite.saved.time >= 0, "{rewrite}");
            }
            for lost in &kind.alternatives {
                assert!(lost.more.is_none_or(|more| more.time >= 0), "{lost}");
            }
        }
    }
    // Layers in the middle are alike.
    let kinds: Vec<_> = explanation.entries[0]
        .kinds
        .iter()
        .map(|kind| &*kind.layers)
        .collect();
    assert!(
        kinds.contains(&"layers.2") && kinds.contains(&"layers.0"),
        "{kinds:?}"
    );
}

/// DeepSeek's profile spends 15 % of its compute time in casts, transposes and copies, 19 % with the moves of experts' rows.
#[test]
fn casts_and_layout_take_less_than_a_twentieth_of_a_layer() {
    let table = table(&published(), &h800(), &options()).unwrap();
    for entry in ["prefill", "decode"] {
        let rows = table
            .rows
            .iter()
            .filter(|row| row.entry == entry && row.layers.contains("layers.1"));
        let rows: Vec<_> = rows.collect();
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        assert_eq!(first.rules, "as written");
        assert!(first.glue().0 > 60, "{entry}: {:?}", first.glue());
        assert!(last.glue().0 < 50, "{entry}: {:?}", last.glue());
        assert!(last.sums.launches * 3 < first.sums.launches * 2);
        for pair in rows.windows(2) {
            assert!(pair[1].sums.time <= pair[0].sums.time, "{}", pair[1].rules);
        }
    }
    // The whole of it is what the optimiser reports.
    let (_, report) = optimize(&published(), &h800(), &options()).unwrap();
    assert!(report.entries[0].after.nanoseconds > 0);
}

#[test]
fn explanations_and_drawings_are_the_same_each_time() {
    let module = on_32_ranks();
    let one = || prefill(&module, &h800(), Question::default());
    let (a, b) = (one(), one());
    assert_eq!(a.to_string(), b.to_string());
    assert_eq!((html(&a), dot(&a)), (html(&b), dot(&b)));
}

/// Names are an author's to choose; none of them ends a label or a tag.
#[test]
fn drawings_escape_what_authors_write() {
    let module = mir("mir 1
model \"odd\"
dim T: 1..=16
entry @\"<b>&\"(\"\\\"x>\": bf16[T, 256]) {
  %0 = swiglu %\"\\\"x>\" : bf16[T, 128]
  %1 = quantize %0 : e4m3[T, 128]/f32[1x128]
  return q = %1
}
");
    let explanation = explain(&module, &h800(), &Options::default(), &Question::default()).unwrap();
    let (page, graph) = (html(&explanation), dot(&explanation));
    assert!(
        !page.contains("<b>") && page.contains("&lt;b&gt;&amp;"),
        "{page}"
    );
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(
        page.matches("<table>").count(),
        page.matches("</table>").count()
    );
    assert!(page.contains("swiglu_quantize") && page.contains("#d2f4d9"));
    assert!(!graph.contains("<b>"), "{graph}");
    assert_eq!(graph.matches('{').count(), graph.matches('}').count());
}

/// The roofline is a bound: never above the model of the SM that chooses tiles. What the model adds: the ends of a launch,
/// under 3 us; of large products a last wave that is half empty and an epilogue a tile, under 60 % where SMs get two
/// tiles and more; of small ones idle SMs, three of four at the most where K is split.
#[test]
fn products_take_at_least_their_roofline_and_large_ones_not_much_more() {
    let target = h800();
    for (m, n, k, at_most) in [
        (4096, 7168, 16_384, 1.6),
        (4096, 24_576, 1536, 1.6),
        (4096, 4096, 7168, 1.6),
        (4096, 576, 7168, 4.0),
        (64, 7168, 2048, 4.0),
        (1, 36_864, 7168, 2.0),
    ] {
        let module = mir(&format!(
            "mir 1
model \"product\"
entry @main(x: e4m3[{m}, {k}]/f32[1x128], w: e4m3[{n}, {k}]/f32[128x128]) {{
  %0 = matmul %x, %w {{out = bf16, promote = 128}} : bf16[{m}, {n}]
  return y = %0
}}
"
        ));
        let (_, report) = optimize(&module, &target, &Options::default()).unwrap();
        let bound = report.entries[0].after.nanoseconds as f64 / 1e3;
        let problem = GemmProblem::new(DType::E4M3, DType::BF16, GemmForm::Dense, m, n, k);
        let choice = choose(problem, &target);
        let model = choice.microseconds(choice.candidates[0].cycles);
        assert!(
            bound <= model && model <= bound * at_most,
            "{m} x {n} x {k}: roofline {bound:.1} us, model {model:.1} us"
        );
    }
}

#[test]
fn an_entry_with_nothing_to_choose_is_explained_as_such() {
    let module = mir("mir 1
model \"nothing\"
dim T: 0..=16
entry @same(x: bf16[T, 256]) {
  return y = %x
}
entry @none() {
  return
}
");
    let explanation = explain(&module, &h800(), &Options::default(), &Question::default()).unwrap();
    for entry in &explanation.entries {
        assert!(entry.kinds.is_empty(), "{entry}");
        assert_eq!(entry.report.after.nanoseconds, 0);
    }
    assert!(
        table(&module, &h800(), &Options::default())
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(dot(&explanation).ends_with("}\n") && html(&explanation).ends_with("</html>\n"));
}
