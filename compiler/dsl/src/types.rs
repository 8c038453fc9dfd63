//! Short spellings for types, `bf16((&t, 256))`, and for recipes over checkpoint tensors,
//! `stack([..])`.

use mcc_ir::{DType, Dim, ParamSource, ScaleBlock, Type};

/// A shape: a tuple of up to four dims, named (`&t`, `"T"`) or constant (`256`), or a list of dims.
pub trait IntoShape {
    /// The dims, outermost first.
    fn into_shape(self) -> Vec<Dim>;
}

impl IntoShape for Vec<Dim> {
    fn into_shape(self) -> Vec<Dim> {
        self
    }
}

impl IntoShape for &[Dim] {
    fn into_shape(self) -> Vec<Dim> {
        self.to_vec()
    }
}

macro_rules! tuple_shapes {
    ($(($($dim:ident)+))*) => {$(
        impl<$($dim: Into<Dim>),+> IntoShape for ($($dim,)+) {
            #[expect(non_snake_case, reason = "the type parameters double as variable names")]
            fn into_shape(self) -> Vec<Dim> {
                let ($($dim,)+) = self;
                vec![$($dim.into()),+]
            }
        }
    )*};
}

tuple_shapes! { (A) (A B) (A B C) (A B C D) }

/// BF16 values.
pub fn bf16(shape: impl IntoShape) -> Type {
    Type::new(DType::BF16, shape.into_shape())
}

/// FP32 values.
pub fn f32(shape: impl IntoShape) -> Type {
    Type::new(DType::F32, shape.into_shape())
}

/// 32-bit integers: tokens, positions, row numbers.
pub fn i32(shape: impl IntoShape) -> Type {
    Type::new(DType::I32, shape.into_shape())
}

/// E4M3 with one scale for 128 channels of a row.
pub fn fp8_activation(shape: impl IntoShape) -> Type {
    Type::scaled(shape.into_shape(), ScaleBlock::ACTIVATION)
}

/// E4M3 with one scale for a 128x128 block of the last two axes.
pub fn fp8_weight(shape: impl IntoShape) -> Type {
    Type::scaled(shape.into_shape(), ScaleBlock::WEIGHT)
}

/// A checkpoint tensor as stored; for an FP8 type its codes, with scales from `<name>_scale_inv`.
pub fn tensor(name: impl Into<String>) -> ParamSource {
    ParamSource::Tensor(name.into())
}

/// Matrices below each other: `[N1 + N2 + .., K]`.
pub fn concat_rows(parts: impl IntoIterator<Item = ParamSource>) -> ParamSource {
    ParamSource::Concat(parts.into_iter().collect())
}

/// Matrices along a new leading axis, such as that of the experts.
pub fn stack(parts: impl IntoIterator<Item = ParamSource>) -> ParamSource {
    ParamSource::Stack(parts.into_iter().collect())
}

/// FP8 widened to BF16 with its scales.
pub fn dequant(source: ParamSource) -> ParamSource {
    ParamSource::Dequant(Box::new(source))
}
