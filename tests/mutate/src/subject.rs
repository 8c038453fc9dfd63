//! What is mutated: a kernel and launches of it that can be run again.
//!
//! In: PTX, and for each launch its shape, parameters and the bytes that it finds in memory. Out: the same launch
//! on a device of its own, with any PTX.
//! Holds: a case names memory by region and offset, not by address, so that every run may place it elsewhere;
//! regions never touch, so that an access beyond one of them is found.

use mcc_ptx::{Body, FunctionKind, Item, Module};
use mcc_sim::{Completion, Gpu, GpuConfig, LaunchConfig, LaunchStats, SimError, TensorMap};

use crate::Error;

/// Device memory of one run.
const GLOBAL_BYTES: u64 = 8 << 30;

/// A kernel with launches.
pub struct Subject {
    /// Name of the entry.
    pub kernel: String,
    /// As the printer writes [`Self::module`], so that lines mean the same in both.
    pub ptx: String,
    pub module: Module,
    /// Index of the entry among the module's items.
    pub item: usize,
    /// The most telling ones first.
    pub cases: Vec<Case>,
}

/// One launch.
#[derive(Clone)]
pub struct Case {
    /// Sizes and seed, for people.
    pub label: String,
    pub config: LaunchConfig,
    pub params: Vec<u8>,
    pub regions: Vec<Region>,
    pub pointers: Vec<Pointer>,
    /// SMs of the device.
    pub sms: u32,
}

/// A piece of global memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Before the launch.
    pub bytes: Vec<u8>,
    pub align: u64,
}

/// Where an address stands in the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Byte offset in the parameters.
    pub at: usize,
    /// Whether a tensor map holds it.
    pub map: bool,
    pub region: usize,
    /// From the region's begin; negative for a ragged map, which begins a box before what it touches.
    pub offset: i64,
}

/// Changes a tensor map.
pub type MapChange = fn(&mut TensorMap);

/// How a case is run.
#[derive(Clone, Copy)]
pub struct Setting {
    pub completion: Completion,
    pub check: bool,
    /// Warp instructions of one cluster.
    pub limit: Option<u64>,
    /// Changes the tensor map at this offset of the parameters.
    pub map: Option<(usize, MapChange)>,
}

/// What a run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Bytes of each region.
    pub memory: Vec<Vec<u8>>,
    pub stats: LaunchStats,
}

impl Subject {
    /// Parses a module and takes one of its kernels.
    ///
    /// # Errors
    /// When the text does not parse or has no such kernel.
    pub fn new(kernel: &str, ptx: &str, cases: Vec<Case>) -> Result<Self, Error> {
        let module = mcc_ptx::parse(ptx).map_err(|err| Error::Ptx {
            kernel: kernel.to_owned(),
            message: err.to_string(),
        })?;
        // Once more, so that statements carry the lines of the text that is run.
        let ptx = module.to_string();
        let module = mcc_ptx::parse(&ptx).map_err(|err| Error::Ptx {
            kernel: kernel.to_owned(),
            message: err.to_string(),
        })?;
        let is_entry = |item: &Item| matches!(item, Item::Function(f) if f.kind == FunctionKind::Entry && f.name == kernel && f.body.is_some());
        let item = module.items.iter().position(is_entry);
        let item = item.ok_or_else(|| Error::NoKernel(kernel.to_owned()))?;
        Ok(Self {
            kernel: kernel.to_owned(),
            ptx,
            module,
            item,
            cases,
        })
    }

    /// The kernel's statements.
    #[must_use]
    pub fn body(&self) -> &Body {
        match &self.module.items[self.item] {
            Item::Function(f) => f.body.as_ref(),
            Item::Variable(_) => None,
        }
        .expect("`new` found a body there")
    }
}

impl Case {
    /// Runs `ptx` in place of the kernel on a fresh device. `prepare` may allocate more memory and make the text
    /// depend on its address.
    ///
    /// # Errors
    /// What the simulator reports.
    pub fn run(&self, kernel: &str, ptx: &str, setting: &Setting) -> Result<Left, SimError> {
        self.run_with(kernel, setting, |_| Ok(ptx.to_owned()))
            .map(|(left, _)| left)
    }

    /// As [`Self::run`], with PTX made for the device, which is handed back.
    ///
    /// # Errors
    /// What the simulator reports.
    pub fn run_with(
        &self,
        kernel: &str,
        setting: &Setting,
        ptx: impl FnOnce(&Gpu) -> Result<String, SimError>,
    ) -> Result<(Left, Gpu), SimError> {
        let gpu = Gpu::new(GpuConfig {
            sms: self.sms,
            global_bytes: GLOBAL_BYTES,
            threads: 1,
            completion: setting.completion,
            instruction_limit: setting.limit,
            check: setting.check,
            ..GpuConfig::default()
        });
        let mut places = Vec::with_capacity(self.regions.len());
        for region in &self.regions {
            let at = gpu.alloc(region.bytes.len() as u64, region.align)?;
            gpu.write(at, &region.bytes)?;
            places.push(at);
        }
        let mut params = self.params.clone();
        for pointer in &self.pointers {
            let address = places[pointer.region].wrapping_add_signed(pointer.offset);
            let changed = setting.map.filter(|(at, _)| *at == pointer.at);
            if pointer.map {
                let place = &mut params[pointer.at..pointer.at + 128];
                let mut map = TensorMap::decode(&word(place)).map_err(SimError::TensorMap)?;
                map.global_address = address;
                if let Some((_, change)) = changed {
                    change(&mut map);
                }
                place.copy_from_slice(&map.encode()?);
            } else {
                params[pointer.at..pointer.at + 8].copy_from_slice(&address.to_le_bytes());
            }
        }
        let module = gpu.load_module(&ptx(&gpu)?)?;
        let stats = gpu.launch(&module, kernel, &self.config, &params)?;
        let mut memory = Vec::with_capacity(places.len());
        for (&at, region) in places.iter().zip(&self.regions) {
            let mut bytes = vec![0; region.bytes.len()];
            gpu.read(at, &mut bytes)?;
            memory.push(bytes);
        }
        Ok((Left { memory, stats }, gpu))
    }

    /// Clusters of the launch.
    #[must_use]
    pub fn clusters(&self) -> u64 {
        let along = |d: usize| u64::from(self.config.grid[d] / self.config.cluster[d].max(1));
        (0..3).map(along).product::<u64>().max(1)
    }
}

/// The 128 bytes of a tensor map.
fn word(bytes: &[u8]) -> [u8; 128] {
    let mut map = [0; 128];
    map.copy_from_slice(bytes);
    map
}
