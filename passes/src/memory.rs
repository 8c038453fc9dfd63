//! Buffer plan: which values share memory.
