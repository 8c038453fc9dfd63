//! The kernels of the tiny and of the published model as PTX: reviewed text, read back, taken by ptxas.

use mcc::ptxas::Ptxas;
use mcc_codegen::KernelCode;

use crate::harness::compile;
use crate::sources::{kernels, root};

fn codes() -> Vec<KernelCode> {
    kernels().iter().map(compile).collect()
}

/// A change of any kernel shows as a diff to be reviewed.
#[test]
fn kernels_are_as_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for code in codes() {
            insta::assert_snapshot!(code.name, code.ptx);
        }
    });
}

#[test]
fn every_kernel_reads_back_as_printed() {
    for code in codes() {
        let module = mcc_ptx::parse(&code.ptx).unwrap_or_else(|e| panic!("{}: {e}", code.name));
        assert_eq!(module.to_string(), code.ptx, "{}", code.name);
        let again =
            mcc_ptx::parse(&module.to_string()).unwrap_or_else(|e| panic!("{}: {e}", code.name));
        assert!(
            again == module,
            "{}: another module after printing and parsing",
            code.name
        );
    }
}

/// No spills, no serialised wgmma, no ignored register hints: `assemble` fails on any of them.
#[test]
fn ptxas_takes_every_kernel_without_complaint() {
    if std::env::var_os("MCC_SKIP_PTXAS").is_some_and(|v| v == "1") {
        println!("skipped: MCC_SKIP_PTXAS=1");
        return;
    }
    let codes = codes();
    for version in ["cuda-12.9", "cuda-13"] {
        let path = root().join(".tools").join(version).join("bin/ptxas");
        assert!(
            path.is_file(),
            "{} is not there: run `cargo xtask setup`, or set MCC_SKIP_PTXAS=1",
            path.display()
        );
        let assembled = Ptxas::at(&path)
            .assemble(&codes, "sm_90a")
            .unwrap_or_else(|e| panic!("{version}: {e}"));
        for (code, assembled) in codes.iter().zip(assembled) {
            assert!(
                !assembled.cubin.is_empty(),
                "{version}: {} has no machine code",
                code.name
            );
            assert!(
                assembled.resources.registers > 0,
                "{version}: {}: the report was not understood",
                code.name
            );
            assert_eq!(
                assembled.resources.spill_bytes, 0,
                "{version}: {}",
                code.name
            );
        }
    }
}
