//! The JSON Schema of `dataflow.yaml`, for editors; `schemas/dataflow.schema.json` is a copy.

use serde_json::Value;

use super::Dataflow;

/// The JSON Schema (draft 2020-12) of `dataflow.yaml`, made from the types that read it.
pub fn json_schema() -> Value {
    schemars::schema_for!(Dataflow).to_value()
}
