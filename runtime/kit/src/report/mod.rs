//! The page and the plots that are made of a run's results.
//!
//! In: [`Results`]. Out: `results.md`, `*.svg` in the same folder. Holds: the page says nothing that is not in
//! `results.json`, so that it can be made again; a number that was not measured is marked as a prediction.
//!
//! ```text
//! results.json ──┬─► read.rs  times ──► rows.rs  ours beside the fastest peer ──┬─► page.rs
//!                │                                                            └─► plot.rs
//!                └─► conformance.rs  what was compared ──► page.rs
//! ```

mod conformance;
mod page;
mod plot;
mod read;
mod rows;

use std::io;
use std::path::Path;

use crate::results::Results;

pub use page::page;
pub use plot::{limits_plot, peers_plot};
pub use rows::{Ratios, Row, ratios, rows};

/// Name of the page in a folder of results.
pub const PAGE_FILE: &str = "results.md";
const PEERS_PLOT: &str = "peers.svg";
const LIMITS_PLOT: &str = "limits.svg";

/// Writes the page, and a plot where there is something to plot.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(results: &Results, dir: &Path) -> io::Result<()> {
    let rows = rows(results);
    for (name, svg) in [
        (PEERS_PLOT, peers_plot(&rows)),
        (LIMITS_PLOT, limits_plot(&rows)),
    ] {
        if let Some(svg) = svg {
            std::fs::write(dir.join(name), svg)?;
        }
    }
    std::fs::write(dir.join(PAGE_FILE), page(results, &rows))
}

/// The GPU's name as part of a path: `h100-80gb-hbm3`, `no-gpu`.
#[must_use]
pub fn gpu_slug(results: &Results) -> String {
    let Some(name) = read::gpu(results) else {
        return "no-gpu".to_owned();
    };
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    slug.strip_prefix("nvidia-").unwrap_or(slug).to_owned()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
