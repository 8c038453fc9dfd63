//! A time line of what the host and the device did, for Perfetto and `chrome://tracing`.
//!
//! In: spans of the host, launches with the times that the device measured. Out: JSON in the trace event format
//! ("Trace Event Format", complete events `X`, counters `C`, names `M`), times in microseconds.
//! Holds: spans of one track nest or follow each other; events are in the order of their start; the device's
//! clock is laid on the host's at the first launch, so that no launch begins before the host asked for it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::device::{DeviceTime, Launch, LaunchReport};
use crate::error::RuntimeError;
use crate::model::Model;

/// The trace's only process.
const PROCESS: u32 = 1;
/// Its tracks.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// What happened since a model began to load.
#[derive(Debug)]
pub struct Trace {
    /// Time zero.
    origin: Instant,
    /// For people.
    device: String,
    /// Since [`Self::origin`], when the device's clock was zero; `None` before the first launch.
    device_zero: Option<Duration>,
    /// End of the last launch, which the next one cannot overlap.
    device_end: Duration,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Event {
    /// Since [`Trace::origin`].
    start: Duration,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Span {
        track: u32,
        name: String,
        duration: Duration,
        args: Value,
    },
    Counter {
        name: &'static str,
        value: u64,
    },
}

/// A launch of a step.
pub(crate) struct TracedLaunch<'a> {
    pub launch: Launch<'a>,
    pub kernel: &'a str,
    pub report: LaunchReport,
    pub time: DeviceTime,
}

impl Trace {
    pub(crate) fn new(origin: Instant, device: &str) -> Self {
        Self {
            origin,
            device: device.to_owned(),
            device_zero: None,
            device_end: Duration::ZERO,
            events: Vec::new(),
        }
    }

    /// Something that the host did.
    pub(crate) fn span(&mut self, name: &str, start: Instant, end: Instant, args: Value) {
        self.events.push(Event {
            start: start.saturating_duration_since(self.origin),
            kind: Kind::Span {
                track: HOST,
                name: name.to_owned(),
                duration: end.saturating_duration_since(start),
                args,
            },
        });
    }

    /// What the device did of one entry, which the host began to launch at `issued`.
    pub(crate) fn launches<'a>(
        &mut self,
        entry: &str,
        issued: Instant,
        launches: impl Iterator<Item = TracedLaunch<'a>>,
    ) {
        let issued = issued.saturating_duration_since(self.origin);
        for TracedLaunch {
            launch,
            kernel,
            report,
            time,
        } in launches
        {
            let zero = *self
                .device_zero
                .get_or_insert(issued.saturating_sub(time.start));
            // Two clocks drift apart; an overlap of some nanoseconds would read as nesting.
            let start = (zero + time.start).max(self.device_end);
            self.device_end = start + time.duration;
            self.events.push(Event {
                start,
                kind: Kind::Span {
                    track: DEVICE,
                    name: launch.label.to_owned(),
                    duration: time.duration,
                    args: json!({
                        "entry": entry,
                        "kernel": kernel,
                        "grid": launch.dims.grid,
                        "block": launch.dims.block,
                        "cluster": launch.dims.cluster,
                        "smem_bytes": launch.dims.smem_bytes,
                        "param_bytes": launch.params.len(),
                    }),
                },
            });
            let counters = [
                ("warp instructions", report.instructions),
                ("tensor multiply-adds", report.tensor_macs),
                ("bulk copy bytes", report.bulk_bytes),
            ];
            for (name, value) in counters {
                let Some(value) = value else { continue };
                for (start, value) in [(start, value), (self.device_end, 0)] {
                    self.events.push(Event {
                        start,
                        kind: Kind::Counter { name, value },
                    });
                }
            }
        }
    }

    /// The trace event format.
    #[must_use]
    pub fn to_json(&self) -> String {
        let name = |kind: &str, track: u32, name: &str| {
            json!({
                "ph": "M", "name": kind, "pid": PROCESS, "tid": track, "args": { "name": name },
            })
        };
        let mut lines = vec![
            name("process_name", HOST, "mcc"),
            name("thread_name", HOST, "host"),
            name("thread_name", DEVICE, &self.device),
        ];
        let mut events: Vec<&Event> = self.events.iter().collect();
        // Of spans that begin together the outer one comes first.
        events.sort_by_key(|event| (event.start, std::cmp::Reverse(event.duration())));
        lines.extend(events.into_iter().map(Event::to_json));
        let mut text = String::from("{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n");
        for (i, line) in lines.iter().enumerate() {
            let end = if i + 1 == lines.len() { "\n" } else { ",\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{line}{end}");
        }
        text.push_str("]}\n");
        text
    }
}

/// Time lines that end in a file.
impl Model {
    /// [`Self::start_trace`] for a file, which is made now: better to know before an hour of work than after it that
    /// it cannot be.
    ///
    /// # Errors
    /// When the file cannot be written, or the device is lost.
    pub fn start_trace_to(&mut self, path: &Path) -> Result<(), RuntimeError> {
        write(path, "")?;
        self.start_trace()
    }

    /// Ends the time line and writes it; without one the file stays as it is.
    ///
    /// # Errors
    /// When the file cannot be written, or the device is lost.
    pub fn write_trace(&mut self, path: &Path) -> Result<(), RuntimeError> {
        match self.take_trace()? {
            Some(trace) => write(path, &trace.to_json()),
            None => Ok(()),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), RuntimeError> {
    std::fs::write(path, text).map_err(|source| RuntimeError::TraceFile {
        path: path.to_owned(),
        source,
    })
}

impl Event {
    fn duration(&self) -> Duration {
        match self.kind {
            Kind::Span { duration, .. } => duration,
            Kind::Counter { .. } => Duration::ZERO,
        }
    }

    fn to_json(&self) -> Value {
        // Nanoseconds as thousandths, which FP64 holds for years of microseconds.
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        match &self.kind {
            Kind::Span {
                track,
                name,
                duration,
                args,
            } => json!({
                "ph": "X", "name": name, "pid": PROCESS, "tid": track,
                "ts": micros(self.start), "dur": micros(*duration), "args": args,
            }),
            Kind::Counter { name, value } => json!({
                "ph": "C", "name": name, "pid": PROCESS, "ts": micros(self.start),
                "args": { "value": value },
            }),
        }
    }
}
