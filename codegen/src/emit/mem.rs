//! Global and shared memory: pointers, loads and stores of scalars and vectors.
//!
//! Offsets are in bytes and 64-bit for global memory, 32-bit for shared memory. A vector access wants its
//! natural alignment; the simulator and the GPU both fault when it is not there.

use melior::ir::Value;

use super::{Element, I32, I64, Kernel, Val};

/// Where a pointer points.
pub trait Space: Copy {
    /// MLIR pointer type.
    const PTR: &'static str;
}

/// Marker: global memory.
#[derive(Clone, Copy)]
pub enum InGlobal {}
/// Marker: shared memory of the block.
#[derive(Clone, Copy)]
pub enum InShared {}

impl Space for InGlobal {
    const PTR: &'static str = "!llvm.ptr<1>";
}
impl Space for InShared {
    const PTR: &'static str = "!llvm.ptr<3>";
}

/// A pointer.
pub struct Ptr<'k, S> {
    k: &'k Kernel,
    pub(crate) raw: Value<'static, 'static>,
    space: std::marker::PhantomData<S>,
}

impl<S> Clone for Ptr<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Ptr<'_, S> {}

/// A pointer to global memory.
pub type Global<'k> = Ptr<'k, InGlobal>;
/// A pointer to shared memory.
pub type Shared<'k> = Ptr<'k, InShared>;

/// Cache behaviour of a load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Plain,
    /// `ld.global.nc`: nobody writes the data while the kernel runs.
    Invariant,
}

impl<'k, S: Space> Ptr<'k, S> {
    pub(crate) fn new(k: &'k Kernel, raw: Value<'static, 'static>) -> Self {
        Self {
            k,
            raw,
            space: std::marker::PhantomData,
        }
    }

    /// The kernel that it belongs to.
    pub(super) fn kernel(self) -> &'k Kernel {
        self.k
    }

    fn gep(self, offset: Value<'static, 'static>) -> Self {
        let k = self.k;
        let raw = k.op1(
            "llvm.getelementptr",
            &[self.raw, offset],
            k.mlir_type(S::PTR),
            &[
                ("rawConstantIndices", k.attr("array<i32: -2147483648>")),
                ("elem_type", k.attr("i8")),
            ],
        );
        Self::new(k, raw)
    }

    fn load_raw<T: Element>(self, lanes: u32, access: Access) -> Vec<Val<'k, T>> {
        let k = self.k;
        let align = k.attr(&format!("{} : i64", T::BYTES * lanes));
        let mut attrs = vec![("alignment", align)];
        if access == Access::Invariant {
            attrs.push(("invariant", k.attr("unit")));
        }
        if lanes == 1 {
            return vec![Val::new(
                k,
                k.op1("llvm.load", &[self.raw], k.mlir_type(T::MLIR), &attrs),
            )];
        }
        let vector = k.mlir_type(&format!("vector<{lanes}x{}>", T::MLIR));
        let v = k.op1("llvm.load", &[self.raw], vector, &attrs);
        (0..lanes)
            .map(|i| {
                let i = k.i32(i);
                Val::new(
                    k,
                    k.op1(
                        "llvm.extractelement",
                        &[v, i.raw],
                        k.mlir_type(T::MLIR),
                        &[],
                    ),
                )
            })
            .collect()
    }

    /// Loads one element.
    pub fn load<T: Element>(self) -> Val<'k, T> {
        self.load_raw(1, Access::Plain)[0]
    }

    /// Loads a vector of `N` elements (`.v2`, `.v4`; at most 16 bytes).
    pub fn load_vec<T: Element, const N: usize>(self) -> [Val<'k, T>; N] {
        debug_assert!(N as u32 * T::BYTES <= 16);
        let v = self.load_raw(N as u32, Access::Plain);
        std::array::from_fn(|i| v[i])
    }

    /// Stores one element.
    pub fn store<T: Element>(self, value: Val<'k, T>) {
        let k = self.k;
        let align = k.attr(&format!("{} : i64", T::BYTES));
        k.op(
            "llvm.store",
            &[value.raw, self.raw],
            &[],
            &[("alignment", align)],
        );
    }

    /// Stores a vector of `N` elements.
    pub fn store_vec<T: Element, const N: usize>(self, values: [Val<'k, T>; N]) {
        let k = self.k;
        let vector = k.mlir_type(&format!("vector<{N}x{}>", T::MLIR));
        let mut v = k.op1("llvm.mlir.poison", &[], vector, &[]);
        for (i, value) in values.iter().enumerate() {
            let i = k.i32(i as i64);
            v = k.op1("llvm.insertelement", &[v, value.raw, i.raw], vector, &[]);
        }
        let align = k.attr(&format!("{} : i64", T::BYTES * N as u32));
        k.op("llvm.store", &[v, self.raw], &[], &[("alignment", align)]);
    }
}

impl<'k> Global<'k> {
    /// The address `offset` bytes further.
    pub fn at(self, offset: Val<'k, I64>) -> Self {
        self.gep(offset.raw)
    }

    /// The address of element `index` of elements of `bytes` bytes; the product is 64-bit.
    pub fn index(self, index: Val<'k, I32>, bytes: u32) -> Self {
        self.at(index.to_i64() * i64::from(bytes))
    }

    /// The address `bytes` further.
    pub fn offset(self, bytes: u32) -> Self {
        self.at(self.k.i64(i64::from(bytes)))
    }

    /// Loads one element of data that nobody writes while the kernel runs (`ld.global.nc`). A launch may begin
    /// while earlier ones run, so that this is for weights and tables only, never for an earlier launch's output.
    pub fn load_nc<T: Element>(self) -> Val<'k, T> {
        self.load_raw(1, Access::Invariant)[0]
    }

    /// Loads a vector of such data.
    pub fn load_vec_nc<T: Element, const N: usize>(self) -> [Val<'k, T>; N] {
        let v = self.load_raw(N as u32, Access::Invariant);
        std::array::from_fn(|i| v[i])
    }
}

impl<'k> Shared<'k> {
    /// The address `offset` bytes further.
    pub fn at(self, offset: Val<'k, I32>) -> Self {
        self.gep(offset.raw)
    }

    /// The address `bytes` further.
    pub fn offset(self, bytes: u32) -> Self {
        self.at(self.k.i32(bytes))
    }

    /// The 32-bit shared address, for inline PTX and matrix descriptors.
    pub fn address(self) -> Val<'k, I32> {
        let k = self.k;
        Val::new(
            k,
            k.op1("llvm.ptrtoint", &[self.raw], k.mlir_type("i32"), &[]),
        )
    }
}
