//! What a build tells while it runs.

/// Something happened. Events of one build come in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step begins.
    StepStarted {
        /// Counted from 1 over all stages that are built.
        step: usize,
        /// How many steps there are.
        steps: usize,
        /// The instruction as written.
        text: String,
    },
    /// The step's result was in the cache.
    Cached {
        /// The step.
        step: usize,
    },
    /// The step's command wrote a line.
    Output {
        /// The step.
        step: usize,
        /// The line, without its end.
        line: String,
    },
    /// The step is done.
    StepDone {
        /// The step.
        step: usize,
    },
    /// Something that people should know and that does not stop the build.
    Note(String),
    /// A blob is on its way.
    Bytes {
        /// From or to a registry.
        transfer: Transfer,
        /// The blob's digest.
        blob: String,
        /// Bytes moved so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// The direction of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// From a registry.
    Fetch,
    /// To a registry.
    Push,
}

/// Where events go. It is called from several threads and must not block for long.
pub type Progress<'a> = dyn Fn(Event) + Send + Sync + 'a;
