//! Runs one kernel on the simulator, through the program, the bundle and the runtime.
//!
//! In: a kernel config, values of its named extents, the contents of the operands that it reads. Out: the
//! contents of those that it writes. Views get padded strides, offsets and room behind the last row as the
//! family's operand table allows; bytes of inputs that belong to no element are NaN in every format, and
//! bytes of outputs that belong to no element must be untouched afterwards.
//! Holds: every completion order of asynchronous copies and every number of SMs gives the same bits.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

use mcc::source::Source;
use mcc::stages::Built;
use mcc_bundle::{Bundle, TokenizerInfo};
use mcc_codegen::{Codegen, KernelCode};
use mcc_ir::eval::{Data, Rng, Tensor};
use mcc_ir::kernel::{Epilogue, Extent, GemmBf16, GemmFp8, KernelConfig, Layout, OperandSpec};
use mcc_ir::module::DimDecl;
use mcc_ir::numerics::{bf16_bits, bf16_value};
use mcc_ir::program::{
    Buffer, BufferId, BufferKind, Entry, Kernel, KernelId, Port, Program, Step, View,
};
use mcc_ir::types::{DType, Dim, Type};
use mcc_passes::target::Target;
use mcc_runtime::{Model, SimDevice};
use mcc_sim::{Completion, GpuConfig};

/// Contents of one operand, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Plane {
    F32(Vec<f32>),
    /// Bits.
    Bf16(Vec<u16>),
    /// Codes.
    E4m3(Vec<u8>),
    I32(Vec<i32>),
}

impl Plane {
    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::BF16,
            Self::E4m3(_) => DType::E4M3,
            Self::I32(_) => DType::I32,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Bf16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::E4m3(v) => v.clone(),
            Self::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    pub fn of(dtype: DType, bytes: &[u8]) -> Self {
        let words = || bytes.as_chunks::<4>().0.iter();
        match dtype {
            DType::F32 => Self::F32(words().map(|b| f32::from_le_bytes(*b)).collect()),
            DType::I32 => Self::I32(words().map(|b| i32::from_le_bytes(*b)).collect()),
            DType::E4M3 => Self::E4m3(bytes.to_vec()),
            DType::BF16 => Self::Bf16(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| u16::from_le_bytes(*b))
                    .collect(),
            ),
        }
    }

    /// FP32 or BF16 values as numbers.
    pub fn floats(&self) -> Vec<f32> {
        match self {
            Self::F32(v) => v.clone(),
            Self::Bf16(v) => v.iter().map(|b| bf16_value(*b)).collect(),
            other => panic!("{:?} holds no floats", other.dtype()),
        }
    }

    pub fn ints(&self) -> &[i32] {
        match self {
            Self::I32(v) => v,
            other => panic!("{:?} holds no integers", other.dtype()),
        }
    }

    pub fn codes(&self) -> &[u8] {
        match self {
            Self::E4m3(v) => v,
            other => panic!("{:?} holds no codes", other.dtype()),
        }
    }
}

/// The operands that a tensor is: codes and scales are two.
pub fn planes(tensor: &Tensor) -> Vec<Plane> {
    match tensor.data() {
        Data::F32(v) => vec![Plane::F32(v.clone())],
        Data::Bf16(v) => vec![Plane::Bf16(v.iter().map(|x| bf16_bits(*x)).collect())],
        Data::I32(v) => vec![Plane::I32(v.clone())],
        Data::Scaled(s) => vec![Plane::E4m3(s.codes.clone()), Plane::F32(s.scales.clone())],
    }
}

/// The operands that several tensors are.
pub fn all_planes(tensors: &[&Tensor]) -> Vec<Plane> {
    tensors.iter().flat_map(|t| planes(t)).collect()
}

/// Values of a config's named extents.
pub type Extents<'a> = &'a [(&'a str, usize)];

/// Compiles a kernel, once.
pub fn compile(config: &KernelConfig) -> KernelCode {
    static DONE: Mutex<BTreeMap<String, KernelCode>> = Mutex::new(BTreeMap::new());
    thread_local!(static CODEGEN: OnceCell<Codegen> = const { OnceCell::new() });
    let name = config.name();
    if let Some(code) = DONE.lock().expect("no test panics here").get(&name) {
        return code.clone();
    }
    let kernel = Kernel {
        name: name.clone(),
        config: config.clone(),
    };
    let code = CODEGEN
        .with(|c| c.get_or_init(Codegen::new).compile(&kernel))
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    DONE.lock()
        .expect("no test panics here")
        .insert(name, code.clone());
    code
}

/// Runs a kernel; `inputs` and the result follow the operand table.
pub fn run(
    config: &KernelConfig,
    extents: Extents<'_>,
    inputs: Vec<Plane>,
    seed: u64,
) -> Vec<Plane> {
    let case = format!("{} with {extents:?}, seed {seed}", config.name());
    let prepared =
        Prepared::new(config, extents, &inputs, seed).unwrap_or_else(|e| panic!("{case}: {e}"));
    let devices = [
        (Completion::Early, 132),
        (Completion::Late, 1 + (seed % 3) as u32),
        (Completion::Random(seed), 2),
    ];
    let mut first: Option<Vec<Plane>> = None;
    for (completion, sms) in devices {
        let what = format!("{case}, {completion:?}, {sms} SMs");
        let result = prepared
            .execute(completion, sms)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        match &first {
            None => first = Some(result),
            Some(first) => assert!(
                bits(first) == bits(&result),
                "{what}: differs from early completion on 132 SMs"
            ),
        }
    }
    first.unwrap_or_default()
}

fn bits(planes: &[Plane]) -> Vec<Vec<u8>> {
    planes.iter().map(Plane::bytes).collect()
}

/// A bundle of one launch.
struct Prepared {
    bundle: Bundle,
    dims: BTreeMap<String, u64>,
    /// Name and bytes of each input buffer.
    inputs: Vec<(String, Vec<u8>)>,
    outputs: Vec<Output>,
}

struct Output {
    name: String,
    dtype: DType,
    /// Byte offset of each element, in row-major order.
    places: Vec<usize>,
}

impl Prepared {
    fn new(
        config: &KernelConfig,
        extents: Extents<'_>,
        inputs: &[Plane],
        seed: u64,
    ) -> Result<Self, String> {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let code = compile(config);
        let dims: Vec<DimDecl> = extents
            .iter()
            .map(|(name, value)| DimDecl {
                name: (*name).into(),
                min: 1,
                max: (*value + rng.below(6)) as u64,
            })
            .collect();
        let dim = |d: &Dim, largest: bool| -> usize {
            d.resolve(|name| {
                let i = dims.iter().position(|d| d.name == *name)?;
                Some(if largest {
                    dims[i].max
                } else {
                    extents[i].1 as u64
                })
            })
            .map_or(0, |n| n as usize)
        };
        let mut program = Program {
            model: "one-kernel".into(),
            target: "h100".into(),
            dims: dims.clone(),
            buffers: Vec::new(),
            mesh: None,
            arena_bytes: 0,
            params: Vec::new(),
            kernels: vec![Kernel {
                name: code.name.clone(),
                config: config.clone(),
            }],
            entries: Vec::new(),
        };
        let mut entry = Entry {
            name: "run".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: Vec::new(),
        };
        let mut views = Vec::new();
        let mut given = inputs.iter();
        let (mut filled, mut outputs) = (Vec::new(), Vec::new());
        for spec in config.operand_specs() {
            let name = spec.decl.name.to_owned();
            let shape: Vec<Dim> = spec.extents.iter().map(symbolic).collect();
            let largest: Vec<usize> = shape.iter().map(|d| dim(d, true)).collect();
            let size = spec.decl.dtype.bytes() as usize;
            let strides = strides(&spec, &largest, &mut rng);
            let offset = if spec.layout == Layout::Dense {
                16 * rng.below(2)
            } else {
                16 * rng.below(9)
            };
            let span: usize = strides
                .iter()
                .zip(&largest)
                .map(|(s, n)| s * n.saturating_sub(1))
                .sum();
            let bytes = (offset + (span + 1) * size).next_multiple_of(256);
            let buffer = BufferId(program.buffers.len() as u32);
            program.buffers.push(Buffer {
                name: name.clone(),
                kind: if spec.decl.written {
                    BufferKind::Output
                } else {
                    BufferKind::Input
                },
                bytes: bytes as u64,
            });
            // The port is the whole buffer, padding too.
            let port = Port {
                name: name.clone(),
                ty: Type::new(DType::I32, [(bytes / 4) as u64]),
                buffer,
            };
            let actual: Vec<usize> = shape.iter().map(|d| dim(d, false)).collect();
            let places = places(&actual, &strides, offset, size);
            if spec.decl.written {
                entry.outputs.push(port);
                outputs.push(Output {
                    name,
                    dtype: spec.decl.dtype,
                    places,
                });
            } else {
                entry.inputs.push(port);
                let plane = given
                    .next()
                    .ok_or_else(|| format!("no contents for `{name}`"))?;
                let contents = plane.bytes();
                if plane.dtype() != spec.decl.dtype || contents.len() != places.len() * size {
                    return Err(format!(
                        "`{name}` is {:?} {actual:?}, given are {} bytes of {:?}",
                        spec.decl.dtype,
                        contents.len(),
                        plane.dtype()
                    ));
                }
                let mut image = vec![0xff; bytes];
                for (place, element) in places.iter().zip(contents.chunks_exact(size)) {
                    image[*place..place + size].copy_from_slice(element);
                }
                filled.push((name, image));
            }
            views.push(View {
                buffer,
                offset: offset as u64,
                dtype: spec.decl.dtype,
                shape,
                strides: strides.iter().map(|s| *s as u64).collect(),
            });
        }
        if given.next().is_some() {
            return Err("more contents than operands".into());
        }
        let step = Step {
            kernel: KernelId(0),
            label: code.name.clone(),
            operands: views,
        };
        // What adds to its output does so to something: to what it did before.
        let runs = if accumulates(config) { 2 } else { 1 };
        entry.steps.extend(vec![step; runs]);
        program.entries.push(entry);
        program.verify().map_err(|e| e.to_string())?;
        Ok(Self {
            bundle: bundle(program, code)?,
            dims: extents
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value as u64))
                .collect(),
            inputs: filled,
            outputs,
        })
    }

    fn execute(&self, completion: Completion, sms: u32) -> Result<Vec<Plane>, String> {
        let device = SimDevice::with_config(GpuConfig {
            sms,
            global_bytes: 4 << 30,
            completion,
            // Orders that other runs would see otherwise are found by the checkers.
            check: matches!(completion, Completion::Random(_)),
            // A kernel that waits for ever ends as an error.
            instruction_limit: Some(200_000_000),
            ..GpuConfig::default()
        });
        let mut model = Model::load(Box::new(device), self.bundle.clone()).map_err(words)?;
        let inputs: Vec<(&str, &[u8])> = self
            .inputs
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        let names: Vec<&str> = self.outputs.iter().map(|o| o.name.as_str()).collect();
        let mut images = model
            .execute("run", &self.dims, &inputs, &names, 0)
            .map_err(words)?;
        let mut result = Vec::new();
        for (output, image) in self.outputs.iter().zip(&mut images) {
            let size = output.dtype.bytes() as usize;
            let contents: Vec<u8> = output
                .places
                .iter()
                .flat_map(|at| image[*at..at + size].to_vec())
                .collect();
            for at in &output.places {
                image[*at..at + size].fill(0);
            }
            // Memory of the device starts as zeros.
            if let Some(at) = image.iter().position(|b| *b != 0) {
                return Err(format!(
                    "`{}`: byte {at} lies outside of the view and was written",
                    output.name
                ));
            }
            result.push(Plane::of(output.dtype, &contents));
        }
        Ok(result)
    }
}

fn accumulates(config: &KernelConfig) -> bool {
    matches!(
        config,
        KernelConfig::GemmFp8(GemmFp8 {
            epilogue: Epilogue::Accumulate,
            ..
        }) | KernelConfig::GemmBf16(GemmBf16 {
            epilogue: Epilogue::Accumulate,
            ..
        })
    )
}

/// An error with its causes.
fn words(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

fn bundle(program: Program, code: KernelCode) -> Result<Bundle, String> {
    let source = Source {
        module: mcc_ir::Module::default(),
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    };
    let built = Built {
        target: Target::load("h100").map_err(words)?,
        graph: mcc_ir::Module::default(),
        report: None,
        program: Some(program),
        kernels: vec![code],
        assembled: vec![None],
        times: Vec::new(),
    };
    mcc::pack::pack(&source, &built).map_err(words)
}

fn symbolic(extent: &Extent) -> Dim {
    match *extent {
        Extent::Fixed(n) => Dim::Const(n),
        Extent::Free(name) => Dim::sym(name),
        Extent::Times(factor, name) => Dim::Sym {
            factor,
            name: name.into(),
        },
    }
}

/// Element strides that the layout allows, with gaps where it allows gaps.
fn strides(spec: &OperandSpec, largest: &[usize], rng: &mut Rng) -> Vec<usize> {
    let unit = 16 / spec.decl.dtype.bytes() as usize;
    if spec.layout == Layout::Scales {
        let (rows, blocks) = (largest[largest.len() - 2], largest[largest.len() - 1]);
        let block = rows.next_multiple_of(unit) + unit * rng.below(3);
        let groups = (largest.len() == 3).then(|| blocks * block + unit * rng.below(3));
        return groups.into_iter().chain([1, block]).collect();
    }
    let mut strides = vec![1; largest.len()];
    for axis in (0..largest.len().saturating_sub(1)).rev() {
        let inner = strides[axis + 1] * largest[axis + 1];
        strides[axis] = match spec.layout {
            Layout::Dense => inner,
            _ => inner.next_multiple_of(unit) + unit * rng.below(3),
        };
    }
    strides
}

/// Byte offsets of a view's elements in row-major order.
fn places(extents: &[usize], strides: &[usize], offset: usize, size: usize) -> Vec<usize> {
    let mut places = vec![0];
    for (extent, stride) in extents.iter().zip(strides) {
        places = places
            .iter()
            .flat_map(|at| (0..*extent).map(move |i| at + i * stride))
            .collect();
    }
    places.iter().map(|at| offset + at * size).collect()
}

/// Fails unless both have the same bits.
pub fn assert_same(case: &str, what: &str, got: &Plane, want: &Plane) {
    fn differ<T: Copy + Debug, B: PartialEq>(
        case: &str,
        what: &str,
        got: &[T],
        want: &[T],
        bits: impl Fn(T) -> B,
    ) {
        assert_eq!(got.len(), want.len(), "{case}: {what}: lengths");
        let wrong: Vec<usize> = (0..got.len())
            .filter(|&i| bits(got[i]) != bits(want[i]))
            .collect();
        if let Some(&i) = wrong.first() {
            panic!(
                "{case}: {what}: {} of {} elements differ, the first at {i}: got {:?}, want {:?}",
                wrong.len(),
                got.len(),
                got[i],
                want[i]
            );
        }
    }
    match (got, want) {
        (Plane::F32(g), Plane::F32(w)) => differ(case, what, g, w, f32::to_bits),
        (Plane::Bf16(g), Plane::Bf16(w)) => differ(case, what, g, w, |b| b),
        (Plane::E4m3(g), Plane::E4m3(w)) => differ(case, what, g, w, |b| b),
        (Plane::I32(g), Plane::I32(w)) => differ(case, what, g, w, |b| b),
        _ => panic!(
            "{case}: {what}: {:?} is not {:?}",
            got.dtype(),
            want.dtype()
        ),
    }
}

/// Fails unless every value is within its bound; `bound` has the index and the wanted value.
pub fn assert_within(
    case: &str,
    what: &str,
    got: &[f32],
    want: &[f32],
    bound: impl Fn(usize, f64) -> f64,
) {
    assert_eq!(got.len(), want.len(), "{case}: {what}: lengths");
    let mut worst = (0.0, 0);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - f64::from(w)).abs();
        let share = if g.to_bits() == w.to_bits() {
            0.0
        } else {
            error / bound(i, f64::from(w))
        };
        // A NaN is outside of every bound.
        if share.is_nan() || share > worst.0 {
            worst = (if share.is_nan() { f64::INFINITY } else { share }, i);
        }
    }
    let (share, i) = worst;
    assert!(
        share <= 1.0,
        "{case}: {what}: element {i} is {}, expected {}, {share} times the bound away",
        got[i],
        want[i]
    );
}

/// Fails unless BF16 values are equal or neighbours.
///
/// That is the bound for a value that both sides round once to BF16 when the kernel's FP32 error before the
/// rounding is far below half a BF16 unit: both then round numbers that at most one rounding boundary parts.
pub fn assert_neighbours(case: &str, what: &str, got: &Plane, want: &Plane) {
    let (Plane::Bf16(got), Plane::Bf16(want)) = (got, want) else {
        panic!("{case}: {what}: not bf16");
    };
    assert_eq!(got.len(), want.len(), "{case}: {what}: lengths");
    // Sign and magnitude as one line of integers.
    let order = |b: u16| {
        if b & 0x8000 == 0 {
            i32::from(b)
        } else {
            -i32::from(b & 0x7fff)
        }
    };
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let is_nan = bf16_value(g).is_nan();
        assert!(
            !is_nan && (order(g) - order(w)).abs() <= 1,
            "{case}: {what}: element {i} is {}, expected {} or a neighbour",
            bf16_value(g),
            bf16_value(w)
        );
    }
}
