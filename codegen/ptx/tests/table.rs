//! Every row of the instruction table, as text and back.
//!
//! `MCC_PTX_SAMPLES=dir cargo test -p mcc-ptx --test table` also writes each
//! sample to a file, on which `ptxas -arch=sm_90a` can be run.

mod samples;

use mcc_ptx::{Op, parse};

#[test]
fn every_row_round_trips() {
    let dump = std::env::var_os("MCC_PTX_SAMPLES").map(std::path::PathBuf::from);
    let mut count = 0;
    for op in Op::ALL {
        assert!(!op.forms().is_empty(), "{op:?} has no forms");
        for form in op.forms() {
            for text in samples::of(form) {
                let source = samples::module(form, &text);
                if let Some(dir) = &dump {
                    std::fs::write(dir.join(format!("{count:04}.ptx")), &source)
                        .expect("the directory for samples can be written");
                }
                count += 1;
                let module =
                    parse(&source).unwrap_or_else(|e| panic!("{text}\nof form {}: {e}", form.text));
                let entry = module.entry("k").expect("the sample has its kernel");
                let body = entry.body.as_ref().expect("the kernel has a body");
                let inst = body.insts().next().expect("the sample has its instruction");
                assert_eq!(inst.op, *op, "{text}");
                assert!(inst.form().is_some(), "{text}");
                let printed = module.to_string();
                assert!(printed.contains(&text), "{text} came back as\n{printed}");
                let again = parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
                assert_eq!(again, module, "{text}");
            }
        }
    }
    assert!(count > 1000, "the table lost rows: {count} samples");
}
