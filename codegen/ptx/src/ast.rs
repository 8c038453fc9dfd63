//! The module: header, items, functions and their bodies.
//!
//! A body is a flat list of statements; scopes are `Open` and `Close`
//! statements, and every name in it is already an id, so that a consumer may
//! ignore them.

use crate::inst::{Inst, LabelId, LocalId, Operand, Reg, Symbol, id};
use crate::kinds::{Space, Type};

id! {
    /// An index into `Module::items`.
    ItemId
}

/// `.version major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    pub version: Version,
    /// `sm_90a` first, then options such as `debug`.
    pub target: Vec<String>,
    pub address_size: u32,
    pub items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Variable(Variable),
    Function(Function),
}

impl Item {
    pub fn name(&self) -> &str {
        match self {
            Item::Variable(v) => &v.name,
            Item::Function(f) => &f.name,
        }
    }
}

/// PTX ISA 11.6: linking directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Linkage {
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

/// A variable of any state space, at module scope or in a body.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    pub linkage: Linkage,
    pub space: Space,
    pub align: Option<u32>,
    /// Lanes of one element: 1, or 2 or 4 for `.v2` and `.v4`.
    pub lanes: u32,
    pub ty: Type,
    pub name: String,
    /// Array extents, outermost first; `None` is an unsized first extent `[]`.
    pub dims: Vec<Option<u64>>,
    pub init: Option<Init>,
    pub managed: bool,
}

impl Variable {
    /// Size in bytes; 0 for an unsized array without initialiser (dynamic
    /// shared memory).
    pub fn bytes(&self) -> u64 {
        let count = self.dims.iter().fold(1u64, |n, d| match (d, &self.init) {
            (Some(d), _) => n.saturating_mul(*d),
            (None, Some(Init::List(list))) => n.saturating_mul(list.len() as u64),
            (None, _) => 0,
        });
        count.saturating_mul(self.element_bytes())
    }

    /// Bytes of one element with all its lanes.
    pub fn element_bytes(&self) -> u64 {
        self.ty.bytes().saturating_mul(u64::from(self.lanes))
    }

    /// The declared alignment, or the natural one of PTX ISA 5.4.5.
    pub fn alignment(&self) -> u64 {
        self.align.map_or(self.element_bytes().max(1), u64::from)
    }
}

/// PTX ISA 5.4.4: an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    Int(i64),
    F32(u32),
    F64(u64),
    /// The address of a variable or function: `sym+4`, `generic(sym)+4`, or
    /// `0xFF00(sym)`, which is the masked byte of it.
    Addr {
        item: ItemId,
        offset: i64,
        generic: bool,
        mask: Option<u64>,
    },
    List(Vec<Init>),
}

/// A formal parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    pub name: String,
    pub ty: Type,
    pub align: Option<u32>,
    /// `Some(n)` for an array of n elements, such as `.b8 tm[128]`.
    pub array: Option<u64>,
    pub ptr: Option<PtrAttr>,
}

impl Param {
    pub fn bytes(&self) -> u64 {
        self.ty.bytes().saturating_mul(self.array.unwrap_or(1))
    }

    pub fn alignment(&self) -> u64 {
        self.align.map_or(self.ty.bytes().max(1), u64::from)
    }
}

/// `.ptr .space .align n`: what a pointer parameter points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtrAttr {
    pub space: Option<Space>,
    pub align: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// `.entry`: a kernel.
    Entry,
    /// `.func`.
    Func,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub linkage: Linkage,
    pub kind: FunctionKind,
    pub name: String,
    pub returns: Vec<Param>,
    pub params: Vec<Param>,
    pub directives: Vec<Directive>,
    /// `None` for a declaration.
    pub body: Option<Body>,
}

/// PTX ISA 11.4: performance-tuning and cluster directives of a function.
#[derive(Debug, Clone, PartialEq)]
pub enum Directive {
    MaxNtid(Vec<u32>),
    ReqNtid(Vec<u32>),
    MinNctaPerSm(u32),
    MaxNctaPerSm(u32),
    MaxNreg(u32),
    ReqNctaPerCluster(Vec<u32>),
    MaxClusterRank(u32),
    ExplicitCluster,
    NoReturn,
    Pragma(String),
}

/// One name, or one `%r<n>` range of names, of a `.reg` directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegDecl {
    pub ty: Type,
    /// The name, or the prefix of a range.
    pub name: String,
    /// `Some(n)` declares `name0` to `name(n-1)`.
    pub range: Option<u32>,
    /// The id of its first register.
    pub first: Reg,
}

impl RegDecl {
    pub fn count(&self) -> u32 {
        self.range.unwrap_or(1)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Body {
    /// In order of declaration; their ids ascend without gap.
    pub regs: Vec<RegDecl>,
    /// Names by `LabelId`. Two labels in two scopes may share a name.
    pub labels: Vec<String>,
    /// Variables by `LocalId`: `.shared`, `.local`, `.param` of calls.
    pub vars: Vec<Variable>,
    pub stmts: Vec<Stmt>,
}

impl Body {
    /// How many registers the body declares; ids are below this.
    pub fn reg_count(&self) -> u32 {
        self.regs.last().map_or(0, |d| d.first.0 + d.count())
    }

    /// The declaration that holds a register.
    pub fn reg_decl(&self, reg: Reg) -> Option<&RegDecl> {
        let after = self.regs.partition_point(|d| d.first <= reg);
        let decl = self.regs.get(after.checked_sub(1)?)?;
        (reg.0 - decl.first.0 < decl.count()).then_some(decl)
    }

    pub fn reg_type(&self, reg: Reg) -> Option<Type> {
        self.reg_decl(reg).map(|d| d.ty)
    }

    /// The register's name in the text.
    pub fn reg_name(&self, reg: Reg) -> Option<String> {
        let decl = self.reg_decl(reg)?;
        Some(match decl.range {
            Some(_) => format!("{}{}", decl.name, reg.0 - decl.first.0),
            None => decl.name.clone(),
        })
    }

    /// The targets that a `.branchtargets` table lists.
    pub fn branch_targets(&self, table: LabelId) -> Option<&[LabelId]> {
        self.stmts.iter().find_map(|s| match s {
            Stmt::BranchTargets { label, targets } if *label == table => Some(&targets[..]),
            _ => None,
        })
    }

    /// The instructions, in order.
    pub fn insts(&self) -> impl Iterator<Item = &Inst> {
        self.stmts
            .iter()
            .filter_map(|s| if let Stmt::Inst(i) = s { Some(i) } else { None })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Stmt {
    Inst(Inst),
    Label(LabelId),
    /// An index into `Body::regs`.
    Reg(u32),
    Var(LocalId),
    /// `{` and `}`.
    Open,
    Close,
    /// `label: .branchtargets a, b;`
    BranchTargets {
        label: LabelId,
        targets: Vec<LabelId>,
    },
    /// `label: .callprototype (returns) _ (params);`
    CallPrototype {
        label: LabelId,
        returns: Vec<Param>,
        params: Vec<Param>,
        noreturn: bool,
    },
    Pragma(String),
}

impl Module {
    pub fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id.index())
    }

    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.items.iter().filter_map(|i| {
            if let Item::Function(f) = i {
                Some(f)
            } else {
                None
            }
        })
    }

    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.items.iter().filter_map(|i| {
            if let Item::Variable(v) = i {
                Some(v)
            } else {
                None
            }
        })
    }

    /// A kernel that has a body, by name.
    pub fn entry(&self, name: &str) -> Option<&Function> {
        self.functions()
            .find(|f| f.kind == FunctionKind::Entry && f.name == name && f.body.is_some())
    }

    /// The function with a body that a callee symbol means: a call may name
    /// the forward declaration.
    pub fn callee(&self, id: ItemId) -> Option<&Function> {
        let name = self.item(id)?.name();
        self.functions()
            .find(|f| f.name == name && f.body.is_some())
    }

    /// The least PTX ISA version and the least SM (as in the table: 901 is
    /// `sm_90a`) that the instructions of the module need.
    pub fn least_target(&self) -> (Version, u32) {
        let bodies = self.functions().filter_map(|f| f.body.as_ref());
        let insts = bodies.flat_map(Body::insts);
        let forms = insts.filter_map(|i| Some((i.form()?, i)));
        let least = (Version { major: 1, minor: 0 }, 0);
        // 901 stands for sm_90a alone: it is more than 90, and no number that
        // the table uses lies above it.
        forms.fold(least, |(ptx, sm), (f, i)| {
            (ptx.max(f.least_ptx(&i.mods)), sm.max(f.sm))
        })
    }

    /// The item that a symbol stands for, when it is at module scope.
    pub fn symbol_item(&self, sym: Symbol) -> Option<&Item> {
        if let Symbol::Item(id) = sym {
            self.item(id)
        } else {
            None
        }
    }
}

/// Visits the parts of an operand: each element of a vector, list or pair, and
/// a tensor operand before its coordinates.
pub fn leaves<'a>(operand: &'a Operand, visit: &mut impl FnMut(&'a Operand)) {
    match operand {
        Operand::Vector(list) | Operand::Args(list) => {
            list.iter().for_each(|o| leaves(o, visit));
        }
        Operand::Pair(a, b) => {
            leaves(a, visit);
            leaves(b, visit);
        }
        Operand::Tensor { coords, .. } => {
            visit(operand);
            coords.iter().for_each(|o| leaves(o, visit));
        }
        _ => visit(operand),
    }
}
