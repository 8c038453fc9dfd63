//! Captures and graphs (CUDA driver API, Stream Management and Graph Management).
//!
//! ```text
//!   cuStreamBeginCapture ─► work becomes nodes ─► cuStreamEndCapture ─► graph
//!   graph ─► cuGraphInstantiate ─► executable graph ─► cuGraphLaunch ─► work in a stream
//! ```
//!
//! Holds: nodes belong to their graph, and go with it. Of nodes that do not depend on each other the one that was
//! captured last runs first, so that a missing dependency shows.

use std::collections::BTreeSet;
use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::thread::ThreadId;

use crate::abi::{CUresult, Handle};
use crate::codes::{self, Answer};
use crate::state::{CONTEXT, Driver, RELEASE, call, call_or, given, put, put_if};
use crate::stream::{Point, Work};

/// Work in a graph.
#[derive(Clone)]
struct Node {
    handle: Handle,
    work: Work,
    after: Vec<Handle>,
}

/// A capture in progress.
pub struct Capture {
    origin: Handle,
    mode: c_uint,
    thread: ThreadId,
    valid: bool,
    /// Handle of the graph to be.
    graph: Handle,
    nodes: Vec<Node>,
}

pub struct Graph {
    nodes: Vec<Node>,
}

pub struct GraphExec {
    graph: Handle,
    /// In the order in which they run.
    nodes: Vec<Node>,
    /// The end of its last launch: an executable graph runs once at a time.
    last: Option<Arc<Point>>,
}

/// `CU_STREAM_CAPTURE_MODE_GLOBAL` is 0, `_THREAD_LOCAL` 1.
const RELAXED: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> CUresult {
    call(c"cuStreamBeginCapture_v2", CONTEXT, |d| {
        if mode > RELAXED {
            return Err(codes::INVALID_VALUE);
        }
        if d.stream(stream)?.capture.is_some() {
            return Err(codes::ILLEGAL_STATE);
        }
        let graph = d.fresh();
        let id = graph as u64;
        let capture = Capture {
            origin: stream,
            mode,
            thread: std::thread::current().id(),
            valid: true,
            graph,
            nodes: Vec::new(),
        };
        d.captures.insert(id, capture);
        d.stream(stream)?.capture = Some((id, Vec::new()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, out: *mut Handle) -> CUresult {
    // Whatever it reports, the capture is over.
    let end = |d: &mut Driver| {
        if let Ok(Some((id, _))) = d.stream(stream).map(|s| s.capture.clone()) {
            d.end(id);
        }
    };
    call_or(c"cuStreamEndCapture", CONTEXT, end, |d| {
        given(out)?;
        // SAFETY: the caller's place for the result.
        unsafe { put(out, 0) }?;
        let capture = d.stream(stream)?.capture.clone();
        let (id, last) = capture.ok_or(codes::ILLEGAL_STATE)?;
        let known = d.captures.get(&id).ok_or(codes::ILLEGAL_STATE)?;
        if known.origin != stream {
            d.invalidate(id);
            return Err(codes::STREAM_CAPTURE_UNMATCHED);
        }
        if known.mode != RELAXED && known.thread != std::thread::current().id() {
            return Err(codes::STREAM_CAPTURE_WRONG_THREAD);
        }
        let joined = d.joined(id, &last);
        let Some(capture) = d.end(id) else {
            return Err(codes::ILLEGAL_STATE);
        };
        if !capture.valid {
            return Err(codes::STREAM_CAPTURE_INVALIDATED);
        }
        if !joined {
            return Err(codes::STREAM_CAPTURE_UNJOINED);
        }
        let nodes = capture.nodes;
        d.graphs.insert(capture.graph, Graph { nodes });
        // SAFETY: the caller's place for the result.
        unsafe { put(out, capture.graph) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status: *mut c_uint,
    id: *mut u64,
    graph: *mut Handle,
    nodes: *mut *const Handle,
    count: *mut usize,
) -> CUresult {
    call(c"cuStreamGetCaptureInfo_v2", CONTEXT, |d| {
        // SAFETY: the caller's places for the results.
        unsafe { d.capture_info(stream, status, id, graph, nodes, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: Handle,
    status: *mut c_uint,
    id: *mut u64,
    graph: *mut Handle,
    nodes: *mut *const Handle,
    edges: *mut *const c_void,
    count: *mut usize,
) -> CUresult {
    call(c"cuStreamGetCaptureInfo_v3", CONTEXT, |d| {
        if !edges.is_null() {
            // Every edge is a plain one, of which there is no data.
            // SAFETY: the caller's place for the result.
            unsafe { put(edges, std::ptr::null()) }?;
        }
        // SAFETY: the caller's places for the results.
        unsafe { d.capture_info(stream, status, id, graph, nodes, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    out: *mut Handle,
    graph: Handle,
    flags: c_ulonglong,
) -> CUresult {
    call(c"cuGraphInstantiateWithFlags", CONTEXT, |d| {
        given(out)?;
        // Of the flags only CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY.
        if flags & !8 != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let known = d.graphs.get(&graph).ok_or(codes::INVALID_VALUE)?;
        let exec = GraphExec {
            graph,
            nodes: in_order(&known.nodes),
            last: None,
        };
        let handle = d.fresh();
        d.execs.insert(handle, exec);
        // SAFETY: the caller's place for the result.
        unsafe { put(out, handle) }
    })
}

/// Of the nodes that may run, always the last.
fn in_order(nodes: &[Node]) -> Vec<Node> {
    let mut left: Vec<&Node> = nodes.iter().collect();
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    let ready = |left: &[&Node], done: &BTreeSet<Handle>| {
        left.iter()
            .rposition(|n| n.after.iter().all(|a| done.contains(a)))
    };
    while let Some(at) = ready(&left, &done) {
        let node = left.remove(at);
        done.insert(node.handle);
        order.push(node.clone());
    }
    order
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: Handle,
    node: Handle,
    params: *const crate::abi::KernelNodeParams,
) -> CUresult {
    call(c"cuGraphExecKernelNodeSetParams_v2", CONTEXT, |d| {
        given(params)?;
        // SAFETY: the caller's parameters.
        let params = unsafe { params.read() };
        let known = d.execs.get(&exec).ok_or(codes::INVALID_VALUE)?;
        // The node must not have been removed from the graph, so the graph lives.
        if !d.graphs.contains_key(&known.graph) || params.kern != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let at = known.nodes.iter().position(|n| n.handle == node);
        let at = at.ok_or(codes::INVALID_VALUE)?;
        let Work::Kernel(old) = &known.nodes[at].work else {
            return Err(codes::INVALID_VALUE);
        };
        // Attributes stay those of the capture.
        let cluster = Some(old.config.cluster).filter(|c| *c != [1; 3]);
        let request = crate::launch::Request {
            function: params.func,
            grid: params.grid,
            block: params.block,
            cluster,
            programmatic: old.config.programmatic,
            shared_bytes: params.shared_bytes,
            params: params.kernel_params,
            extra: params.extra,
        };
        // SAFETY: the caller's parameters.
        let launch = unsafe { d.prepare(&request) }?;
        if let Some(exec) = d.execs.get_mut(&exec) {
            exec.nodes[at].work = Work::Kernel(launch);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: Handle, stream: Handle) -> CUresult {
    call(c"cuGraphLaunch", CONTEXT, |d| {
        // A graph inside of a graph is more than the program under test needs.
        d.not_capturing(stream)?;
        let known = d.execs.get_mut(&exec).ok_or(codes::INVALID_VALUE)?;
        let end = Point::new(stream);
        let before = known.last.replace(Arc::clone(&end));
        let work: Vec<Work> = known.nodes.iter().map(|n| n.work.clone()).collect();
        if let Some(before) = before.filter(|p| !p.is_reached()) {
            d.submit(stream, Work::Wait(before))?;
        }
        for work in work {
            d.submit(stream, work)?;
        }
        d.submit(stream, Work::Record(end))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: Handle) -> CUresult {
    call(c"cuGraphExecDestroy", RELEASE, |d| {
        let known = d.execs.remove(&exec);
        known.map(|_| ()).ok_or(codes::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    call(c"cuGraphDestroy", RELEASE, |d| {
        let known = d.graphs.remove(&graph);
        known.map(|_| ()).ok_or(codes::INVALID_VALUE)
    })
}

impl Driver {
    /// What a stream captures. The list of nodes lies in the stream until its next work, as documented.
    ///
    /// # Safety
    /// Places for the results, of which all but the first may be null.
    unsafe fn capture_info(
        &mut self,
        stream: Handle,
        status: *mut c_uint,
        id: *mut u64,
        graph: *mut Handle,
        nodes: *mut *const Handle,
        count: *mut usize,
    ) -> Answer {
        given(status)?;
        let capture = self.stream(stream)?.capture.as_ref();
        let current = capture.map(|(id, nodes)| (*id, nodes.as_ptr(), nodes.len()));
        let Some((known, list, len)) = current else {
            // SAFETY: by the caller's promise; CU_STREAM_CAPTURE_STATUS_NONE.
            return unsafe { put(status, 0) };
        };
        let capture = self.captures.get(&known).ok_or(codes::ILLEGAL_STATE)?;
        // SAFETY: by the caller's promise.
        unsafe {
            // CU_STREAM_CAPTURE_STATUS_ACTIVE and _INVALIDATED.
            put(status, if capture.valid { 1 } else { 2 })?;
            put_if(id, known);
            if capture.valid {
                put_if(graph, capture.graph);
                put_if(nodes, list);
                put_if(count, len);
            }
        }
        Ok(())
    }

    /// From here on the capture can only be ended.
    pub fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.valid = false;
        }
    }

    /// Whether a capture forbids a call that may synchronise; it then is invalid.
    pub fn forbidden_by_capture(&mut self) -> bool {
        let thread = std::thread::current().id();
        let mut forbidden = false;
        for capture in self.captures.values_mut() {
            if capture.mode == 0 || (capture.mode != RELAXED && capture.thread == thread) {
                capture.valid = false;
                forbidden = true;
            }
        }
        forbidden
    }

    /// A new node after others.
    pub fn add_node(&mut self, id: u64, work: Work, after: &[Handle]) -> Answer<Handle> {
        let handle = self.fresh();
        let capture = self.captures.get_mut(&id).ok_or(codes::ILLEGAL_STATE)?;
        if !capture.valid {
            return Err(codes::STREAM_CAPTURE_INVALIDATED);
        }
        capture.nodes.push(Node {
            handle,
            work,
            after: after.to_vec(),
        });
        Ok(handle)
    }

    /// Takes all streams out of a capture.
    fn end(&mut self, id: u64) -> Option<Capture> {
        for stream in self.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|(c, _)| *c == id) {
                stream.capture = None;
            }
        }
        self.captures.remove(&id)
    }

    /// Whether everything that was captured lies before the origin's last nodes.
    fn joined(&self, id: u64, last: &[Handle]) -> bool {
        let Some(capture) = self.captures.get(&id) else {
            return false;
        };
        let mut reached: BTreeSet<Handle> = last.iter().copied().collect();
        for node in capture.nodes.iter().rev() {
            if !reached.contains(&node.handle) {
                return false;
            }
            reached.extend(&node.after);
        }
        true
    }
}
