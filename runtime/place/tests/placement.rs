//! Placements as their users see them: properties on random loads, files, and the command.

use std::path::PathBuf;

use clap::Parser;
use mcc_place::cli::PlaceFlags;
use mcc_place::{Layer, PlaceError, Placement, Policy, Shape, Statistics};

/// DeepSeek-V3's prefill unit: 32 GPUs with nine slots each.
const PREFILL: Shape = Shape {
    nodes: 4,
    gpus: 8,
    slots: 288,
    groups: 8,
};

/// Its decode unit: 144 GPUs with two.
const DECODE: Shape = Shape {
    nodes: 18,
    gpus: 8,
    slots: 288,
    groups: 8,
};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Loads with a few hot experts.
fn loads(rng: &mut Rng, layers: usize, experts: usize) -> Statistics {
    let mut layer = || {
        let load =
            |r: u64| 1000 + (r % 1000) * (r % 1000) * (1 + 20 * u64::from(r.is_multiple_of(17)));
        (0..experts).map(|_| load(rng.next())).collect()
    };
    Statistics::new((0..layers).map(|_| layer()).collect())
}

fn gpu_loads(layer: &Layer, loads: &[u64], own: usize) -> Vec<f64> {
    let counts = layer.counts(loads.len() as u32);
    let share = |e: u32| loads[e as usize] as f64 / f64::from(counts[e as usize]);
    let gpus = layer.slots().chunks(own);
    gpus.map(|gpu| gpu.iter().map(|s| share(s.expert)).sum())
        .collect()
}

#[test]
fn the_policy_follows_from_groups_and_nodes() {
    let statistics = loads(&mut Rng(1), 1, 256);
    let policy = |shape| Placement::new(&statistics, shape, Policy::Auto).map(|p| p.policy());
    assert_eq!(policy(PREFILL), Ok(Policy::Hierarchical));
    // Eight groups do not divide over 18 nodes.
    assert_eq!(policy(DECODE), Ok(Policy::Global));
    let forced = Placement::new(&statistics, DECODE, Policy::Hierarchical);
    let (groups, nodes) = (8, 18);
    assert_eq!(forced, Err(PlaceError::Nodes { groups, nodes }));
}

#[test]
fn every_expert_has_a_slot_and_hot_ones_have_more() {
    let mut rng = Rng(7);
    for shape in [PREFILL, DECODE] {
        let statistics = loads(&mut rng, 3, 256);
        let placement = Placement::new(&statistics, shape, Policy::Auto).expect("a placement");
        placement.check().expect("holds");
        for (layer, loads) in placement.layers().iter().zip(&statistics.layers) {
            let counts = layer.counts(256);
            assert_eq!(counts.iter().sum::<u32>(), 288);
            let hottest = (0..256).max_by_key(|e| loads[*e]).expect("experts");
            assert!(counts[hottest] > 1, "{} replicas", counts[hottest]);
            // Replicas by number, and back.
            for (expert, slots) in layer.replicas(256).iter().enumerate() {
                for (number, slot) in slots.iter().enumerate() {
                    let slot = layer.slots()[*slot as usize];
                    assert_eq!((slot.expert, slot.replica), (expert as u32, number as u32));
                }
            }
        }
    }
}

#[test]
fn groups_stay_on_their_node_under_the_hierarchical_policy() {
    let statistics = loads(&mut Rng(3), 4, 256);
    let placement =
        Placement::new(&statistics, PREFILL, Policy::Hierarchical).expect("a placement");
    for layer in placement.layers() {
        let mut node_of = [None; 8];
        for (at, slot) in layer.slots().iter().enumerate() {
            let (group, node) = ((slot.expert / 32) as usize, at / 72);
            assert_eq!(*node_of[group].get_or_insert(node), node, "group {group}");
        }
    }
}

#[test]
fn placement_evens_out_the_load() {
    let mut rng = Rng(11);
    for _ in 0..8 {
        let statistics = loads(&mut rng, 2, 256);
        let placement = Placement::new(&statistics, PREFILL, Policy::Auto).expect("a placement");
        let balance = placement.balance(&statistics).expect("of the same model");
        for ((balance, layer), loads) in balance
            .iter()
            .zip(placement.layers())
            .zip(&statistics.layers)
        {
            assert!(Some(balance.after) < balance.before, "{balance:?}");
            // The same figure from the slots.
            let gpus = gpu_loads(layer, loads, 9);
            let (most, all): (f64, f64) =
                (gpus.iter().copied().fold(0.0, f64::max), gpus.iter().sum());
            assert!((balance.after - most * 32.0 / all).abs() < 1e-9);
        }
    }
}

/// Without replicas and with equal loads there is nothing to do: experts stay in order.
#[test]
fn as_many_slots_as_experts_and_one_a_gpu_is_the_identity() {
    let statistics = Statistics::new(vec![vec![5, 3, 9, 1]]);
    let shape = Shape {
        nodes: 1,
        gpus: 4,
        slots: 4,
        groups: 1,
    };
    let placement = Placement::new(&statistics, shape, Policy::Auto).expect("a placement");
    let experts: Vec<u32> = placement.layers()[0]
        .slots()
        .iter()
        .map(|s| s.expert)
        .collect();
    assert_eq!(experts, [0, 1, 2, 3]);
}

#[test]
fn tokens_spread_over_replicas() {
    let mut taken = [0; 3];
    for token in 0..3000 {
        taken[Layer::replica_of(5, token, 3) as usize] += 1;
    }
    assert_eq!(taken, [1000; 3]);
    // (1 + 2 * 23333) mod 4.
    assert_eq!(Layer::replica_of(1, 2, 4), 3);
    assert_eq!(Layer::replica_of(9, 77, 1), 0);
}

#[test]
fn numbers_that_do_not_fit_are_refused_with_those_that_would() {
    let statistics = loads(&mut Rng(1), 1, 256);
    let error = |change: &dyn Fn(&mut Shape)| {
        let mut shape = PREFILL;
        change(&mut shape);
        let error = Placement::new(&statistics, shape, Policy::Auto).expect_err("is refused");
        error.to_string()
    };
    assert_eq!(
        error(&|s| s.slots = 250),
        "250 slots are too few for 256 experts; each needs one"
    );
    assert_eq!(
        error(&|s| s.slots = 290),
        "290 slots do not divide over 32 GPUs; 288 or 320 do"
    );
    assert_eq!(
        error(&|s| s.groups = 7),
        "256 experts do not divide into 7 groups"
    );
    assert_eq!(error(&|s| s.nodes = 0), "nodes must be at least 1");
    for layers in [vec![], vec![vec![]], vec![vec![1, 2], vec![1]]] {
        let none = Statistics::new(layers);
        assert_eq!(
            Placement::new(&none, PREFILL, Policy::Auto),
            Err(PlaceError::Ragged)
        );
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: PlaceFlags,
}

fn run(args: &[&str]) -> Result<String, String> {
    let cli = Cli::try_parse_from([&["place"], args].concat()).map_err(|e| e.to_string())?;
    cli.flags.run().map_err(|e| e.to_string())
}

fn write(path: &PathBuf, text: &str) -> String {
    std::fs::write(path, text).expect("written");
    path.display().to_string()
}

#[test]
fn the_command_adds_statistics_and_writes_a_placement_that_reads_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let one = write(
        &dir.path().join("1.json"),
        r#"{"version":1,"layers":[[90,1,1,1]]}"#,
    );
    let two = write(
        &dir.path().join("2.json"),
        r#"{"version":1,"layers":[[10,1,1,97]]}"#,
    );
    let out = dir.path().join("placement.json");
    let to = out.display().to_string();
    let text = run(&[&one, &two, "--gpus", "2", "--slots", "6", "-o", &to]).expect("runs");
    assert!(
        text.contains("hierarchical policy, 3 slots on each of 2 GPUs"),
        "{text}"
    );
    let placement = Placement::read(&out).expect("reads back");
    assert_eq!(placement.layers()[0].counts(4), [2, 1, 1, 2]);
    assert_eq!(
        std::fs::read_to_string(&out).expect("read"),
        placement.to_json().expect("JSON")
    );
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 3);
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.json");
    let flags = ["--gpus", "2", "--slots", "4"];
    let error = |text: &str| {
        let path = write(&path, text);
        run(&[&[path.as_str()], &flags[..]].concat()).expect_err("is refused")
    };
    assert!(
        run(&["none.json", "--slots", "4"])
            .expect_err("missing")
            .contains("none.json")
    );
    for (text, says) in [
        ("{", "x.json"),
        (r#"{"version":2,"layers":[[1]]}"#, "version 2"),
        (r#"{"version":1,"layers":[]}"#, "one count for each expert"),
        (r#"{"version":1,"layers":[[1]],"more":3}"#, "more"),
    ] {
        let error = error(text);
        assert!(error.contains(says) && error.contains("x.json"), "{error}");
    }
    // A placement in which an expert went missing.
    let good = write(&path, r#"{"version":1,"layers":[[4,3,2,1]]}"#);
    let out = dir.path().join("p.json");
    let to = out.display().to_string();
    run(&[&[good.as_str(), "-o", &to], &flags[..]].concat()).expect("runs");
    let text = std::fs::read_to_string(&out).expect("read");
    let broken = text.replace("[3,0]", "[2,1]");
    assert_ne!(text, broken);
    write(&out, &broken);
    let error = Placement::read(&out).expect_err("is refused").to_string();
    assert!(error.contains("layer 0: expert 3 has no slot"), "{error}");
}
