//! Ranks on several nodes: queues of launches, puts over the network, time that jumps, ranks that die.

mod common;

use common::*;
use mcc_sim::{
    Completion, Death, FaultKind, GpuConfig, Launch, LaunchConfig, LaunchStats, Module, Queue,
    QueueError, SimError, Traffic, World, launch_queues,
};

type Ended = Vec<Result<Vec<LaunchStats>, QueueError>>;

fn world(nodes: u32, gpus: u32, completion: Completion) -> World {
    World::new(
        nodes,
        gpus,
        &GpuConfig {
            completion,
            check: true,
            threads: 1,
            sms: 4,
            global_bytes: 1 << 24,
            instruction_limit: Some(4_000_000),
            ..GpuConfig::default()
        },
    )
}

/// Every schedule: the extremes, and a few seeds.
fn schedules() -> impl Iterator<Item = Completion> {
    let seeds = (0..12).map(Completion::Random);
    [Completion::Early, Completion::Late]
        .into_iter()
        .chain(seeds)
}

/// Declarations as NVSHMEM's bitcode has its functions, as LLVM prints them.
const EXTERN: &str = "
.extern .func nvshmemx_putmem_nbi_warp (.param .b64 a, .param .b64 b, .param .b64 c, .param .b32 d);
.extern .func nvshmemx_putmem_signal_nbi_warp (.param .b64 a, .param .b64 b, .param .b64 c, .param .b64 d, .param .b64 e, .param .b32 f, .param .b32 g);
.extern .func nvshmemx_signal_op (.param .b64 a, .param .b64 b, .param .b32 c, .param .b32 d);
.extern .func nvshmem_fence ();
.extern .func nvshmem_quiet ();
";

/// `putmem_signal`: target, source, bytes, signal address, value, operation, PE.
fn put_signal(args: [&str; 7]) -> String {
    let [target, source, bytes, address, value, op, pe] = args;
    format!(
        "{{ .param .b64 p0; .param .b64 p1; .param .b64 p2; .param .b64 p3; .param .b64 p4; .param .b32 p5; .param .b32 p6;
st.param.b64 [p0], {target}; st.param.b64 [p1], {source}; st.param.b64 [p2], {bytes}; st.param.b64 [p3], {address};
st.param.b64 [p4], {value}; st.param.b32 [p5], {op}; st.param.b32 [p6], {pe};
call.uni nvshmemx_putmem_signal_nbi_warp, (p0, p1, p2, p3, p4, p5, p6); }}\n"
    )
}

fn put(target: &str, source: &str, bytes: &str, pe: &str) -> String {
    format!(
        "{{ .param .b64 q0; .param .b64 q1; .param .b64 q2; .param .b32 q3;
st.param.b64 [q0], {target}; st.param.b64 [q1], {source}; st.param.b64 [q2], {bytes}; st.param.b32 [q3], {pe};
call.uni nvshmemx_putmem_nbi_warp, (q0, q1, q2, q3); }}\n"
    )
}

fn signal(address: &str, value: &str, op: &str, pe: &str) -> String {
    format!(
        "{{ .param .b64 s0; .param .b64 s1; .param .b32 s2; .param .b32 s3;
st.param.b64 [s0], {address}; st.param.b64 [s1], {value}; st.param.b32 [s2], {op}; st.param.b32 [s3], {pe};
call.uni nvshmemx_signal_op, (s0, s1, s2, s3); }}\n"
    )
}

const FENCE: &str = "call.uni nvshmem_fence, ();\n";
const QUIET: &str = "call.uni nvshmem_quiet, ();\n";
const PARAMS: &str = ".param .u64 base, .param .u32 rank, .param .u32 ranks";

/// A kernel of one warp: `%rd1` is this rank's symmetric memory, `%r1` the rank, `%r2` how many there are, `%r3` the
/// lane, `%r4` the next rank.
fn text(body: &str) -> String {
    format!(
        "{HEADER}{EXTERN}
.visible .entry k({PARAMS}) {{
.reg .pred %p<9>; .reg .b32 %r<29>; .reg .b64 %rd<29>;
ld.param.u64 %rd1, [base]; ld.param.u32 %r1, [rank]; ld.param.u32 %r2, [ranks]; mov.u32 %r3, %tid.x;
add.u32 %r4, %r1, 1; rem.u32 %r4, %r4, %r2;
{body}
ret; }}"
    )
}

/// Waits until the word at `address` is `value`, as kernels do: by the clock when it takes long.
fn wait(label: &str, address: &str, value: &str) -> String {
    format!(
        "mov.u64 %rd20, %globaltimer;
{label}: ld.acquire.sys.global.u64 %rd21, [{address}]; setp.eq.u64 %p8, %rd21, {value}; @%p8 bra {label}_DONE;
mov.u64 %rd22, %globaltimer; sub.s64 %rd22, %rd22, %rd20; setp.gt.s64 %p7, %rd22, 10000000000; @!%p7 bra {label};
trap;
{label}_DONE:
"
    )
}

/// Runs the kernels in order on every rank, with the address of its symmetric memory; what dies, dies.
fn run(
    world: &World,
    at: &[u64],
    kernels: &[&str],
    dies: &[(usize, Death)],
) -> Result<Ended, SimError> {
    let texts: Vec<String> = kernels.iter().map(|k| text(k)).collect();
    let modules: Vec<Vec<Module>> = (0..world.ranks())
        .map(|r| texts.iter().map(|t| load(world.gpu(r), t)).collect())
        .collect();
    let ranks = world.ranks() as u32;
    let params: Vec<Vec<u8>> = (0..world.ranks())
        .map(|r| {
            let mut p = at[r].to_le_bytes().to_vec();
            p.extend((r as u32).to_le_bytes());
            p.extend(ranks.to_le_bytes());
            p
        })
        .collect();
    let queues: Vec<Queue<'_>> = (0..world.ranks())
        .map(|r| Queue {
            launches: modules[r]
                .iter()
                .map(|module| Launch {
                    gpu: world.gpu(r),
                    module,
                    kernel: "k",
                    config: LaunchConfig::new(1, 32),
                    params: &params[r],
                })
                .collect(),
            dies: dies.iter().find(|d| d.0 == r).map(|d| d.1),
        })
        .collect();
    launch_queues(&queues)
}

fn all_ended(ended: &Ended) {
    for (rank, e) in ended.iter().enumerate() {
        assert!(
            e.is_ok(),
            "rank {rank}: {}",
            e.as_ref().expect_err("failed")
        );
    }
}

fn fault(e: &Result<Vec<LaunchStats>, QueueError>) -> &FaultKind {
    match e {
        Err(QueueError {
            source: SimError::Fault(f),
            ..
        }) => &f.kind,
        other => panic!("not a fault: {other:?}"),
    }
}

/// What rank 0 runs into when it executes a kernel of this body, and the others nothing.
fn fault_of(nodes: u32, gpus: u32, body: &str) -> String {
    let world = world(nodes, gpus, Completion::Early);
    let at = world.symmetric(4096).expect("memory");
    let body = format!("setp.ne.u32 %p1, %r1, 0; @%p1 ret;\n{body}");
    let ended = run(&world, &at, &[&body], &[]).expect("launched");
    fault(&ended[0]).to_string()
}

/// Each rank puts 1 KiB to the next one's second KiB, with a signal, and adds up what it gets.
fn ring() -> String {
    let fill = "mul.wide.u32 %rd2, %r3, 32; add.s64 %rd2, %rd1, %rd2; mul.lo.u32 %r5, %r1, 1000; add.u32 %r5, %r5, %r3;
st.global.v4.u32 [%rd2], {%r5, %r5, %r5, %r5}; st.global.v4.u32 [%rd2+16], {%r5, %r5, %r5, %r5};
bar.warp.sync 0xffffffff;
add.s64 %rd3, %rd1, 1024; add.s64 %rd4, %rd1, 2048;
";
    let take = "ld.global.u32 %r6, [%rd2+1024]; st.global.u32 [%rd2], %r6;";
    let put = put_signal(["%rd3", "%rd1", "1024", "%rd4", "7", "9", "%r4"]);
    fill.to_owned() + &put + &wait("WAIT", "%rd4", "7") + QUIET + take
}

#[test]
fn puts_go_around_a_ring_of_nodes() {
    for completion in schedules() {
        let world = world(2, 2, completion);
        let at = world.symmetric(4096).expect("memory");
        all_ended(&run(&world, &at, &[&ring()], &[]).expect("launched"));
        for (rank, &at) in at.iter().enumerate() {
            let from = (rank + 3) % 4;
            let got = download_u32(world.gpu(rank), at, 256);
            let want = |lane: usize| (from * 1000 + lane) as u32;
            assert!(
                (0..32).all(|l| got[8 * l] == want(l)),
                "{completion:?}, rank {rank}"
            );
        }
        // From rank 1 to 2 and from 3 to 0 it is another node.
        let network = Traffic {
            network_bytes: 1032,
            network_messages: 2,
            ..Traffic::default()
        };
        let nvlink = Traffic {
            nvlink_bytes: 1032,
            ..Traffic::default()
        };
        assert_eq!(
            (world.traffic(1, 2), world.traffic(3, 0)),
            (network, network)
        );
        assert_eq!((world.traffic(0, 1), world.traffic(2, 3)), (nvlink, nvlink));
        assert_eq!(world.traffic(0, 2), Traffic::default());
        world.reset_traffic();
        assert_eq!(world.traffic(1, 2), Traffic::default());
    }
}

#[test]
fn memory_of_another_node_is_not_mapped() {
    let world = world(2, 2, Completion::Early);
    let at = world.symmetric(4096).expect("memory");
    let run = |address: u64, access: &str| {
        let body = format!("mov.u64 %rd5, {address}; setp.ne.u32 %p1, %r1, 0; @!%p1 {access}");
        run(&world, &at, &[&body], &[]).expect("launched")
    };
    for access in [
        "ld.global.u32 %r6, [%rd5];",
        "st.global.u32 [%rd5], 1;",
        "atom.global.sys.add.u32 %r6, [%rd5], 1;",
        "red.release.sys.global.add.u32 [%rd5], 1;",
        "ld.u32 %r6, [%rd5];",
    ] {
        all_ended(&run(
            at[1],
            &access.replace("st.global", "st.relaxed.sys.global"),
        ));
        let ended = run(at[2] + 8, access);
        let text = fault(&ended[0]).to_string();
        assert!(
            text.ends_with(": not mapped: rank 2 is on another node"),
            "{text}"
        );
        assert!(ended[1].is_ok() && ended[2].is_ok());
    }
    // 32 lanes of four bytes each, and for the two atomics and the store.
    assert_eq!(world.traffic(0, 1).nvlink_bytes, 3 * 128);
    assert_eq!(world.traffic(0, 2), Traffic::default());
}

#[test]
fn a_signal_tells_of_its_own_put_only() {
    // Two puts to the next rank, of which the second has a signal.
    let body = |between: &str, signalled: &str| {
        let head =
            "add.s64 %rd3, %rd1, 1024; add.s64 %rd5, %rd1, 1536; add.s64 %rd4, %rd1, 2048;\n";
        let first = put("%rd3", "%rd1", "512", "%r4");
        let second = match signalled {
            "put" => put_signal(["%rd5", "%rd1", "512", "%rd4", "1", "10", "%r4"]),
            _ => format!(
                "setp.ne.u32 %p2, %r3, 0; @%p2 bra SENT;\n{}SENT:\n",
                signal("%rd4", "1", "10", "%r4")
            ),
        };
        let look = "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; ld.global.u32 %r6, [%rd2+1024];\n";
        head.to_owned() + &first + between + &second + &wait("WAIT", "%rd4", "1") + look + QUIET
    };
    for completion in schedules() {
        for signalled in ["put", "alone"] {
            let run = |between: &str| {
                let world = world(2, 1, completion);
                let at = world.symmetric(4096).expect("memory");
                run(&world, &at, &[&body(between, signalled)], &[]).expect("launched")
            };
            all_ended(&run(FENCE));
            all_ended(&run(QUIET));
            let races = run("");
            // A rank that runs into the race may leave the other one waiting for its signal.
            let mut texts = races
                .iter()
                .filter(|r| r.is_err())
                .map(|r| fault(r).to_string());
            assert!(texts.any(|t| t.starts_with("race") && t.contains("signal of this put")));
        }
    }
}

#[test]
fn a_source_is_in_use_until_quiet() {
    let body = |between: &str| {
        let put = put_signal(["%rd3", "%rd1", "128", "%rd4", "1", "9", "%r4"]);
        let again =
            "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], 5;\n";
        format!("add.s64 %rd3, %rd1, 1024; add.s64 %rd4, %rd1, 2048;\n{put}{between}{again}{QUIET}")
    };
    let run = |between: &str, check: bool, completion| {
        let config = GpuConfig {
            completion,
            check,
            threads: 1,
            ..GpuConfig::default()
        };
        let world = World::new(2, 1, &config);
        let at = world.symmetric(4096).expect("memory");
        let ended = run(&world, &at, &[&body(between)], &[]).expect("launched");
        let got = download_u32(world.gpu(1), at[1] + 1024, 32);
        (ended, got)
    };
    for completion in schedules() {
        all_ended(&run(QUIET, true, completion).0);
        // A fence orders what arrives, not what is read.
        for between in ["", FENCE] {
            let (ended, _) = run(between, true, completion);
            let text = fault(&ended[0]).to_string();
            assert!(text.contains("the put may still read"), "{text}");
        }
    }
    // Without the checkers the put sends what is there when it comes to it.
    assert_eq!(run("", false, Completion::Late).1, [5; 32]);
    assert_eq!(run(QUIET, false, Completion::Late).1, [0; 32]);
}

#[test]
fn puts_overtake_each_other_unless_there_is_a_fence() {
    // The same place twice: what arrives last stays. Signals count, and do not get lost.
    let body = |between: &str| {
        let fill = "st.global.u32 [%rd1], 1; st.global.u32 [%rd1+64], 2;
add.s64 %rd3, %rd1, 1024; add.s64 %rd5, %rd1, 64; add.s64 %rd4, %rd1, 2048;\n";
        let first = put_signal(["%rd3", "%rd1", "4", "%rd4", "1", "10", "%r4"]);
        let second = put_signal(["%rd3", "%rd5", "4", "%rd4", "16", "10", "%r4"]);
        fill.to_owned() + &first + between + &second + &wait("WAIT", "%rd4", "17") + QUIET
    };
    let run = |between: &str, seed| {
        let config = GpuConfig {
            completion: Completion::Random(seed),
            threads: 1,
            ..GpuConfig::default()
        };
        let world = World::new(2, 1, &config);
        let at = world.symmetric(4096).expect("memory");
        all_ended(&run(&world, &at, &[&body(between)], &[]).expect("launched"));
        download_u32(world.gpu(1), at[1] + 1024, 1)[0]
    };
    assert!((0..40).all(|seed| run(FENCE, seed) == 2));
    let first: Vec<u32> = (0..40).map(|seed| run("", seed)).collect();
    assert!(first.contains(&1) && first.contains(&2), "{first:?}");
    let again: Vec<u32> = (0..40).map(|seed| run("", seed)).collect();
    assert_eq!(first, again);
}

#[test]
fn launches_of_a_queue_are_ordered() {
    // The first kernel writes, the second one of the same rank turns the warp around and reads.
    let write = "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r3;";
    let turned = "sub.u32 %r5, 31, %r3; mul.wide.u32 %rd2, %r5, 4; add.s64 %rd2, %rd1, %rd2;";
    let read = format!(
        "{turned} ld.global.u32 %r6, [%rd2]; add.u32 %r6, %r6, 1; st.global.u32 [%rd2], %r6;"
    );
    // Rank 1 looks at what rank 0 wrote two launches ago, when the third tells it.
    let tell = "setp.ne.u32 %p1, %r3, 0; @%p1 ret; setp.ne.u32 %p2, %r1, 0; @%p2 bra TAKE;
add.s64 %rd3, %rd1, 2048; st.release.sys.global.u64 [%rd3], 1; ret;
TAKE: mov.u64 %rd3, OTHER;\n";
    for completion in schedules() {
        let world = world(1, 2, completion);
        let at = world.symmetric(4096).expect("memory");
        let other = |flag: &str| {
            let take = wait("WAIT", "%rd3", "1") + "ld.global.u32 %r6, [%rd3+-2048];\n";
            let text = tell.to_owned() + &take;
            text.replace("OTHER", &(at[0] + 2048).to_string())
                .replace("st.release", flag)
        };
        let ended = run(&world, &at, &[write, &read, &other("st.release")], &[]).expect("launched");
        all_ended(&ended);
        assert!(ended.iter().all(|e| e.as_ref().is_ok_and(|s| s.len() == 3)));
        let got = download_u32(world.gpu(0), at[0], 32);
        assert!(
            got.iter().enumerate().all(|(i, &v)| v == i as u32 + 1),
            "{got:?}"
        );
        // Without the release rank 1 knows nothing of rank 0's launches.
        world.gpu(0).fill(at[0], 0, 4096).expect("allocated");
        let ended = run(&world, &at, &[write, &read, &other("st.relaxed")], &[]).expect("launched");
        let text = fault(&ended[1]).to_string();
        assert!(
            text.contains("block (0, 0, 0) of kernel `k` of device 0"),
            "{text}"
        );
    }
}

#[test]
fn a_put_may_outlive_its_kernel_but_not_unseen() {
    // No quiet: the next kernel of the rank may not write the source yet.
    let first = format!(
        "add.s64 %rd3, %rd1, 1024; add.s64 %rd4, %rd1, 2048;\n{}",
        put_signal(["%rd3", "%rd1", "128", "%rd4", "1", "9", "%r4"])
    );
    let write = "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], 5;";
    let take = format!(
        "add.s64 %rd4, %rd1, 2048;\n{}mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; ld.global.u32 %r6, [%rd2+1024];",
        wait("WAIT", "%rd4", "1")
    );
    for completion in schedules() {
        let world = world(2, 1, completion);
        let run = |kernels: &[&str]| {
            let at = world.symmetric(4096).expect("memory");
            run(&world, &at, kernels, &[]).expect("launched")
        };
        all_ended(&run(&[&first, &take]));
        let again = run(&[&first, write]);
        assert!(
            fault(&again[0])
                .to_string()
                .contains("the put may still read")
        );
        all_ended(&run(&[&(first.clone() + QUIET), write]));
    }
}

/// As rings do it: whoever has the data says so, and the source is written again without a quiet.
#[test]
fn a_source_is_free_when_word_has_come_back_from_its_reader() {
    let body = |word: &str| {
        let places =
            "add.s64 %rd3, %rd1, 1024; add.s64 %rd4, %rd1, 2048; add.s64 %rd5, %rd1, 3072;\n";
        let put = put_signal(["%rd3", "%rd1", "128", "%rd4", "1", "9", "%r4"]);
        let again =
            "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], 5;\n";
        let (back, came) = (signal("%rd5", "1", "9", "%r4"), wait("BACK", "%rd5", "1"));
        format!("{places}{put}{word}{back}{came}{again}")
    };
    for completion in schedules() {
        let run = |word: &str| {
            let world = world(2, 1, completion);
            let at = world.symmetric(4096).expect("memory");
            run(&world, &at, &[&body(word)], &[]).expect("launched")
        };
        all_ended(&run(&wait("WAIT", "%rd4", "1")));
        // Word from someone who has not looked for the signal tells nothing.
        let ended = run("");
        let mut texts = ended
            .iter()
            .filter_map(|r| Some(r.as_ref().err()?.to_string()));
        assert!(texts.any(|t| t.contains("the put may still read")));
    }
}

#[test]
fn what_nvshmem_does_not_allow_is_a_fault() {
    let ok = put("%rd1", "%rd1", "128", "1");
    let cases = [
        (
            put("%rd1", "%rd1", "128", "2"),
            "a put to PE 2: there are 0 to 1",
        ),
        (put("%rd1", "%rd1", "128", "-1"), "a put to PE -1"),
        (
            put("%rd1", "%rd1", "4097", "1"),
            "the source of a put: 4097 bytes",
        ),
        (
            put("64", "%rd1", "128", "1"),
            "the target of a put: 128 bytes at 0x40",
        ),
        (
            format!(
                "add.s64 %rd2, %rd1, 4000;\n{}",
                put("%rd2", "%rd1", "128", "1")
            ),
            "the target of a put",
        ),
        (
            format!("setp.lt.u32 %p2, %r3, 9; @%p2 bra OVER;\n{ok}OVER:\n"),
            "needs all threads of a warp together",
        ),
        (
            format!(
                "mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2;\n{}",
                put("%rd2", "%rd1", "4", "1")
            ),
            "different arguments",
        ),
        (signal("%rd1", "1", "8", "1"), "NVSHMEM_SIGNAL_SET is 9"),
        (
            format!("add.s64 %rd2, %rd1, 4;\n{}", signal("%rd2", "1", "9", "1")),
            "not aligned to 8",
        ),
    ];
    for (body, message) in cases {
        let text = fault_of(2, 1, &body);
        assert!(text.contains(message), "{text}");
    }
    // A device that stands alone has no network.
    let gpu = gpu(Completion::Early);
    let module = load(&gpu, &text(&ok));
    let args = [Arg::U64(0), Arg::U32(0), Arg::U32(1)];
    let error = launch(&gpu, &module, &LaunchConfig::new(1, 32), &args).expect_err("alone");
    assert!(
        error.to_string().contains("devices of a `World`"),
        "{error}"
    );
}

#[test]
fn other_functions_are_refused_by_name() {
    let gpu = gpu(Completion::Early);
    let refused = |from: &str, to: &str| {
        let text = text(QUIET).replace(from, to);
        gpu.load_module(&text).err().expect("refused").to_string()
    };
    let text = refused("nvshmem_quiet", "nvshmem_barrier_all");
    assert!(
        text.contains("the NVSHMEM function `nvshmem_barrier_all`"),
        "{text}"
    );
    let text = refused("nvshmem_quiet", "nvqir_call");
    assert!(
        text.contains("the external function `nvqir_call`"),
        "{text}"
    );
    let text = refused("nvshmem_quiet ()", "nvshmem_quiet (.param .b32 a)");
    assert!(text.contains("takes parameters of []"), "{text}");
}

#[test]
fn waits_reach_their_limit_when_a_rank_is_gone() {
    for completion in schedules() {
        for death in [Death::BeforeLaunch(0), Death::AfterInstructions(5)] {
            let world = world(2, 2, completion);
            let at = world.symmetric(4096).expect("memory");
            let ended = run(&world, &at, &[&ring()], &[(1, death)]).expect("launched");
            let dead = ended[1].as_ref().expect_err("killed");
            assert!(
                matches!(dead.source, SimError::Killed { launch: 0, .. }),
                "{dead}"
            );
            // Rank 2 waits for what rank 1 would have put; the others have what they want.
            assert_eq!(*fault(&ended[2]), FaultKind::Trap);
            let late = ended[2].as_ref().expect_err("waited").time;
            assert!((10_000_000_000..20_000_000_000).contains(&late), "{late}");
            assert!(ended[0].is_ok() && ended[3].is_ok());
        }
    }
}

#[test]
fn a_wait_without_a_limit_is_a_dead_lock() {
    let world = world(2, 1, Completion::Early);
    let at = world.symmetric(4096).expect("memory");
    let body = "setp.ne.u32 %p1, %r1, 0; @%p1 ret;
SPIN: ld.acquire.sys.global.u32 %r5, [%rd1]; setp.eq.u32 %p2, %r5, 0; @%p2 bra SPIN;";
    let ended = run(&world, &at, &[body], &[]).expect("launched");
    let error = ended[0].as_ref().expect_err("waits");
    assert!(matches!(error.source, SimError::Deadlock(_)), "{error}");
    assert!(error.time < 1_000_000 && ended[1].is_ok());
}

#[test]
fn a_device_has_one_queue() {
    let world = world(1, 1, Completion::Early);
    let module = load(world.gpu(0), &kernel("", "ret;"));
    let launch = Launch {
        gpu: world.gpu(0),
        module: &module,
        kernel: "k",
        config: LaunchConfig::new(1, 32),
        params: &[],
    };
    let queue = Queue {
        launches: vec![launch],
        dies: None,
    };
    assert!(launch_queues(&[queue.clone(), queue.clone()]).is_err());
    assert!(launch_queues(&[queue.clone(), Queue::default()]).is_ok());
    assert!(launch_queues(&[]).is_ok_and(|all| all.is_empty()));
}

#[test]
fn symmetric_memory_is_given_on_all_ranks_or_none() {
    let world = world(2, 2, Completion::Early);
    let at = world.symmetric(1 << 20).expect("memory");
    let nodes: Vec<u64> = at.iter().map(|a| a >> 40).collect();
    assert!(nodes[0] == nodes[1] && nodes[1] != nodes[2] && nodes[2] == nodes[3]);
    assert_eq!((world.node_of(1), world.node_of(2)), (0, 1));
    world.gpu(3).alloc(15 << 20, 256).expect("fits");
    assert!(world.symmetric(1 << 20).is_err());
    assert_eq!(world.gpu(0).memory_used().0, 1 << 20);
    world.free_symmetric(at[2]).expect("allocated");
    assert!(world.free_symmetric(at[2]).is_err());
    assert_eq!(world.gpu(0).memory_used().0, 0);
}
