//! One kernel as a bundle, to run it on the simulated device without a model around it.
//!
//! In: a kernel config whose operands' extents are fixed but for one, and the contents of what it reads. Out: the
//! contents of what it writes. Views are without gaps, but for the padding that TMA asks of scales.

use mcc_bundle::{Bundle, TokenizerInfo};
use mcc_codegen::{Codegen, KernelCode};
use mcc_ir::kernel::{Extent, KernelConfig, OperandSpec};
use mcc_ir::module::DimDecl;
use mcc_ir::program::{
    Buffer, BufferId, BufferKind, Entry, Kernel, KernelId, Port, Program, Step, View,
};
use mcc_ir::types::{DType, Dim, Type};
use mcc_passes::target::Target;
use mcc_runtime::{DeviceOptions, Model, SimDevice};

use crate::error::Error;
use crate::pack::pack;
use crate::source::Source;
use crate::stages::Built;

/// Name of the entry.
const ENTRY: &str = "run";

/// Compiles and runs one kernel on the simulated device.
///
/// `extents` gives the open extents. Contents are the operands' elements in row-major order, those of scales in the
/// order of their axes too.
///
/// # Errors
/// [`Error::Codegen`] for a config that no kernel does, [`Error::Runtime`] when the run fails.
pub fn run(
    codegen: &Codegen,
    config: &KernelConfig,
    extents: &[(&'static str, u64)],
    inputs: &[&[u8]],
) -> Result<Vec<Vec<u8>>, Error> {
    let kernel = Kernel {
        name: config.name(),
        config: config.clone(),
    };
    let code = codegen.compile(&kernel)?;
    let operands: Vec<Operand> = config
        .operand_specs()
        .into_iter()
        .map(|spec| Operand::new(spec, extents))
        .collect();
    let mut given = inputs.iter();
    let images: Vec<(String, Vec<u8>)> = operands
        .iter()
        .filter(|o| !o.spec.decl.written)
        .zip(given.by_ref())
        .map(|(o, contents)| (o.spec.decl.name.to_owned(), o.image(contents)))
        .collect();
    let bundle = bundle(program(kernel, &operands, extents), code)?;
    let mut model = Model::load(Box::new(SimDevice::new(&DeviceOptions::default())), bundle)?;
    let dims = extents
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    let inputs: Vec<(&str, &[u8])> = images
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let written: Vec<&Operand> = operands.iter().filter(|o| o.spec.decl.written).collect();
    let names: Vec<&str> = written.iter().map(|o| o.spec.decl.name).collect();
    let images = model.execute(ENTRY, &dims, &inputs, &names, 0)?;
    Ok(written
        .iter()
        .zip(images)
        .map(|(o, image)| o.contents(&image))
        .collect())
}

/// An operand with its extents and strides as numbers.
struct Operand {
    spec: OperandSpec,
    extents: Vec<usize>,
    strides: Vec<usize>,
}

impl Operand {
    fn new(spec: OperandSpec, known: &[(&'static str, u64)]) -> Self {
        let value = |name: &str| {
            known
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(0, |(_, v)| *v)
        };
        let extents = spec.extents_with(value);
        let strides = spec.tight_strides(&extents);
        let usizes = |of: Vec<u64>| of.into_iter().map(|n| n as usize).collect();
        Self {
            spec,
            extents: usizes(extents),
            strides: usizes(strides),
        }
    }

    fn element_bytes(&self) -> usize {
        self.spec.decl.dtype.bytes() as usize
    }

    fn bytes(&self) -> usize {
        let last: usize = self
            .strides
            .iter()
            .zip(&self.extents)
            .map(|(s, n)| s * n.saturating_sub(1))
            .sum();
        ((last + 1) * self.element_bytes()).next_multiple_of(256)
    }

    /// Byte offset of each element, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![0];
        for (extent, stride) in self.extents.iter().zip(&self.strides) {
            places = places
                .iter()
                .flat_map(|at| (0..*extent).map(move |i| at + i * stride))
                .collect();
        }
        let size = self.element_bytes();
        places.iter().map(|at| at * size).collect()
    }

    fn image(&self, contents: &[u8]) -> Vec<u8> {
        let size = self.element_bytes();
        let mut image = vec![0; self.bytes()];
        for (at, element) in self.places().iter().zip(contents.chunks_exact(size)) {
            image[*at..at + size].copy_from_slice(element);
        }
        image
    }

    fn contents(&self, image: &[u8]) -> Vec<u8> {
        let size = self.element_bytes();
        self.places()
            .iter()
            .flat_map(|at| image[*at..at + size].iter().copied())
            .collect()
    }

    fn view(&self, buffer: BufferId) -> View {
        let dim = |extent: &Extent| match *extent {
            Extent::Fixed(n) => Dim::Const(n),
            Extent::Free(name) => Dim::sym(name),
            Extent::Times(factor, name) => Dim::Sym {
                factor,
                name: name.into(),
            },
        };
        View {
            buffer,
            offset: 0,
            dtype: self.spec.decl.dtype,
            shape: self.spec.extents.iter().map(dim).collect(),
            strides: self.strides.iter().map(|s| *s as u64).collect(),
        }
    }
}

/// One entry of one launch, with a port for each operand.
fn program(kernel: Kernel, operands: &[Operand], extents: &[(&'static str, u64)]) -> Program {
    let mut entry = Entry {
        name: ENTRY.into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        steps: vec![Step {
            kernel: KernelId(0),
            label: kernel.name.clone(),
            operands: Vec::new(),
        }],
    };
    let mut buffers = Vec::new();
    for operand in operands {
        let buffer = BufferId(buffers.len() as u32);
        let (name, bytes) = (operand.spec.decl.name.to_owned(), operand.bytes() as u64);
        let port = Port {
            name: name.clone(),
            ty: Type::new(DType::I32, [bytes / 4]),
            buffer,
        };
        let kind = if operand.spec.decl.written {
            entry.outputs.push(port);
            BufferKind::Output
        } else {
            entry.inputs.push(port);
            BufferKind::Input
        };
        buffers.push(Buffer { name, kind, bytes });
        entry.steps[0].operands.push(operand.view(buffer));
    }
    let dims = extents.iter().map(|(name, value)| DimDecl {
        name: (*name).into(),
        min: 1,
        max: *value,
    });
    Program {
        model: "one-kernel".into(),
        target: "h100".into(),
        dims: dims.collect(),
        buffers,
        mesh: None,
        arena_bytes: 0,
        params: Vec::new(),
        kernels: vec![kernel],
        entries: vec![entry],
    }
}

fn bundle(program: Program, code: KernelCode) -> Result<Bundle, Error> {
    program
        .verify()
        .map_err(|e| Error::Manifest(e.to_string()))?;
    let source = Source {
        module: mcc_ir::Module::default(),
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    };
    let built = Built {
        target: Target::load("h100")?,
        graph: mcc_ir::Module::default(),
        report: None,
        program: Some(program),
        kernels: vec![code],
        assembled: vec![None],
        times: Vec::new(),
    };
    pack(&source, &built)
}
