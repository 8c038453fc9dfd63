//! Mutated PTX never panics the parser, and whatever it accepts round trips.
//! The mutations are drawn from a fixed seed, so a failure repeats.

use mcc_ptx::parse;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(source: &str, random: &mut Random) -> String {
    let mut bytes = source.as_bytes().to_vec();
    let alphabet = b"{}()[]<>,;:@!|+-=._%$0123456789abfxrpLE\"/*\n \xc3\xa9";
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let span = at..(at + random.below(24)).min(bytes.len());
        match random.below(10) {
            0 => drop(bytes.drain(span)),
            1 => {
                let copy = bytes[span].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            2 if !bytes.is_empty() => bytes[at] = alphabet[random.below(alphabet.len())],
            3 => bytes.insert(at, alphabet[random.below(alphabet.len())]),
            4 if random.below(8) == 0 => bytes.truncate(at),
            // One digit becomes another, which often leaves valid PTX.
            5..=8 => {
                if let Some(n) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + n] = b'0' + random.below(10) as u8;
                }
            }
            // A number becomes an extreme one.
            _ => {
                let extremes = [
                    "18446744073709551615",
                    "-9223372036854775808",
                    "4294967296",
                    "0",
                ];
                let number = extremes[random.below(extremes.len())];
                if let Some(n) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes.splice(at + n..at + n + 1, number.bytes());
                }
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn mutants_do_not_panic_and_round_trip() {
    let seeds = [
        include_str!("data/llvm_mix.ptx"),
        include_str!("data/hopper_gemm.ptx"),
    ];
    let mut random = Random(7);
    let mut accepted = 0;
    for round in 0..2000 {
        let source = mutate(seeds[round % 2], &mut random);
        if let Ok(module) = parse(&source) {
            accepted += 1;
            let printed = module.to_string();
            match parse(&printed) {
                Ok(again) => assert_eq!(again, module, "{source}"),
                Err(e) => panic!("{e}\n{printed}\n--- from\n{source}"),
            }
        }
    }
    assert!(
        accepted > 100,
        "only {accepted} mutants parse: they test too little"
    );
}

#[test]
fn every_prefix_is_handled() {
    let source = include_str!("data/hopper_gemm.ptx");
    for end in (0..source.len()).step_by(3) {
        let _ = parse(&source[..end]);
    }
}
