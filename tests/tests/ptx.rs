//! The kernels of the tiny and of the published model as PTX: reviewed text, read back, taken by ptxas.

use mcc::ptxas::Ptxas;
use mcc_codegen::{Codegen, KernelCode};
use mcc_ir::exchange::{DirectCombine, DirectDispatch, ExpertGroup, TwoHopCombine, TwoHopDispatch};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::program::Kernel;

use crate::harness::compile;
use crate::sources::{kernels, root};

fn codes() -> Vec<KernelCode> {
    kernels().iter().chain(&exchanges()).map(compile).collect()
}

/// What ranks run together, on two nodes of four GPUs.
fn exchanges() -> Vec<KernelConfig> {
    let group = ExpertGroup {
        experts: 16,
        top_k: 4,
        nodes: 2,
        gpus: 4,
        tokens: 16,
    };
    let (width, capacity, channels, blocks) = (256, 256, 2, 4);
    let (quant, weighted) = (true, true);
    let dispatch = DirectDispatch {
        group,
        width,
        quant,
        blocks,
    };
    let combine = DirectCombine {
        group,
        width,
        weighted,
        blocks,
    };
    vec![
        KernelConfig::DirectDispatchSend(dispatch),
        KernelConfig::DirectDispatchReceive(dispatch),
        KernelConfig::DirectCombineSend(combine),
        KernelConfig::DirectCombineReceive(combine),
        KernelConfig::TwoHopDispatch(TwoHopDispatch {
            group,
            width,
            quant,
            capacity,
            channels,
        }),
        KernelConfig::TwoHopCombine(TwoHopCombine {
            group,
            width,
            weighted,
            capacity,
            channels,
        }),
    ]
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
            let Some(assembled) = assembled else {
                // Its place is `nvshmem_links_into_kernels_that_put`.
                assert!(code.calls_nvshmem, "{version}: {} was left out", code.name);
                continue;
            };
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

/// DeepSeek-V3's dispatch and combine on four nodes, with NVSHMEM's own code in them.
#[test]
fn nvshmem_links_into_kernels_that_put() {
    let library = mcc::ptxas::nvshmem().expect("a library that is there can be read");
    let (Some(library), Some(ptxas)) = (library, Ptxas::find()) else {
        println!(
            "skipped: no device library of NVSHMEM (`cargo xtask setup --nvshmem`), or no ptxas"
        );
        return;
    };
    let group = ExpertGroup {
        experts: 256,
        top_k: 8,
        nodes: 4,
        gpus: 8,
        tokens: 4096,
    };
    let (width, capacity, channels) = (7168, 1 << 16, 20);
    let decode = ExpertGroup {
        tokens: 128,
        ..group
    };
    let kernels = [
        KernelConfig::TwoHopDispatch(TwoHopDispatch {
            group,
            width,
            quant: true,
            capacity,
            channels,
        }),
        KernelConfig::TwoHopCombine(TwoHopCombine {
            group,
            width,
            weighted: false,
            capacity,
            channels,
        }),
        KernelConfig::DirectDispatchSend(DirectDispatch {
            group: decode,
            width,
            quant: true,
            blocks: 32,
        }),
    ];
    let codegen = Codegen::new().with_nvshmem(Some(library));
    let codes: Vec<KernelCode> = kernels
        .into_iter()
        .map(|config| {
            let name = config.name();
            codegen.compile(&Kernel { name, config })
        })
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{e}"));
    for code in &codes {
        let linked = code.linked.as_deref().unwrap_or_default();
        assert!(
            code.ptx.contains(".extern .func nvshmemx_"),
            "{}",
            code.name
        );
        assert!(!linked.contains(".extern .func nvshmem"), "{}", code.name);
        assert!(linked.contains("nvshmemi_device_state_d"), "{}", code.name);
    }
    let assembled = ptxas
        .assemble(&codes, "sm_90a")
        .unwrap_or_else(|e| panic!("{e}"));
    for (code, assembled) in codes.iter().zip(assembled) {
        let assembled = assembled.unwrap_or_else(|| panic!("{} was left out", code.name));
        println!(
            "{}: {} registers, {} bytes spilled, {} bytes of machine code",
            code.name,
            assembled.resources.registers,
            assembled.resources.spill_bytes,
            assembled.cubin.len()
        );
    }
}
