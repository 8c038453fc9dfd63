//! `tensormap.replace` (PTX ISA, the section of that name).

use mcc_ptx::{Inst, Mod, Type};

use super::memory::space_of;
use super::operands::Frame;
use super::{Decoded, Decoder, invalid};
use crate::isa::{MapField, MapReplace, Op};

impl<'a> Decoder<'a> {
    pub(super) fn map_replace(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let known = [
            (Mod::GlobalAddress, MapField::GlobalAddress),
            (Mod::Rank, MapField::Rank),
            (Mod::BoxDim, MapField::BoxDim),
            (Mod::GlobalDim, MapField::GlobalDim),
            (Mod::GlobalStride, MapField::GlobalStride),
            (Mod::ElementStride, MapField::ElementStride),
            (Mod::Elemtype, MapField::ElemType),
            (Mod::InterleaveLayout, MapField::Interleave),
            (Mod::SwizzleMode, MapField::SwizzleMode),
            (Mod::FillMode, MapField::FillMode),
        ];
        let Some(&(_, field)) = known.iter().find(|(m, _)| inst.has(*m)) else {
            return invalid("it names no field");
        };
        let (space, addr) = self.mem(frame, inst, 0, space_of(inst.space(0)))?;
        let per_dimension = matches!(
            field,
            MapField::BoxDim
                | MapField::GlobalDim
                | MapField::GlobalStride
                | MapField::ElementStride
        );
        let (index, value) = if per_dimension {
            let index = self.imm(inst, 1)?;
            let most = if field == MapField::GlobalStride {
                3
            } else {
                4
            };
            match u8::try_from(index) {
                Ok(i) if i <= most => (i, 2),
                _ => return invalid(format!("dimension {index} of at most {most}")),
            }
        } else {
            (0, 1)
        };
        let ty = match field {
            MapField::GlobalAddress | MapField::GlobalStride => Type::B64,
            _ => Type::B32,
        };
        let value = match inst.operands.get(value) {
            Some(o) => self.source(frame, o, ty)?,
            None => return invalid("it names no new value"),
        };
        Ok(Op::MapReplace(Box::new(MapReplace {
            field,
            index,
            space,
            addr,
            value,
        })))
    }
}
