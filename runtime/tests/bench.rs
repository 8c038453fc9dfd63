//! Benchmarks through the library: predictions on the simulated device, and the measured path on one whose clock a
//! test sets.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/parts.rs"]
mod parts;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use mcc_bundle::{Bundle, DimValues, Expr, Hardware, Unit, Work};
use mcc_runtime::bench::{self, BenchFlags, BenchOptions, Bound, Kind, Report};
use mcc_runtime::{
    Device, DeviceError, DeviceMemory, DeviceOptions, DeviceProps, DeviceTime, EventId, FunctionId,
    Launch, LaunchReport, Model, ModuleImage, ParamSlot, PlanBuffer, RuntimeError, SequenceError,
    SequenceKey, SimDevice, StreamId, TensorMapSpec,
};

const COLD: Duration = Duration::from_micros(10);
const WARM: Duration = Duration::from_micros(4);
/// Where the clocked device says that large allocations lie; nothing is ever there.
const NOWHERE: u64 = 1 << 60;

/// What a [`Clocked`] device saw.
#[derive(Default)]
struct Seen {
    flushes: usize,
    sequences: usize,
    graphs: Vec<bool>,
    live: i64,
    fail: bool,
}

/// The simulated device with a driver's version and a clock: a launch straight after a fill takes [`COLD`], any other
/// [`WARM`].
struct Clocked {
    sim: SimDevice,
    props: DeviceProps,
    times: Option<Vec<DeviceTime>>,
    flushed: bool,
    seen: Rc<RefCell<Seen>>,
}

impl Clocked {
    fn new() -> (Self, Rc<RefCell<Seen>>) {
        let sim = SimDevice::new(&DeviceOptions::default());
        let props = DeviceProps {
            driver: "13.0".to_owned(),
            asynchronous: true,
            ..sim.props().clone()
        };
        let seen = Rc::<RefCell<Seen>>::default();
        let device = Self {
            sim,
            props,
            times: None,
            flushed: false,
            seen: Rc::clone(&seen),
        };
        (device, seen)
    }
}

impl Device for Clocked {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.sim.memory()
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.seen.borrow_mut().live += 1;
        if bytes > 100 << 20 {
            return Ok(NOWHERE);
        }
        self.sim.alloc(bytes, what)
    }

    fn alloc_plan(&mut self, buffers: &[PlanBuffer<'_>]) -> Result<Vec<u64>, DeviceError> {
        self.sim.alloc_plan(buffers)
    }

    fn free(&mut self, address: u64) -> Result<(), DeviceError> {
        self.seen.borrow_mut().live -= 1;
        if address == NOWHERE {
            return Ok(());
        }
        self.sim.free(address)
    }

    fn reserve(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.sim.reserve(bytes, what)
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.sim.commit(address, bytes)
    }

    fn committed(&self, address: u64) -> Result<u64, DeviceError> {
        self.sim.committed(address)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.sim.write(address, bytes)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.sim.read(address, bytes)
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError> {
        self.sim.copy(from, to, len)
    }

    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError> {
        if address == NOWHERE {
            self.flushed = true;
            self.seen.borrow_mut().flushes += 1;
            return Ok(());
        }
        self.sim.fill(address, byte, len)
    }

    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        self.sim.load_module(image)
    }

    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError> {
        self.sim.param_layout(function)
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        self.sim.encode_tensor_map(spec)
    }

    fn launch(
        &mut self,
        stream: StreamId,
        launch: &Launch<'_>,
    ) -> Result<LaunchReport, DeviceError> {
        if self.seen.borrow().fail {
            return Err(DeviceError::TensorMap("on purpose".to_owned()));
        }
        let duration = if self.flushed { COLD } else { WARM };
        self.flushed = false;
        if let Some(times) = &mut self.times {
            times.push(DeviceTime {
                start: Duration::ZERO,
                duration,
            });
        }
        self.sim.launch(stream, launch)
    }

    fn launch_sequence(
        &mut self,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        assert!(
            self.times.is_none(),
            "whole executions are not timed by launch"
        );
        self.seen.borrow_mut().sequences += 1;
        self.sim.launch_sequence(key, launches)
    }

    fn set_graphs(&mut self, on: bool) {
        self.seen.borrow_mut().graphs.push(on);
    }

    fn set_timing(&mut self, on: bool) -> Result<(), DeviceError> {
        self.times = on.then(Vec::new);
        Ok(())
    }

    fn take_timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError> {
        Ok(self.times.as_mut().map(std::mem::take).unwrap_or_default())
    }

    fn create_stream(&mut self, priority: i32) -> Result<StreamId, DeviceError> {
        self.sim.create_stream(priority)
    }

    fn record_event(&mut self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.sim.record_event(stream)
    }

    fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.sim.wait_event(stream, event)
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.sim.synchronize()
    }
}

/// The counting model with figures of a target, and work that can be checked by hand: 40 bytes a token.
fn bundle() -> Bundle {
    let mut bundle = counting::bundle();
    bundle.manifest.target.hardware = Hardware {
        clock_hz: 2_000_000_000,
        sustained_clock_hz: 1_600_000_000,
        fp8_flops: 2_000_000_000_000_000,
        bf16_flops: 1_000_000_000_000_000,
        f32_flops: 60_000_000_000_000,
        hbm_bytes: 80_000_000_000,
        hbm_bytes_per_s: 1_000_000,
        l2_bytes: 0,
        launch_ns: 2000,
    };
    for kernel in &mut bundle.manifest.kernels {
        let tokens = Expr::Extent {
            operand: 1,
            axis: 0,
        };
        kernel.launch.work = Work {
            unit: Unit::None,
            flops: Expr::Const(0),
            bytes: Expr::Mul(vec![Expr::Const(40), tokens]),
        };
    }
    bundle
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: BenchFlags,
}

fn run(args: &[&str], bundle: Option<Bundle>) -> Result<Report, RuntimeError> {
    let args = std::iter::once(&"bench").chain(args);
    let line = Line::try_parse_from(args).expect("the flags parse");
    line.flags.run(bundle, &mut |_, _, _| ())
}

#[test]
fn the_simulated_device_predicts_and_says_so_everywhere() {
    let report = run(&["--dims", "T=100,C=150"], Some(bundle())).expect("runs");
    assert_eq!(report.kind, Kind::Prediction);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let names: Vec<&str> = report.entries.iter().map(|e| e.entry.as_str()).collect();
    assert_eq!(names, ["prefill", "decode"]);
    let prefill = &report.entries[0];
    assert_eq!(prefill.dims["T"], 100);
    assert_eq!(prefill.dims["C"], 150);
    assert_eq!(prefill.steps.len(), 2);
    for step in &prefill.steps {
        // 4000 bytes at a megabyte a second, and the launch.
        assert_eq!(step.bytes, 4000);
        assert!((step.cold.seconds - 4.002e-3).abs() < 1e-9, "{step:?}");
        assert_eq!(step.cold.bound, Bound::Memory);
        assert!((step.cold.fraction - 4.0 / 4.002).abs() < 1e-6);
        assert!(step.instructions.is_some_and(|count| count > 0));
    }
    // 100 tokens, 32 a block; one row of logits.
    assert_eq!(prefill.steps[0].grid, [4, 1, 1]);
    assert_eq!(prefill.steps[1].grid, [1, 1, 1]);
    assert!((prefill.whole.kernels_s - 8.004e-3).abs() < 1e-9);

    let text = report.to_string();
    assert!(text.contains("PREDICTION"), "{text}");
    assert!(!text.contains("measured "), "{text}");
    let json = serde_json::to_string(&report).expect("serialises");
    assert!(!json.contains("\"measured\""), "{json}");
    // The machine, two entries, and twice two figures of each entry's steps.
    assert_eq!(
        json.matches("\"kind\":\"prediction\"").count(),
        1 + 1 + 2 + 8
    );
    assert_eq!(
        serde_json::from_str::<Report>(&json).expect("reads back"),
        report
    );
}

#[test]
fn without_leave_to_simulate_nothing_is_run() {
    let report = run(&["--entry", "dec", "--simulate-below", "0"], Some(bundle())).expect("runs");
    assert_eq!(report.entries.len(), 1);
    let decode = &report.entries[0];
    assert_eq!(
        (decode.dims["T"], decode.dims["R"], decode.dims["C"]),
        (1, 1, 200)
    );
    assert!(decode.steps.iter().all(|step| step.instructions.is_none()));
}

#[test]
fn wishes_that_mean_nothing_are_refused() {
    let refused = |args: &[&str], bundle| run(args, bundle).expect_err("refused").to_string();
    let none = refused(&["--entry", "train"], Some(bundle()));
    assert!(
        none.contains("`train`") && none.contains("prefill, decode"),
        "{none}"
    );
    let dim = refused(&["--dims", "T=131"], Some(bundle()));
    assert!(
        dim.contains("`T` is 131") && dim.contains("1 to 130"),
        "{dim}"
    );
    let unknown = refused(&["--dims", "K=1"], Some(bundle()));
    assert!(
        unknown.contains("`K`") && unknown.contains("T, C, R"),
        "{unknown}"
    );
    let nothing = refused(&[], None);
    assert!(nothing.contains("--machine"), "{nothing}");
    let no_clock = refused(&["--machine"], None);
    assert!(no_clock.contains("name a bundle"), "{no_clock}");
    assert!(Line::try_parse_from(["bench", "--dims", "T"]).is_err());
}

#[test]
fn the_machine_of_a_target_is_its_data_sheet() {
    let report = run(&["--machine"], Some(bundle())).expect("runs");
    let machine = report.machine.expect("asked for");
    assert_eq!(machine.kind, Kind::Prediction);
    assert!((machine.fp8_flops - 2e15).abs() < 1.0);
    assert!(report.entries.is_empty());
}

#[test]
fn a_device_with_a_clock_is_measured_cold_and_warm() {
    let (device, seen) = Clocked::new();
    let mut model = Model::load(Box::new(device), bundle()).expect("loads");
    model.load_synthetic(0, &mut |_| ()).expect("loads");
    let limits = bench::nominal(&model.manifest().target.hardware);
    let dims = DimValues::from([("T".to_owned(), 64)]);
    let cases = bench::cases(model.manifest(), Some("prefill"), &dims).expect("there");
    let options = BenchOptions {
        seconds: 0.0,
        ..BenchOptions::default()
    };
    let live = seen.borrow().live;
    let entry = bench::measure(&mut model, &cases[0], &options, &limits).expect("runs");

    assert_eq!(entry.steps.len(), 2);
    for step in &entry.steps {
        for (figures, expected) in [(&step.cold, COLD), (&step.warm, WARM)] {
            assert_eq!(figures.kind, Kind::Measured);
            assert_eq!(figures.seconds, expected.as_secs_f64());
            assert_eq!(figures.fastest_s, Some(figures.seconds));
            assert!(figures.repetitions >= 10, "{figures:?}");
            // 2560 bytes of work.
            assert!((figures.bytes_per_s * figures.seconds - 2560.0).abs() < 1e-6);
        }
    }
    let whole = &entry.whole;
    assert_eq!((whole.kind, whole.launches), (Kind::Measured, 2));
    assert!((whole.kernels_s - 2.0 * WARM.as_secs_f64()).abs() < 1e-12);
    let overhead = whole.graph_s.expect("measured") - whole.kernels_s;
    assert_eq!(whole.graph_overhead_s, Some(overhead));
    assert!(whole.stream_row_s.expect("measured") > 0.0);
    {
        let seen = seen.borrow();
        assert_eq!(seen.graphs, [true, false, true]);
        assert!(seen.flushes >= 20 && seen.sequences >= 40);
        assert_eq!(seen.live, live, "the flush buffer is given back");
    }

    // A launch that fails is an error, and leaves nothing behind either.
    seen.borrow_mut().fail = true;
    let failed = bench::measure(&mut model, &cases[0], &options, &limits);
    assert!(
        failed
            .expect_err("fails")
            .to_string()
            .contains("on purpose")
    );
    assert_eq!(seen.borrow().live, live);
}
