//! A simulated Hopper device that runs PTX text
pub mod numerics;
