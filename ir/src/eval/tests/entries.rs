//! Whole entries: states across steps, named dims, and what is refused.

use super::*;

const COUNTER: &str = r#"mir 1
model "counter"
dim T: 1..=4
dim C: 1..=8
param @w: bf16[2] = tensor("w")
state @cache: bf16[C, 2]
entry @step(x: bf16[T, 2], positions: i32[T]) {
  %0 = rms_norm %x, @w {eps = 0.0} : bf16[T, 2]
  %1 = cache_write @cache, %0, %positions : bf16[C, 2]
  update @cache = %1
  return y = %0, seen = %1
}
"#;

#[test]
fn an_entry_reads_and_updates_the_leading_rows_of_a_state() {
    let module = ok(crate::parse::module(COUNTER, "counter.mir"));
    let mut states = new_states(&module);
    assert_eq!(states["cache"].shape(), [8, 2]);
    let params = Values::from([("w".into(), bf16(&[2], &[1.0, 1.0]))]);
    let mut step = |x: &[f32], at: &[i32], context: u64| {
        let t = at.len();
        let inputs = Values::from([
            ("x".into(), bf16(&[t, 2], x)),
            ("positions".into(), i32s(&[t], at)),
        ]);
        let dims = Dims::from([("C".into(), context)]);
        run(
            Step {
                module: &module,
                entry: "step",
                dims: &dims,
                inputs: &inputs,
                params: &params,
            },
            &mut states,
        )
    };
    let first = ok(step(&[3.0, 3.0, -2.0, 2.0], &[0, 1], 2));
    assert_eq!(first["seen"], bf16(&[2, 2], &[1.0, 1.0, -1.0, 1.0]));
    let second = ok(step(&[5.0, -5.0], &[2], 3));
    assert_eq!(
        second["seen"],
        bf16(&[3, 2], &[1.0, 1.0, -1.0, 1.0, 1.0, -1.0]),
        "the first step is still there"
    );
    assert_eq!(second["y"], bf16(&[1, 2], &[1.0, -1.0]));

    let failed = step(&[1.0, 1.0], &[5], 4);
    assert!(
        matches!(failed, Err(EvalError::Range { value: 5, .. })),
        "{failed:?}"
    );
    let message = |r: Result<Values, EvalError>| r.err().map(|e| e.to_string());
    assert_eq!(
        message(step(&[0.0; 10], &[0; 5], 5)).as_deref(),
        Some("dim `T` is 5, expected 1..=4")
    );
    assert_eq!(
        message(step(&[0.0; 2], &[0], 9)).as_deref(),
        Some("dim `C` is 9, expected 1..=8")
    );
    assert_eq!(states["cache"].shape(), [8, 2]);
    assert_eq!(
        states["cache"].rows(3, 5),
        Some(bf16(&[5, 2], &[0.0; 10])),
        "failed steps wrote nothing"
    );
}

#[test]
fn wrong_values_are_named() {
    let module = ok(crate::parse::module(COUNTER, "counter.mir"));
    let good = Values::from([
        ("x".into(), bf16(&[1, 2], &[1.0; 2])),
        ("positions".into(), i32s(&[1], &[0])),
    ]);
    let params = Values::from([("w".into(), bf16(&[2], &[1.0, 1.0]))]);
    let attempt = |entry: &str, inputs: &Values, params: &Values| {
        let dims = Dims::from([("C".into(), 1)]);
        let step = Step {
            module: &module,
            entry,
            dims: &dims,
            inputs,
            params,
        };
        run(step, &mut new_states(&module))
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    assert_eq!(attempt("step", &good, &params), "");
    assert_eq!(
        attempt("stop", &good, &params),
        "the module has no entry `stop`"
    );
    assert_eq!(
        attempt("step", &good, &Values::new()),
        "no value was given for parameter `w`"
    );
    let f32_params = Values::from([("w".into(), f32s(&[2], &[1.0, 1.0]))]);
    assert_eq!(
        attempt("step", &good, &f32_params),
        "parameter `w`: expected bf16[2], got f32[2]"
    );
    let mut bad = good.clone();
    bad.insert("positions".into(), i32s(&[2], &[0, 0]));
    assert_eq!(
        attempt("step", &bad, &params),
        "dim `T` is 2, expected 1 as elsewhere"
    );
    let mut extra = good.clone();
    extra.insert("y".into(), i32s(&[1], &[0]));
    assert_eq!(
        attempt("step", &extra, &params),
        "the entry has no input `y`"
    );
    let mut short = good;
    short.remove("x");
    assert_eq!(
        attempt("step", &short, &params),
        "no value was given for input `x`"
    );
}

#[test]
fn ill_typed_operands_are_refused_by_the_ops_own_rule() {
    let (x, w) = (bf16(&[2, 4], &[0.0; 8]), bf16(&[3, 5], &[0.0; 15]));
    let rule = F32_OUT
        .infer(&[x.ty(), w.ty()])
        .expect_err("K differs")
        .to_string();
    assert_eq!(refuse(F32_OUT, &[&x, &w]), rule);
}
