//! The command line: how values of common kinds are parsed, how help is laid out, and what a
//! mistake says.
//!
//! Invariant: a message repeats no more than a few words of an argument, without credentials and
//! with control characters escaped.

use std::error::Error as _;
use std::ffi::OsStr;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::styling::Styles;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};
use schemas::config::{SourceUri, hide_credentials};
use schemas::printable::{printable, shortened};
use schemas::time::TimeUnit;

use crate::output;
use crate::say::{self, Voice};

/// The most characters of an argument that a message repeats.
const ARGUMENT_CHARS: usize = 80;

/// The most characters of a line about a mistake.
const MISTAKE_CHARS: usize = 400;

/// The commands as `tagflow --help` lists them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Count and look", &["demo", "run", "serve", "query"]),
    ("Prepare a job", &["generate", "extract", "validate", "explain", "doctor"]),
    ("Check and repair", &["reconcile", "explain-count", "compare", "dead-letters", "repairs"]),
    ("Commits and replays", &["checkpoint", "replay"]),
    ("Database", &["store"]),
];

/// Lays out the help of all commands: wrapped, the commands in groups.
pub(crate) fn laid_out(command: Command) -> Command {
    let header = Styles::styled();
    let (on, off) = (header.get_header().render(), header.get_header().render_reset());
    let (name_on, name_off) = (header.get_literal().render(), header.get_literal().render_reset());
    let mut template = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (group, names) in GROUPS {
        // Writing to a String does not fail.
        let _ = write!(template, "\n{on}{group}:{off}\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map_or_else(String::new, ToString::to_string);
            let _ = writeln!(template, "  {name_on}{name:<15}{name_off}{about}");
        }
    }
    template += "\n{all-args}{after-help}";
    let command = command
        .override_usage("tagflow [OPTIONS] <COMMAND>")
        .after_help("`tagflow COMMAND --help` explains a command.")
        .help_template(template)
        .max_term_width(100);
    // They are in the template.
    command.mut_subcommands(|command| command.hide(true))
}

/// Says what is wrong with a command line, or prints the help that it asks for.
pub(crate) fn refuse(error: Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    let error = shorter(error);
    let error = bounded(expecting(&error).unwrap_or(error));
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--log-json") {
        // It was asked for, though what was not understood may come before it.
        say::start(Voice { json: true, quiet: false });
        say::error(&[first_paragraph(&error.render().to_string())]);
        return code;
    }
    match error.print().and_then(|()| io::stdout().flush()) {
        // A mistake is one, whether or not anybody reads what it is; help is a result.
        Err(source) if !error.use_stderr() && source.kind() != io::ErrorKind::BrokenPipe => {
            say::error(&[output::error()(source).to_string()]);
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// The error with its lines made printable and no longer than a few values: a parser may repeat all
/// that it was given.
fn bounded(error: Error) -> Error {
    let text = error.render().to_string();
    let fits = |line: &str| line.chars().count() <= MISTAKE_CHARS && printable(line) == line;
    if text.lines().all(fits) {
        return error;
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let line = |line: &str| printable(&shortened(line, MISTAKE_CHARS)).into_owned() + "\n";
    Error::raw(error.kind(), text.lines().map(line).collect::<String>())
}

/// The mistake alone, in one line: usage and hints follow in paragraphs of their own.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let first = text.split("\n\n").next().unwrap_or(text);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The error with its values made quotable.
fn shorter(mut error: Error) -> Error {
    let values: Vec<(ContextKind, ContextValue)> =
        error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in values {
        let short = match value {
            ContextValue::String(text) => ContextValue::String(quotable(&text)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| quotable(text)).collect())
            }
            _ => continue,
        };
        error.insert(kind, short);
    }
    error
}

/// The error in terms of what is expected, if the value is no number at all: the standard library's
/// words are about digits in strings.
fn expecting(error: &Error) -> Option<Error> {
    let source = error.source()?;
    let expected = match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => "the number is too large",
        Some(_) => "expected a whole number",
        None if source.is::<ParseFloatError>() => "expected a number",
        None => return None,
    };
    let text = |kind| error.get(kind).map(ToString::to_string);
    let (value, argument) = (text(ContextKind::InvalidValue)?, text(ContextKind::InvalidArg)?);
    let what = format!(
        "invalid value '{value}' for '{argument}': {expected}\n\nFor more information, try '--help'.\n"
    );
    Some(Error::raw(ErrorKind::ValueValidation, what))
}

/// As much of an argument as a message repeats: no credentials, and not too much.
pub(crate) fn quotable(text: &str) -> String {
    printable(&shortened(&hide_credentials(text), ARGUMENT_CHARS)).into_owned()
}

/// Parses what may name a path, which need not be UTF-8; nothing else has other bytes.
pub(crate) fn path_or<T: Clone + Send + Sync + 'static, E: Display + 'static>(
    parse: fn(&str) -> Result<T, E>,
    path: fn(PathBuf) -> T,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |text| match text.into_string() {
        Ok(text) => parse(&text).map_err(|error| error.to_string()),
        Err(bytes) => Ok(path(PathBuf::from(bytes))),
    })
}

/// Parses the address of an input.
pub(crate) fn source() -> impl TypedValueParser<Value = SourceUri> {
    path_or(str::parse::<SourceUri>, |path| {
        let name = path.as_os_str().as_bytes();
        SourceUri::File(OsStr::from_bytes(name.strip_prefix(b"file:").unwrap_or(name)).into())
    })
}

/// Parses a time: RFC 3339, or milliseconds since 1970.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unit = if is_number { TimeUnit::Millis } else { TimeUnit::Rfc3339 };
    unit.parse(text).map_err(|_| {
        "expected a time from 1970 to 2100: 2026-05-01T12:00:00Z, or milliseconds".to_owned()
    })
}

/// Parses where to listen.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let is_valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    });
    let wrong = "expected HOST:PORT, such as 127.0.0.1:8080";
    if is_valid { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn help_lists_every_command_once_and_fits_80_columns() {
        let command = crate::Cli::command();
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let mut all: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        listed.sort_unstable();
        all.sort_unstable();
        assert_eq!(listed, all);
        for name in all {
            let about = command.find_subcommand(name).unwrap().get_about().unwrap().to_string();
            assert!(about.len() <= 63, "{name}: {about}: {} columns", about.len());
        }
        let help = laid_out(command).render_help().to_string();
        for (group, names) in GROUPS {
            assert!(help.contains(&format!("\n{group}:\n  {}", names[0])), "{help}");
        }
        assert!(help.contains("Usage: tagflow [OPTIONS] <COMMAND>\n"), "{help}");
        assert!(help.contains("\nMessages:\n"), "{help}");
    }

    #[test]
    fn first_paragraph_is_the_mistake() {
        let text = "error: the following is missing:\n  --posts <N>\n  --out <OUT>\n\nUsage: x\n";
        assert_eq!(first_paragraph(text), "the following is missing: --posts <N> --out <OUT>");
    }

    #[test]
    fn times_and_addresses_say_what_is_expected() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(time("1000"), Ok(1000));
        for text in ["", "noon", "4102444800000", "-1", "99999999999999999999"] {
            assert!(time(text).unwrap_err().contains("2026-05-01T12:00:00Z"), "{text}");
        }
        for text in ["127.0.0.1:0", "[::1]:80", "localhost:8080"] {
            assert_eq!(host_port(text), Ok(text.to_owned()));
        }
        for text in ["foo", "", ":80", "a:b", "a:65536", "a b:1"] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_is_expected_and_repeat_little_of_an_argument() {
        let error = |line: &[&str]| {
            let line = ["tagflow"].iter().chain(line);
            laid_out(crate::Cli::command()).try_get_matches_from(line).unwrap_err()
        };
        for (value, want) in [
            ("abc", "'abc' for '--workers <N>': expected a whole number"),
            ("99999999999999999999", "for '--workers <N>': the number is too large"),
        ] {
            let error = error(&["run", "a.yaml", "--workers", value]);
            let said = expecting(&error).unwrap().to_string();
            assert!(said.contains(want), "{said}");
        }
        let float = error(&["generate", "--posts", "1", "--out", "x", "--late", "no"]);
        assert!(expecting(&float).unwrap().to_string().contains("expected a number"));
        let range = error(&["run", "a.yaml", "--workers", "0"]);
        assert!(expecting(&range).is_none() && range.to_string().contains("1..=256"));
        let long = shorter(error(&["run", "a.yaml", "--workers", &"\x1b[2J9".repeat(9000)]));
        let said = expecting(&long).unwrap_or(long).to_string();
        assert!(said.len() < 400 && said.contains("\\u{1b}[2J"), "{said}");
        let duration = error(&["run", "a.yaml", "--store-wait", &"x\u{202e}".repeat(9000)]);
        let said = bounded(shorter(duration)).to_string();
        assert!(said.len() < 1500 && said.contains("is not a duration"), "{said}");
        assert!(said.starts_with("error: invalid value") && !said.contains('\u{202e}'), "{said}");
    }

    #[test]
    fn arguments_at_fault_are_shown_without_credentials() {
        for line in [
            ["run", "--state", "s", "--input", "kafka://user:secret@a:1/t"],
            ["run", "--state", "s", "--input", "kafka:user:secret@a:1/t"],
            ["run", "--state", "s", "--input", "kafka://a:1/t?sasl.password=secret"],
            ["run", "a.yaml", "kafka://user:secret@a:1/t", "--state", "s"],
            ["query", "top", "--store", "scylla://user:secret@a:1/k", "--json"],
            ["query", "top", "--store", "user:secret@a:1", "--json"],
        ] {
            let line = ["tagflow"].iter().chain(&line);
            let error = laid_out(crate::Cli::command()).try_get_matches_from(line).unwrap_err();
            let error = shorter(error).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("…"), "{error}");
        }
    }
}
