//! Builds are repeatable, and the bundle says what the program says.

use std::fmt::Debug;

use mcc::pack::pack;
use mcc::ptxas::Ptxas;
use mcc_bundle::Bundle;
use mcc_ir::program::{Buffer, Entry, LaunchSpec, ProgramParam};
use mcc_ir::{DimDecl, Yarn};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sources::{build, tiny, tiny_built};

#[test]
fn two_builds_are_equal_byte_for_byte() {
    let bytes = |cubins: bool| {
        let source = tiny();
        let built = build(&source, cubins, None);
        pack(&source, &built)
            .expect("packs")
            .to_bytes()
            .expect("encodes")
    };
    let without = bytes(false);
    assert!(without == bytes(false), "two builds without cubins differ");
    if Ptxas::find().is_some() {
        let with = bytes(true);
        assert!(with == bytes(true), "two builds with cubins differ");
        assert!(with != without, "there are no cubins in it");
    } else {
        println!("skipped with cubins: no ptxas");
    }
    let read = Bundle::from_bytes(&without).expect("reads back");
    assert!(
        read.to_bytes().expect("encodes") == without,
        "reading and writing changed the bundle"
    );
}

/// The value that the bundle's JSON means to the compiler.
fn back<T: Serialize, U: DeserializeOwned>(value: &T) -> U {
    serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .unwrap_or_else(|e| panic!("the bundle's JSON is not the program's: {e}"))
}

fn same<T: Serialize, U: DeserializeOwned + PartialEq + Debug>(
    what: &str,
    bundle: &T,
    program: &U,
) {
    assert!(
        back::<T, U>(bundle) == *program,
        "{what}: the manifest lost something"
    );
}

#[test]
fn the_manifest_loses_nothing_of_the_program() {
    let (source, built) = tiny_built();
    let manifest = pack(source, built).expect("packs").manifest;
    let program = built.program.as_ref().expect("a program");
    assert_eq!(manifest.model, program.model);
    assert_eq!(manifest.arena_bytes, program.arena_bytes);
    same::<_, Vec<DimDecl>>("dims", &manifest.dims, &program.dims);
    same::<_, Vec<Buffer>>("buffers", &manifest.buffers, &program.buffers);
    same::<_, Vec<ProgramParam>>("params", &manifest.params, &program.params);
    same::<_, Vec<Entry>>("entries", &manifest.entries, &program.entries);
    assert_eq!(manifest.kernels.len(), program.kernels.len());
    for (in_bundle, (kernel, code)) in manifest
        .kernels
        .iter()
        .zip(program.kernels.iter().zip(&built.kernels))
    {
        assert_eq!(in_bundle.name, kernel.name);
        same("config", &in_bundle.config, &kernel.config);
        same::<_, LaunchSpec>("launch", &in_bundle.launch, &code.launch);
        let operands = kernel.config.operands();
        assert_eq!(in_bundle.operands.len(), operands.len());
        for (a, b) in in_bundle.operands.iter().zip(&operands) {
            assert_eq!(
                (a.name.as_str(), a.rank, a.written),
                (b.name, b.rank, b.written)
            );
            same("dtype", &a.dtype, &b.dtype);
        }
    }
}

/// The runtime has its own rotary tables, so that it need not know the graph IR.
#[test]
fn both_rotary_tables_are_one() {
    let yarn = |factor, mscale, mscale_all_dim| Yarn {
        factor,
        original: 256.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale,
        mscale_all_dim,
    };
    let cases = [
        (64, 10_000.0, None),
        (64, 10_000.0, Some(yarn(4.0, 1.0, 1.0))),
        (64, 10_000.0, Some(yarn(40.0, 1.0, 0.0))),
        (128, 500_000.0, Some(yarn(8.0, 0.707, 1.3))),
        (2, 1_000.0, None),
    ];
    for (dim, theta, yarn) in cases {
        let ours = mcc_ir::numerics::rope_table(dim, theta, 300, yarn.as_ref());
        let theirs = mcc_runtime::rope_table(dim, theta, 300, yarn.map(|y| back(&y)).as_ref());
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&ours) == bits(&theirs),
            "dim {dim}, theta {theta}, {yarn:?}"
        );
    }
}
