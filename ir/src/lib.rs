//! Graph IR: ops, types, text form, verifier and reference evaluator
