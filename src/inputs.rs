//! Inputs as the command line names them.

use std::path::PathBuf;

use dataflow::log::Mode;
use dataflow::{InputSpec, LogTimeKind, Origin};
use schemas::mapping::Mapping;

/// The input that a path or address names, called `input`.
pub(crate) fn input(text: &str, mapping: Mapping, bounded: bool, ordered: bool) -> InputSpec {
    let origin = match text {
        "stdin:" | "-" => Origin::Stdin { bounded },
        path => Origin::Files {
            path: PathBuf::from(path.strip_prefix("file:").unwrap_or(path)),
            mode: match (bounded, ordered) {
                (true, false) => Mode::Blocks,
                (true, true) => Mode::Ordered,
                (false, _) => Mode::Tail,
            },
        },
    };
    InputSpec { name: "input".to_owned(), origin, mapping, log_time: LogTimeKind::Event }
}
