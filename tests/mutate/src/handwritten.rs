//! Small right kernels for what the project's kernels do not use: clusters and distributed shared memory, stores by
//! TMA in bulk groups, `cp.async`, named barriers, counting blocks, flags between blocks, several groups of `wgmma`.
//!
//! In: PTX beside this crate. Out: subjects with one launch each, and what the launch must leave behind.
//! Holds: the expected bytes are computed here, from what the comment at the top of each kernel says.

use mcc_sim::{LaunchConfig, Swizzle, TensorElem, TensorMap};

use crate::Error;
use crate::subject::{Case, Pointer, Region, Subject};

/// A subject with the results of its launch.
pub struct Known {
    pub subject: Subject,
    /// Region and its bytes afterwards.
    pub results: Vec<(usize, Vec<u8>)>,
}

/// All of them.
///
/// # Errors
/// When one of the texts is no PTX.
pub fn known() -> Result<Vec<Known>, Error> {
    vec![
        tma_ring(),
        bulk_reduce(),
        cluster_sum(),
        multicast(),
        copy_double(),
        copy_signal(),
        hand_over(),
        last_block(),
        flags(),
        warp_shared(),
        mma_groups(),
    ]
    .into_iter()
    .map(|draft| draft.known())
    .collect()
}

/// All of them, to plant bugs into.
///
/// # Errors
/// When one of the texts is no PTX.
pub fn subjects() -> Result<Vec<Subject>, Error> {
    Ok(known()?.into_iter().map(|known| known.subject).collect())
}

/// A launch in the making.
struct Draft {
    kernel: &'static str,
    ptx: &'static str,
    config: LaunchConfig,
    params: Vec<u8>,
    regions: Vec<Region>,
    pointers: Vec<Pointer>,
    results: Vec<(usize, Vec<u8>)>,
}

impl Draft {
    fn new(kernel: &'static str, ptx: &'static str, grid: u32, block: u32) -> Self {
        Self {
            kernel,
            ptx,
            config: LaunchConfig::new(grid, block),
            params: Vec::new(),
            regions: Vec::new(),
            pointers: Vec::new(),
            results: Vec::new(),
        }
    }

    fn align(&mut self, to: usize) -> usize {
        let at = self.params.len().next_multiple_of(to);
        self.params.resize(at, 0);
        at
    }

    fn region(&mut self, words: &[i32]) -> usize {
        let bytes = bytes(words);
        self.regions.push(Region { bytes, align: 256 });
        self.regions.len() - 1
    }

    /// A buffer of words, passed by address.
    fn words(&mut self, words: &[i32]) -> usize {
        let region = self.region(words);
        let at = self.align(8);
        self.params.extend([0; 8]);
        self.pointers.push(Pointer {
            at,
            map: false,
            region,
            offset: 0,
        });
        region
    }

    fn number(&mut self, n: u32) {
        self.align(4);
        self.params.extend(n.to_le_bytes());
    }

    /// A buffer of words, passed as a tensor map.
    fn map(&mut self, words: &[i32], map: &TensorMap) -> usize {
        let region = self.region(words);
        let at = self.align(64);
        // The address is filled in by each run; this one is only well formed.
        let map = TensorMap {
            global_address: 1 << 20,
            ..map.clone()
        };
        self.params.extend(
            map.encode()
                .expect("the map of a hand-written kernel is legal"),
        );
        self.pointers.push(Pointer {
            at,
            map: true,
            region,
            offset: 0,
        });
        region
    }

    fn leaves(&mut self, region: usize, words: &[i32]) {
        self.results.push((region, bytes(words)));
    }

    fn known(self) -> Result<Known, Error> {
        let case = Case {
            label: "its one launch".to_owned(),
            config: self.config,
            params: self.params,
            regions: self.regions,
            pointers: self.pointers,
            sms: 132,
        };
        Ok(Known {
            subject: Subject::new(self.kernel, self.ptx, vec![case])?,
            results: self.results,
        })
    }
}

macro_rules! draft {
    ($name:literal, $grid:expr, $block:expr) => {
        Draft::new(
            $name,
            include_str!(concat!("../kernels/", $name, ".ptx")),
            $grid,
            $block,
        )
    };
}

fn bytes(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Words without pattern, of 20 bits.
fn noise(count: usize) -> Vec<i32> {
    let random = mcc_runtime::SplitMix64::new(count as u64);
    (0..count as u64)
        .map(|n| (random.bits(n) >> 44) as i32)
        .collect()
}

fn tma_ring() -> Draft {
    let tiles = 9;
    let mut d = draft!("tma_ring", 2, 160);
    d.config.dynamic_smem = 8192 + 32;
    let input = noise(32 * 16 * tiles);
    let map = TensorMap {
        elem: TensorElem::S32,
        global_address: 0,
        dims: vec![32, 16 * tiles as u64],
        strides: vec![128],
        box_dims: vec![32, 16],
        elem_strides: vec![1, 1],
        swizzle: Swizzle::None,
        oob_nan: false,
    };
    d.map(&input, &map);
    let out = d.map(&vec![0; input.len()], &map);
    d.number(tiles as u32);
    let want: Vec<i32> = input.iter().map(|x| 3 * x + 1).collect();
    d.leaves(out, &want);
    d
}

fn bulk_reduce() -> Draft {
    let blocks = 3;
    let mut d = draft!("bulk_reduce", blocks as u32, 64);
    let input = noise(256 * blocks);
    d.words(&input);
    let out = d.words(&vec![0; input.len()]);
    let sum = d.words(&[100; 256]);
    let twice: Vec<i32> = input.iter().map(|x| 2 * x).collect();
    let sums: Vec<i32> = (0..256)
        .map(|n| 100 + twice.iter().skip(n).step_by(256).sum::<i32>())
        .collect();
    d.leaves(out, &twice);
    d.leaves(sum, &sums);
    d
}

fn cluster_sum() -> Draft {
    let mut d = draft!("cluster_sum", 8, 64);
    d.config.cluster = [4, 1, 1];
    let input = noise(512);
    d.words(&input);
    let out = d.words(&[0; 512]);
    let sum = |n: usize| (0..4).map(|r| input[n / 256 * 256 + r * 64 + n % 64]).sum();
    let want: Vec<i32> = (0..512).map(sum).collect();
    d.leaves(out, &want);
    d
}

fn multicast() -> Draft {
    let tiles = 4;
    let mut d = draft!("multicast", 2, 64);
    d.config.cluster = [2, 1, 1];
    let input = noise(64 * tiles);
    d.words(&input);
    let out = d.words(&vec![0; 128 * tiles]);
    d.number(tiles as u32);
    let want: Vec<i32> = (0..128 * tiles)
        .map(|n| input[n / 128 * 64 + n % 64] + (n / 64 % 2) as i32)
        .collect();
    d.leaves(out, &want);
    d
}

fn copy_double() -> Draft {
    let tiles = 5;
    let mut d = draft!("copy_double", 1, 64);
    let input = noise(256 * tiles);
    d.words(&input);
    let out = d.words(&vec![0; input.len()]);
    d.number(tiles as u32);
    // Vectors of four words in reverse order within a tile, the first word of each 7 more.
    let want: Vec<i32> = (0..input.len())
        .map(|n| {
            let (tile, vector, word) = (n / 256, n / 4 % 64, n % 4);
            input[tile * 256 + (63 - vector) * 4 + word] + if word == 0 { 7 } else { 0 }
        })
        .collect();
    d.leaves(out, &want);
    d
}

fn copy_signal() -> Draft {
    let mut d = draft!("copy_signal", 1, 64);
    let input = noise(128);
    d.words(&input);
    let out = d.words(&[0; 128]);
    let want: Vec<i32> = (0..128).map(|n| input[(31 - n / 4) * 4 + n % 4]).collect();
    d.leaves(out, &want);
    d
}

fn hand_over() -> Draft {
    let rounds = 4;
    let mut d = draft!("hand_over", 1, 64);
    let input = noise(32 * rounds);
    d.words(&input);
    let out = d.words(&vec![0; input.len()]);
    d.number(rounds as u32);
    let want: Vec<i32> = (0..input.len())
        .map(|n| input[n / 32 * 32 + 31 - n % 32])
        .collect();
    d.leaves(out, &want);
    d
}

fn last_block() -> Draft {
    let blocks = 4;
    let mut d = draft!("last_block", blocks as u32, 64);
    let input = noise(64 * blocks);
    d.words(&input);
    d.words(&vec![0; input.len()]);
    d.words(&[0]);
    let out = d.words(&[0; 64]);
    let want: Vec<i32> = (0..64)
        .map(|n| 5 * input.iter().skip(n).step_by(64).sum::<i32>())
        .collect();
    d.leaves(out, &want);
    d
}

fn flags() -> Draft {
    let blocks = 4;
    let mut d = draft!("flags", blocks as u32, 32);
    let mut words = noise(32);
    words.resize(32 * (blocks + 1), 0);
    let all = d.words(&words);
    d.words(&vec![0; blocks]);
    for n in 32..words.len() {
        words[n] = 3 * words[n / 32 * 32 - 32 + 31 - n % 32] + 1;
    }
    d.leaves(all, &words);
    d
}

fn warp_shared() -> Draft {
    let mut d = draft!("warp_shared", 1, 64);
    let input = noise(64);
    d.words(&input);
    let out = d.words(&[0; 64]);
    let sum: i32 = input.iter().sum();
    let max = input.iter().copied().max().unwrap_or(0).max(0);
    let warp = |n: usize| &input[n / 32 * 32..][..32];
    let want: Vec<i32> = (0..64)
        .map(|n| {
            let (w, lane) = (warp(n), n % 32);
            let pairs: i32 = [0, 8, 16, 24].iter().map(|x| w[lane ^ x]).sum();
            let down = if lane + 3 < 32 { w[lane + 3] } else { w[lane] };
            let up = if lane >= 5 { w[lane - 5] } else { w[lane] };
            let ballot = (0..32)
                .filter(|&l| w[l] > 800_000)
                .fold(0_u32, |b, l| b | 1 << l);
            let votes = i32::from(ballot == u32::MAX) + 2 * i32::from(ballot != 0);
            let low = w.iter().copied().min().unwrap_or(0);
            let a = (sum + max) ^ (pairs ^ down);
            let b = up.wrapping_add(ballot.cast_signed()) ^ low;
            a.wrapping_add(b).wrapping_add(votes)
        })
        .collect();
    d.leaves(out, &want);
    d
}

fn mma_groups() -> Draft {
    // Integers below 256 are exact in BF16, and so are sums of 16 products in FP32.
    let bf16 = |x: i32| (x as f32).to_bits() >> 16;
    let pairs = |v: &[i32]| -> Vec<i32> {
        v.chunks(2)
            .map(|p| (bf16(p[0]) | bf16(p[1]) << 16).cast_signed())
            .collect()
    };
    let mut d = draft!("mma_groups", 1, 128);
    d.config.dynamic_smem = 4096 + 512;
    let small = |count| -> Vec<i32> { noise(count).iter().map(|x| x & 255).collect() };
    let (a, b) = (small(64 * 32), small(2 * 8 * 16));
    let map = TensorMap {
        elem: TensorElem::Bf16,
        global_address: 0,
        dims: vec![32, 64],
        strides: vec![64],
        box_dims: vec![16, 64],
        elem_strides: vec![1, 1],
        swizzle: Swizzle::B32,
        oob_nan: false,
    };
    d.map(&pairs(&a), &map);
    d.words(&pairs(&b));
    let out = d.words(&[0; 128 * 8]);
    // PTX ISA, the register fragment of wgmma's D: row 16 w + l / 4 + 8 (r / 2), column 2 (l % 4) + r % 2.
    let value = |n: usize| {
        let (thread, product, r) = (n / 8, n / 4 % 2, n % 4);
        let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (r / 2);
        let column = 2 * (thread % 4) + r % 2;
        let dot: i32 = (0..16)
            .map(|k| a[row * 32 + product * 16 + k] * b[(product * 8 + column) * 16 + k])
            .sum();
        (dot as f32).to_bits().cast_signed()
    };
    let want: Vec<i32> = (0..128 * 8).map(value).collect();
    d.leaves(out, &want);
    d
}
