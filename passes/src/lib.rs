//! Graph to program: e-graph, kernel selection, memory plan
