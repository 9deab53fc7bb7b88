//! What `tagflow reconcile` prints.

use dataflow::Repair;
use dataflow::reconcile::{Drift, Report};

use crate::error::CliError;
use crate::output::{Output, unless_closed};
use crate::repairs::tell as tell_repair;

/// What was found in a log, and in a store.
pub(super) fn with(report: &Report, served: &Report) -> Report {
    Report {
        checked: report.checked + served.checked,
        drift: report.drift + served.drift,
        ..report.clone()
    }
}

pub(super) fn tell_repairs(done: &[Repair], json: bool) -> Result<(), CliError> {
    let mut output = Output::new();
    let told = done.iter().try_for_each(|repair| tell_repair(&mut output, repair, json));
    unless_closed(told.and_then(|()| output.flush()))
}

pub(super) fn tell(
    values: &[Drift],
    report: Option<&Report>,
    whose: &str,
    json: bool,
) -> Result<(), CliError> {
    unless_closed(print(values, report, whose, json))
}

fn print(
    values: &[Drift],
    report: Option<&Report>,
    whose: &str,
    json: bool,
) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        values.iter().try_for_each(|value| output.json(value))?;
        report.map_or(Ok(()), |report| output.json(report))?;
        return output.flush();
    }
    for Drift { scope, key, field, stored, recomputed, events } in values {
        let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
        output.line(format!("{key}{place}: {field} is {stored}, {whose} says {recomputed}"))?;
        for event in events {
            output.line(format!("  {}/{} at {}", event.input, event.partition, event.position))?;
        }
    }
    let Some(report) = report else { return output.flush() };
    let Report { commit, since, read_otherwise, events, checked, drift, ambiguous } = report;
    if events + checked + drift == 0 {
        output.line(format!("commit {commit} counts no event: there is nothing to check"))?;
        return output.flush();
    }
    if checked + drift == 0 {
        output.line(format!("commit {commit}: what was asked for is on neither side"))?;
        return output.flush();
    }
    let after = since.map_or_else(String::new, |since| format!(" since commit {since}"));
    output.line(format!(
        "commit {commit}{after}: {checked} rows and ids checked, {drift} values differ"
    ))?;
    if let (Some(commit), 1..) = (read_otherwise, drift) {
        output.line(format!("up to commit {commit} records were read otherwise than now"))?;
    }
    if *ambiguous > 0 {
        output.line(format!("{ambiguous} events came in copies that differ: any may count"))?;
    }
    output.flush()
}
