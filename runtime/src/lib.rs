//! Loads a bundle and runs it on a device
