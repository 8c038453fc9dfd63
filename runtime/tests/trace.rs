//! The time line of a run on the simulated device: well-formed, nested, in order, and complete.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/parts.rs"]
mod parts;

use mcc_runtime::{
    DeviceOptions, GenerateOptions, LogitRows, Model, Sampling, SimDevice, generate,
};
use serde_json::Value;

fn number(event: &Value, field: &str) -> f64 {
    event[field]
        .as_f64()
        .unwrap_or_else(|| panic!("no {field} in {event}"))
}

#[test]
fn a_run_as_a_time_line() {
    let device = SimDevice::new(&DeviceOptions::default());
    let mut model = Model::load(Box::new(device), counting::bundle()).expect("loads");
    model.load_synthetic(0, &mut |_| ()).expect("loads");
    assert!(model.take_trace().expect("works").is_none());
    model.start_trace().expect("starts");
    let options = GenerateOptions {
        max_tokens: 4,
        chunk: None,
        sampling: Sampling::default(),
        eos: Vec::new(),
        prompt_logits: LogitRows::Last,
    };
    let mut session = model.session().expect("a text model");
    generate(&mut session, &[5, 6, 7], &options, &mut |_| ()).expect("runs");
    let instructions: u64 = model
        .stats()
        .kernels
        .values()
        .map(|kernel| kernel.instructions)
        .sum();
    let trace = model.take_trace().expect("works").expect("begun");

    let json: Value = serde_json::from_str(&trace.to_json()).expect("JSON");
    let events = json["traceEvents"].as_array().expect("a list");
    let named = |name: &str, track: u64| {
        let spans = events
            .iter()
            .filter(|event| event["ph"] == "X" && event["tid"] == track);
        spans
            .filter(|event| event["name"] == name)
            .collect::<Vec<_>>()
    };
    // One prefill and three steps of decoding, each with its parts; loading once.
    let counts = [
        "load", "weights", "prefill", "decode", "inputs", "steps", "outputs",
    ]
    .map(|name| named(name, 1).len());
    assert_eq!(counts, [1, 1, 1, 3, 4, 4, 4]);
    assert_eq!(named("decode", 1)[0]["args"]["C"], 4);
    let launches = ["remember", "predict"].map(|name| named(name, 2).len());
    assert_eq!(launches, [4, 4]);
    let predict = &named("predict", 2)[0]["args"];
    assert_eq!(
        (&predict["kernel"], &predict["entry"]),
        (&"predict".into(), &"prefill".into())
    );
    assert_eq!(
        (&predict["grid"][0], &predict["param_bytes"]),
        (&1.into(), &40.into())
    );

    // In order; spans of a track nest.
    let timed: Vec<&Value> = events.iter().filter(|event| event["ph"] != "M").collect();
    assert!(timed.is_sorted_by(|a, b| number(a, "ts") <= number(b, "ts")));
    for track in [1, 2] {
        let mut open: Vec<f64> = Vec::new();
        for event in timed
            .iter()
            .filter(|event| event["ph"] == "X" && event["tid"] == track)
        {
            let (start, end) = (
                number(event, "ts"),
                number(event, "ts") + number(event, "dur"),
            );
            // Decimal fractions of a microsecond do not add up to the last bit.
            let slack = 1e-3;
            while open.last().is_some_and(|outer| *outer <= start + slack) {
                open.pop();
            }
            assert!(
                open.last().is_none_or(|outer| end <= outer + slack),
                "{event}"
            );
            open.push(end);
        }
    }
    // A launch lies within its entry's steps.
    let steps = named("steps", 1);
    for event in named("remember", 2).into_iter().chain(named("predict", 2)) {
        let inside = steps.iter().any(|steps| {
            number(steps, "ts") <= number(event, "ts")
                && number(event, "ts") + number(event, "dur")
                    <= number(steps, "ts") + number(steps, "dur") + 1.0
        });
        assert!(inside, "{event}");
    }
    // Counters rise to what was counted and fall back.
    let counted = events
        .iter()
        .filter(|event| event["name"] == "warp instructions");
    let counted: f64 = counted.map(|event| number(&event["args"], "value")).sum();
    assert_eq!(counted as u64, instructions);
    assert!(instructions > 0);
}
