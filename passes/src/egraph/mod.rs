//! Equality saturation over the graph: rules, costs and extraction.
