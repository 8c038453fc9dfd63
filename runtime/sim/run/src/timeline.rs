//! Time lines in the trace event format, for Perfetto and `chrome://tracing`.
//!
//! In: the traces of launches, and the PTX. Out: JSON ("Trace Event Format",
//! complete events `X` and names `M`). Holds: a block is a process; a warp, a
//! barrier and each lane of an asynchronous engine is a track of it, on which
//! spans follow each other; launches follow each other, too.
//!
//! One warp instruction is shown as a nanosecond.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mcc_sim::{
    ClusterTrace, LaunchTrace, TraceEngine, TraceEvent, TraceKind, TracePoint, TraceWait,
};
use serde_json::{Value, json};

/// Between two launches.
const GAP: u64 = 10;

/// Tracks of a block, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Track {
    Warp(u32),
    Point(TracePoint),
    /// Operations that overlap go to one lane each.
    Engine(TraceEngine, usize),
}

/// The text of a trace file.
pub fn to_json(launches: &[LaunchTrace], ptx: &str) -> String {
    let lines: Vec<&str> = ptx.lines().map(str::trim).collect();
    let mut out = Lines::default();
    let (mut start, mut process) = (0, 0);
    for (i, launch) in launches.iter().enumerate() {
        let mut end = start;
        for cluster in &launch.clusters {
            for (rank, block) in cluster.blocks.iter().enumerate() {
                process += 1;
                let [x, y, z] = block;
                let name = format!("launch {i} `{}`, block ({x}, {y}, {z})", launch.kernel);
                block_events(
                    &mut out,
                    cluster,
                    rank as u32,
                    process,
                    &name,
                    start,
                    &lines,
                );
            }
            end = end.max(start + cluster.end);
        }
        start = end + GAP;
    }
    let notes = notes(launches);
    let mut text = String::from("{\"displayTimeUnit\": \"ns\", ");
    // Writing to a string cannot fail.
    let _ = write!(text, "\"otherData\": {}, ", json!({ "notes": notes }));
    text.push_str("\"traceEvents\": [\n");
    text.push_str(&out.0.join(",\n"));
    text.push_str("\n]}\n");
    text
}

/// What a trace leaves out.
pub fn notes(launches: &[LaunchTrace]) -> Vec<String> {
    let mut out = Vec::new();
    for (i, launch) in launches.iter().enumerate() {
        let shown = launch.clusters.len() as u64;
        if shown < launch.of {
            out.push(format!(
                "the trace has {shown} of {} clusters of launch {i}",
                launch.of
            ));
        }
        let lost: u64 = launch.clusters.iter().map(|c| c.lost).sum();
        if lost > 0 {
            out.push(format!(
                "the trace was full: {lost} events of launch {i} are not in it"
            ));
        }
    }
    out
}

/// Events as text, one a line.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn name(&mut self, kind: &str, process: u32, track: usize, name: &str) {
        self.0.push(
            json!({
                "ph": "M", "name": kind, "pid": process, "tid": track, "args": { "name": name },
            })
            .to_string(),
        );
    }

    fn span(&mut self, process: u32, track: usize, name: &str, from: u64, to: u64, args: &Value) {
        // Thousandths of a microsecond, which FP64 holds for far longer runs.
        let micros = |t: u64| t as f64 / 1e3;
        self.0.push(
            json!({
                "ph": "X", "name": name, "pid": process, "tid": track,
                "ts": micros(from), "dur": micros(to - from), "args": args,
            })
            .to_string(),
        );
    }
}

/// One block: its tracks and what is on them.
fn block_events(
    out: &mut Lines,
    cluster: &ClusterTrace,
    rank: u32,
    process: u32,
    name: &str,
    start: u64,
    lines: &[&str],
) {
    let mut events: Vec<&TraceEvent> = cluster.events.iter().filter(|e| e.block == rank).collect();
    events.sort_by_key(|e| (e.from, e.to));
    // When each lane of an engine is free again.
    let mut lanes: BTreeMap<TraceEngine, Vec<u64>> = BTreeMap::new();
    let mut tracks: BTreeMap<Track, Vec<&TraceEvent>> = BTreeMap::new();
    for event in events {
        let track = match event.what {
            TraceKind::Run { warp } | TraceKind::Wait { warp, .. } => Track::Warp(warp),
            TraceKind::Phase { point, .. } => Track::Point(point),
            TraceKind::Async { engine, .. } => {
                let lanes = lanes.entry(engine).or_default();
                let free = lanes.iter().position(|&end| end <= event.from);
                let lane = free.unwrap_or_else(|| {
                    lanes.push(0);
                    lanes.len() - 1
                });
                lanes[lane] = end_of(event);
                Track::Engine(engine, lane)
            }
        };
        tracks.entry(track).or_default().push(event);
    }
    out.name("process_name", process, 0, name);
    for (i, (track, events)) in tracks.iter().enumerate() {
        let id = i + 1;
        out.name("thread_name", process, id, &track_name(*track));
        out.0.push(
            json!({
                "ph": "M", "name": "thread_sort_index", "pid": process, "tid": id,
                "args": { "sort_index": id },
            })
            .to_string(),
        );
        for event in events {
            let (name, mut args) = describe(event);
            let text = lines.get((event.line as usize).wrapping_sub(1));
            args["line"] = event.line.into();
            args["ptx"] = text.copied().unwrap_or_default().into();
            let (from, to) = (start + event.from, start + end_of(event));
            out.span(process, id, &name, from, to, &args);
        }
    }
}

/// What took no time is shown for an instruction, or nobody would see it.
fn end_of(event: &TraceEvent) -> u64 {
    match event.what {
        TraceKind::Async { .. } => event.to.max(event.from + 1),
        _ => event.to,
    }
}

fn track_name(track: Track) -> String {
    match track {
        Track::Warp(w) => format!("warp {w}"),
        Track::Point(p) => point_name(p),
        Track::Engine(e, 0) => engine_name(e).to_owned(),
        Track::Engine(e, lane) => format!("{} ({})", engine_name(e), lane + 1),
    }
}

fn point_name(point: TracePoint) -> String {
    match point {
        TracePoint::Named { id, .. } => format!("barrier {id}"),
        TracePoint::Mbarrier { offset, .. } => format!("mbarrier {offset:#x}"),
        TracePoint::Cluster => "cluster barrier".into(),
    }
}

const fn engine_name(engine: TraceEngine) -> &'static str {
    match engine {
        TraceEngine::TensorLoad => "TMA load",
        TraceEngine::TensorStore => "TMA store",
        TraceEngine::TensorReduce => "TMA reduction",
        TraceEngine::BulkLoad => "bulk load",
        TraceEngine::BulkStore => "bulk store",
        TraceEngine::BulkReduce => "bulk reduction",
        TraceEngine::CpAsync => "cp.async",
        TraceEngine::Wgmma => "wgmma",
    }
}

fn describe(event: &TraceEvent) -> (String, Value) {
    match event.what {
        TraceKind::Run { .. } => (
            "run".into(),
            json!({ "instructions": event.to - event.from }),
        ),
        TraceKind::Wait { wait, .. } => {
            let what = match wait {
                TraceWait::At(point) => point_name(point),
                TraceWait::Lanes => "lanes of the warp".into(),
                TraceWait::Warpgroup => "the warpgroup".into(),
                TraceWait::WgmmaGroups => "wgmma groups".into(),
                TraceWait::Registers => "registers".into(),
            };
            let of = match wait {
                TraceWait::At(TracePoint::Mbarrier { block, .. }) => json!({ "rank": block }),
                _ => json!({}),
            };
            (format!("wait: {what}"), of)
        }
        TraceKind::Phase { index, .. } => {
            (format!("phase {index}"), json!({ "parity": index % 2 }))
        }
        TraceKind::Async {
            warp,
            engine,
            bytes,
        } => {
            let args = match bytes {
                0 => json!({ "warp": warp }),
                _ => json!({ "warp": warp, "bytes": bytes }),
            };
            (engine_name(engine).to_owned(), args)
        }
    }
}
