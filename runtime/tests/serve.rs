//! Requests and answers, line by line, over a model whose every next token is known.

mod support;

use mcc_runtime::{Model, ServeError, ServeOptions, Served, serve};
use serde_json::{Value, json};
use support::{CONTEXT, HostDevice, Trace, expected_next, toy};

use std::cell::RefCell;
use std::rc::Rc;

fn model() -> (Model, Rc<RefCell<Trace>>) {
    let (device, trace) = HostDevice::new();
    (Model::load(Box::new(device), toy()).expect("loads"), trace)
}

/// Answers to the lines of `input`.
fn answers(input: &[u8], options: &ServeOptions) -> (Vec<Value>, Served) {
    let (mut model, _) = model();
    let mut output = Vec::new();
    let served = serve(&mut model, &mut &*input, &mut output, options).expect("serves");
    let text = String::from_utf8(output).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    (lines.collect(), served)
}

/// What the toy generates; it ends a text with token 0.
fn expected(prompt: &[i32], max_tokens: usize) -> (Vec<i32>, &'static str) {
    let mut text = prompt.to_vec();
    loop {
        let next = expected_next(&text);
        let generated = text[prompt.len()..].to_vec();
        if generated.len() == max_tokens {
            return (generated, "max_tokens");
        }
        if next == 0 {
            return (generated, "end_of_text");
        }
        if text.len() > CONTEXT as usize {
            return (generated, "context_full");
        }
        text.push(next);
    }
}

#[test]
fn requests_are_answered_in_order() {
    let input = b"{\"id\": \"a\", \"tokens\": [3, 1, 4], \"max_tokens\": 5}\n\n  7, 8,9 \n\
        {\"tokens\": [1], \"max_tokens\": 0, \"seed\": 3, \"temperature\": 0.5, \"top_p\": 0.9, \"id\": 2}";
    let (lines, served) = answers(
        input,
        &ServeOptions {
            max_tokens: 4,
            ..ServeOptions::default()
        },
    );
    assert_eq!(
        served,
        Served {
            answers: 3,
            errors: 0
        }
    );
    let (tokens, stop) = expected(&[3, 1, 4], 5);
    assert_eq!(
        lines[0],
        json!({ "id": "a", "tokens": tokens, "stop": stop, "reused": 0 })
    );
    let (tokens, stop) = expected(&[7, 8, 9], 4);
    assert_eq!(
        lines[1],
        json!({ "tokens": tokens, "stop": stop, "reused": 0 })
    );
    assert_eq!(
        lines[2],
        json!({ "id": 2, "tokens": [], "stop": "max_tokens", "reused": 0 })
    );
}

#[test]
fn bad_requests_get_an_error_and_the_next_one_is_served() {
    let mut input =
        b"{\"id\": 1, \"tokens\": [999]}\n{\"id\": 2, \"token\": [1]}\nhello\n{\"id\": 3\n"
            .to_vec();
    input.extend(
        b"{\"id\": 4, \"tokens\": []}\n{\"id\": 5, \"tokens\": [1], \"top_p\": 7}\n\xff\xfe\n",
    );
    input.extend(b"{\"id\": 6, \"tokens\": [3, 1], \"max_tokens\": 2}\n");
    let (lines, served) = answers(&input, &ServeOptions::default());
    assert_eq!(
        served,
        Served {
            answers: 1,
            errors: 7
        }
    );
    let error = |i: usize| lines[i]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error(0).contains("999"), "{}", error(0));
    assert!(error(1).contains("token"), "{}", error(1));
    assert!(error(2).contains("`hello`"), "{}", error(2));
    assert!(error(4).contains("no tokens"), "{}", error(4));
    assert!(error(5).contains("top_p"), "{}", error(5));
    assert!(error(6).contains("UTF-8"), "{}", error(6));
    let ids: Vec<&Value> = lines.iter().map(|line| &line["id"]).collect();
    let null = Value::Null;
    assert_eq!(
        ids,
        [
            &json!(1),
            &json!(2),
            &null,
            &null,
            &json!(4),
            &json!(5),
            &null,
            &json!(6)
        ]
    );
    assert_eq!(lines[7]["tokens"], json!(expected(&[3, 1], 2).0));
}

#[test]
fn a_shared_prefix_is_not_computed_again() {
    let first = [3, 1, 4, 1, 5];
    let (generated, _) = expected(&first, 3);
    let mut second = first.to_vec();
    second.extend(&generated);
    second.extend([9, 2]);
    // Then one that leaves the path, and one that is a prefix of what is there.
    let third = [3, 1, 7];
    let line = |tokens: &[i32]| format!("{}\n", json!({ "tokens": tokens, "max_tokens": 3 }));
    let input = [line(&first), line(&second), line(&third), line(&third[..2])].concat();
    let prompts: [&[i32]; 4] = [&first, &second, &third, &third[..2]];
    for reuse in [true, false] {
        let options = ServeOptions {
            reuse,
            ..ServeOptions::default()
        };
        let (lines, _) = answers(input.as_bytes(), &options);
        // The last generated token was never an input.
        let reused = if reuse { [0, 7, 2, 1] } else { [0; 4] };
        for ((line, prompt), reused) in lines.iter().zip(prompts).zip(reused) {
            assert_eq!(line["tokens"], json!(expected(prompt, 3).0), "{prompt:?}");
            assert_eq!(line["reused"], json!(reused), "{prompt:?}");
        }
    }
}

#[test]
fn tokens_are_streamed() {
    let options = ServeOptions {
        stream: true,
        ..ServeOptions::default()
    };
    let (lines, _) = answers(
        b"{\"id\": 1, \"tokens\": [3, 1], \"max_tokens\": 3}\n",
        &options,
    );
    let (tokens, stop) = expected(&[3, 1], 3);
    for (line, token) in lines.iter().zip(&tokens) {
        assert_eq!(*line, json!({ "id": 1, "token": token }));
    }
    assert_eq!(
        lines.last(),
        Some(&json!({ "id": 1, "tokens": tokens, "stop": stop, "reused": 0 }))
    );
}

#[test]
fn a_failed_device_ends_the_loop() {
    let (mut model, trace) = model();
    trace.borrow_mut().fail_after = Some(1);
    let mut output = Vec::new();
    let input = b"{\"id\": 1, \"tokens\": [3]}\n{\"id\": 2, \"tokens\": [3]}\n";
    let err = serve(
        &mut model,
        &mut &input[..],
        &mut output,
        &ServeOptions::default(),
    );
    assert!(matches!(err, Err(ServeError::Runtime(_))));
    let text = String::from_utf8(output).expect("UTF-8");
    assert_eq!(text.lines().count(), 1);
    assert!(
        text.contains("on purpose") && text.contains("\"id\":1"),
        "{text}"
    );
}
