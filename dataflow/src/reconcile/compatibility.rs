//! Whether a log can be the one that a commit counted, as far as can be told before reading it.
//!
//! Invariant: another input, mapping or version of the tag rules is an error, never drift.

use std::collections::HashSet;
use std::sync::Arc;

use schemas::manifest::{Body, Manifest, Partitions};
use schemas::mapping::differing;
use schemas::tags::TagRules;

use super::accept::Rules;
use super::splits::Split;
use super::{ReconcileError, Request};
use crate::settings::read_with;
use crate::sources::Log;

/// Checks that every input of the commit was named, and that the commit's tag rules are known.
pub(super) fn check_inputs(request: &Request) -> Result<(), ReconcileError> {
    let Manifest { header, body } = &request.snapshot.manifest;
    let (commit, rules) = (header.commit, body.rules);
    if TagRules::of(rules).is_none() {
        return Err(ReconcileError::Rules { commit, rules });
    }
    let unnamed = |input: &&String| request.inputs.iter().all(|spec| spec.name != **input);
    match body.inputs.keys().find(unnamed).cloned() {
        Some(input) => Err(ReconcileError::Unnamed { commit, input }),
        None => Ok(()),
    }
}

/// Checks that records are read as they were when the commit was made, if it says how.
pub(super) fn check_mappings(
    logs: &[(Arc<dyn Log>, Rules)],
    manifest: &Manifest,
) -> Result<(), ReconcileError> {
    for (_, rules) in logs {
        let Some(then) = manifest.body.mappings.get(&rules.input) else { continue };
        let Rules { decoder, log_time, horizon_ms, beyond, .. } = rules;
        let now = read_with(decoder, *log_time, *horizon_ms, *beyond);
        let differing = differing(then, &now);
        if !differing.is_empty() {
            let (commit, input) = (manifest.header.commit, rules.input.clone());
            return Err(ReconcileError::Mapping { commit, input, differing });
        }
    }
    Ok(())
}

/// Checks that the logs have the commit's partitions, and begin as they did.
pub(super) fn check_partitions(
    logs: &[(Arc<dyn Log>, Rules)],
    body: &Body,
    splits: &[Split],
) -> Result<(), ReconcileError> {
    for (log, rules) in logs {
        let read = body.inputs.get(&rules.input);
        log.locate(read.unwrap_or(&Partitions::new()), true)?;
        let there: HashSet<String> =
            log.discover()?.into_iter().map(|found| found.partition).collect();
        let mut mine = splits.iter().filter(|split| split.input == rules.input);
        if let Some(split) = mine.find(|split| !there.contains(&split.partition)) {
            let (input, partition) = (split.input.clone(), split.partition.clone());
            let state = read.and_then(|read| read.get(&partition));
            if let Some(former) = state.and_then(|state| state.former_name.clone()) {
                return Err(ReconcileError::Rotated { input, former });
            }
            return Err(ReconcileError::Elsewhere { input, partition });
        }
        for (partition, state) in read.into_iter().flatten() {
            for known in [&state.fingerprint, &state.tail].into_iter().flatten() {
                log.verify(partition, known)?;
            }
        }
    }
    Ok(())
}
