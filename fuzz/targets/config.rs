//! `dataflow.yaml`: any text is a configuration, or an error with a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::config::Config;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, "dataflow.yaml") {
        assert!(!error.to_string().is_empty());
    }
});
