//! Opening devices and the kit's models on them.
//!
//! In: a device's name, a bundle's name. Out: the device, a loaded model. Holds: a GPU of another architecture than
//! the kernels' is the machine's lack, not a fault.

use std::path::Path;

use clap::Args;
use mcc_bundle::Bundle;
use mcc_kit::contents::{Kit, KitBundle};
use mcc_runtime::{Device, DeviceKind, DeviceOptions, Model, RuntimeError, open_device};
use serde_json::json;

use crate::{Failure, print_json};

#[derive(Args)]
pub struct DeviceArgs {
    /// `cuda`, `cuda:1`, or `sim`
    #[arg(long, default_value = "cuda")]
    pub device: String,
}

impl DeviceArgs {
    pub fn open(&self) -> Result<Box<dyn Device>, Failure> {
        let kind: DeviceKind = self.device.parse()?;
        Ok(open_device(kind, &DeviceOptions::default())?)
    }
}

/// Says what the device is, and whether it runs the kernels of every bundle.
pub fn device(kit: &Path, args: &DeviceArgs) -> Result<(), Failure> {
    let kit = Kit::read(kit)?;
    let device = args.open()?;
    let props = device.props();
    let memory = device.memory()?;
    print_json(&json!({ "device": args.device, "props": props, "memory": memory }))?;
    match kit.bundles.iter().find(|bundle| bundle.arch != props.arch) {
        None => Ok(()),
        Some(bundle) => Err(Failure::Environment(format!(
            "{} is {}, the kernels of `{}` need {}",
            props.name, props.arch, bundle.name, bundle.arch
        ))),
    }
}

/// The text model whose checkpoint is in the kit.
pub fn text_bundle(kit: &Kit) -> Result<&KitBundle, Failure> {
    kit.bundles
        .iter()
        .find(|bundle| bundle.weights && bundle.text)
        .ok_or_else(|| Failure::Wrong("the kit has no text model with its checkpoint".to_owned()))
}

/// Loads a bundle of the kit with its checkpoint.
pub fn load(kit_dir: &Path, name: &str, device: Box<dyn Device>) -> Result<Model, Failure> {
    let path = kit_dir.join("bundles").join(format!("{name}.mccb"));
    let bundle = Bundle::read(path).map_err(RuntimeError::from)?;
    let mut model = Model::load(device, bundle)?;
    model.load_weights(kit_dir.join("weights").join(name), &mut |_| ())?;
    Ok(model)
}
