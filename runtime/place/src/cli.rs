//! `mcc place` and `mccrt place`: a placement from statistics.

use std::io::Write as _;
use std::path::PathBuf;

use crate::files::FileError;
use crate::placement::{Placement, Policy, Shape, Statistics};

/// Flags of the command.
#[derive(clap::Args, Clone, Debug)]
pub struct PlaceFlags {
    /// Files with the tokens that each expert got, `{"version":1,"layers":[[…],…]}`; their counts are added.
    #[arg(required = true)]
    statistics: Vec<PathBuf>,
    /// Machines.
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// GPUs of a machine.
    #[arg(long, default_value_t = 8)]
    gpus: u32,
    /// Experts that all GPUs hold together, replicas included: a multiple of the GPUs.
    #[arg(long)]
    slots: u32,
    /// Groups that routing limits tokens to.
    #[arg(long, default_value_t = 1)]
    groups: u32,
    /// `hierarchical` keeps groups on nodes, `global` does not, `auto` takes the first where groups divide over nodes.
    #[arg(long, default_value = "auto", value_parser = policy)]
    policy: Policy,
    /// Where the placement goes; without it only the balance is printed.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Prints the balance as JSON.
    #[arg(long)]
    json: bool,
}

fn policy(text: &str) -> Result<Policy, String> {
    let all = [Policy::Auto, Policy::Hierarchical, Policy::Global];
    all.into_iter()
        .find(|policy| policy.to_string() == text)
        .ok_or_else(|| "supported are auto, hierarchical and global".to_owned())
}

impl PlaceFlags {
    /// Runs the command; out comes what to print.
    ///
    /// # Errors
    /// Files and numbers that do not fit. Nothing is written then, or all of it.
    pub fn run(&self) -> Result<String, FileError> {
        let mut statistics: Option<Statistics> = None;
        for path in &self.statistics {
            let read = Statistics::read(path)?;
            match &mut statistics {
                None => statistics = Some(read),
                Some(all) => all.add(&read).map_err(|source| FileError::Content {
                    path: path.clone(),
                    source,
                })?,
            }
        }
        let statistics = statistics.unwrap_or_else(|| Statistics::new(Vec::new()));
        let shape = Shape {
            nodes: self.nodes,
            gpus: self.gpus,
            slots: self.slots,
            groups: self.groups,
        };
        let placement = Placement::new(&statistics, shape, self.policy)?;
        let balance = placement.balance(&statistics)?;
        if let Some(path) = &self.output {
            self.write(path, &placement)?;
        }
        if self.json {
            let json = |source| FileError::Json {
                path: "standard output".into(),
                source,
            };
            return serde_json::to_string(&serde_json::json!({
                "policy": placement.policy(),
                "slots_per_gpu": shape.slots_per_gpu(),
                "layers": balance,
            }))
            .map_err(json);
        }
        let mut text = format!(
            "{} policy, {} slots on each of {} GPUs\nfullest GPU over the mean\nlayer   in order   placed   most replicas\n",
            placement.policy(),
            shape.slots_per_gpu(),
            shape.all_gpus()
        );
        for (at, layer) in balance.iter().enumerate() {
            let before = layer
                .before
                .map_or_else(|| "–".to_owned(), |b| format!("{b:.3}"));
            text.push_str(&format!(
                "{at:>5} {before:>10} {:>8.3} {:>15}\n",
                layer.after, layer.replicas
            ));
        }
        if let Some(path) = &self.output {
            text.push_str(&format!("wrote {}\n", path.display()));
        }
        Ok(text)
    }

    /// Writes so that a reader sees all of it or nothing.
    fn write(&self, path: &PathBuf, placement: &Placement) -> Result<(), FileError> {
        let text = placement.to_json().map_err(|source| FileError::Json {
            path: path.clone(),
            source,
        })?;
        let mut part = path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let io = |verb| {
            let path = path.clone();
            move |source| FileError::Io { verb, path, source }
        };
        let written = std::fs::File::create(&part)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&part, path));
        if written.is_err() {
            // What is left of a failed attempt is of no use to anybody.
            let _ = std::fs::remove_file(&part);
        }
        written.map_err(io("write"))
    }
}
