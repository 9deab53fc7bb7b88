//! The `tagflow` command: parses the command line and calls the crates that do the work.

mod arguments;
mod checkpoint;
mod compare;
mod dead_letters;
mod demo;
mod doctor;
mod error;
mod explain;
mod explain_count;
mod extract;
mod generate;
mod host;
mod inputs;
mod job;
mod log_args;
mod logging;
mod output;
mod port;
mod printer;
mod progress;
mod query;
mod reconcile;
mod repairs;
mod replay;
mod run;
mod say;
mod serve;
mod service;
mod signals;
mod state;
mod stderr;
mod store;
mod store_args;
mod summary;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use error::CliError;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LONG_VERSION: &str =
    concat!(env!("TAGFLOW_VERSION"), "\nfeatures: ", env!("TAGFLOW_FEATURES"));

/// Counts hashtags as they are posted, exactly, through crashes and restarts.
#[derive(Parser)]
#[command(name = "tagflow", arg_required_else_help = true)]
#[command(version = env!("TAGFLOW_VERSION"), long_version = LONG_VERSION)]
struct Cli {
    #[command(flatten)]
    logging: logging::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Serve(serve::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Generate(generate::Args),
    Extract(extract::Args),
    Query(query::Args),
    Checkpoint(checkpoint::Args),
    DeadLetters(dead_letters::Args),
    Reconcile(reconcile::Args),
    Repairs(repairs::Args),
    Compare(compare::Args),
    Replay(Box<replay::Args>),
    ExplainCount(explain_count::Args),
    Store(store::Args),
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let matched = arguments::laid_out(Cli::command()).try_get_matches();
    let cli = match matched.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return arguments::refuse(error),
    };
    api::raise_open_files();
    signals::outlive_size_limit();
    let done = logging::start(&cli.logging).and_then(|()| run(cli.command));
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error.lines());
            ExitCode::from(error.code())
        }
    };
    say::end();
    code
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::DeadLetters(args) => dead_letters::run(args),
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Extract(args) => extract::run(args),
        Command::Query(args) => query::run(args),
        Command::ExplainCount(args) => explain_count::run(&args).map_err(CliError::inconclusive),
        Command::Replay(args) => replay::run(&args),
        Command::Compare(args) => compare::run(&args).map_err(CliError::inconclusive),
        Command::Reconcile(args) => reconcile::run(args).map_err(CliError::inconclusive),
        Command::Repairs(args) => repairs::run(args),
        Command::Checkpoint(args) => checkpoint::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Store(args) => store::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_every_command_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn silence_is_from_one_second_to_one_hour() {
        let silence = |text: &str| {
            let line = ["tagflow", "run", "--input", "a.ndjson", "--state", "s", "--silence", text];
            match Cli::try_parse_from(line).map(|cli| cli.command) {
                Ok(Command::Run(args)) => Ok(run::job(&args, false).unwrap().settings.silent_ms),
                Ok(_) => panic!("the command is run"),
                Err(error) => Err(error.to_string()),
            }
        };
        for (text, ms) in [("1s", 1000), ("20s", 20_000), ("60m", 3_600_000), ("1h", 3_600_000)] {
            assert_eq!(silence(text), Ok(ms));
        }
        for text in ["999ms", "1ms", "3600001ms", "2h", "9999999d"] {
            let error = silence(text).unwrap_err();
            let why = format!("invalid value '{text}' for '--silence <DURATION>': from 1s to 1h");
            assert!(error.contains(&why), "{error}");
        }
        for text in ["0s", "20", "soon", ""] {
            assert!(silence(text).unwrap_err().contains("'--silence"), "{text:?}");
        }
    }
}
