//! What the CUDA device asks of the driver on the hot path, counted by the fake driver.
//!
//! A decode step is one upload, a few changed kernels, one launch of a graph, and a token that is read back. More
//! calls would be time that the GPU waits for the host.

#[path = "../fake-driver/tests/support/mod.rs"]
mod fake;

use fake::{Driver, Fake};
use mcc_runtime::{
    CodeSource, Device, DeviceKind, DeviceOptions, FunctionId, Launch, LaunchDims, ModuleImage,
    SequenceKey, StreamId, open_device,
};

/// `to[i] = from[i] + add`, one block of 32 threads.
const ADD: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry add(.param .u64 to, .param .u64 from, .param .u32 add)
{
    .reg .b32 %r<5>; .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [from]; ld.param.u32 %r1, [add];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r3, [%rd5];
    add.s32 %r4, %r3, %r1;
    st.global.u32 [%rd4], %r4;
    ret;
}
";

const DIMS: LaunchDims = LaunchDims {
    grid: [1, 1, 1],
    block: 32,
    cluster: [1, 1, 1],
    smem_bytes: 0,
    programmatic: false,
};

const WORDS: usize = 32;
const BYTES: u64 = 4 * WORDS as u64;

fn open() -> Box<dyn Device> {
    open_device(DeviceKind::Cuda(0), &DeviceOptions::default()).expect("opens")
}

fn load(device: &mut dyn Device) -> FunctionId {
    let image = ModuleImage {
        kernel: "add",
        ptx: ADD,
        cubin: None,
    };
    device.load_module(&image).expect("loads")
}

fn params(to: u64, from: u64, add: u32) -> Vec<u8> {
    let mut params = [to.to_le_bytes(), from.to_le_bytes()].concat();
    params.extend(add.to_le_bytes());
    params
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks::<4>().0;
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Names of the calls that `work` makes.
fn calls(fake: &Fake, work: impl FnOnce()) -> Vec<String> {
    let before = fake.calls().len();
    work();
    fake.calls().split_off(before)
}

/// The calls without the questions whether the GPU has finished.
fn without_polls(calls: &[String]) -> Vec<&str> {
    let asked = calls.iter().map(String::as_str);
    asked.filter(|call| *call != "cuStreamQuery").collect()
}

#[test]
fn a_decode_step_is_a_graph_with_what_has_changed() {
    let name = "a_decode_step_is_a_graph_with_what_has_changed";
    Driver::default().run(name, |fake| {
        let mut device = open();
        let function = load(&mut *device);
        let at = device.alloc(4 * BYTES, "all").expect("fits");
        let [input, a, b, out] = [0, 1, 2, 3].map(|place| at + place * BYTES);
        // Of three kernels the second changes from step to step.
        let mut step = |add: u32| {
            let bytes: Vec<u8> = (0..WORDS as u32).flat_map(u32::to_le_bytes).collect();
            let (first, second) = bytes.split_at(16);
            let pieces = [(input, first), (input + 16, second)];
            device.write_many(&pieces).expect("written");
            let params = [params(a, input, 1), params(b, a, add), params(out, b, 1)];
            let launches = params.each_ref().map(|params| Launch {
                function,
                dims: DIMS,
                params,
                label: "step",
            });
            let run = device.launch_sequence(SequenceKey(1), &launches);
            assert!(run.is_ok_and(|reports| reports.len() == 3));
            device.synchronize().expect("ends");
            let mut read = [0; 8];
            device.read(out, &mut read).expect("read");
            assert_eq!(words(&read), [add + 2, add + 3]);
        };
        let first = calls(fake, || step(10));
        let launch = "cuLaunchKernelEx";
        assert_eq!(first.iter().filter(|call| *call == launch).count(), 3);
        // Captured with the values of the second step.
        let second = calls(fake, || step(20));
        assert!(
            second
                .iter()
                .any(|call| call == "cuGraphInstantiateWithFlags")
        );
        let third = calls(fake, || step(30));
        let expected = [
            "cuMemcpyHtoDAsync_v2",
            "cuGraphExecKernelNodeSetParams_v2",
            "cuGraphLaunch",
            "cuMemcpyDtoHAsync_v2",
        ];
        assert_eq!(without_polls(&third), expected);
        let same = calls(fake, || step(30));
        assert!(
            !same.contains(&expected[1].to_owned()),
            "nothing has changed"
        );
        assert_eq!(
            same.iter().filter(|call| *call == "cuGraphLaunch").count(),
            1
        );
        drop(device);
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));
    });
}

/// Another grid is another value of a node; another cluster is another graph.
#[test]
fn a_graph_that_no_longer_fits_is_made_again() {
    Driver::default().run("a_graph_that_no_longer_fits_is_made_again", |fake| {
        let mut device = open();
        let function = load(&mut *device);
        let at = device.alloc(BYTES, "all").expect("fits");
        device.fill(at, 0, BYTES).expect("zero");
        let params = params(at, at, 1);
        let mut step = |dims: LaunchDims, count: usize| {
            let launch = Launch {
                function,
                dims,
                params: &params,
                label: "step",
            };
            let run = device.launch_sequence(SequenceKey(1), &vec![launch; count]);
            assert!(run.is_ok());
            let mut read = [0; 4];
            device.read(at, &mut read).expect("read");
            words(&read)[0]
        };
        let cluster = LaunchDims {
            grid: [2, 1, 1],
            cluster: [2, 1, 1],
            ..DIMS
        };
        let made = |calls: &[String]| {
            let instantiate = "cuGraphInstantiateWithFlags";
            calls.iter().filter(|call| *call == instantiate).count()
        };
        assert_eq!([step(DIMS, 2), step(DIMS, 2), step(DIMS, 2)], [2, 4, 6]);
        // A cluster's two blocks add to the same words, one after the other or at once: no value is promised.
        assert_eq!(made(&calls(fake, || _ = step(cluster, 2))), 1);
        assert_eq!(made(&calls(fake, || _ = step(cluster, 2))), 0);
        // Keys promise the same kernels; a device need not trust them.
        assert_eq!(made(&calls(fake, || _ = step(DIMS, 3))), 1);
        drop(device);
        assert_eq!((fake.live(""), fake.complaints()), (0, vec![]));
    });
}

#[test]
fn timed_launches_are_told_in_order() {
    Driver::default().run("timed_launches_are_told_in_order", |_| {
        let mut device = open();
        let function = load(&mut *device);
        let at = device.alloc(BYTES, "all").expect("fits");
        device.fill(at, 0, BYTES).expect("zero");
        let params = params(at, at, 1);
        let launch = Launch {
            function,
            dims: DIMS,
            params: &params,
            label: "timed",
        };
        device.set_timing(true).expect("on");
        let mut last = None;
        for _ in 0..3 {
            device.launch(StreamId::MAIN, &launch).expect("runs");
            let run = device.launch_sequence(SequenceKey(2), &[launch; 2]);
            assert!(run.is_ok());
            let times = device.take_timings().expect("told");
            assert_eq!(times.len(), 3);
            for time in times {
                assert!(last.is_none_or(|last| last <= time.start), "{time:?}");
                last = Some(time.start + time.duration);
            }
        }
        assert!(device.take_timings().expect("none").is_empty());
        device.set_timing(false).expect("off");
        device.launch(StreamId::MAIN, &launch).expect("runs");
        assert!(device.take_timings().expect("off").is_empty());
    });
}

#[test]
fn it_is_known_which_code_runs() {
    Driver::default().run("it_is_known_which_code_runs", |_| {
        let mut device = open();
        let function = load(&mut *device);
        let info = device.function_info(function).expect("known");
        let CodeSource::Ptx { why } = info.code else {
            panic!("there was no cubin");
        };
        assert_eq!(why, "the bundle has no cubin");
        let image = ModuleImage {
            kernel: "add",
            ptx: ADD,
            cubin: Some(b"\x7fELF, but cut"),
        };
        let function = device.load_module(&image).expect("the PTX is taken");
        let info = device.function_info(function).expect("known");
        let damaged = |why: &str| why.contains("damaged");
        assert!(matches!(info.code, CodeSource::Ptx { why } if damaged(&why)));
    });
}
