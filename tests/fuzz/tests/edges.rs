//! Inputs at the edges of the budgets, by hand: each ends in a refusal or a
//! fault, in a moment and in little memory.

use std::time::{Duration, Instant};

use mcc_fuzz::launch;
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, SimError};

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// Loads, and launches `k` when that is possible.
fn run(source: &str, cfg: LaunchConfig) -> Result<(), SimError> {
    let start = Instant::now();
    let gpu = Gpu::new(launch::config());
    let module = gpu.load_module(&format!("{HEADER}{source}"));
    let end = module.and_then(|m| {
        let bytes = m
            .param_layout("k")?
            .last()
            .map_or(0, |(at, size)| at + size);
        gpu.launch(&m, "k", &cfg, &vec![0; bytes]).map(|_| ())
    });
    let time = start.elapsed();
    assert!(time < Duration::from_secs(20), "{time:?} for\n{source}");
    end
}

fn refused(source: &str) -> String {
    match run(source, LaunchConfig::new(1, 32)) {
        Ok(()) => panic!("accepted:\n{source}"),
        Err(e) => e.to_string(),
    }
}

fn body(declarations: &str, code: &str) -> String {
    format!("{declarations}\n.entry k()\n{{\n{code}\nret;\n}}\n")
}

#[test]
fn declarations_of_any_size() {
    const HUGE: [&str; 5] = [
        "18446744073709551615",
        "9223372036854775807",
        "4294967296",
        "4294967295",
        "2147483647",
    ];
    for n in HUGE {
        // Of shared memory, of which a second one must not overflow the sum.
        let two = format!(".shared .align 8 .b64 a[{n}];\n.shared .align 8 .b64 b[{n}];");
        let used = ".reg .u64 %d; mov.u64 %d, a; mov.u64 %d, b;";
        let e = refused(&body(&two, used));
        assert!(
            e.contains("shared memory") || e.contains("cannot be read"),
            "{e}"
        );
        refused(&body(
            "",
            &format!(".shared .b8 a[{n}]; .reg .u64 %d; mov.u64 %d, a;"),
        ));
        // Of local and of global memory.
        let e = refused(&body(
            "",
            &format!(".local .b64 a[{n}]; .local .b64 b[{n}]; .reg .u64 %d; mov.u64 %d, a;"),
        ));
        assert!(
            e.contains("local memory") || e.contains("cannot be read"),
            "{e}"
        );
        refused(&body(&format!(".global .b64 a[{n}];"), ""));
        refused(&body(&format!(".global .b64 a[{n}][{n}];"), ""));
        refused(&body(
            &format!(".const .align 4 .b8 a[{n}] = {{1, 2}};"),
            "",
        ));
        // Of parameters.
        refused(&format!(
            ".entry k(.param .b8 a[{n}], .param .b64 b[{n}])\n{{ ret; }}\n"
        ));
        // Of registers.
        refused(&body(
            "",
            &format!(".reg .b32 %r<{n}>;\n.reg .b64 %d<{n}>;"),
        ));
    }
}

#[test]
fn alignments_and_directives() {
    for n in ["0", "3", "4294967295", "2147483648", "18446744073709551616"] {
        // Whatever is the answer, it is one.
        let _ = run(
            &body(
                &format!(".shared .align {n} .b8 a[8];\n.global .align {n} .b8 g[8];"),
                ".reg .u64 %d; mov.u64 %d, a;",
            ),
            LaunchConfig::new(1, 32),
        );
        let _ = run(
            &format!(".entry k(.param .align {n} .b8 a[8])\n{{ ret; }}\n"),
            LaunchConfig::new(1, 32),
        );
        for directive in [".maxntid", ".reqntid", ".reqnctapercluster"] {
            let _ = run(
                &format!(".entry k()\n{directive} {n}, {n}, {n}\n{{ ret; }}\n"),
                LaunchConfig::new(1, 32),
            );
        }
    }
}

/// Inlining doubles with every level.
#[test]
fn calls_that_double() {
    let mut source = String::from(".func f0() { ret; }\n");
    for i in 1..30 {
        let call = format!("call f{}, ();", i - 1);
        source += &format!(".func f{i}() {{ {call} {call} ret; }}\n");
    }
    source += ".entry k() { call f29, (); ret; }\n";
    let e = refused(&source);
    assert!(e.contains("inlined") || e.contains("cannot be read"), "{e}");
    // A chain that is deep, and not recursive.
    let mut source = String::from(".func f0() { ret; }\n");
    for i in 1..20_000 {
        source += &format!(".func f{i}() {{ call f{}, (); ret; }}\n", i - 1);
    }
    source += ".entry k() { call f19999, (); ret; }\n";
    let e = refused(&source);
    assert!(e.contains("nested") || e.contains("cannot be read"), "{e}");
    let e =
        refused(".func f();\n.func f() { call f, (); ret; }\n.entry k() { call f, (); ret; }\n");
    assert!(
        e.contains("recursive") || e.contains("cannot be read"),
        "{e}"
    );
}

#[test]
fn endless_programs_and_huge_grids() {
    let limit = |e: SimError| {
        let text = e.to_string();
        assert!(text.contains("instructions were executed"), "{text}");
    };
    let spin = body("", "L: bra L;");
    limit(run(&spin, LaunchConfig::new(1, 32)).expect_err("endless"));
    // Each block ends at once, but there are too many.
    let empty = body("", "");
    let huge = LaunchConfig {
        grid: [i32::MAX as u32, 65535, 65535],
        ..LaunchConfig::new(1, 32)
    };
    limit(run(&empty, huge).expect_err("2^63 blocks"));
    let beyond = LaunchConfig {
        grid: [u32::MAX; 3],
        ..huge
    };
    assert!(run(&empty, beyond).is_err());
    let wide = LaunchConfig {
        block: [u32::MAX; 3],
        ..LaunchConfig::new(1, 1)
    };
    assert!(run(&empty, wide).is_err());
    let cluster = LaunchConfig {
        grid: [u32::MAX; 3],
        cluster: [u32::MAX; 3],
        ..LaunchConfig::new(1, 1)
    };
    assert!(run(&empty, cluster).is_err());
    let smem = LaunchConfig {
        dynamic_smem: u32::MAX,
        ..LaunchConfig::new(1, 32)
    };
    assert!(run(&empty, smem).is_err());
}

#[test]
fn local_memory_of_a_cluster_is_the_device_s() {
    let big = body("", ".local .b8 a[524288]; .reg .u64 %d; mov.u64 %d, a;");
    let cfg = LaunchConfig {
        cluster: [16, 1, 1],
        grid: [16, 1, 1],
        ..LaunchConfig::new(1, 1024)
    };
    let gpu = Gpu::new(GpuConfig {
        global_bytes: 1 << 30,
        ..launch::config()
    });
    let m = gpu.load_module(&format!("{HEADER}{big}")).expect("loads");
    let e = gpu.launch(&m, "k", &cfg, &[]).expect_err("8 GiB");
    assert!(e.to_string().contains("local memory"), "{e}");
}

#[test]
fn branch_tables_and_nesting() {
    // A table with one label, indexed by anything.
    let brx = body(
        "",
        ".reg .b32 %r<4>; t: .branchtargets A, B;\nmov.u32 %r0, 4294967295;\nbrx.idx %r0, t;\nA:\nB:",
    );
    let _ = run(&brx, LaunchConfig::new(1, 32));
    let deep = "{".repeat(200_000) + &"}".repeat(200_000);
    let _ = run(&body("", &deep), LaunchConfig::new(1, 32));
    let list = "{".repeat(100_000);
    let _ = run(
        &format!(".global .b8 a[2] = {list};"),
        LaunchConfig::new(1, 32),
    );
    let vector = "{".repeat(100_000);
    let _ = run(
        &body("", &format!("mov.b32 {vector}")),
        LaunchConfig::new(1, 32),
    );
}
