//! `mcc gemm`: the reader of machine code on a kept excerpt, the bar on kernels that are in use, and the promotion
//! experiment on a depth that takes seconds.

use mcc::gemm::promotion::{self, Data, INTERVALS, Point};
use mcc::gemm::promotion_plot;
use mcc::gemm::sass::{Class, Listing};
use mcc::gemm::{configs, statics};
use mcc::ptxas::{Ptxas, Report};
use mcc_codegen::{Codegen, CodegenError};
use mcc_ir::kernel::{Epilogue, GemmForm, GemmFp8, GemmTile, KernelConfig, NO_PROMOTION};
use mcc_ir::program::Kernel;
use mcc_ir::types::DType;

/// The consumer of a block-scaled product as nvdisasm prints it, cut down to one promotion of four registers: a loop
/// over tiles around a loop over K, whose wait has a slow path; and the producer's loop.
const EXCERPT: &str = "
gemm:
.text.gemm:
        /*0000*/                   S2R R0, SR_TID.X ;                            /* 0x0000000000007919 */
                                                                                 /* 0x000e220000002100 */
        /*0010*/                   ISETP.NE.U32.AND P0, PT, R0, RZ, PT ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
.L_x_6:
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R15+URZ], R2 ;
        /*0040*/               @P0 BRA `(.L_x_4) ;
.L_x_5:
        /*0050*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R15+URZ], R2 ;
        /*0060*/              @!P0 BRA `(.L_x_5) ;
.L_x_4:
        /*0070*/                   SYNCS.ARRIVE.TRANS64 RZ, [UR9], R2 ;
        /*0080*/                   UTMALDG.2D [UR8], [UR4] ;
        /*0090*/                   UTMALDG.2D [UR20], [UR18] ;
        /*00a0*/                   ISETP.NE.U32.AND P2, PT, R14, 0x38, PT ;
        /*00b0*/               @P2 BRA `(.L_x_6) ;
        /*00c0*/                   EXIT ;
.L_x_2:
        /*00d0*/                   CS2R R120, SRZ ;
.L_x_10:
        /*00e0*/                   LDS R148, [R24] ;
.L_x_29:
        /*00f0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR6], R6 ;
        /*0100*/              @!P0 BRA `(.L_x_9) ;
.L_x_8:
        /*0110*/                   WARPGROUP.ARRIVE ;
        /*0120*/                   UIADD3.64 UR26, UR22, 0x2, URZ ;
        /*0130*/                   R2UR UR24, R6 ;
        /*0140*/                   QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR20], RZ, !UPT ;
        /*0150*/                   QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR24], R24 ;
        /*0160*/                   QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR24], R24 ;
        /*0170*/                   QGMMA.64x8x32.F32.E4M3.E4M3 R24, gdesc[UR20], R24, gsb0 ;
        /*0180*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0190*/              @!P1 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR6], RZ ;
        /*01a0*/                   FMUL R148, R148, R151 ;
        /*01b0*/                   FFMA R121, R24, R148.reuse, R121 ;
        /*01c0*/                   FFMA R118, R25, R148, R118 ;
        /*01d0*/                   FFMA R125, R26, R150, R125 ;
        /*01e0*/                   FFMA R120, R27, R150, R120 ;
        /*01f0*/                   ISETP.NE.U32.AND P0, PT, R123, 0x38, PT ;
        /*0200*/               @P0 BRA `(.L_x_10) ;
        /*0210*/                   F2FP.BF16.F32.PACK_AB R121, R118, R121 ;
        /*0220*/                   STG.E desc[UR14][R2.64], R121 ;
        /*0230*/                   IADD3 R4, P2, R6, UR8, RZ ;
        /*0240*/              @!P2 BRA `(.L_x_2) ;
        /*0250*/                   EXIT ;
.L_x_9:
        /*0260*/                   CS2R R6, SR_GLOBALTIMERLO ;
        /*0270*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR6], R24 ;
        /*0280*/               @P0 BRA `(.L_x_8) ;
        /*0290*/                   ISETP.GE.U32.AND P0, PT, R26, 0x540be401, PT ;
        /*02a0*/              @!P0 BRA `(.L_x_9) ;
        /*02b0*/                   BPT.TRAP 0x1 ;
";

#[test]
fn the_main_loop_is_what_runs_when_waits_succeed() {
    let listing = Listing::parse(EXCERPT);
    assert_eq!(listing.instructions().len(), 44);
    let loops = listing.innermost_loops("QGMMA");
    assert_eq!(loops.len(), 1, "the loop over tiles is not innermost");
    let main = &loops[0].all;
    assert_eq!(*main, loops[0].shortest, "no branch but the wait's");
    let counts = [
        (Class::Tensor, 4),
        (Class::Ffma, 4),
        (Class::Fmul, 1),
        (Class::Integer, 1),
        (Class::Uniform, 2),
        (Class::Memory, 1),
        // The try, the two of the warpgroup, and the release.
        (Class::Sync, 4),
        (Class::Branch, 2),
        (Class::Rest, 0),
    ];
    for (class, count) in counts {
        assert_eq!(main.count(class), count, "{class:?} in\n{}", main.text());
    }
    assert!(!main.text().contains("GLOBALTIMER"), "{}", main.text());
    let producer = listing.innermost_loops("UTMALDG");
    assert_eq!(producer.len(), 1);
    assert_eq!(producer[0].all.instructions.len(), 7);
}

#[test]
fn a_branch_on_anything_but_a_try_is_followed_both_ways() {
    // The same code with a comparison in place of the try: its other side counts, too.
    let text = EXCERPT.replace(
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR6], R6 ;",
        "ISETP.GE.AND P0, PT, R6, R7, PT ;",
    );
    let loops = Listing::parse(&text).innermost_loops("QGMMA");
    assert_eq!(loops.len(), 1);
    let text = loops[0].all.text();
    assert!(text.contains("GLOBALTIMER"), "{text}");
    // The shortest turn leaves it out.
    let text = loops[0].shortest.text();
    assert!(!text.contains("GLOBALTIMER"), "{text}");
    assert_eq!(loops[0].shortest.count(Class::Tensor), 4);
}

/// Of the excerpt: the product has 8 columns and one promotion of four values, as `tile.n` = 8 has.
#[test]
fn a_kernel_that_breaks_the_bar_is_told_why() {
    let config = GemmFp8 {
        n: 4096,
        k: 7168,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::BF16,
        promote: 128,
        tile: GemmTile::new(64, 64, 4),
    };
    let kernel = Kernel {
        name: "gemm".to_owned(),
        config: KernelConfig::GemmFp8(config),
    };
    let mut code = Codegen::new().compile(&kernel).expect("compiles");
    code.launch.block = 256;
    let report = Report::parse(
        "ptxas info    : 0 bytes stack frame, 16 bytes spill stores, 8 bytes spill loads\n\
         ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n\
         ptxas info    : Used 168 registers\n",
    );
    // Eight accumulators of 64x8 make the tile's 64x64: the loop is an eighth of a K block.
    let row = statics::judge(&kernel, &code, &report, &Listing::parse(EXCERPT)).row;
    let main = row.main.expect("a main loop");
    assert_eq!((main.tensor, main.ffma, main.waves), (32.0, 32.0, 8.0));
    assert_eq!(main.others, 11.0 * 8.0);
    assert_eq!((row.registers, row.spill_bytes), (168, 24));
    let whys = row.breaks.join("\n");
    assert!(
        whys.contains("C7510") && whys.contains("24 bytes"),
        "{whys}"
    );
    assert_eq!(row.breaks.len(), 2, "{whys}");

    let twice = EXCERPT.replace(
        "FFMA R121, R24, R148.reuse, R121 ;",
        &"FFMA R121, R24, R148.reuse, R121 ;\n".repeat(2),
    );
    let wasteful = EXCERPT.replace("FMUL R148, R148, R151 ;", &"FMUL R1, R2, R3 ;\n".repeat(40));
    for (text, why) in [(twice, "FFMA a K block"), (wasteful, "other instructions")] {
        let row = statics::judge(&kernel, &code, &report, &Listing::parse(&text)).row;
        assert!(
            row.breaks.iter().any(|b| b.contains(why)),
            "{:?}",
            row.breaks
        );
    }
}

#[test]
fn a_kernel_is_read_from_its_machine_code() {
    if std::env::var_os("MCC_SKIP_PTXAS").is_some_and(|v| v == "1") {
        println!("skipped: MCC_SKIP_PTXAS=1");
        return;
    }
    let ptxas = Ptxas::find().expect("`cargo xtask setup` installs a pinned ptxas");
    let config = GemmFp8 {
        n: 4096,
        k: 7168,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::BF16,
        promote: 128,
        tile: GemmTile::new(128, 128, 4),
    };
    let kernel = Kernel {
        name: "gemm".to_owned(),
        config: KernelConfig::GemmFp8(config),
    };
    let inspected =
        statics::inspect(&Codegen::new(), &ptxas, &kernel).unwrap_or_else(|e| panic!("{e}"));
    let row = inspected.row;
    let main = row.main.expect("a main loop");
    // Four wgmma of 32 elements of K and one promotion of 64 x 128 sums over 128 threads.
    assert_eq!((main.tensor, main.ffma, main.waves), (4.0, 64.0, 1.0));
    assert_eq!(
        main.others,
        main.fmul + main.integer + main.uniform + main.memory + main.sync + main.branch
    );
    // Two waits, fences and a release at least; the bar is the command's to hold.
    assert!(main.sync >= 4.0 && main.others < 100.0, "{main:?}");
    assert!(row.producer.is_some_and(|p| p > 5.0), "{row:?}");
    assert_eq!((row.spill_bytes, row.messages.len()), (0, 0), "{row:?}");
    assert!(inspected.main_loop.contains("QGMMA.64x128x32"));
}

#[test]
fn the_list_has_every_kind_once() {
    let kernels = configs::one_of_each();
    let mut names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), kernels.len(), "two kernels have one name");
    let has = |what: &dyn Fn(&GemmFp8) -> bool| {
        let mut all = kernels.iter();
        all.any(|k| matches!(&k.config, KernelConfig::GemmFp8(c) if what(c)))
    };
    for promote in INTERVALS {
        assert!(has(&|c| c.promote == promote), "{promote}");
    }
    for split in [1, 2, 4, 8] {
        assert!(has(&|c| c.tile.split_k == split), "{split}");
    }
    assert!(has(&|c| matches!(c.form, GemmForm::Masked { .. })));
    assert!(has(&|c| matches!(c.form, GemmForm::KGrouped { .. })));
    assert!(has(&|c| matches!(
        c.epilogue,
        Epilogue::SwigluQuantize { weighted: true }
    )));
    assert!(has(&|c| c.tile.swap) && has(&|c| c.tile.m == 256) && has(&|c| c.tile.n == 112));
}

/// The published errors of the table (`docs/gemm.md`, "Promotion"), from another draw of the same data.
///
/// The median of 2,304 relative errors that are almost all bias has a spread of a few per cent: 15 % are allowed. The
/// largest of 2,304 errors over the rms hangs on the few sums that wander furthest: over 16 draws the largest was up to
/// 1.8 times the smallest (256 elements: 7.6e-4 to 1.25e-3; none: 8.0e-3 to 1.3e-2), so that a factor of 2 is allowed.
#[test]
fn promotion_errors_are_the_published_ones() {
    let points = promotion::measure(&[4096], &INTERVALS, &mut |_, _| {}).expect("runs");
    let published = [
        (
            Data::Uniform,
            [6.6e-2, 5.2e-3, 1.7e-3, 5.0e-4, 1.4e-4, 4.0e-5],
            1.15,
        ),
        (
            Data::Normal,
            [1.2e-2, 2.3e-3, 8.5e-4, 4.9e-4, 2.9e-4, 1.7e-4],
            2.0,
        ),
    ];
    for (data, wanted, factor) in published {
        let of_data = |p: &&Point| p.data == data;
        let found: Vec<f64> = points.iter().filter(of_data).map(|p| p.error).collect();
        assert_eq!(found.len(), INTERVALS.len());
        assert!(
            found.is_sorted_by(|a, b| a > b),
            "a shorter interval is no better: {found:?}"
        );
        for (interval, (found, wanted)) in INTERVALS.iter().zip(found.iter().zip(wanted)) {
            assert!(
                *found < wanted * factor && *found > wanted / factor,
                "{data:?}, promoted every {interval}: {found:.2e} is not within {factor} of {wanted:.1e}"
            );
        }
    }
    let svg = promotion_plot::svg(&points).expect("a plot");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<circle ").count(), points.len());
    assert_eq!(promotion_plot::svg(&[]), None);
}

#[test]
fn a_depth_that_the_reference_is_not_exact_at_is_refused() {
    for k in [0, 100, 262_144] {
        let error = promotion::measure(&[k], &[128], &mut |_, _| {});
        let error = error.expect_err("is refused").to_string();
        assert!(error.contains(&k.to_string()), "{error}");
    }
}

/// What no kernel does is an error with a reason, not a panic.
#[test]
fn every_interval_compiles_or_says_why_not() {
    let codegen = Codegen::new();
    for promote in [NO_PROMOTION, 1, 96, 100, 1024] {
        let config = GemmFp8 {
            n: 64,
            k: 512,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out: DType::F32,
            promote,
            tile: GemmTile::new(64, 16, 4),
        };
        let kernel = Kernel {
            name: "gemm".to_owned(),
            config: KernelConfig::GemmFp8(config),
        };
        match codegen.compile(&kernel) {
            Ok(code) => assert!(code.ptx.contains("wgmma")),
            Err(CodegenError::Unsupported { what, .. }) => {
                assert!(what.contains("promote"), "{what}")
            }
            Err(other) => panic!("{promote}: {other}"),
        }
    }
}
