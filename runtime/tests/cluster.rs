//! Models on several simulated ranks: steps that all take together, ranks without tokens, ranks that die.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/meeting.rs"]
mod meeting;
#[path = "support/parts.rs"]
mod parts;

use std::sync::Mutex;
use std::time::Duration;

use mcc_runtime::{
    DeviceError, GenerateOptions, LogitRows, Model, RuntimeError, Sampling, SimCluster, SimDevice,
    WaitSite, evaluate, evaluate_on_ranks, generate, generate_on_ranks, on_ranks,
};
use mcc_sim::{Completion, Death, GpuConfig, SimError};

fn cluster(nodes: u32, gpus: u32, completion: Completion, timeout: u64) -> SimCluster {
    let config = GpuConfig {
        completion,
        check: true,
        threads: 1,
        global_bytes: 1 << 24,
        ..GpuConfig::default()
    };
    SimCluster::with_config(nodes, gpus, &config, Duration::from_secs(timeout))
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        chunk: Some(4),
        sampling: Sampling::default(),
        eos: Vec::new(),
        prompt_logits: LogitRows::Last,
    }
}

fn prompts() -> Vec<Vec<i32>> {
    vec![
        vec![1, 2, 3],
        (0..11).collect(),
        vec![7],
        vec![9, 9, 9, 9, 9],
        vec![4, 30],
    ]
}

/// What one device makes of a prompt.
fn alone(prompt: &[i32], max_tokens: usize) -> Vec<i32> {
    let device = SimDevice::with_config(GpuConfig::default());
    let mut model = Model::load(Box::new(device), counting::bundle()).expect("loads");
    let mut session = model.session().expect("a text model");
    let done = generate(&mut session, prompt, &options(max_tokens), &mut |_| ());
    done.expect("runs").tokens
}

/// Continues the prompts on all ranks, each by as many tokens as its number says and six; the texts by prompt.
fn continued(
    cluster: &SimCluster,
    prompts: &[Vec<i32>],
) -> (Vec<Option<Vec<i32>>>, Vec<Option<RuntimeError>>) {
    let ranks = cluster.ranks();
    let texts = Mutex::new(vec![None; prompts.len()]);
    let results = on_ranks(
        cluster,
        |_, device| Model::load(device, meeting::bundle(ranks as u32)),
        |rank, session| {
            for (i, prompt) in prompts.iter().enumerate().skip(rank).step_by(ranks) {
                session.reset()?;
                let text = generate(session, prompt, &options(i + 6), &mut |_| ())?;
                texts.lock().expect("no panic")[i] = Some(text.tokens);
            }
            Ok(())
        },
    );
    let errors = results.into_iter().map(Result::err).collect();
    (texts.into_inner().expect("no panic"), errors)
}

#[test]
fn prompts_of_all_ranks_come_out_as_on_one() {
    let prompts = prompts();
    for (nodes, gpus) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4)] {
        for completion in [Completion::Early, Completion::Late, Completion::Random(5)] {
            let cluster = cluster(nodes, gpus, completion, 60);
            let (texts, errors) = continued(&cluster, &prompts);
            assert!(errors.iter().all(Option::is_none), "{errors:?}");
            for (i, (prompt, text)) in prompts.iter().zip(&texts).enumerate() {
                let want = alone(prompt, i + 6);
                assert_eq!(text.as_ref(), Some(&want), "{nodes} x {gpus}, prompt {i}");
            }
        }
    }
}

#[test]
fn prompts_and_windows_are_dealt_to_ranks() {
    let load = |_, device| Model::load(device, meeting::bundle(4));
    let prompts = prompts();
    let cluster = || cluster(2, 2, Completion::Early, 60);
    let (texts, report) = generate_on_ranks(&cluster(), load, &prompts, &options(5)).expect("runs");
    for (prompt, text) in prompts.iter().zip(&texts) {
        assert_eq!(text.tokens, alone(prompt, 5));
    }
    let json = report.to_json();
    assert_eq!(json["ranks"].as_array().map(Vec::len), Some(4));
    assert_eq!(json["traffic"].as_array().map(Vec::len), Some(12));
    assert!(
        report.to_string().contains("traffic  from rank"),
        "{report}"
    );
    let tokens: Vec<i32> = (0..60).map(|i| i * 7 % 32).collect();
    let (got, _) = evaluate_on_ranks(&cluster(), load, &tokens, 9, Some(4)).expect("runs");
    let device = SimDevice::with_config(GpuConfig::default());
    let mut model = Model::load(Box::new(device), counting::bundle()).expect("loads");
    let mut session = model.session().expect("a text model");
    let want = evaluate(&mut session, &tokens, 9, Some(4), &mut |_, _| ()).expect("runs");
    assert_eq!(got, want);
    let short = evaluate_on_ranks(&cluster(), load, &[1], 9, None);
    assert!(matches!(
        short,
        Err(RuntimeError::TextTooShort { tokens: 1 })
    ));
    // Those that failed by themselves come first.
    let cluster = cluster();
    cluster.kill(3, Death::BeforeLaunch(1));
    let error = generate_on_ranks(&cluster, load, &prompts, &options(5))
        .err()
        .expect("killed");
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("rank 3: ") && lines[0].contains("killed"));
    assert!(
        lines[1..].iter().all(|l| l.ends_with("for rows of rank 3")),
        "{text}"
    );
}

#[test]
fn who_told_whom_is_counted() {
    let cluster = cluster(2, 2, Completion::Early, 60);
    let (_, errors) = continued(&cluster, &[vec![1, 2, 3]]);
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
    // One prefill and five decode steps; in each a rank tells all others eight bytes.
    let (near, far) = (cluster.traffic(0, 1), cluster.traffic(0, 2));
    assert_eq!((near.nvlink_bytes, near.network_messages), (48, 0));
    assert_eq!(
        (far.nvlink_bytes, far.network_bytes, far.network_messages),
        (0, 48, 6)
    );
    cluster.reset_traffic();
    assert_eq!(cluster.traffic(0, 1).nvlink_bytes, 0);
}

#[test]
fn ranks_that_wait_for_a_dead_one_name_it() {
    let deaths = [
        Death::BeforeLaunch(0),
        Death::BeforeLaunch(1),
        Death::AfterInstructions(60),
    ];
    for completion in [
        Completion::Early,
        Completion::Late,
        Completion::Random(1),
        Completion::Random(2),
    ] {
        for death in deaths {
            let cluster = cluster(2, 2, completion, 60);
            cluster.kill(2, death);
            let (texts, errors) = continued(&cluster, &prompts());
            assert!(texts.iter().all(Option::is_none));
            for (rank, error) in errors.iter().enumerate() {
                let Some(RuntimeError::Step { step, source, .. }) = error else {
                    panic!("rank {rank}: {error:?}");
                };
                match source {
                    DeviceError::Sim(e) => {
                        assert!(rank == 2 && matches!(**e, SimError::Killed { .. }), "{e}");
                    }
                    DeviceError::GaveUp {
                        rank: own,
                        label,
                        status,
                    } => {
                        assert_eq!((*own as usize, step.as_str()), (rank, "meet"));
                        assert_eq!((status.site, label.as_str()), (WaitSite::Rows(2), "meet"));
                        assert!((10.0..20.0).contains(&(status.nanoseconds as f64 * 1e-9)));
                        let text = source.to_string();
                        assert!(text.ends_with("s for rows of rank 2"), "{text}");
                    }
                    other => panic!("rank {rank}: {other}"),
                }
            }
        }
    }
}

#[test]
fn a_rank_that_dies_after_its_part_is_missed_in_the_next_step() {
    let cluster = cluster(2, 2, Completion::Early, 60);
    // Launch 2 comes after all have met.
    cluster.kill(1, Death::BeforeLaunch(2));
    let prompts = vec![vec![1, 2, 3], vec![4, 5], vec![6], vec![8]];
    let (_, errors) = continued(&cluster, &prompts);
    for (rank, error) in errors.iter().enumerate() {
        let Some(RuntimeError::Step { entry, source, .. }) = error else {
            panic!("rank {rank}: {error:?}");
        };
        match source {
            DeviceError::GaveUp { status, .. } => {
                assert_eq!((entry.as_str(), status.site.peer()), ("decode", Some(1)));
            }
            _ => assert_eq!((entry.as_str(), rank), ("prefill", 1)),
        }
    }
}

#[test]
fn a_rank_that_never_comes_is_not_waited_for_for_ever() {
    let cluster = cluster(1, 2, Completion::Early, 1);
    let rank = |number: usize| {
        let device = cluster.device(number).expect("a rank");
        Model::load(Box::new(device), meeting::bundle(2))
    };
    // Rank 1 loads its model, and then does nothing.
    let (mut first, second) = (rank(0).expect("loads"), rank(1).expect("loads"));
    let mut session = first.session().expect("a text model");
    let error = generate(&mut session, &[1, 2], &options(1), &mut |_| ()).expect_err("alone");
    assert!(error.to_string().contains("for rows of rank 1"), "{error}");
    // A rank that has failed is lost, and does not come back.
    let error = generate(&mut session, &[1, 2], &options(1), &mut |_| ()).expect_err("lost");
    assert!(
        matches!(error, RuntimeError::Device(DeviceError::Lost { .. })),
        "{error}"
    );
    drop((first, second));
    assert!(cluster.device(0).is_err() && cluster.device(2).is_err());
}

#[test]
fn ranks_must_make_whole_groups_and_agree_on_memory() {
    let cluster = cluster(1, 2, Completion::Early, 5);
    let load = |rank: usize, ranks| {
        let device = cluster.device(rank).expect("a rank");
        Model::load(Box::new(device), meeting::bundle(ranks))
    };
    let error = load(0, 3).err().expect("three of two");
    assert!(
        matches!(error, RuntimeError::WrongRanks { group: 3, ranks: 2 }),
        "{error}"
    );
    let mut device = cluster.device(1).expect("a rank");
    let error = mcc_runtime::Device::alloc_symmetric(&mut device, 512, "x").expect_err("1024");
    assert!(
        matches!(error, DeviceError::Symmetric { others: 1024, .. }),
        "{error}"
    );
    let device = SimDevice::with_config(GpuConfig::default());
    let error = Model::load(Box::new(device), meeting::bundle(2))
        .err()
        .expect("one of two");
    assert!(
        error.to_string().ends_with("start a multiple of 2"),
        "{error}"
    );
}
