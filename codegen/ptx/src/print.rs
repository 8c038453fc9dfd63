//! The printer: a module as canonical PTX text, which `parse` reads back to an
//! equal module and which `ptxas` accepts.

use std::fmt::{self, Display, Formatter, Write};

use crate::ast::{
    Body, Directive, Function, FunctionKind, Init, Item, Linkage, Module, Param, Stmt, Variable,
};
use crate::inst::{Address, Base, Imm, Inst, LabelId, OpcodeText, Operand, Reg, Symbol};
use crate::sreg::SpecialText;

impl Display for Module {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, ".version {}.{}", self.version.major, self.version.minor)?;
        writeln!(f, ".target {}", self.target.join(", "))?;
        writeln!(f, ".address_size {}", self.address_size)?;
        for item in &self.items {
            writeln!(f)?;
            match item {
                Item::Variable(v) => {
                    variable(f, self, v)?;
                    writeln!(f)?;
                }
                Item::Function(function) => print_function(f, self, function)?,
            }
        }
        Ok(())
    }
}

/// An instruction as text, for messages: `@%p1 add.s32 %r1, %r2, 5;`
pub struct InstText<'a> {
    pub module: &'a Module,
    pub function: &'a Function,
    pub body: &'a Body,
    pub inst: &'a Inst,
}

impl Display for InstText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let InstText {
            module,
            function,
            body,
            inst,
        } = *self;
        Names {
            module,
            function,
            body,
        }
        .inst(f, inst)
    }
}

fn linkage(l: Linkage) -> &'static str {
    match l {
        Linkage::Internal => "",
        Linkage::Visible => ".visible ",
        Linkage::Extern => ".extern ",
        Linkage::Weak => ".weak ",
        Linkage::Common => ".common ",
    }
}

fn variable(f: &mut Formatter<'_>, module: &Module, v: &Variable) -> fmt::Result {
    write!(f, "{}.{} ", linkage(v.linkage), v.space)?;
    if v.managed {
        f.write_str(".attribute(.managed) ")?;
    }
    if let Some(align) = v.align {
        write!(f, ".align {align} ")?;
    }
    if v.lanes > 1 {
        write!(f, ".v{} ", v.lanes)?;
    }
    write!(f, ".{} {}", v.ty, v.name)?;
    for dim in &v.dims {
        match dim {
            Some(n) => write!(f, "[{n}]")?,
            None => f.write_str("[]")?,
        }
    }
    if let Some(value) = &v.init {
        f.write_str(" = ")?;
        init(f, module, value)?;
    }
    f.write_char(';')
}

fn init(f: &mut Formatter<'_>, module: &Module, value: &Init) -> fmt::Result {
    match value {
        Init::Int(v) => int(f, *v),
        Init::F32(v) => write!(f, "0f{v:08X}"),
        Init::F64(v) => write!(f, "0d{v:016X}"),
        Init::Addr {
            item,
            offset,
            generic,
            mask,
        } => {
            if let Some(mask) = mask {
                write!(f, "0x{mask:X}(")?;
            }
            let name = module.item(*item).map_or("", Item::name);
            if *generic {
                write!(f, "generic({name})")?;
            } else {
                f.write_str(name)?;
            }
            plus(f, *offset)?;
            if mask.is_some() {
                f.write_char(')')
            } else {
                Ok(())
            }
        }
        Init::List(list) => {
            f.write_char('{')?;
            for (n, item) in list.iter().enumerate() {
                if n > 0 {
                    f.write_str(", ")?;
                }
                init(f, module, item)?;
            }
            f.write_char('}')
        }
    }
}

/// The least integer has no decimal form that every assembler takes.
fn int(f: &mut Formatter<'_>, v: i64) -> fmt::Result {
    if v == i64::MIN {
        write!(f, "0x{v:X}")
    } else {
        write!(f, "{v}")
    }
}

fn plus(f: &mut Formatter<'_>, offset: i64) -> fmt::Result {
    match offset {
        0 => Ok(()),
        _ => {
            f.write_char('+')?;
            int(f, offset)
        }
    }
}

fn params(f: &mut Formatter<'_>, list: &[Param]) -> fmt::Result {
    f.write_char('(')?;
    for (n, p) in list.iter().enumerate() {
        if n > 0 {
            f.write_str(", ")?;
        }
        f.write_str(".param ")?;
        if let Some(align) = p.align {
            write!(f, ".align {align} ")?;
        }
        write!(f, ".{} ", p.ty)?;
        if let Some(ptr) = p.ptr {
            f.write_str(".ptr ")?;
            if let Some(space) = ptr.space {
                write!(f, ".{space} ")?;
            }
            if let Some(align) = ptr.align {
                write!(f, ".align {align} ")?;
            }
        }
        f.write_str(&p.name)?;
        match p.array {
            Some(0) => f.write_str("[]")?,
            Some(n) => write!(f, "[{n}]")?,
            None => {}
        }
    }
    f.write_char(')')
}

fn directive(f: &mut Formatter<'_>, d: &Directive) -> fmt::Result {
    let list = |v: &[u32]| v.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match d {
        Directive::MaxNtid(v) => write!(f, ".maxntid {}", list(v)),
        Directive::ReqNtid(v) => write!(f, ".reqntid {}", list(v)),
        Directive::MinNctaPerSm(v) => write!(f, ".minnctapersm {v}"),
        Directive::MaxNctaPerSm(v) => write!(f, ".maxnctapersm {v}"),
        Directive::MaxNreg(v) => write!(f, ".maxnreg {v}"),
        Directive::ReqNctaPerCluster(v) => write!(f, ".reqnctapercluster {}", list(v)),
        Directive::MaxClusterRank(v) => write!(f, ".maxclusterrank {v}"),
        Directive::ExplicitCluster => f.write_str(".explicitcluster"),
        Directive::NoReturn => f.write_str(".noreturn"),
        Directive::Pragma(text) => write!(f, ".pragma \"{text}\";"),
    }
}

fn print_function(f: &mut Formatter<'_>, module: &Module, function: &Function) -> fmt::Result {
    f.write_str(linkage(function.linkage))?;
    f.write_str(match function.kind {
        FunctionKind::Entry => ".entry ",
        FunctionKind::Func => ".func ",
    })?;
    if !function.returns.is_empty() {
        params(f, &function.returns)?;
        f.write_char(' ')?;
    }
    f.write_str(&function.name)?;
    params(f, &function.params)?;
    for d in &function.directives {
        f.write_char('\n')?;
        directive(f, d)?;
    }
    match &function.body {
        None => f.write_str(";\n"),
        Some(body) => {
            f.write_str("\n{\n")?;
            Names {
                module,
                function,
                body,
            }
            .stmts(f)?;
            f.write_str("}\n")
        }
    }
}

/// What the ids of a body stand for.
struct Names<'a> {
    module: &'a Module,
    function: &'a Function,
    body: &'a Body,
}

impl Names<'_> {
    fn stmts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut depth = 1usize;
        for stmt in &self.body.stmts {
            let indent = match stmt {
                Stmt::Close => {
                    depth = depth.saturating_sub(1);
                    depth
                }
                Stmt::Label(_) => 0,
                _ => depth,
            };
            for _ in 0..indent {
                f.write_str("    ")?;
            }
            self.stmt(f, stmt)?;
            f.write_char('\n')?;
            depth += usize::from(*stmt == Stmt::Open);
        }
        Ok(())
    }

    fn stmt(&self, f: &mut Formatter<'_>, stmt: &Stmt) -> fmt::Result {
        match stmt {
            Stmt::Inst(inst) => self.inst(f, inst),
            Stmt::Label(label) => write!(f, "{}:", self.label(*label)),
            Stmt::Reg(at) => match self.body.regs.get(*at as usize) {
                Some(decl) => {
                    write!(f, ".reg .{} {}", decl.ty, decl.name)?;
                    if let Some(n) = decl.range {
                        write!(f, "<{n}>")?;
                    }
                    f.write_char(';')
                }
                None => Ok(()),
            },
            Stmt::Var(id) => match self.body.vars.get(id.index()) {
                Some(v) => variable(f, self.module, v),
                None => Ok(()),
            },
            Stmt::Open => f.write_char('{'),
            Stmt::Close => f.write_char('}'),
            Stmt::BranchTargets { label, targets } => {
                write!(f, "{}: .branchtargets ", self.label(*label))?;
                for (n, target) in targets.iter().enumerate() {
                    let comma = if n > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", self.label(*target))?;
                }
                f.write_char(';')
            }
            Stmt::CallPrototype {
                label,
                returns,
                params: args,
                noreturn,
            } => {
                write!(f, "{}: .callprototype ", self.label(*label))?;
                params(f, returns)?;
                f.write_str(" _ ")?;
                params(f, args)?;
                f.write_str(if *noreturn { " .noreturn;" } else { ";" })
            }
            Stmt::Pragma(text) => write!(f, ".pragma \"{text}\";"),
        }
    }

    fn inst(&self, f: &mut Formatter<'_>, inst: &Inst) -> fmt::Result {
        if let Some(guard) = inst.guard {
            f.write_str(if guard.negated { "@!" } else { "@" })?;
            self.reg(f, guard.reg)?;
            f.write_char(' ')?;
        }
        write!(f, "{}", OpcodeText(inst))?;
        let mut first = true;
        for operand in &inst.operands {
            // A call leaves an empty list out, but for the arguments before a
            // prototype.
            let empty = matches!(operand, Operand::Args(list) if list.is_empty());
            if empty && (first || inst.operands.len() < 4) {
                continue;
            }
            f.write_str(if first { " " } else { ", " })?;
            self.operand(f, operand)?;
            first = false;
        }
        f.write_char(';')
    }

    fn operand(&self, f: &mut Formatter<'_>, operand: &Operand) -> fmt::Result {
        match operand {
            Operand::Reg(reg) => self.reg(f, *reg),
            Operand::Imm(Imm::Int(v)) => int(f, *v),
            Operand::Imm(Imm::F32(v)) => write!(f, "0f{v:08X}"),
            Operand::Imm(Imm::F64(v)) => write!(f, "0d{v:016X}"),
            Operand::Special(s) => write!(f, "{}", SpecialText(*s)),
            Operand::Sym(sym, offset) => {
                f.write_str(self.symbol(*sym))?;
                plus(f, *offset)
            }
            Operand::Mem(address) => {
                f.write_char('[')?;
                self.address(f, address)?;
                f.write_char(']')
            }
            Operand::Tensor { map, coords } => {
                f.write_char('[')?;
                self.address(f, map)?;
                f.write_str(", {")?;
                self.list(f, coords)?;
                f.write_str("}]")
            }
            Operand::Vector(list) => {
                f.write_char('{')?;
                self.list(f, list)?;
                f.write_char('}')
            }
            Operand::Args(list) => {
                f.write_char('(')?;
                self.list(f, list)?;
                f.write_char(')')
            }
            Operand::Pair(a, b) => {
                self.operand(f, a)?;
                f.write_char('|')?;
                self.operand(f, b)
            }
            Operand::Not(reg) => {
                f.write_char('!')?;
                self.reg(f, *reg)
            }
            Operand::Sink => f.write_char('_'),
            Operand::Label(label) => f.write_str(self.label(*label)),
        }
    }

    fn list(&self, f: &mut Formatter<'_>, list: &[Operand]) -> fmt::Result {
        for (n, operand) in list.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            self.operand(f, operand)?;
        }
        Ok(())
    }

    fn address(&self, f: &mut Formatter<'_>, address: &Address) -> fmt::Result {
        match address.base {
            Base::Reg(reg) => self.reg(f, reg)?,
            Base::Sym(sym) => f.write_str(self.symbol(sym))?,
            Base::Abs => return int(f, address.offset),
        }
        plus(f, address.offset)
    }

    fn reg(&self, f: &mut Formatter<'_>, reg: Reg) -> fmt::Result {
        match self.body.reg_decl(reg) {
            Some(decl) => {
                f.write_str(&decl.name)?;
                match decl.range {
                    Some(_) => write!(f, "{}", reg.0 - decl.first.0),
                    None => Ok(()),
                }
            }
            // Only a body that was not parsed can name such a register.
            None => write!(f, "%undeclared{}", reg.0),
        }
    }

    fn label(&self, label: LabelId) -> &str {
        self.body
            .labels
            .get(label.index())
            .map_or("undefined_label", String::as_str)
    }

    fn symbol(&self, sym: Symbol) -> &str {
        match sym {
            Symbol::Item(id) => self.module.item(id).map(Item::name),
            Symbol::Param(n) => self
                .function
                .params
                .get(n as usize)
                .map(|p| p.name.as_str()),
            Symbol::Return(n) => self
                .function
                .returns
                .get(n as usize)
                .map(|p| p.name.as_str()),
            Symbol::Local(id) => self.body.vars.get(id.index()).map(|v| v.name.as_str()),
        }
        .unwrap_or("undefined_symbol")
    }
}
