//! Kernel selection: from graph ops to kernel steps over views.
