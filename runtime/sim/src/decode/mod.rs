//! From a parsed PTX module to kernels that the interpreter runs.
//!
//! In: [`mcc_ptx::Module`] and the addresses of its global variables. Out: one
//! [`Kernel`] for every entry with a body. Functions are inlined at their
//! calls; parameters, shared and local variables have offsets; registers have
//! rows ([`slots`]); branches know where they meet ([`cfg`]).
//!
//! Whatever the simulator does not run is refused here, by name and line,
//! before anything is launched.

mod arith;
mod carry;
mod cfg;
mod control;
mod float;
mod memory;
mod mma;
mod moves;
mod nvshmem;
mod operands;
mod slots;
mod sync;
mod tensor_map;

use std::collections::{HashMap, HashSet};

use mcc_ptx::{
    Directive, Function, FunctionKind, Item, ItemId, Module, Op as PtxOp, Reg, Space as PtxSpace,
    Stmt, Variable,
};

use crate::check::Touch;
use crate::error::SimError;
use crate::isa::{Inst, Kernel, Op, PSrc, ParamSlot, R, Row32, Row64};
use crate::memory::SHARED_START;
use operands::Frame;
use slots::Files;

/// Instructions of a kernel with all its calls inlined. Chains of functions that
/// each call the next one twice grow without bound.
const MAX_CODE: usize = 1 << 20;

/// Why one instruction cannot be decoded.
pub(crate) enum Refusal {
    Unsupported(String),
    Invalid(String),
}

pub(crate) type Decoded<T> = Result<T, Refusal>;

pub(crate) fn unsupported<T>(what: impl Into<String>) -> Decoded<T> {
    Err(Refusal::Unsupported(what.into()))
}

pub(crate) fn invalid<T>(what: impl Into<String>) -> Decoded<T> {
    Err(Refusal::Invalid(what.into()))
}

/// Bytes that a kernel may declare: of parameters (PTX ISA 8.1 and later), of
/// static shared memory, far above the 48 KiB of the device, and of a thread's
/// local memory.
const MOST_PARAM: u64 = 32_764;
const MOST_SHARED: u64 = 1 << 24;
const MOST_LOCAL: u64 = 512 << 10;

/// The first place from `end` on with this alignment, when the bytes fit there.
fn place(end: u64, bytes: u64, align: u64) -> Option<u64> {
    let at = end.checked_next_multiple_of(align.max(1))?;
    at.checked_add(bytes)?;
    Some(at)
}

/// Decodes every kernel. `addresses` has the device address of each global or
/// constant variable of the module.
pub(crate) fn kernels(
    module: &Module,
    addresses: &HashMap<ItemId, u64>,
) -> Result<Vec<Kernel>, SimError> {
    let entries = module
        .functions()
        .filter(|f| f.kind == FunctionKind::Entry && f.body.is_some());
    entries.map(|f| kernel(module, addresses, f)).collect()
}

fn kernel(
    module: &Module,
    addresses: &HashMap<ItemId, u64>,
    entry: &Function,
) -> Result<Kernel, SimError> {
    let mut d = Decoder {
        module,
        addresses,
        kernel: Kernel {
            name: entry.name.clone(),
            ..Kernel::default()
        },
        shared: HashMap::new(),
        consts32: HashMap::new(),
        consts64: HashMap::new(),
        files: Files::default(),
        local_top: 0,
        line: 0,
        guard: PSrc::TRUE,
        calls: Vec::new(),
        inlined: 0,
    };
    d.layout_params(entry)?;
    d.layout_shared(entry)?;
    d.directives(entry);
    d.function(entry, None)?;
    // Falling off the end is a return.
    d.guard = PSrc::TRUE;
    d.push(Op::Exit);
    let mut k = d.kernel;
    if d.files.r32 > 0x7fff || d.files.r64 > 0x7fff || d.files.preds > 0x7fff {
        return Err(SimError::BadPtx {
            message: format!("kernel `{}` has too many live registers", k.name),
        });
    }
    (k.rows32, k.rows64, k.preds) = (
        d.files.r32 as usize,
        d.files.r64 as usize,
        d.files.preds as usize,
    );
    if !k.touch.is_empty() {
        k.touch.resize(k.code.len(), 0);
    }
    k.local_bytes = d.local_top.next_multiple_of(16);
    cfg::set_joins(&mut k.code);
    Ok(k)
}

pub(crate) struct Decoder<'a> {
    module: &'a Module,
    addresses: &'a HashMap<ItemId, u64>,
    kernel: Kernel,
    /// Shared addresses of module-scope variables.
    shared: HashMap<String, u32>,
    consts32: HashMap<u32, R>,
    consts64: HashMap<u64, R>,
    files: Files,
    local_top: u32,
    line: u32,
    guard: PSrc,
    /// Functions that are being inlined.
    calls: Vec<ItemId>,
    /// Calls that were inlined.
    inlined: u32,
}

impl<'a> Decoder<'a> {
    fn push(&mut self, op: Op) {
        let guard = self.guard;
        self.kernel.code.push(Inst { guard, op });
        self.kernel.lines.push(self.line);
    }

    fn here(&self) -> u32 {
        self.kernel.code.len() as u32
    }

    /// PTX ISA 7.1: parameters in order, each at its alignment.
    fn layout_params(&mut self, entry: &Function) -> Result<(), SimError> {
        let mut end = 0u64;
        for p in &entry.params {
            let at = place(end, p.bytes(), p.alignment()).filter(|at| at + p.bytes() <= MOST_PARAM);
            let Some(at) = at else {
                return Err(SimError::BadPtx {
                    message: format!(
                        "kernel `{}` has over {MOST_PARAM} bytes of parameters",
                        entry.name
                    ),
                });
            };
            self.kernel.params.push(ParamSlot {
                offset: at as u32,
                size: p.bytes() as u32,
            });
            end = at + p.bytes();
        }
        self.kernel.param_bytes = end as u32;
        Ok(())
    }

    /// Static shared variables in order, then the dynamic ones, which all
    /// start at the same place.
    fn layout_shared(&mut self, entry: &Function) -> Result<(), SimError> {
        let bodies: Vec<&Function> = self
            .module
            .functions()
            .filter(|f| f.body.is_some())
            .collect();
        let used = |id: ItemId| bodies.iter().any(|f| mentions(f, id));
        let too_much = || SimError::BadPtx {
            message: format!(
                "kernel `{}` has over {MOST_SHARED} bytes of static shared memory",
                entry.name
            ),
        };
        let mut end = u64::from(SHARED_START);
        let mut next = |bytes: u64, align: u64| {
            let at = place(end, bytes, align).filter(|at| at + bytes <= MOST_SHARED);
            at.inspect(|at| end = at + bytes).ok_or_else(too_much)
        };
        let mut dynamic = Vec::new();
        for (i, item) in self.module.items.iter().enumerate() {
            let Item::Variable(v) = item else { continue };
            if !v.space.is_shared_cta() || !used(ItemId(i as u32)) {
                continue;
            }
            if v.bytes() == 0 {
                dynamic.push(v);
                continue;
            }
            let at = next(v.bytes(), v.alignment())?;
            self.shared.insert(v.name.clone(), at as u32);
        }
        // Variables inside the body are static as well.
        for v in entry
            .body
            .iter()
            .flat_map(|b| &b.vars)
            .filter(|v| v.space.is_shared_cta())
        {
            let at = next(v.bytes(), v.alignment())?;
            self.shared.insert(local_name(v), at as u32);
        }
        if let Some(align) = dynamic.iter().map(|v| v.alignment()).max() {
            let at = next(0, align.max(16))?;
            for v in dynamic {
                self.shared.insert(v.name.clone(), at as u32);
            }
        }
        let at = end;
        self.kernel.static_smem = at as u32 - SHARED_START;
        Ok(())
    }

    fn directives(&mut self, entry: &Function) {
        let triple = |v: &[u32]| {
            let mut t = [1; 3];
            t.iter_mut().zip(v).for_each(|(t, v)| *t = *v);
            t
        };
        for d in &entry.directives {
            match d {
                Directive::MaxNtid(v) => {
                    self.kernel.max_threads =
                        Some(v.iter().fold(1, |n: u64, &x| n.saturating_mul(x.into())));
                }
                Directive::MaxNreg(n) => self.kernel.max_registers = Some(*n),
                Directive::MinNctaPerSm(n) => self.kernel.min_blocks = Some(*n),
                Directive::ReqNtid(v) => self.kernel.req_ntid = Some(triple(v)),
                Directive::ReqNctaPerCluster(v) => self.kernel.req_cluster = Some(triple(v)),
                _ => {}
            }
        }
    }

    /// Decodes a body. `call` is where an inlined function finds its
    /// parameters and returns.
    fn function(&mut self, f: &'a Function, call: Option<operands::Call>) -> Result<(), SimError> {
        let Some(body) = &f.body else {
            return Err(SimError::BadPtx {
                message: format!("function `{}` has no body", f.name),
            });
        };
        let (slots, reads_unwritten) = slots::assign(body, &mut self.files);
        self.kernel.reads_unwritten |= reads_unwritten;
        let mut frame = Frame::new(body, slots, call);
        for v in &body.vars {
            let offset = if v.space.is_shared_cta() {
                self.shared.get(&local_name(v)).copied().unwrap_or(0)
            } else {
                self.local(v.bytes(), v.alignment())?
            };
            frame.vars.push(offset);
        }
        let tensor_core = slots::of_wgmma(body);
        for stmt in &body.stmts {
            match stmt {
                Stmt::Label(l) => frame.labels[l.index()] = Some(self.here()),
                Stmt::Inst(inst) => {
                    self.line = inst.line;
                    if self.kernel.code.len() > MAX_CODE {
                        let what = format!("a kernel of more than {MAX_CODE} instructions");
                        return Err(self.refuse(inst, Refusal::Unsupported(what)));
                    }
                    let at = self.here();
                    self.inst(&mut frame, inst)
                        .map_err(|r| self.refuse(inst, r))?;
                    if !tensor_core.is_empty() {
                        self.note_touch(&frame, inst, &tensor_core, at);
                    }
                }
                _ => {}
            }
        }
        frame.patch(self.here(), &mut self.kernel.code);
        Ok(())
    }

    /// Notes what an instruction, decoded from `at` on, does to registers of
    /// `wgmma`.
    fn note_touch(&mut self, frame: &Frame<'a>, inst: &mcc_ptx::Inst, of: &HashSet<Reg>, at: u32) {
        let k = &mut self.kernel;
        k.touch.resize(k.code.len(), 0);
        if inst.op == PtxOp::WgmmaMmaAsync || at as usize >= k.code.len() {
            return;
        }
        let mut touch = Touch::default();
        slots::visit(inst, &mut |r, written| {
            if of.contains(&r)
                && let Some(row) = frame.row32(r)
            {
                let list = if written {
                    &mut touch.writes
                } else {
                    &mut touch.reads
                };
                list.push(row);
            }
        });
        if touch != Touch::default() {
            k.touches.push(touch);
            k.touch[at as usize] = k.touches.len() as u32;
        }
    }

    fn refuse(&self, inst: &mcc_ptx::Inst, r: Refusal) -> SimError {
        let (kernel, line) = (self.kernel.name.clone(), inst.line);
        let text = mcc_ptx::OpcodeText(inst).to_string();
        match r {
            Refusal::Unsupported(what) => SimError::Unsupported {
                kernel,
                line,
                text,
                what,
            },
            Refusal::Invalid(message) => SimError::Invalid {
                kernel,
                line,
                text,
                message,
            },
        }
    }

    /// Bytes of local memory for a variable.
    fn local(&mut self, bytes: u64, align: u64) -> Result<u32, SimError> {
        let at = place(self.local_top.into(), bytes, align);
        match at {
            Some(at) if at + bytes <= MOST_LOCAL => {
                self.local_top = (at + bytes) as u32;
                Ok(at as u32)
            }
            _ => Err(SimError::BadPtx {
                message: format!(
                    "kernel `{}` has over {MOST_LOCAL} bytes of local memory a thread",
                    self.kernel.name
                ),
            }),
        }
    }

    fn inst(&mut self, frame: &mut Frame<'a>, inst: &'a mcc_ptx::Inst) -> Decoded<()> {
        self.guard = match inst.guard {
            None => PSrc::TRUE,
            Some(g) => PSrc {
                p: frame.pred(g.reg)?,
                negated: g.negated,
            },
        };
        use PtxOp::*;
        match inst.op {
            Bra | BrxIdx | Call | Ret | Exit | Trap | Brkpt => self.control(frame, inst),
            Ld
            | Ldu
            | St
            | Atom
            | Red
            | Cvta
            | Isspacep
            | Mapa
            | Getctarank
            | Prefetch
            | Prefetchu
            | Applypriority
            | Discard
            | TensormapReplace
            | TensormapCpFenceproxy
            | Createpolicy
            | CreatepolicyCvt
            | CpAsync
            | CpAsyncBulk
            | CpReduceAsyncBulk
            | CpAsyncBulkPrefetch
            | CpAsyncBulkTensor
            | CpReduceAsyncBulkTensor
            | CpAsyncBulkPrefetchTensor => self.memory(frame, inst),
            _ => {
                if self.sync(frame, inst)? {
                    return Ok(());
                }
                self.arith(frame, inst)
            }
        }
    }
}

fn local_name(v: &Variable) -> String {
    // Not a PTX identifier, so that it cannot meet a module-scope name.
    format!("local {}", v.name)
}

/// Whether a body names a module-scope variable.
fn mentions(f: &Function, id: ItemId) -> bool {
    use mcc_ptx::{Base, Operand, Symbol};
    fn inside(o: &Operand, id: ItemId) -> bool {
        let base = |b: &Base| *b == Base::Sym(Symbol::Item(id));
        match o {
            Operand::Sym(s, _) => *s == Symbol::Item(id),
            Operand::Mem(a) => base(&a.base),
            Operand::Tensor { map, coords } => {
                base(&map.base) || coords.iter().any(|c| inside(c, id))
            }
            Operand::Vector(l) | Operand::Args(l) => l.iter().any(|o| inside(o, id)),
            Operand::Pair(a, b) => inside(a, id) || inside(b, id),
            _ => false,
        }
    }
    f.body
        .iter()
        .flat_map(|b| b.insts())
        .any(|i| i.operands.iter().any(|o| inside(o, id)))
}

/// `.shared` or any other space that holds variables with an address.
pub(crate) fn is_global(space: PtxSpace) -> bool {
    matches!(space, PtxSpace::Global | PtxSpace::Const)
}

impl Kernel {
    pub(crate) fn constant32(&mut self, index: &mut HashMap<u32, R>, v: u32) -> R {
        *index.entry(v).or_insert_with(|| {
            self.consts32.push([v; 32] as Row32);
            crate::isa::CONST | (self.consts32.len() - 1) as u16
        })
    }

    pub(crate) fn constant64(&mut self, index: &mut HashMap<u64, R>, v: u64) -> R {
        *index.entry(v).or_insert_with(|| {
            self.consts64.push([v; 32] as Row64);
            crate::isa::CONST | (self.consts64.len() - 1) as u16
        })
    }
}
