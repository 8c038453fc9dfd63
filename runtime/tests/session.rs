//! Sessions over a toy model whose every next token is known: chunks, rows, positions, limits, failures.

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use mcc_bundle::Bundle;
use mcc_runtime::{
    DeviceKind, DeviceOptions, GenerateOptions, LogitRows, Model, RuntimeError, Sampling,
    StopReason, evaluate, generate, open_device, token_nll,
};
use support::{CHUNK, CONTEXT, HostDevice, Trace, VOCAB, expected_next, toy};

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    seed: 0,
};
const TEXT: [i32; 13] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 49, 7];

fn load(bundle: Bundle) -> (Model, Rc<RefCell<Trace>>) {
    let (device, trace) = HostDevice::new();
    (Model::load(Box::new(device), bundle).expect("loads"), trace)
}

#[test]
fn chunks_do_not_matter() {
    let (mut model, _) = load(toy());
    let expected: Vec<i32> = (1..=TEXT.len())
        .map(|n| expected_next(&TEXT[..n]))
        .collect();
    for chunk in [Some(1), Some(2), Some(5), Some(8), None] {
        let mut session = model.session().expect("a text model");
        let output = session
            .prefill(&TEXT, chunk, LogitRows::All, &GREEDY)
            .expect("runs");
        assert_eq!(output.next, expected, "chunk {chunk:?}");
        assert_eq!(output.logits.len(), TEXT.len() * VOCAB as usize);
        for (row, &next) in output.rows().zip(&expected) {
            assert_eq!(
                row.iter().position(|&logit| logit == 2.0),
                Some(next as usize)
            );
        }
        assert_eq!(session.len(), TEXT.len() as u64);

        session.reset().expect("resets");
        let last = session
            .prefill(&TEXT, chunk, LogitRows::Last, &GREEDY)
            .expect("runs");
        assert_eq!(
            (last.next, last.logits.len()),
            (expected[12..].to_vec(), VOCAB as usize)
        );
    }
    // The same token by token.
    let mut session = model.session().expect("a text model");
    let next: Vec<i32> = TEXT
        .iter()
        .map(|&t| session.decode(t, &GREEDY).expect("runs").next[0])
        .collect();
    assert_eq!(next, expected);
}

#[test]
fn random_numbers_follow_the_position() {
    let (mut model, _) = load(toy());
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.9,
        seed: 42,
    };
    let expected: Vec<i32> = (0..13)
        .map(|p| (sampling.uniform(p) * VOCAB as f32) as i32)
        .collect();
    for chunk in [1, 3, 8] {
        let mut session = model.session().expect("a text model");
        let output = session
            .prefill(&TEXT, Some(chunk), LogitRows::All, &sampling)
            .expect("runs");
        assert_eq!(output.next, expected);
    }
}

#[test]
fn generation_stops_for_each_reason() {
    let (mut model, _) = load(toy());
    let options = |max_tokens, eos| GenerateOptions {
        max_tokens,
        chunk: None,
        sampling: GREEDY,
        eos,
        prompt_logits: LogitRows::All,
    };
    let mut expected = TEXT.to_vec();
    while expected.len() < 21 {
        expected.push(expected_next(&expected));
    }
    let mut run = |options: &GenerateOptions| {
        let mut seen = Vec::new();
        let mut session = model.session().expect("a text model");
        let generation =
            generate(&mut session, &TEXT, options, &mut |token| seen.push(token)).expect("runs");
        assert_eq!(seen, generation.tokens);
        assert_eq!(generation.prompt_logits.len(), TEXT.len() * VOCAB as usize);
        (generation.tokens, generation.stop)
    };
    assert_eq!(
        run(&options(4, vec![])),
        (expected[13..17].to_vec(), StopReason::MaxTokens)
    );
    assert_eq!(run(&options(0, vec![])), (vec![], StopReason::MaxTokens));
    // 20 tokens of context, and one that is predicted from all of them.
    assert_eq!(
        run(&options(100, vec![])),
        (expected[13..].to_vec(), StopReason::ContextFull)
    );
    let eos = expected[15];
    let before: Vec<i32> = expected[13..]
        .iter()
        .copied()
        .take_while(|&token| token != eos)
        .collect();
    assert_eq!(
        run(&options(100, vec![eos])),
        (before, StopReason::EndOfText)
    );
}

#[test]
fn evaluation_scores_every_token_but_the_first() {
    let (mut model, _) = load(toy());
    // Windows of 5 see 5 tokens at most; each hit has the logit 2, each miss 0.
    let text: Vec<i32> = TEXT.iter().chain(&[1, 3]).copied().collect();
    let row = |hit: usize| {
        (0..VOCAB as usize)
            .map(|v| if v == hit { 2.0 } else { 0.0 })
            .collect::<Vec<f32>>()
    };
    let mut total = 0.0;
    for start in [0, 5, 10] {
        for end in start + 1..(start + 6).min(text.len()) {
            let hit = expected_next(&text[start..end]) as usize;
            total += token_nll(&row(hit), text[end] as usize).expect("in range");
        }
    }
    let mut last = (0, 0);
    let mut session = model.session().expect("a text model");
    let report = evaluate(&mut session, &text, 5, Some(2), &mut |done, all| {
        last = (done, all)
    })
    .expect("runs");
    assert_eq!((report.tokens, last), (14, (14, 14)));
    assert!(
        (report.nll - total / 14.0).abs() < 1e-12,
        "{} is not {}",
        report.nll,
        total / 14.0
    );

    assert!(matches!(
        evaluate(&mut session, &text[..1], 5, None, &mut |_, _| ()),
        Err(RuntimeError::TextTooShort { .. })
    ));
    assert!(matches!(
        evaluate(&mut session, &text, 21, None, &mut |_, _| ()),
        Err(RuntimeError::ContextExceeded { .. })
    ));
    assert!(matches!(
        evaluate(&mut session, &[1, 50], 5, None, &mut |_, _| ()),
        Err(RuntimeError::TokenOutOfRange { token: 50, .. })
    ));
}

#[test]
fn limits_are_named() {
    let (mut model, _) = load(toy());
    let mut session = model.session().expect("a text model");
    assert_eq!(
        (session.context(), session.max_chunk(), session.vocab()),
        (CONTEXT, CHUNK, VOCAB)
    );
    let long = [1; 21];
    let err = session
        .prefill(&long, None, LogitRows::Last, &GREEDY)
        .expect_err("too long");
    assert!(matches!(
        err,
        RuntimeError::ContextExceeded {
            needed: 21,
            context: 20
        }
    ));
    assert!(
        err.to_string().contains("21 tokens") && err.to_string().contains("20 tokens"),
        "{err}"
    );
    assert!(session.is_empty());
    for chunk in [0, 9] {
        let err = session
            .prefill(&TEXT, Some(chunk), LogitRows::Last, &GREEDY)
            .expect_err("a wrong chunk");
        assert!(
            matches!(err, RuntimeError::ChunkTooLarge { max: 8, .. }),
            "{err}"
        );
    }
    assert!(matches!(
        session.prefill(&[], None, LogitRows::Last, &GREEDY),
        Err(RuntimeError::EmptyPrompt)
    ));
    for token in [-1, 50] {
        let err = session
            .prefill(&[1, token], None, LogitRows::Last, &GREEDY)
            .expect_err("no such token");
        assert!(
            matches!(
                err,
                RuntimeError::TokenOutOfRange {
                    position: 1,
                    vocab: 50,
                    ..
                }
            ),
            "{err}"
        );
    }
    let hot = Sampling {
        temperature: -1.0,
        ..GREEDY
    };
    assert!(matches!(
        session.decode(1, &hot),
        Err(RuntimeError::BadSampling { .. })
    ));
    session
        .prefill(&long[..20], None, LogitRows::Last, &GREEDY)
        .expect("fits");
    let err = session.decode(1, &GREEDY).expect_err("full");
    assert!(matches!(
        err,
        RuntimeError::ContextExceeded {
            needed: 21,
            context: 20
        }
    ));
}

#[test]
fn a_failed_step_can_be_tried_again() {
    let (mut model, trace) = load(toy());
    let mut session = model.session().expect("a text model");
    session
        .prefill(&TEXT[..5], None, LogitRows::Last, &GREEDY)
        .expect("runs");
    trace.borrow_mut().fail_after = Some(1);
    let err = session
        .prefill(&TEXT[5..8], None, LogitRows::Last, &GREEDY)
        .expect_err("fails");
    assert!(
        matches!(&err, RuntimeError::Step { entry, step, .. } if entry == "prefill" && step == "logits"),
        "{err}"
    );
    assert_eq!(session.len(), 5);
    trace.borrow_mut().fail_after = None;
    let output = session
        .prefill(&TEXT[5..], None, LogitRows::Last, &GREEDY)
        .expect("runs");
    assert_eq!(output.next, [expected_next(&TEXT)]);
}

#[test]
fn grids_tensor_maps_and_counts() {
    let (mut model, trace) = load(toy());
    let mut session = model.session().expect("a text model");
    session
        .prefill(&TEXT[..7], None, LogitRows::All, &GREEDY)
        .expect("runs");
    // ceil(7 / 3) blocks; no more blocks than the device has SMs; nothing for the empty grid.
    let expected = [
        ("toy_remember", [3, 1, 1]),
        ("toy_logits", [4, 1, 1]),
        ("toy_sample", [1, 1, 1]),
    ];
    let launched = trace.borrow().launches.clone();
    assert_eq!(
        launched,
        expected.map(|(name, grid)| (name.to_owned(), grid))
    );
    // A tensor map is encoded again for other extents only.
    assert_eq!(trace.borrow().encoded, 1);
    session.reset().expect("resets");
    session
        .prefill(&TEXT[..7], None, LogitRows::All, &GREEDY)
        .expect("runs");
    assert_eq!(trace.borrow().encoded, 1);
    session.decode(1, &GREEDY).expect("runs");
    session.decode(1, &GREEDY).expect("runs");
    assert_eq!(trace.borrow().encoded, 3);

    let stats = model.stats();
    let prefill = &stats.phases["prefill"];
    assert_eq!(
        (prefill.steps, prefill.tokens, stats.phases["decode"].tokens),
        (2, 14, 2)
    );
    let logits = stats.kernels["toy_logits"];
    assert_eq!(
        (logits.launches, logits.skipped, logits.instructions),
        (4, 0, 40)
    );
    assert_eq!(
        (stats.kernels["toy_nothing"].skipped, stats.launches()),
        (4, 12)
    );
    assert_eq!(stats.to_json()["phases"]["prefill"]["tokens"], 14);
    let plan = model.memory_plan();
    assert_eq!(
        (plan.states, plan.ports, plan.weights, plan.arena),
        (512, 6 * 256 + 2304, 0, 0)
    );
}

#[test]
fn bundles_that_do_not_fit() {
    let refuse = |change: fn(&mut Bundle)| {
        let mut bundle = toy();
        change(&mut bundle);
        let (device, _) = HostDevice::new();
        match Model::load(Box::new(device), bundle) {
            Err(err) => err,
            Ok(mut model) => match model.session() {
                Err(err) => err,
                Ok(_) => panic!("accepted"),
            },
        }
    };
    let err = refuse(|b| b.ptx[0] = "0+4 8+8 16+8 24+8 32+8".to_owned());
    assert!(
        matches!(&err, RuntimeError::ParamLayout { kernel, .. } if kernel == "toy_remember"),
        "{err}"
    );
    let err = refuse(|b| b.manifest.target.arch = "sm_100a".to_owned());
    assert!(matches!(err, RuntimeError::WrongTarget { .. }), "{err}");
    let err = refuse(|b| {
        b.ptx.pop();
    });
    assert!(matches!(err, RuntimeError::Bundle(_)), "{err}");
    let err = refuse(|b| b.manifest.entries[0].steps[0].operands[0].offset = 4096);
    assert!(matches!(err, RuntimeError::Manifest(_)), "{err}");
    type Change = fn(&mut Bundle);
    let not_text: [(&str, Change); 5] = [
        ("no entry `decode`", |b| {
            b.manifest.entries[1].name = "other".to_owned()
        }),
        ("no input `rows: i32[R]`", |b| {
            b.manifest.entries[0].inputs[2].name = "row".to_owned()
        }),
        ("no output `next: i32[R]`", |b| {
            b.manifest.entries[1].outputs.pop();
        }),
        ("no output `logits", |b| {
            b.manifest.entries[0].outputs[0].ty.shape.reverse()
        }),
        ("dim `C`", |b| b.manifest.dims[1].min = 2),
    ];
    for (expected, change) in not_text {
        let err = refuse(change);
        assert!(
            matches!(err, RuntimeError::NotATextModel { .. }) && err.to_string().contains(expected),
            "{err}"
        );
    }
}

#[test]
fn executions_check_their_inputs() {
    let (mut model, _) = load(toy());
    let dims = |t: u64| {
        [("T", t), ("C", t), ("R", 1)]
            .map(|(n, v)| (n.to_owned(), v))
            .into()
    };
    let word = [0_u8; 4];
    let inputs = [
        "tokens",
        "positions",
        "rows",
        "temperature",
        "top_p",
        "uniform",
    ]
    .map(|name| (name, word.as_slice()));
    assert!(
        model
            .execute("prefill", &dims(1), &inputs, &["next"], 1)
            .is_ok()
    );
    let mut refuse = |entry: &str, t, inputs: &[(&str, &[u8])], outputs: &[&str]| {
        model
            .execute(entry, &dims(t), inputs, outputs, 1)
            .expect_err("refused")
            .to_string()
    };
    assert!(
        refuse("train", 1, &inputs, &[]).contains("has no entry `train`; it has prefill, decode")
    );
    assert!(refuse("prefill", 9, &inputs, &[]).contains("dim `T` is 9, the bundle allows 1 to 8"));
    assert!(refuse("prefill", 2, &inputs, &[]).contains("4 bytes were given for i32[T]"));
    assert!(
        refuse("prefill", 1, &inputs[1..], &[]).contains("`tokens` of `prefill`: it was not given")
    );
    assert!(
        refuse(
            "prefill",
            1,
            &[inputs.as_slice(), &[("x", &word[..])]].concat(),
            &[]
        )
        .contains("no such input")
    );
    assert!(refuse("prefill", 1, &inputs, &["loss"]).contains("prefill.loss"));
}

#[test]
fn other_devices_are_refused() {
    let asked = |text: &str| {
        text.parse()
            .and_then(|kind: DeviceKind| open_device(kind, &DeviceOptions::default()))
    };
    let err = asked("cuda:one").err().expect("no ordinal");
    assert!(err.to_string().contains("no device `cuda:one`"), "{err}");
    let err = asked("tpu").err().expect("unknown");
    assert!(err.to_string().contains("no device `tpu`"), "{err}");
}
