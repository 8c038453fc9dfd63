//! PTX: one instruction table, syntax tree, printer and parser
