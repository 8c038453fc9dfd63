//! What a model author imports: tensors with named dims, layers, whole models
