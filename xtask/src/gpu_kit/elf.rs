//! Which glibc a program needs.
//!
//! In: a program's bytes. Out: the newest `GLIBC_x.y` that it names. Holds: every versioned symbol that a dynamic
//! program imports has its version as text in `.dynstr` (ELF symbol versioning, `.gnu.version_r`).

/// The newest version of glibc that the program's imports name.
pub fn newest_glibc(program: &[u8]) -> Option<(u32, u32)> {
    const MARK: &[u8] = b"\0GLIBC_";
    program
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK)
        .filter_map(|(at, _)| {
            let rest = &program[at + MARK.len()..];
            let end = rest.iter().position(|byte| *byte == 0)?;
            let text = std::str::from_utf8(&rest[..end]).ok()?;
            let mut numbers = text.split('.').map(str::parse);
            match (numbers.next(), numbers.next()) {
                (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
                // GLIBC_PRIVATE and the like.
                _ => None,
            }
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        let text = b"\0GLIBC_2.17\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.3.4\0";
        assert_eq!(newest_glibc(text), Some((2, 34)));
        assert_eq!(newest_glibc(b"nothing"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_program_names_one() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(newest_glibc(&program).is_some_and(|version| version.0 == 2));
    }
}
