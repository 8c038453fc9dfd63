//! Sequences of launches as graphs (CUDA driver API, "Graph Management").
//!
//! In: the launches of a step, under a key. Out: the same launches, with one call of the driver where they are known.
//! Holds: a graph has one kernel node a launch, in order; a node's launch is the one that it was last set to, also
//! when setting another one failed; a graph that no longer fits is made again.
//!
//! ```text
//! 1st time   launched one by one: the driver loads what it loads late
//! 2nd time   captured: the launches become the nodes of a graph, which runs
//! later      nodes whose grid or parameters changed are set, then the graph runs
//! ```

use core::ptr;

use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUgraph, CUgraphExec, CUgraphNode, CUstream, CUstreamCaptureMode,
    CUstreamCaptureStatus,
};

use super::CudaDevice;
use super::failure::{Failure, GRAPH_EXEC_UPDATE_FAILURE, call};
use super::handles::Owned;
use super::launch::Record;
use crate::device::{Launch, LaunchReport, SequenceError, SequenceKey, StreamId};
use crate::error::DeviceError;

/// `CU_STREAM_CAPTURE_STATUS_ACTIVE`.
const ACTIVE: u32 = 1;

/// All sequences that were run.
#[derive(Default)]
pub(super) struct Sequences(Vec<(SequenceKey, Option<Graph>)>);

/// A sequence that can be launched at once.
struct Graph {
    exec: Owned<CUgraphExec>,
    /// Names the nodes when they are set.
    _graph: Owned<CUgraph>,
    /// Of each launch.
    nodes: Vec<CUgraphNode>,
    /// What each node is set to.
    launches: Vec<Record>,
}

/// What keeps a graph from being used for some launches.
enum Update {
    /// It is set to them.
    Done,
    /// It has to be made again.
    Misfit,
}

impl CudaDevice {
    pub(super) fn run_sequence(
        &mut self,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        let place = self.sequences.0.iter().position(|(known, _)| *known == key);
        match place {
            Some(place) if self.graphs && !self.timing.is_on() && !launches.is_empty() => {
                self.run_graph(place, key, launches)?;
            }
            _ => {
                for (index, launch) in launches.iter().enumerate() {
                    self.launch_one(StreamId::MAIN, launch)
                        .map_err(|source| at(index, source))?;
                }
                if place.is_none() {
                    self.sequences.0.push((key, None));
                }
            }
        }
        Ok(vec![LaunchReport::default(); launches.len()])
    }

    /// Runs a known sequence as a graph.
    fn run_graph(
        &mut self,
        place: usize,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<(), SequenceError> {
        for (index, launch) in launches.iter().enumerate() {
            self.prepare(launch).map_err(|source| at(index, source))?;
        }
        self.join_uploads().map_err(whole)?;
        // Out of the list while it is changed: a graph that failed half way through being made does not stay.
        let graph = match self.sequences.0[place].1.take() {
            None => self.capture(launches)?,
            Some(mut graph) => match self.update(&mut graph, launches) {
                Ok(Update::Done) => graph,
                Ok(Update::Misfit) => {
                    drop(graph);
                    self.capture(launches)?
                }
                Err(err) => {
                    self.sequences.0[place].1 = Some(graph);
                    return Err(err);
                }
            },
        };
        let (exec, main) = (graph.exec.raw(), self.main());
        self.sequences.0[place].1 = Some(graph);
        self.main_used();
        // SAFETY: the graph and the stream are live.
        let launched = unsafe { call!(self.context.api(), cuGraphLaunch(exec, main)) };
        launched.map_err(|failure| whole(self.failed(failure)))?;
        self.streams[StreamId::MAIN.0].remember_graph(key);
        Ok(())
    }

    /// Makes a graph of launches.
    fn capture(&mut self, launches: &[Launch<'_>]) -> Result<Graph, SequenceError> {
        let main = self.main();
        let api = self.context.api();
        // Other threads' calls do not matter to what is captured here.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is live and not the legacy one.
        let begun = unsafe { call!(api, cuStreamBeginCapture_v2(main, mode)) };
        begun.map_err(|failure| whole(self.failed(failure)))?;
        let captured = self.capture_launches(main, launches);
        // Ends the capture in any case: a stream that stays captured refuses everything else.
        let graph = self.end_capture(main);
        let nodes = captured?;
        let graph = graph.map_err(|failure| whole(self.failed(failure)))?;
        let exec = Owned::<CUgraphExec>::instantiate(&self.context, &graph)
            .map_err(|failure| whole(self.failed(failure)))?;
        Ok(Graph {
            exec,
            _graph: graph,
            nodes,
            launches: launches.iter().map(Record::of).collect(),
        })
    }

    /// Gives the launches to the captured stream; the node of each.
    fn capture_launches(
        &mut self,
        main: CUstream,
        launches: &[Launch<'_>],
    ) -> Result<Vec<CUgraphNode>, SequenceError> {
        let mut nodes = Vec::with_capacity(launches.len());
        for (index, launch) in launches.iter().enumerate() {
            self.submit(main, launch, launch.dims.programmatic)
                .map_err(|source| at(index, source))?;
            let node = self
                .last_node(main)
                .map_err(|failure| at(index, self.failed(failure)))?;
            // A stream's next work depends on its last: on one node, unless the capture was broken off.
            let node = node.ok_or_else(|| {
                at(
                    index,
                    DeviceError::Launch {
                        what: Record::of(launch).text(&self.functions),
                        message: "the capture of the launches into a graph was broken off"
                            .to_owned(),
                    },
                )
            })?;
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// The node that the next launch will depend on: the last one.
    fn last_node(&self, main: CUstream) -> Result<Option<CUgraphNode>, Failure> {
        // Read as a number: a newer driver may know more states.
        let mut status = 0_u32;
        let mut nodes = ptr::null();
        let mut edges = ptr::null();
        let mut count = 0;
        // SAFETY: writes a number of the enum's size, two pointers and a count. The edges are asked for, since the
        // driver refuses to leave out those of programmatic launches.
        unsafe {
            call!(
                self.context.api(),
                cuStreamGetCaptureInfo_v3(
                    main,
                    (&raw mut status).cast::<CUstreamCaptureStatus>(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    &raw mut nodes,
                    &raw mut edges,
                    &raw mut count,
                )
            )
        }?;
        if status != ACTIVE || count != 1 || nodes.is_null() {
            return Ok(None);
        }
        // SAFETY: there is one node; the array stays as it is until the next call for this stream.
        Ok(Some(unsafe { *nodes }))
    }

    fn end_capture(&self, main: CUstream) -> Result<Owned<CUgraph>, Failure> {
        let mut graph = ptr::null_mut();
        // SAFETY: the capture was begun on this stream by this thread; writes one handle. Whatever the answer is, the
        // stream is not captured any more.
        unsafe { call!(self.context.api(), cuStreamEndCapture(main, &raw mut graph)) }?;
        // SAFETY: the graph of an ended capture belongs to the one who ended it.
        Ok(unsafe { Owned::<CUgraph>::adopt(&self.context, graph) })
    }

    /// Sets the nodes whose launches have changed.
    fn update(
        &mut self,
        graph: &mut Graph,
        launches: &[Launch<'_>],
    ) -> Result<Update, SequenceError> {
        let same_kernels = graph.launches.len() == launches.len()
            && graph.launches.iter().zip(launches).all(|(old, new)| {
                old.function == new.function.0
                    && old.dims.cluster == new.dims.cluster
                    && old.dims.programmatic == new.dims.programmatic
            });
        if !same_kernels {
            return Ok(Update::Misfit);
        }
        for (index, launch) in launches.iter().enumerate() {
            let old = &mut graph.launches[index];
            if old.dims == launch.dims && old.params == launch.params {
                continue;
            }
            match self.set_node(graph.exec.raw(), graph.nodes[index], launch) {
                Ok(()) => old.set(launch),
                Err(failure) if failure.code == GRAPH_EXEC_UPDATE_FAILURE => {
                    return Ok(Update::Misfit);
                }
                Err(failure) => return Err(at(index, self.refused(failure, launch))),
            }
        }
        Ok(Update::Done)
    }

    /// Sets one node to a prepared launch. Its cluster and its way of following stay.
    fn set_node(
        &mut self,
        exec: CUgraphExec,
        node: CUgraphNode,
        launch: &Launch<'_>,
    ) -> Result<(), Failure> {
        let [grid_x, grid_y, grid_z] = launch.dims.grid;
        let params = CUDA_KERNEL_NODE_PARAMS {
            func: self.functions[launch.function.0].raw(),
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: launch.dims.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.dims.smem_bytes,
            kernelParams: self.arguments(launch),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        };
        // SAFETY: the node is of the graph that `exec` was made from, which is live; the parameters are as in
        // `submit`, and the driver copies them before it returns.
        unsafe {
            call!(
                self.context.api(),
                cuGraphExecKernelNodeSetParams_v2(exec, node, &raw const params)
            )
        }
    }

    /// The launches of a sequence that ran as a graph, for errors.
    pub(super) fn sequence_records(&self, key: SequenceKey) -> &[Record] {
        let graph = self
            .sequences
            .0
            .iter()
            .find_map(|(known, graph)| graph.as_ref().filter(|_| *known == key));
        graph.map_or(&[], |graph| &graph.launches)
    }
}

/// A failure of one launch.
const fn at(index: usize, source: DeviceError) -> SequenceError {
    SequenceError {
        index: Some(index),
        source,
    }
}

/// A failure of the whole sequence.
const fn whole(source: DeviceError) -> SequenceError {
    SequenceError {
        index: None,
        source,
    }
}
