//! An explanation as text.

use std::fmt;

use super::{Alternative, Applied, Category, Entry, Explanation, Kind, Lost, Sends, Table, WhyNot};
use crate::egraph::Sums;

/// Alternatives shown of a layer; the others are in the JSON form.
const ALTERNATIVES: usize = 12;

/// `12.3 us`, with a sign if it is asked for.
fn time(femtoseconds: i128) -> String {
    format!("{:.1} us", femtoseconds as f64 / 1e9)
}

/// `3.2 MB`
pub(super) fn bytes(bytes: i64) -> String {
    let size = bytes.unsigned_abs() as f64;
    let (divisor, unit) = match size {
        _ if size >= 1e9 => (1e9, "GB"),
        _ if size >= 1e6 => (1e6, "MB"),
        _ if size >= 1e3 => (1e3, "kB"),
        _ => return format!("{bytes} B"),
    };
    format!("{:.1} {unit}", bytes as f64 / divisor)
}

/// `2 launches, 58.7 MB, 19.5 us`, with bytes over links where there are any.
pub(super) fn sums(of: &Sums) -> String {
    let plural = if of.launches.abs() == 1 { "" } else { "es" };
    let mut text = format!(
        "{} launch{plural}, {}, {}",
        of.launches,
        bytes(of.bytes),
        time(of.time)
    );
    for (name, sent) in [("NVLink", of.nvlink_bytes), ("IB", of.ib_bytes)] {
        if sent != 0 {
            text += &format!(", {} over {name}", bytes(sent));
        }
    }
    text
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "costs of {}", self.target)?;
        match self.mesh {
            Some(mesh) => writeln!(f, " on the mesh {mesh}")?,
            None => writeln!(f, ", one rank")?,
        }
        self.entries
            .iter()
            .try_for_each(|entry| write!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report)?;
        let extents: Vec<String> = self
            .extents
            .iter()
            .map(|(name, extent)| format!("{name} = {extent}"))
            .collect();
        writeln!(f, "  costs at {}", extents.join(", "))?;
        if let Some(why_not) = &self.why_not {
            return write!(f, "\n{why_not}");
        }
        self.kinds.iter().try_for_each(|kind| write!(f, "\n{kind}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.layers)?;
        if self.count > 1 {
            write!(f, " ({} layers alike; shown: {})", self.count, self.shown)?;
        }
        writeln!(f)?;
        writeln!(f, "  written  {}", sums(&self.written))?;
        writeln!(f, "  chosen   {}", sums(&self.chosen))?;
        for sends in &self.sends {
            writeln!(f, "  links    {sends}")?;
        }
        for (name, lines) in [("before", &self.before), ("after", &self.after)] {
            writeln!(f, "\n  {name}")?;
            lines
                .iter()
                .try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        if !self.duplicates.is_empty() {
            writeln!(f, "\n  computed once, though written again")?;
            self.duplicates
                .iter()
                .try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        if !self.rewrites.is_empty() {
            writeln!(f, "\n  rewrites, in order, with what each saves")?;
        }
        for (number, rewrite) in self.rewrites.iter().enumerate() {
            write!(f, "  {:3}. {rewrite}", number + 1)?;
        }
        if !self.alternatives.is_empty() {
            writeln!(f, "\n  what lost, and what it takes more")?;
        }
        for lost in self.alternatives.iter().take(ALTERNATIVES) {
            writeln!(f, "    {lost}")?;
        }
        if let Some(more @ 1..) = self.alternatives.len().checked_sub(ALTERNATIVES) {
            writeln!(f, "    and {more} more; --json lists all")?;
        }
        Ok(())
    }
}

/// `dispatch: 7392 bytes a token and destination (14336 as written); to 2.699 nodes over IB, 6.280 GPUs over NVLink`
impl fmt::Display for Sends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, chosen) = self.row_bytes;
        write!(f, "{}: {chosen} bytes a token and destination", self.op)?;
        if written != chosen {
            write!(f, " ({written} as written)")?;
        }
        write!(
            f,
            "; a token to {}.{:03} nodes over IB, {}.{:03} GPUs over NVLink",
            self.ib_copies / 1000,
            self.ib_copies % 1000,
            self.nvlink_copies / 1000,
            self.nvlink_copies % 1000
        )
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.class)?;
        if let Some(at) = &self.at {
            write!(f, " at {at}")?;
        }
        writeln!(f, ": {}", sums(&self.saved))?;
        self.before
            .iter()
            .try_for_each(|line| writeln!(f, "         {line}"))?;
        self.after
            .iter()
            .try_for_each(|line| writeln!(f, "      -> {line}"))
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.more {
            Some(more) => write!(f, "{:>10}", format!("+{}", time(more.time)))?,
            None => f.write_str("impossible")?,
        }
        write!(f, "  {} = {}", self.value, self.node)?;
        match &self.rule {
            Some(rule) => write!(f, "  [{rule}]")?,
            None => f.write_str("  [as written]")?,
        }
        write!(f, ", not {}", self.chosen)?;
        match &self.more {
            Some(more) => write!(f, ": {}", sums(more)),
            None => f.write_str(": it would be computed from itself"),
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}): {} matches, {} taken",
            self.rule, self.class, self.matches, self.taken
        )?;
        if let Some(why) = &self.left_out {
            writeln!(f, "  not in use: {why}")?;
        }
        if self.matches == 0 {
            match &self.missing[..] {
                [] => writeln!(
                    f,
                    "  its left side occurs nowhere, though each of its ops does"
                )?,
                ops => writeln!(
                    f,
                    "  its left side occurs nowhere: no {}",
                    ops.join(", no ")
                )?,
            }
        }
        for refused in &self.refused {
            writeln!(
                f,
                "  {}: its condition does not hold, {} times a layer; for example at",
                refused.layers, refused.count
            )?;
            refused
                .ops
                .iter()
                .try_for_each(|line| writeln!(f, "         {line}"))?;
        }
        self.lost.iter().try_for_each(|lost| write!(f, "{lost}"))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}: lost", self.layers)?;
        self.ops
            .iter()
            .try_for_each(|line| writeln!(f, "         {line}"))?;
        writeln!(f, "      -> {}", self.node)?;
        match &self.instead {
            Some(instead) => writeln!(f, "    chosen {instead}")?,
            None => writeln!(f, "    chosen is a graph that has no use for this value")?,
        }
        match &self.more {
            Some(more) => writeln!(f, "    it takes more: {}", sums(more)),
            None if self.found => writeln!(f, "    it would be computed from itself"),
            None => writeln!(
                f,
                "    saturation did not add it: a cap ended it, the author forbids it here, or the rule is not in use"
            ),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "costs of {}; percent of the time", self.target)?;
        let mut last = ("", "");
        for row in &self.rows {
            if (row.entry.as_str(), row.layers.as_str()) != last {
                last = (&row.entry, &row.layers);
                writeln!(f, "\n{}, one layer of {}", row.entry, row.layers)?;
                write!(
                    f,
                    "  {:20} {:>8} {:>10} {:>11}",
                    "rules", "launches", "bytes", "time"
                )?;
                for category in Category::ALL {
                    write!(f, " {:>9}", category.name())?;
                }
                writeln!(f, "  casts + layout (+ experts)")?;
            }
            write!(
                f,
                "  {:20} {:>8} {:>10} {:>11}",
                row.rules,
                row.sums.launches,
                bytes(row.sums.bytes),
                time(row.sums.time)
            )?;
            for category in Category::ALL {
                let time = row.by_category.get(&category).copied().unwrap_or(0);
                let share = time as f64 * 100.0 / (row.sums.time.max(1)) as f64;
                write!(f, " {share:>9.1}")?;
            }
            let (narrow, wide) = row.glue();
            writeln!(
                f,
                "  {}.{} % ({}.{} %)",
                narrow / 10,
                narrow % 10,
                wide / 10,
                wide % 10
            )?;
        }
        Ok(())
    }
}
