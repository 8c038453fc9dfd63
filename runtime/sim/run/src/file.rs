//! The launch file: its types, and how they are read from JSON.
//!
//! In: text. Out: a [`LaunchFile`] in which every field is known and every name
//! of a buffer exists; nothing has been read from other files and nothing is
//! known of the PTX. docs/simulator.md has the reference.

mod arg;
mod buffer;

pub use arg::{Arg, ArgKind, TensorMapSpec};
pub use buffer::{Buffer, Contents};

use crate::error::InputError;
use crate::json::{Json, Node};

/// Longer lists of launches are scripts, not files.
const MOST_LAUNCHES: usize = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub struct LaunchFile {
    pub device: Device,
    pub buffers: Vec<Buffer>,
    /// Run one after the other.
    pub launches: Vec<Launch>,
    pub outputs: Vec<Output>,
    pub expected: Vec<Expected>,
}

/// How the device differs from an H100 SXM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Device {
    pub sms: Option<u32>,
    pub memory: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub at: String,
    /// Not needed where the PTX has one kernel.
    pub kernel: Option<String>,
    pub grid: [u32; 3],
    /// The kernel's directives say it otherwise.
    pub block: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// May begin before the launches before it have ended.
    pub programmatic: bool,
    pub args: Vec<Arg>,
}

/// Where a buffer goes when all launches have ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub at: String,
    pub buffer: String,
    pub to: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The bytes as they are.
    Raw(String),
    /// A tensor of a safetensors file; outputs to one file go there together.
    Safetensors { file: String, tensor: String },
}

/// What a buffer must hold when all launches have ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Named like the buffer. A type and a shape that it does not have are the
    /// buffer's.
    pub want: Buffer,
    /// The first byte of the buffer that is compared.
    pub offset: u64,
    /// `|got - want| <= abs + rel |want|`; bit for bit when both are zero.
    pub abs: f64,
    pub rel: f64,
}

impl LaunchFile {
    pub fn parse(text: &str) -> Result<LaunchFile, InputError> {
        let json = Json::parse(text)?;
        let file =
            Node::root(&json).fields(&["device", "buffers", "launch", "outputs", "expect"])?;
        let mut buffers = Vec::new();
        if let Some(node) = file.get("buffers") {
            for (name, node) in node.entries()? {
                buffers.push(Buffer::read(name, node)?);
            }
        }
        let device = file.get("device").map_or(Ok(Device::default()), device)?;
        let launches: Vec<Launch> = {
            let node = file.need("launch")?;
            let all = match node.json {
                Json::List(_) => node.list()?,
                _ => vec![node.clone()],
            };
            if all.is_empty() || all.len() > MOST_LAUNCHES {
                return Err(node.error(format!(
                    "{} launches; between 1 and {MOST_LAUNCHES} are possible",
                    all.len()
                )));
            }
            all.into_iter().map(launch).collect::<Result<_, _>>()?
        };
        let list = |name| {
            file.get(name)
                .map_or(Ok(Vec::new()), |n: Node<'_>| n.list())
        };
        let out = LaunchFile {
            device,
            launches,
            outputs: list("outputs")?
                .into_iter()
                .map(output)
                .collect::<Result<_, _>>()?,
            expected: list("expect")?
                .into_iter()
                .map(expected)
                .collect::<Result<_, _>>()?,
            buffers,
        };
        out.check_names()?;
        Ok(out)
    }

    pub fn buffer(&self, name: &str) -> Option<usize> {
        self.buffers.iter().position(|b| b.name == name)
    }

    /// Every buffer that is named exists.
    fn check_names(&self) -> Result<(), InputError> {
        let mut named: Vec<(String, &str)> = Vec::new();
        for launch in &self.launches {
            for arg in &launch.args {
                arg.buffers(&mut named);
            }
        }
        named.extend(
            self.outputs
                .iter()
                .map(|o| (format!("{}.buffer", o.at), o.buffer.as_str())),
        );
        let expected = self.expected.iter();
        named.extend(expected.map(|e| (format!("{}.buffer", e.want.at), e.want.name.as_str())));
        for (at, name) in named {
            if self.buffer(name).is_none() {
                let known: Vec<&str> = self.buffers.iter().map(|b| b.name.as_str()).collect();
                let known = match known[..] {
                    [] => "`buffers` has none".into(),
                    _ => format!("`buffers` has {}", known.join(", ")),
                };
                return Err(InputError::field(
                    at,
                    format!("there is no buffer `{name}`; {known}"),
                ));
            }
        }
        Ok(())
    }
}

fn device(node: Node<'_>) -> Result<Device, InputError> {
    let f = node.fields(&["sms", "memory"])?;
    let sms = f.get("sms").map(|n| n.within(1, 1024)).transpose()?;
    Ok(Device {
        sms: sms.map(|n| n as u32),
        memory: f.get("memory").map(|n| n.bytes()).transpose()?,
    })
}

fn launch(node: Node<'_>) -> Result<Launch, InputError> {
    let at = node.at.clone();
    let f = node.fields(&[
        "kernel",
        "grid",
        "block",
        "cluster",
        "shared",
        "programmatic",
        "args",
    ])?;
    let shared = f.get("shared").map_or(Ok(0), |n| {
        let bytes = n.bytes()?;
        // The device's own limit is a matter of the launch.
        u32::try_from(bytes).map_err(|_| n.error(format!("{bytes} bytes of shared memory")))
    })?;
    let args = f.get("args").map_or(Ok(Vec::new()), |n| n.list())?;
    Ok(Launch {
        at,
        kernel: f
            .get("kernel")
            .map(|n| n.string().map(str::to_owned))
            .transpose()?,
        grid: triple(&f.need("grid")?)?,
        block: f.get("block").map(|n| triple(&n)).transpose()?,
        cluster: f.get("cluster").map(|n| triple(&n)).transpose()?,
        shared,
        programmatic: f.get("programmatic").map_or(Ok(false), |n| n.bool())?,
        args: args.into_iter().map(Arg::read).collect::<Result<_, _>>()?,
    })
}

/// An extent, or up to three of them.
fn triple(node: &Node<'_>) -> Result<[u32; 3], InputError> {
    let mut out = [1; 3];
    let Json::List(list) = node.json else {
        out[0] = node.u32(1)?;
        return Ok(out);
    };
    if list.is_empty() || list.len() > 3 {
        return Err(node.error(format!(
            "{} extents; one to three are possible: x, y, z",
            list.len()
        )));
    }
    for (to, n) in out.iter_mut().zip(node.list()?) {
        *to = n.u32(1)?;
    }
    Ok(out)
}

fn output(node: Node<'_>) -> Result<Output, InputError> {
    let at = node.at.clone();
    let f = node.fields(&["buffer", "file", "safetensors", "tensor"])?;
    let buffer = f.need("buffer")?.string()?.to_owned();
    let to = match (f.get("file"), f.get("safetensors"), f.get("tensor")) {
        (Some(file), None, None) => Target::Raw(file.string()?.to_owned()),
        (None, Some(file), tensor) => Target::Safetensors {
            file: file.string()?.to_owned(),
            tensor: match tensor {
                Some(t) => t.string()?.to_owned(),
                None => buffer.clone(),
            },
        },
        _ => {
            return Err(f.node.error(
                "an output needs either `file`, or `safetensors` with an optional `tensor`",
            ));
        }
    };
    Ok(Output { at, buffer, to })
}

fn expected(node: Node<'_>) -> Result<Expected, InputError> {
    let f = node.clone().fields(buffer::EXPECTED)?;
    let tolerance = |name| {
        f.get(name).map_or(Ok(0.0), |n: Node<'_>| match n.real()? {
            v if v >= 0.0 => Ok(v),
            v => Err(n.error(format!("a tolerance of {v} is below zero"))),
        })
    };
    let (abs, rel) = (tolerance("abs")?, tolerance("rel")?);
    let offset = f.get("at_byte").map_or(Ok(0), |n| n.bytes())?;
    let want = Buffer::read_expected(&f)?;
    if want.contents == Contents::Nothing {
        return Err(node
            .error("nothing says what to expect; add `values`, `file`, `safetensors` or `fill`"));
    }
    Ok(Expected {
        want,
        offset,
        abs,
        rel,
    })
}
