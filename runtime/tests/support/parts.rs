//! Parts of manifests that tests write by hand: each has what its test does not care about filled in.

#![allow(dead_code, reason = "each test uses some of the parts")]

use mcc_bundle::{
    Buffer, BufferId, BufferKind, DType, Dim, DimDecl, Expr, Hardware, Kernel, LaunchSpec, Operand,
    Param, Port, Target, Type, View, Work,
};

/// A named dim.
pub fn sym(name: &str) -> Dim {
    Dim::Sym {
        factor: 1,
        name: name.to_owned(),
    }
}

/// A dim from 1 up to `max`.
pub fn dim(name: &str, max: u64) -> DimDecl {
    DimDecl {
        name: name.to_owned(),
        min: 1,
        max,
    }
}

/// A kernel with a grid along x; operands are name, type, axes, and whether they are written.
pub fn kernel(
    name: &str,
    operands: &[(&str, DType, usize, bool)],
    grid: Expr,
    block: u32,
    params: Vec<Param>,
) -> Kernel {
    Kernel {
        name: name.to_owned(),
        family: "test".to_owned(),
        config: serde_json::Value::Null,
        operands: operands
            .iter()
            .map(|&(name, dtype, rank, written)| Operand {
                name: name.to_owned(),
                dtype,
                rank,
                written,
            })
            .collect(),
        launch: LaunchSpec {
            grid: [grid, Expr::Const(1), Expr::Const(1)],
            block,
            cluster: [1, 1, 1],
            smem_bytes: 0,
            params,
            programmatic: false,
            work: Work::default(),
        },
        resources: None,
        ptx_sha256: String::new(),
        cubin_sha256: None,
    }
}

pub fn buffer(name: &str, kind: BufferKind, bytes: u64) -> Buffer {
    Buffer {
        name: name.to_owned(),
        kind,
        bytes,
    }
}

/// A view from the start of a buffer.
pub fn view(id: u32, dtype: DType, shape: &[Dim], strides: &[u64]) -> View {
    View {
        buffer: BufferId(id),
        offset: 0,
        dtype,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
    }
}

/// A plain tensor type.
pub fn plain(dtype: DType, shape: &[Dim]) -> Type {
    Type {
        dtype,
        shape: shape.to_vec(),
        scale: None,
    }
}

pub fn port(name: &str, dtype: DType, shape: &[Dim], id: u32) -> Port {
    Port {
        name: name.to_owned(),
        ty: plain(dtype, shape),
        buffer: BufferId(id),
    }
}

/// Inputs of a text model, which are the first buffers in this order.
pub const TEXT_INPUTS: [&str; 6] = [
    "tokens",
    "positions",
    "rows",
    "temperature",
    "top_p",
    "uniform",
];

/// Their ports: integers, then floats; one a token, then one a row.
pub fn text_inputs() -> Vec<Port> {
    TEXT_INPUTS
        .iter()
        .zip(0..)
        .map(|(name, id)| {
            let dtype = if id < 3 { DType::I32 } else { DType::F32 };
            port(name, dtype, &[sym(if id < 2 { "T" } else { "R" })], id)
        })
        .collect()
}

pub fn target() -> Target {
    Target {
        name: "h800".to_owned(),
        arch: "sm_90a".to_owned(),
        sms: 132,
        ptx_isa: "8.0".to_owned(),
        hardware: Hardware::default(),
    }
}
