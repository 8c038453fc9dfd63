//! Whole models, as examples of the DSL's use and as what the importer builds.

pub mod deepseek_v3;

pub use deepseek_v3::deepseek_v3;
