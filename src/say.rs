//! What a command says on standard error beside its result: notes, warnings, errors, logs and the
//! live line.
//!
//! Invariants: saying something can neither fail, hold up nor end anything. Every line is free of
//! control characters and of credentials in addresses; with `--log-json` it is one JSON object,
//! with `--quiet` a warning or an error.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, LazyLock};

use dataflow::clock::{Clock, SystemClock};
use parking_lot::Mutex;
use schemas::config::hide_all_credentials;
use schemas::printable::{counted, printable_json, printable_line, shortened};
use schemas::time::format_ms;
use serde::Serialize;
use serde_json::json;

use crate::stderr::{self, CLEAR, Kind, Queue};

/// The most characters of a line of text: no message needs more, and quoted values may have any.
pub(crate) const LINE_CHARS: usize = 2000;

/// How to say things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    /// As JSON.
    pub(crate) json: bool,
    /// Only warnings and errors.
    pub(crate) quiet: bool,
}

static VOICE: Mutex<Voice> = Mutex::new(Voice { json: false, quiet: false });
static STDERR: LazyLock<Option<Arc<Queue>>> = LazyLock::new(|| Queue::start(lost));

/// Sets how to say things.
pub(crate) fn start(voice: Voice) {
    *VOICE.lock() = voice;
}

fn voice() -> Voice {
    *VOICE.lock()
}

/// Says what the user may want to know.
pub(crate) fn note(text: impl AsRef<str>) {
    if !voice().quiet {
        say("INFO", "", text.as_ref());
    }
}

/// Says what the user should look at.
pub(crate) fn warning(text: impl AsRef<str>) {
    say("WARN", "warning: ", text.as_ref());
}

/// Says why the command failed, which may take several lines.
pub(crate) fn error(lines: &[String]) {
    for (number, line) in lines.iter().enumerate() {
        say("ERROR", if number == 0 { "error: " } else { "" }, line);
    }
}

/// Waits a moment for what was said to be written, before the command ends.
pub(crate) fn end() {
    stderr::flush(&STDERR);
}

/// What to say of `lines` that were not written.
fn lost(lines: u64) -> String {
    let lines = counted(lines, "line", "lines");
    let text = format!("standard error was not read; {lines} could not be written to it");
    said("WARN", "warning: ", &text) + "\n"
}

fn say(level: &str, prefix: &str, text: &str) {
    line(&said(level, prefix, text));
}

fn said(level: &str, prefix: &str, text: &str) -> String {
    let text = hide_all_credentials(text);
    let text = shortened(&text, LINE_CHARS);
    if voice().json {
        object(level, &json!({ "message": text }))
    } else {
        printable_line(&format!("{prefix}{text}")).into_owned()
    }
}

/// One object, with the keys that logs have.
fn object(level: &str, fields: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Object<'o, F> {
        timestamp: String,
        level: &'o str,
        fields: &'o F,
        target: &'static str,
    }
    let timestamp = format_ms(SystemClock::default().wall_ms());
    let object = Object { timestamp, level, fields, target: "tagflow" };
    // Numbers and texts by name: nothing in it can fail to be JSON.
    let json = serde_json::to_string(&object).unwrap_or_else(|error| error.to_string());
    printable_json(&json).into_owned()
}

fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Writes whole lines.
fn write(lines: &[u8]) {
    stderr::write(&STDERR, Kind::Lines, lines);
}

/// Shows progress as `text`: a terminal shows it in place, cut to its width. With `--log-json` it
/// is an object with the fields of `progress`.
pub(crate) fn progress(text: &str, progress: &impl Serialize) {
    let Voice { json, quiet } = voice();
    match terminal_size::terminal_size_of(io::stderr()) {
        _ if quiet => {}
        _ if json => line(&object("INFO", progress)),
        Some((width, _)) if io::stderr().is_terminal() => {
            let text = printable_line(text);
            // The last column stays free: some terminals wrap when it is filled.
            let text = cut(&text, usize::from(width.0).saturating_sub(1));
            stderr::write(&STDERR, Kind::Live, format!("{CLEAR}{text}").as_bytes());
        }
        _ => line(&printable_line(text)),
    }
}

/// Removes the live line from a terminal.
pub(crate) fn end_progress() {
    write(b"");
}

/// As much of a text as fits into `columns`. A character outside Latin, Greek and the like is taken
/// for a wide one.
fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let over = text.char_indices().find(|(_, c)| {
        used += if *c < '\u{1100}' { 1 } else { 2 };
        used > columns
    });
    over.map_or(text, |(at, _)| &text[..at])
}

/// Standard error as logs write to it, whole events at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logs;

impl Write for Logs {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if voice().json {
            write(printable_json_lines(&String::from_utf8_lossy(event)).as_bytes());
        } else {
            write(event);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printable_json_lines(lines: &str) -> String {
    lines.lines().map(|line| printable_json(line).into_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_line_is_cut_to_the_columns_of_a_terminal() {
        assert_eq!(cut("12 records/s", 20), "12 records/s");
        assert_eq!(cut("12 records/s", 4), "12 r");
        assert_eq!(cut("#日本語 5", 5), "#日本");
        assert_eq!(cut("#日本語 5", 6), "#日本");
        assert_eq!(cut("x", 0), "");
    }

    #[test]
    fn said_object_is_one_line_without_control_characters() {
        let said = object("WARN", &json!({ "message": "a\n\x1b[2J\u{202e}" }));
        let parsed: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(parsed["fields"]["message"], "a\n\x1b[2J\u{202e}");
        assert!(said.is_ascii() && !said.contains('\n'), "{said}");
    }
}
