//! The kernel builder: a thin typed layer over MLIR in which kernel families are written.
//!
//! In: calls that read like the kernel. Out: one `llvm.func` of `arith`, `scf`, `llvm` and `nvvm` ops.
//! [`Kernel`] owns the position in the function; [`Val`] is an SSA value that knows its kernel and its
//! element type, so that `a * 4 + b` emits ops. What MLIR's dialects lack is inline PTX, all of it in
//! [`asm`]. Mutable state is a [`Var`], a stack slot that LLVM turns into registers.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | [`Kernel`]: values, control flow |
//! | `val.rs` | [`Val`], its operators, conversions between element types |
//! | `mem.rs` | global and shared memory: pointers, vector loads and stores |
//! | `asm.rs` | inline PTX, each with its PTX ISA section |
//! | `bulk.rs` | tensor copies: loads, multicast, stores |
//! | `cluster.rs` | the other blocks of a cluster |
//! | `fragment.rs` | `stmatrix`, barriers of some of a block's threads |
//! | `system.rs` | memory that other GPUs see, waits for other ranks, NVSHMEM's puts |
//! | `wgmma.rs` | warpgroup matrix products and their operand descriptors |
//! | `pipeline.rs` | shared-memory map, barriers, the ring of TMA stages |
//! | `wait.rs` | waits for barriers, with a time limit |
//! | `warp.rs` | reductions over lanes |

pub mod asm;
pub mod bulk;
pub mod cluster;
pub mod fragment;
pub mod mem;
pub mod pipeline;
pub mod system;
mod val;
pub mod wait;
pub mod warp;
pub mod wgmma;

use std::cell::Cell;
use std::mem::transmute;

use melior::Context;
use melior::ir::attribute::StringAttribute;
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationLike, OperationMutLike, OperationRef};
use melior::ir::{
    Attribute, Block, BlockRef, Identifier, Location, Module, Region, RegionLike, Type, Value,
};

pub use mem::{Global, Shared};
pub use val::{B1, Element, F32, I16, I32, I64, Val, Var};
use wait::STATUS_SYMBOL;

use crate::error::CodegenError;
use mcc_ir::program::Param;

/// The name of the dynamic shared memory symbol.
const SMEM: &str = "smem";

/// What a kernel function looks like from outside.
#[derive(Clone, Debug)]
pub struct Signature<'a> {
    /// PTX entry name.
    pub name: &'a str,
    /// Threads a block; `.maxntid`.
    pub threads: u32,
    /// Parameters, in order; their kinds give the argument types.
    pub params: &'a [Param],
}

/// A kernel under construction.
///
/// Lifetimes of melior's handles are erased here: all of them point into the MLIR context and module of
/// one call of [`build`], which outlives the `Kernel`, and none can leave it (a `Val` borrows the `Kernel`).
pub struct Kernel {
    ctx: &'static Context,
    loc: Location<'static>,
    /// Where the next op goes: the end of this block.
    block: Cell<BlockRef<'static, 'static>>,
    /// Stack slots go to the top of the entry block, behind this op.
    slots: OperationRef<'static, 'static>,
    /// Slot count operand of `llvm.alloca`.
    one: Value<'static, 'static>,
    args: Vec<Value<'static, 'static>>,
    name: String,
    /// Whether something refers to the status global.
    uses_status: Cell<bool>,
    /// Which of [`system::NVSHMEM`] are called.
    uses_nvshmem: Cell<[bool; system::NVSHMEM.len()]>,
}

/// Builds a module of one kernel: `body` is called once, at the function's entry.
///
/// # Errors
/// [`CodegenError::Bug`] when MLIR's verifier rejects the result.
pub fn build<'c>(
    ctx: &'c Context,
    signature: &Signature<'_>,
    body: impl FnOnce(&Kernel),
) -> Result<Module<'c>, CodegenError> {
    let bug = |stage, detail| CodegenError::Bug {
        kernel: signature.name.to_owned(),
        stage,
        detail,
    };
    let module = Module::parse(ctx, &skeleton(signature))
        .ok_or_else(|| bug("parsing of its skeleton", skeleton(signature)))?;
    {
        let function = find_function(&module).ok_or_else(|| bug("lookup", String::new()))?;
        let region = function
            .region(0)
            .map_err(|e| bug("lookup", e.to_string()))?;
        let entry = region
            .first_block()
            .ok_or_else(|| bug("lookup", String::new()))?;
        let mut ret = entry
            .terminator_mut()
            .ok_or_else(|| bug("lookup", "no terminator".to_owned()))?;
        ret.remove_from_parent();
        // SAFETY: `ctx` and `module` outlive `kernel`, which does not leave this block.
        let kernel = unsafe {
            let ctx: &'static Context = transmute::<&Context, &'static Context>(ctx);
            let entry: BlockRef<'static, 'static> = transmute(entry);
            let loc = Location::name(ctx, signature.name, Location::unknown(ctx));
            let one = OperationBuilder::new("llvm.mlir.constant", loc)
                .add_results(&[Type::parse(ctx, "i32").expect("i32")])
                .add_attributes(&[(
                    Identifier::new(ctx, "value"),
                    Attribute::parse(ctx, "1 : i32").expect("constant"),
                )])
                .build()
                .map_err(|e| bug("construction", e.to_string()))?;
            let slots: OperationRef<'static, 'static> = transmute(entry.append_operation(one));
            let args = (0..entry.argument_count())
                .map(|i| {
                    transmute::<Value<'_, '_>, Value<'static, 'static>>(
                        entry.argument(i).expect("argument").into(),
                    )
                })
                .collect();
            Kernel {
                ctx,
                loc,
                block: Cell::new(entry),
                slots,
                one: transmute::<Value<'_, '_>, Value<'static, 'static>>(
                    slots.result(0).expect("result").into(),
                ),
                args,
                name: signature.name.to_owned(),
                uses_status: Cell::new(false),
                uses_nvshmem: Cell::default(),
            }
        };
        body(&kernel);
        kernel.op("llvm.return", &[], &[], &[]);
        if !kernel.uses_status.get() {
            remove_symbol(&module, STATUS_SYMBOL);
        }
        for ((name, _), used) in system::NVSHMEM.iter().zip(kernel.uses_nvshmem.get()) {
            if !used {
                remove_symbol(&module, name);
            }
        }
    }
    let mut diagnostics = String::new();
    let id = ctx.attach_diagnostic_handler(|d| {
        diagnostics.push_str(&d.to_string());
        diagnostics.push('\n');
        true
    });
    let ok = module.as_operation().verify();
    ctx.detach_diagnostic_handler(id);
    if ok {
        Ok(module)
    } else {
        Err(bug("MLIR's verifier", diagnostics))
    }
}

/// The module text into which the body is built. `minctasm` makes ptxas honour `setmaxnreg`.
fn skeleton(s: &Signature<'_>) -> String {
    let args: Vec<String> = s
        .params
        .iter()
        .enumerate()
        .map(|(i, p)| match p {
            Param::TensorMap { .. } => format!(
                "%a{i}: !llvm.ptr {{llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant, llvm.align = 64 : i64}}"
            ),
            Param::Pointer { .. } => format!("%a{i}: !llvm.ptr<1>"),
            Param::Extent { .. } | Param::Stride { .. } => format!("%a{i}: i32"),
        })
        .collect();
    let declared: String = system::NVSHMEM
        .iter()
        .map(|(name, operands)| {
            format!("  llvm.func @{name}{operands} attributes {{convergent}}\n")
        })
        .collect();
    format!(
        "module {{\n{declared}  llvm.mlir.global external @{STATUS_SYMBOL}(0 : i64) {{addr_space = 1 : i32, alignment = 8 : i64}} : i64\n  \
         llvm.mlir.global external @{SMEM}() {{addr_space = 3 : i32, alignment = 1024 : i64}} : !llvm.array<0 x i8>\n  \
         llvm.func @{name}({args}) attributes {{nvvm.kernel, nvvm.maxntid = array<i32: {threads}, 1, 1>, nvvm.minctasm = 1 : i32}} {{\n    llvm.return\n  }}\n}}\n",
        name = s.name,
        args = args.join(", "),
        threads = s.threads,
    )
}

fn find_function<'c, 'a>(module: &'a Module<'c>) -> Option<OperationRef<'c, 'a>> {
    let mut op = module.body().first_operation();
    while let Some(o) = op {
        // Declarations of what the kernel may call come first; they have no block.
        let is_body =
            |o: &OperationRef<'_, '_>| o.region(0).is_ok_and(|r| r.first_block().is_some());
        if o.name().as_string_ref().as_str() == Ok("llvm.func") && is_body(&o) {
            return Some(o);
        }
        op = o.next_in_block();
    }
    None
}

/// Removes a global variable or a declaration that nothing refers to.
fn remove_symbol(module: &Module<'_>, symbol: &str) {
    let body = module.body();
    let mut op = body.first_operation_mut();
    while let Some(mut o) = op {
        let named = o
            .attribute("sym_name")
            .and_then(StringAttribute::try_from)
            .is_ok_and(|name| name.value() == symbol);
        if named {
            o.remove_from_parent();
            return;
        }
        op = o.next_in_block_mut();
    }
}

impl Kernel {
    /// The PTX entry's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn mlir_type(&self, text: &str) -> Type<'static> {
        Type::parse(self.ctx, text)
            .unwrap_or_else(|| unreachable!("builder wrote a bad MLIR type: {text}"))
    }

    pub(crate) fn attr(&self, text: &str) -> Attribute<'static> {
        Attribute::parse(self.ctx, text)
            .unwrap_or_else(|| unreachable!("builder wrote a bad MLIR attribute: {text}"))
    }

    pub(crate) fn string_attr(&self, text: &str) -> Attribute<'static> {
        StringAttribute::new(self.ctx, text).into()
    }

    /// Appends an op of any registered dialect; MLIR's verifier checks it when the kernel is complete.
    pub(crate) fn op(
        &self,
        name: &str,
        operands: &[Value<'static, 'static>],
        results: &[Type<'static>],
        attrs: &[(&str, Attribute<'static>)],
    ) -> OperationRef<'static, 'static> {
        self.op_with_regions(name, operands, results, attrs, Vec::new())
    }

    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Value<'static, 'static>],
        results: &[Type<'static>],
        attrs: &[(&str, Attribute<'static>)],
        regions: Vec<Region<'static>>,
    ) -> OperationRef<'static, 'static> {
        let attrs: Vec<_> = attrs
            .iter()
            .map(|(n, a)| (Identifier::new(self.ctx, n), *a))
            .collect();
        let op = OperationBuilder::new(name, self.loc)
            .add_operands(operands)
            .add_results(results)
            .add_attributes(&attrs)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|e| unreachable!("builder wrote a bad MLIR op {name}: {e}"));
        // SAFETY: the op belongs to the module under construction, which outlives `self`.
        unsafe { transmute(self.block.get().append_operation(op)) }
    }

    /// Appends an op with one result.
    pub(crate) fn op1(
        &self,
        name: &str,
        operands: &[Value<'static, 'static>],
        result: Type<'static>,
        attrs: &[(&str, Attribute<'static>)],
    ) -> Value<'static, 'static> {
        let op = self.op(name, operands, &[result], attrs);
        // SAFETY: as in `op_with_regions`.
        unsafe {
            transmute::<Value<'_, '_>, Value<'static, 'static>>(
                op.result(0).expect("one result").into(),
            )
        }
    }

    /// Fills a new block with what `body` emits.
    fn region(
        &self,
        arguments: &[Type<'static>],
        body: impl FnOnce(&[Value<'static, 'static>]),
    ) -> Region<'static> {
        let region = Region::new();
        let args: Vec<_> = arguments.iter().map(|t| (*t, self.loc)).collect();
        let block = region.append_block(Block::new(&args));
        // SAFETY: the region is handed to an op of this kernel's module right after.
        let (block, values) = unsafe {
            let block: BlockRef<'static, 'static> = transmute(block);
            let values: Vec<Value<'static, 'static>> = (0..arguments.len())
                .map(|i| {
                    transmute::<Value<'_, '_>, Value<'static, 'static>>(
                        block.argument(i).expect("argument").into(),
                    )
                })
                .collect();
            (block, values)
        };
        let outer = self.block.replace(block);
        body(&values);
        self.block.set(outer);
        region
    }

    /// `if cond { then() }`.
    pub fn if_(&self, cond: Val<'_, B1>, then: impl FnOnce()) {
        let then = self.region(&[], |_| {
            then();
            self.op("scf.yield", &[], &[], &[]);
        });
        self.op_with_regions("scf.if", &[cond.raw], &[], &[], vec![then, Region::new()]);
    }

    /// `if cond { then() } else { other() }`.
    pub fn if_else(&self, cond: Val<'_, B1>, then: impl FnOnce(), other: impl FnOnce()) {
        let regions = [
            self.region(&[], |_| {
                then();
                self.op("scf.yield", &[], &[], &[]);
            }),
            self.region(&[], |_| {
                other();
                self.op("scf.yield", &[], &[], &[]);
            }),
        ];
        self.op_with_regions("scf.if", &[cond.raw], &[], &[], regions.into());
    }

    /// `for i in (from..to).step_by(step) { body(i) }`, signed 32-bit.
    pub fn for_<'k>(
        &'k self,
        from: impl Into<Index<'k>>,
        to: impl Into<Index<'k>>,
        step: impl Into<Index<'k>>,
        body: impl FnOnce(Val<'k, I32>),
    ) {
        let (from, to, step) = (
            from.into().value(self),
            to.into().value(self),
            step.into().value(self),
        );
        let region = self.region(&[self.mlir_type("i32")], |args| {
            body(Val::new(self, args[0]));
            self.op("scf.yield", &[], &[], &[]);
        });
        self.op_with_regions(
            "scf.for",
            &[from.raw, to.raw, step.raw],
            &[],
            &[],
            vec![region],
        );
    }

    /// `while cond() { body() }`.
    pub fn while_<'k>(&'k self, cond: impl FnOnce() -> Val<'k, B1>, body: impl FnOnce()) {
        let before = self.region(&[], |_| {
            let c = cond();
            self.op("scf.condition", &[c.raw], &[], &[]);
        });
        let after = self.region(&[], |_| {
            body();
            self.op("scf.yield", &[], &[], &[]);
        });
        self.op_with_regions("scf.while", &[], &[], &[], vec![before, after]);
    }

    /// A mutable variable; LLVM turns it into registers.
    pub fn var<'k, T: Element>(&'k self, init: Val<'k, T>) -> Var<'k, T> {
        let op = OperationBuilder::new("llvm.alloca", self.loc)
            .add_operands(&[self.one])
            .add_results(&[self.mlir_type("!llvm.ptr")])
            .add_attributes(&[(Identifier::new(self.ctx, "elem_type"), self.attr(T::MLIR))])
            .build()
            .unwrap_or_else(|e| unreachable!("bad alloca: {e}"));
        let parent = self.slots.block().expect("entry block");
        // SAFETY: as in `op_with_regions`.
        let slot: OperationRef<'static, 'static> =
            unsafe { transmute(parent.insert_operation_after(self.slots, op)) };
        let raw = unsafe {
            transmute::<Value<'_, '_>, Value<'static, 'static>>(
                slot.result(0).expect("one result").into(),
            )
        };
        let var = Var::new(self, raw);
        var.set(init);
        var
    }

    /// `n` variables with one initial value.
    pub fn vars<'k, T: Element>(&'k self, n: usize, init: Val<'k, T>) -> Vec<Var<'k, T>> {
        (0..n).map(|_| self.var(init)).collect()
    }

    /// A 32-bit integer constant.
    pub fn i32(&self, value: impl Into<i64>) -> Val<'_, I32> {
        // Bit patterns such as 0xffff_ffff are welcome; the attribute wants them signed.
        let bits = value.into() as u32 as i32;
        Val::new(
            self,
            self.op1(
                "arith.constant",
                &[],
                self.mlir_type("i32"),
                &[("value", self.attr(&format!("{bits} : i32")))],
            ),
        )
    }

    /// A 64-bit integer constant.
    pub fn i64(&self, value: i64) -> Val<'_, I64> {
        Val::new(
            self,
            self.op1(
                "arith.constant",
                &[],
                self.mlir_type("i64"),
                &[("value", self.attr(&format!("{value} : i64")))],
            ),
        )
    }

    /// A 32-bit float constant, by its bits.
    pub fn f32(&self, value: f32) -> Val<'_, F32> {
        let attr = format!("0x{:08X} : f32", value.to_bits());
        Val::new(
            self,
            self.op1(
                "arith.constant",
                &[],
                self.mlir_type("f32"),
                &[("value", self.attr(&attr))],
            ),
        )
    }

    /// A predicate constant.
    pub fn bool(&self, value: bool) -> Val<'_, B1> {
        Val::new(
            self,
            self.op1(
                "arith.constant",
                &[],
                self.mlir_type("i1"),
                &[("value", self.attr(&format!("{value}")))],
            ),
        )
    }

    fn sreg(&self, name: &str) -> Val<'_, I32> {
        Val::new(
            self,
            self.op1(
                &format!("nvvm.read.ptx.sreg.{name}"),
                &[],
                self.mlir_type("i32"),
                &[],
            ),
        )
    }

    /// `%tid.x`.
    pub fn tid(&self) -> Val<'_, I32> {
        self.sreg("tid.x")
    }

    /// `%ctaid.x`.
    pub fn block_x(&self) -> Val<'_, I32> {
        self.sreg("ctaid.x")
    }

    /// `%ctaid.y`.
    pub fn block_y(&self) -> Val<'_, I32> {
        self.sreg("ctaid.y")
    }

    /// `%nctaid.x`.
    pub fn grid_x(&self) -> Val<'_, I32> {
        self.sreg("nctaid.x")
    }

    /// `%laneid`.
    pub fn lane(&self) -> Val<'_, I32> {
        self.sreg("laneid")
    }

    /// An integer parameter (extent or stride).
    pub fn arg_i32(&self, index: usize) -> Val<'_, I32> {
        Val::new(self, self.args[index])
    }

    /// A device pointer parameter.
    pub fn arg_global(&self, index: usize) -> Global<'_> {
        Global::new(self, self.args[index])
    }

    /// The generic address of a tensor map parameter, for [`asm`].
    pub fn arg_tensor_map(&self, index: usize) -> TensorMapArg<'_> {
        TensorMapArg {
            _kernel: self,
            raw: self.args[index],
        }
    }

    /// Dynamic shared memory, 1024-byte aligned.
    pub fn smem(&self) -> Shared<'_> {
        let raw = self.op1(
            "llvm.mlir.addressof",
            &[],
            self.mlir_type("!llvm.ptr<3>"),
            &[("global_name", self.attr(&format!("@{SMEM}")))],
        );
        Shared::new(self, raw)
    }

    /// `bar.sync 0`: all threads of the block. PTX ISA 9.7.13.1.
    pub fn sync_threads(&self) {
        self.op("nvvm.barrier0", &[], &[], &[]);
    }
}

/// A tensor map parameter.
#[derive(Clone, Copy)]
pub struct TensorMapArg<'k> {
    _kernel: &'k Kernel,
    pub(crate) raw: Value<'static, 'static>,
}

/// A loop bound or step: a value or a constant.
pub enum Index<'k> {
    /// Known when the kernel is built.
    Const(i32),
    /// Known when it runs.
    Val(Val<'k, I32>),
}

impl<'k> Index<'k> {
    fn value(self, k: &'k Kernel) -> Val<'k, I32> {
        match self {
            Self::Const(c) => k.i32(c),
            Self::Val(v) => v,
        }
    }
}

impl From<i32> for Index<'_> {
    fn from(value: i32) -> Self {
        Self::Const(value)
    }
}

impl From<u32> for Index<'_> {
    fn from(value: u32) -> Self {
        Self::Const(value.cast_signed())
    }
}

impl<'k> From<Val<'k, I32>> for Index<'k> {
    fn from(value: Val<'k, I32>) -> Self {
        Self::Val(value)
    }
}
