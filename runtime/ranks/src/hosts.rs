//! Slurm's short form of host lists: `node[01-03,07],login`.
//!
//! In: the text. Out: the first host, which is where rank 0 runs. Source: Slurm, `scontrol show hostnames`.

/// The first host of the list; `None` for text that is no list.
pub(crate) fn first(list: &str) -> Option<String> {
    // A comma inside of brackets does not end the entry.
    let mut depth = 0usize;
    let end = list.find(|c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    let entry = list[..end.unwrap_or(list.len())].trim();
    if depth != 0 && end.is_none() {
        return None;
    }
    let mut host = String::new();
    let mut rest = entry;
    while let Some(open) = rest.find('[') {
        let close = open + rest[open..].find(']')?;
        host.push_str(&rest[..open]);
        // The smallest of the ranges comes first: `01-03` or `07`.
        let number = rest[open + 1..close].split(['-', ',']).next()?;
        host.push_str(number);
        rest = &rest[close + 1..];
    }
    host.push_str(rest);
    (!host.is_empty() && !host.contains(']')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::first;

    #[test]
    fn the_first_host_of_slurms_lists() {
        for (list, host) in [
            ("node", Some("node")),
            ("a,b", Some("a")),
            ("node[01-03,07],login", Some("node01")),
            ("node[7]", Some("node7")),
            ("rack[2-3]n[004,009]-ib", Some("rack2n004-ib")),
            ("", None),
            ("node[1-2", None),
            ("node1-2]", None),
        ] {
            assert_eq!(first(list).as_deref(), host, "{list}");
        }
    }
}
