//! A toy text model, and a device that runs its kernels as Rust functions.
//!
//! The toy remembers its tokens in a cache. The logit of one token is 2, of all others 0; which one depends on
//! every token so far and on its place, so that a wrong position, row or extent shows in the next token.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mcc_bundle::{
    Buffer, BufferKind, Bundle, DType, Dim, Entry, Expr, KernelId, Manifest, Param, SCHEMA_VERSION,
    Step, TokenizerInfo,
};
use mcc_runtime::{
    Device, DeviceError, DeviceMemory, DeviceProps, DeviceTime, EventId, FunctionId, Launch,
    LaunchReport, ModuleImage, ParamSlot, PlanBuffer, StreamId, TensorMapSpec,
};

mod parts;

use parts::{TEXT_INPUTS, buffer, dim, kernel, port, sym, target, text_inputs, view};

pub const VOCAB: u64 = 50;
pub const CONTEXT: u64 = 20;
pub const CHUNK: u64 = 8;

/// The token that the toy expects after `tokens`.
pub fn expected_next(tokens: &[i32]) -> i32 {
    let sum: i32 = tokens
        .iter()
        .zip(1..)
        .map(|(token, place)| token * place)
        .sum();
    sum % VOCAB as i32
}

/// What a test may see and change of a device that a model owns.
#[derive(Default)]
pub struct Trace {
    /// Launched kernels with their grids.
    pub launches: Vec<(String, [u32; 3])>,
    /// Tensor maps encoded.
    pub encoded: usize,
    /// Launches until one fails.
    pub fail_after: Option<usize>,
}

/// Host memory, and kernels by name.
pub struct HostDevice {
    props: DeviceProps,
    memory: Vec<u8>,
    functions: Vec<(String, String)>,
    /// Committed bytes of each reservation.
    committed: BTreeMap<u64, u64>,
    trace: Rc<RefCell<Trace>>,
}

impl HostDevice {
    pub fn new() -> (Self, Rc<RefCell<Trace>>) {
        let props = DeviceProps {
            name: "host".to_owned(),
            sms: 4,
            arch: "sm_90a".to_owned(),
            l2_bytes: 0,
            driver: String::new(),
            asynchronous: false,
        };
        let trace = Rc::new(RefCell::new(Trace::default()));
        // Address 0 stays unused.
        (
            Self {
                props,
                memory: vec![0; 256],
                functions: Vec::new(),
                committed: BTreeMap::new(),
                trace: Rc::clone(&trace),
            },
            trace,
        )
    }

    fn i32_at(&self, address: u64, index: usize) -> i32 {
        let at = address as usize + 4 * index;
        i32::from_le_bytes(self.memory[at..at + 4].try_into().expect("4 bytes"))
    }

    fn put(&mut self, address: u64, index: usize, bytes: [u8; 4]) {
        let at = address as usize + 4 * index;
        self.memory[at..at + 4].copy_from_slice(&bytes);
    }
}

fn u64_at(space: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(space[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(space: &[u8], at: usize) -> usize {
    u32::from_le_bytes(space[at..at + 4].try_into().expect("4 bytes")) as usize
}

impl Device for HostDevice {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn alloc(&mut self, bytes: u64, _: &str) -> Result<u64, DeviceError> {
        let address = self.memory.len() as u64;
        // Not zero, as fresh device memory need not be.
        self.memory.resize(self.memory.len() + bytes as usize, 0x55);
        Ok(address)
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        Ok(DeviceMemory {
            free: 1 << 20,
            total: 1 << 20,
        })
    }

    fn alloc_plan(&mut self, buffers: &[PlanBuffer<'_>]) -> Result<Vec<u64>, DeviceError> {
        buffers
            .iter()
            .map(|buffer| self.alloc(buffer.bytes, buffer.what))
            .collect()
    }

    fn free(&mut self, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reserve(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        let address = self.alloc(bytes, what)?;
        self.committed.insert(address, 0);
        Ok(address)
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let old = self.committed[&address];
        if bytes > old {
            self.committed.insert(address, bytes);
            self.fill(address + old, 0, bytes - old)?;
        }
        Ok(())
    }

    fn committed(&self, address: u64) -> Result<u64, DeviceError> {
        Ok(self.committed[&address])
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError> {
        self.memory
            .copy_within(from as usize..(from + len) as usize, to as usize);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory[address as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(&self.memory[address as usize..][..bytes.len()]);
        Ok(())
    }

    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError> {
        self.memory[address as usize..][..len as usize].fill(byte);
        Ok(())
    }

    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        self.functions
            .push((image.kernel.to_owned(), image.ptx.to_owned()));
        Ok(FunctionId(self.functions.len() - 1))
    }

    /// The toy's "PTX" is the list of its parameters' places.
    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError> {
        let slots = self.functions[function.0].1.split_whitespace().map(|slot| {
            let (offset, size) = slot.split_once('+').expect("offset+size");
            ParamSlot {
                offset: offset.parse().expect("a number"),
                size: size.parse().expect("a number"),
            }
        });
        Ok(slots.collect())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        self.trace.borrow_mut().encoded += 1;
        assert_eq!(
            (
                spec.strides.as_slice(),
                spec.box_dims.as_slice(),
                spec.swizzle
            ),
            (&[16][..], &[4, 8][..], 0)
        );
        let mut encoded = [0; 128];
        encoded[..8].copy_from_slice(&spec.address.to_le_bytes());
        encoded[8..16].copy_from_slice(&spec.dims[0].to_le_bytes());
        encoded[16..24].copy_from_slice(&spec.dims[1].to_le_bytes());
        Ok(encoded)
    }

    fn launch(&mut self, _: StreamId, launch: &Launch<'_>) -> Result<LaunchReport, DeviceError> {
        let space = launch.params;
        let name = self.functions[launch.function.0].0.clone();
        {
            let mut trace = self.trace.borrow_mut();
            match &mut trace.fail_after {
                Some(0) => return Err(DeviceError::TensorMap("a failure on purpose".to_owned())),
                Some(left) => *left -= 1,
                None => {}
            }
            trace.launches.push((name.clone(), launch.dims.grid));
        }
        match name.as_str() {
            "toy_remember" => {
                let (count, tokens, positions) =
                    (u32_at(space, 0), u64_at(space, 8), u64_at(space, 16));
                let (cache, stride) = (u64_at(space, 24), u32_at(space, 32));
                for t in 0..count {
                    let position = self.i32_at(positions, t) as usize;
                    let token = self.i32_at(tokens, t);
                    self.put(cache, position * stride, token.to_le_bytes());
                }
            }
            "toy_logits" => {
                let (cache, width, length) =
                    (u64_at(space, 0), u64_at(space, 8), u64_at(space, 16));
                let (positions, rows, logits) =
                    (u64_at(space, 128), u64_at(space, 136), u64_at(space, 144));
                for r in 0..u32_at(space, 152) {
                    let last = self.i32_at(positions, self.i32_at(rows, r) as usize) as usize;
                    assert!(
                        (last as u64) < length,
                        "the last key is inside the tensor map"
                    );
                    let tokens: Vec<i32> = (0..=last)
                        .map(|j| self.i32_at(cache, j * width as usize))
                        .collect();
                    for v in 0..VOCAB as i32 {
                        let logit = if v == expected_next(&tokens) {
                            2.0_f32
                        } else {
                            0.0
                        };
                        self.put(logits, r * VOCAB as usize + v as usize, logit.to_le_bytes());
                    }
                }
            }
            "toy_sample" => {
                let [logits, temperature, uniform, next] =
                    [0, 8, 16, 24].map(|at| u64_at(space, at));
                for r in 0..u32_at(space, 32) {
                    let row =
                        (0..VOCAB as usize).map(|v| self.i32_at(logits, r * VOCAB as usize + v));
                    let best = row
                        .enumerate()
                        .find(|(_, bits)| *bits == 2.0_f32.to_bits() as i32);
                    let token = if f32::from_bits(self.i32_at(temperature, r) as u32) == 0.0 {
                        best.expect("one is 2").0 as i32
                    } else {
                        (f32::from_bits(self.i32_at(uniform, r) as u32) * VOCAB as f32) as i32
                    };
                    self.put(next, r, token.to_le_bytes());
                }
            }
            "toy_nothing" => panic!("an empty grid was launched"),
            other => panic!("no kernel {other}"),
        }
        Ok(LaunchReport {
            instructions: Some(10),
            ..LaunchReport::default()
        })
    }

    fn set_timing(&mut self, _: bool) -> Result<(), DeviceError> {
        Ok(())
    }

    fn take_timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError> {
        Ok(Vec::new())
    }

    fn create_stream(&mut self, _: i32) -> Result<StreamId, DeviceError> {
        Ok(StreamId(1))
    }

    fn record_event(&mut self, _: StreamId) -> Result<EventId, DeviceError> {
        Ok(EventId(0))
    }

    fn wait_event(&mut self, _: StreamId, _: EventId) -> Result<(), DeviceError> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// The toy as a bundle.
pub fn toy() -> Bundle {
    use DType::{F32, I32};
    let pointer = |operand| Param::Pointer { operand };
    let extent = |operand, axis| Param::Extent { operand, axis };
    let kernels = vec![
        kernel(
            "toy_remember",
            &[
                ("tokens", I32, 1, false),
                ("positions", I32, 1, false),
                ("cache", I32, 2, true),
            ],
            Expr::CeilDiv(
                Box::new(Expr::Extent {
                    operand: 0,
                    axis: 0,
                }),
                3,
            ),
            32,
            vec![
                extent(0, 0),
                pointer(0),
                pointer(1),
                pointer(2),
                Param::Stride {
                    operand: 2,
                    axis: 0,
                },
            ],
        ),
        kernel(
            "toy_logits",
            &[
                ("cache", I32, 2, false),
                ("positions", I32, 1, false),
                ("rows", I32, 1, false),
                ("out", F32, 2, true),
            ],
            Expr::Min(vec![
                Expr::Sms,
                Expr::Extent {
                    operand: 2,
                    axis: 0,
                },
            ]),
            32,
            vec![
                Param::TensorMap {
                    operand: 0,
                    box_dims: vec![4, 8],
                    swizzle: 0,
                    axes: mcc_bundle::MapAxes::Rows,
                },
                pointer(1),
                pointer(2),
                pointer(3),
                extent(3, 0),
            ],
        ),
        kernel(
            "toy_sample",
            &[
                ("logits", F32, 2, false),
                ("temperature", F32, 1, false),
                ("uniform", F32, 1, false),
                ("out", I32, 1, true),
            ],
            Expr::Const(1),
            32,
            vec![pointer(0), pointer(1), pointer(2), pointer(3), extent(0, 0)],
        ),
        kernel(
            "toy_nothing",
            &[("x", I32, 1, false)],
            Expr::Mul(vec![Expr::Sms, Expr::Const(0)]),
            32,
            vec![],
        ),
    ];
    let mut buffers: Vec<Buffer> = TEXT_INPUTS
        .iter()
        .map(|name| buffer(name, BufferKind::Input, 256))
        .collect();
    buffers.push(buffer("cache", BufferKind::State, 512));
    buffers.push(buffer("logits", BufferKind::Output, 2048));
    buffers.push(buffer("next", BufferKind::Output, 256));
    let (t, r, vocab) = (sym("T"), sym("R"), Dim::Const(VOCAB));
    let row = |id, dtype, dim: &Dim| view(id, dtype, std::slice::from_ref(dim), &[1]);
    let cache = view(6, I32, &[sym("C"), Dim::Const(4)], &[4, 1]);
    let logits = view(7, F32, &[r.clone(), vocab.clone()], &[VOCAB, 1]);
    let step = |kernel, label: &str, operands| Step {
        kernel: KernelId(kernel),
        label: label.to_owned(),
        operands,
    };
    let steps = vec![
        step(
            0,
            "remember",
            vec![row(0, I32, &t), row(1, I32, &t), cache.clone()],
        ),
        step(3, "nothing", vec![row(0, I32, &t)]),
        step(
            1,
            "logits",
            vec![cache, row(1, I32, &t), row(2, I32, &r), logits.clone()],
        ),
        step(
            2,
            "sample",
            vec![logits, row(3, F32, &r), row(5, F32, &r), row(8, I32, &r)],
        ),
    ];
    let outputs = vec![
        port("logits", F32, &[r.clone(), vocab], 7),
        port("next", I32, &[r], 8),
    ];
    let entry = |name: &str| Entry {
        name: name.to_owned(),
        inputs: text_inputs(),
        outputs: outputs.clone(),
        steps: steps.clone(),
    };
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        compiler: "test".to_owned(),
        target: target(),
        model: "toy".to_owned(),
        dims: vec![dim("T", CHUNK), dim("C", CONTEXT), dim("R", CHUNK)],
        buffers,
        mesh: None,
        arena_bytes: 0,
        params: Vec::new(),
        kernels,
        entries: vec![entry("prefill"), entry("decode")],
        tokenizer: TokenizerInfo {
            bos: None,
            eos: vec![0],
        },
    };
    let layouts = [
        "0+4 8+8 16+8 24+8 32+4",
        "0+128 128+8 136+8 144+8 152+4",
        "0+8 8+8 16+8 24+8 32+4",
        "",
    ];
    Bundle::new(manifest, layouts.map(str::to_owned).to_vec(), vec![None; 4])
        .expect("the toy is sound")
}
