//! What `tagflow reconcile` prints.

use dataflow::Repair;
use dataflow::reconcile::Report;
use schemas::printable::counted;
use sinks::difference::Difference;

use crate::error::CliError;
use crate::printer::{Print, Printer, ambiguous};

/// The report of a log, with what was checked in the store.
pub(super) fn combined(report: &Report, served: &Report) -> Report {
    Report {
        checked: report.checked + served.checked,
        drift: report.drift + served.drift,
        ..report.clone()
    }
}

/// Prints what was repaired.
pub(super) fn print_repairs(done: &[Repair], json: bool) -> Result<(), CliError> {
    let mut printer = Printer::new(json);
    done.iter().try_for_each(|repair| printer.print(repair))?;
    printer.flush()
}

/// Prints what differs from `other`, then the result, if given.
pub(super) fn print(
    differences: &[Difference],
    report: Option<&Report>,
    other: &'static str,
    json: bool,
) -> Result<(), CliError> {
    let mut printer = Printer::new(json);
    printer.differences(differences, other)?;
    report.map_or(Ok(()), |report| printer.print(report))?;
    printer.flush()
}

impl Print for Report {
    fn lines(&self) -> Vec<String> {
        let Self { commit, since, read_otherwise, events, checked, drift, ambiguous: copies } =
            self;
        if events + checked + drift == 0 {
            return vec![format!("commit {commit} counts no events: there is nothing to check")];
        }
        if checked + drift == 0 {
            return vec![format!("commit {commit}: neither side has the selected keys")];
        }
        let after = since.map_or_else(String::new, |since| format!(" since commit {since}"));
        let checked = counted(checked, "row or id", "rows and ids");
        let differ = counted(drift, "value differs", "values differ");
        let checked = format!("{checked} checked, {differ}");
        let mut lines = vec![format!("commit {commit}{after}: {checked}")];
        if let (Some(commit), 1..) = (read_otherwise, drift) {
            lines.push(format!(
                "records up to commit {commit} were read with another mapping or horizon, or by an older version"
            ));
        }
        if *copies > 0 {
            lines.push(ambiguous(*copies));
        }
        lines
    }
}
