//! Streams and events, waiting for them, and what is known of their work when it fails.
//!
//! In: numbers that the caller was given. Out: the driver's handles; errors that name the launches in flight.
//! Holds: an event's number is good until the next synchronisation, a stream's as long as the device; after a
//! time-out nothing is released any more, since releasing would wait.

use std::rc::Rc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUevent, CUstream};

use super::CudaDevice;
use super::context::Context;
use super::failure::{Failure, call};
use super::handles::Owned;
use super::launch::Record;
use super::wait::{finished, wait};
use crate::device::{EventId, SequenceKey, StreamId};
use crate::error::DeviceError;

/// Launches of a stream that are remembered for errors.
const REMEMBERED: usize = 32;

/// A stream and what it was given since it was last waited for.
pub(super) struct Stream {
    handle: Owned<CUstream>,
    busy: bool,
    /// Launches; the places are used again, so that launching allocates nothing.
    launches: Vec<Record>,
    /// How many there were, of which the last [`REMEMBERED`] are kept.
    launched: usize,
    /// Sequences that ran as graphs.
    graphs: Vec<SequenceKey>,
}

impl Stream {
    pub fn new(context: &Rc<Context>, priority: i32) -> Result<Self, Failure> {
        Ok(Self {
            handle: Owned::<CUstream>::create(context, priority)?,
            busy: false,
            launches: Vec::new(),
            launched: 0,
            graphs: Vec::new(),
        })
    }

    /// The place to remember the next launch in.
    pub fn next_record(&mut self) -> &mut Record {
        let place = self.launched % REMEMBERED;
        self.launched += 1;
        if self.launches.len() <= place {
            self.launches.push(Record::default());
        }
        &mut self.launches[place]
    }

    /// Forgets the last launch: it was not made.
    pub fn forget_record(&mut self) {
        self.launched = self.launched.saturating_sub(1);
    }

    /// Remembers a sequence that runs as a graph.
    pub fn remember_graph(&mut self, key: SequenceKey) {
        if self.graphs.len() < REMEMBERED {
            self.graphs.push(key);
        }
    }

    /// The last launches, the oldest first.
    fn remembered(&self) -> impl Iterator<Item = &Record> {
        let first = self.launched.saturating_sub(REMEMBERED);
        (first..self.launched).map(|place| &self.launches[place % REMEMBERED])
    }

    fn idle(&mut self) {
        self.busy = false;
        self.launched = 0;
        self.graphs.clear();
    }
}

/// Marks that the caller has made.
#[derive(Default)]
pub(super) struct Events {
    /// Number of the first one that is still known.
    first: usize,
    known: Vec<Owned<CUevent>>,
    /// For the next ones.
    spare: Vec<Owned<CUevent>>,
}

impl CudaDevice {
    /// The main stream.
    pub(super) fn main(&self) -> CUstream {
        self.streams[StreamId::MAIN.0].handle.raw()
    }

    /// Notes that the main stream was given work.
    pub(super) fn main_used(&mut self) {
        self.stream_used(StreamId::MAIN);
    }

    /// Notes that a stream was given work.
    pub(super) fn stream_used(&mut self, stream: StreamId) {
        self.streams[stream.0].busy = true;
        if stream == StreamId::MAIN {
            self.staging.main_used();
        }
    }

    /// The driver's stream.
    pub(super) fn stream(&self, stream: StreamId) -> Result<CUstream, DeviceError> {
        let known = self.streams.get(stream.0);
        known
            .map(|stream| stream.handle.raw())
            .ok_or(DeviceError::NoHandle {
                what: "stream",
                number: stream.0,
            })
    }

    pub(super) fn new_stream(&mut self, priority: i32) -> Result<StreamId, DeviceError> {
        let api = self.context.api();
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: writes two ints.
        let asked = unsafe {
            call!(
                api,
                cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest)
            )
        };
        asked.map_err(|failure| self.failed(failure))?;
        // The greatest priority has the lowest number.
        let priority = priority.max(greatest).min(least);
        let stream =
            Stream::new(&self.context, priority).map_err(|failure| self.failed(failure))?;
        self.streams.push(stream);
        Ok(StreamId(self.streams.len() - 1))
    }

    pub(super) fn new_event(&mut self, stream: StreamId) -> Result<EventId, DeviceError> {
        let handle = self.stream(stream)?;
        if stream == StreamId::MAIN {
            self.join_uploads()?;
        }
        let event = match self.events.spare.pop() {
            Some(event) => event,
            None => Owned::<CUevent>::create(&self.context, false)
                .map_err(|failure| self.failed(failure))?,
        };
        let recorded = event.record(handle);
        // Also when it failed: the event is as good as before.
        if let Err(failure) = recorded {
            self.events.spare.push(event);
            return Err(self.failed(failure));
        }
        self.stream_used(stream);
        self.events.known.push(event);
        Ok(EventId(self.events.first + self.events.known.len() - 1))
    }

    pub(super) fn hold_stream(
        &mut self,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DeviceError> {
        let handle = self.stream(stream)?;
        let place = event.0.checked_sub(self.events.first);
        let known = place.and_then(|place| self.events.known.get(place));
        let Some(known) = known else {
            return Err(DeviceError::NoHandle {
                what: "event",
                number: event.0,
            });
        };
        known.hold(handle).map_err(|failure| self.failed(failure))?;
        self.stream_used(stream);
        Ok(())
    }

    /// Forgets the caller's events.
    pub(super) fn forget_events(&mut self) {
        let events = &mut self.events;
        events.first += events.known.len();
        events.spare.append(&mut events.known);
    }

    /// Waits for everything that was given to any stream.
    pub(super) fn drain(&mut self) -> Result<(), DeviceError> {
        let start = Instant::now();
        if let Some(copy) = self.staging.busy_stream() {
            self.await_stream(copy, self.timeout)?;
            self.staging.copy_idle();
        }
        for stream in 0..self.streams.len() {
            if self.streams[stream].busy {
                let left = self.timeout.saturating_sub(start.elapsed());
                self.await_stream(self.streams[stream].handle.raw(), left)?;
                self.streams[stream].idle();
                if stream == StreamId::MAIN.0 {
                    self.staging.main_idle();
                }
            }
        }
        Ok(())
    }

    /// Waits for what was given to the main stream.
    pub(super) fn drain_main(&mut self) -> Result<(), DeviceError> {
        if self.streams[StreamId::MAIN.0].busy {
            self.await_stream(self.main(), self.timeout)?;
            self.streams[StreamId::MAIN.0].idle();
            self.staging.main_idle();
        }
        Ok(())
    }

    /// Waits for one stream.
    pub(super) fn await_stream(
        &self,
        stream: CUstream,
        limit: Duration,
    ) -> Result<(), DeviceError> {
        let api = self.context.api();
        // SAFETY: streams live as long as the device.
        let done = wait(limit, || {
            finished(unsafe { call!(api, cuStreamQuery(stream)) })
        });
        if done.map_err(|failure| self.failed(failure))? {
            return Ok(());
        }
        Err(self.hung())
    }

    /// The error of work that does not end; the device is lost.
    pub(super) fn hung(&self) -> DeviceError {
        let err = DeviceError::Timeout {
            seconds: self.timeout.as_secs(),
            what: self.in_flight(),
            status: self.status.text(&self.functions),
        };
        self.context.lose(&err);
        self.context.abandon();
        err
    }

    /// The error of a failed call. A kernel that failed earlier shows in whatever is called next: then the error
    /// names what was in flight, and what the kernel said of itself. Sticky errors lose the device.
    pub(super) fn failed(&self, failure: Failure) -> DeviceError {
        if !failure.is_kernel_fault() {
            return self.context.fail(failure);
        }
        let api = self.context.api();
        let err = DeviceError::Launch {
            what: self.in_flight(),
            message: format!("{}{}", failure.text(api), self.status.text(&self.functions)),
        };
        self.context.lose(&err);
        err
    }

    /// Launches that were given and not waited for, for people.
    pub(super) fn in_flight(&self) -> String {
        let mut count = 0;
        let mut texts: Vec<String> = Vec::new();
        for stream in &self.streams {
            count += stream.launched;
            texts.extend(
                stream
                    .remembered()
                    .map(|record| record.text(&self.functions)),
            );
            for key in &stream.graphs {
                let launches = self.sequence_records(*key);
                count += launches.len();
                texts.extend(launches.iter().map(|record| record.text(&self.functions)));
            }
        }
        in_flight_text(count, texts)
    }
}

/// One launch in full, or how many there are with some of them.
fn in_flight_text(count: usize, mut texts: Vec<String>) -> String {
    /// As many as a person reads.
    const NAMED: usize = 4;
    match (count, texts.len()) {
        (0, _) => "a copy (no kernel was in flight)".to_owned(),
        (1, 1) => texts.remove(0),
        (_, named) => {
            texts.truncate(NAMED);
            let more = if named > NAMED { " ..." } else { "" };
            format!(
                "one of {count} launches in flight: {}{more}",
                texts.join("; ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_in_flight_are_named_up_to_a_few() {
        let texts = |n: usize| (0..n).map(|i| format!("k{i}")).collect::<Vec<_>>();
        assert_eq!(in_flight_text(1, texts(1)), "k0");
        assert_eq!(
            in_flight_text(2, texts(2)),
            "one of 2 launches in flight: k0; k1"
        );
        assert_eq!(
            in_flight_text(40, texts(32)),
            "one of 40 launches in flight: k0; k1; k2; k3 ..."
        );
        assert!(in_flight_text(0, Vec::new()).contains("no kernel"));
    }
}
