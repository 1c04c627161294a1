//! `status`, which no shape reads: others write it, Istio among them.

use serde_json::{Value, json};

/// The schema of `status` of either kind. Fields that others add stay.
pub(super) fn status() -> Value {
    let text = || json!({"type": "string"});
    let time = || json!({"type": "string", "format": "date-time"});
    let generation = || {
        json!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "description": "The generation of the object that this is about.",
        })
    };
    json!({
        "type": "object",
        "description": "What those who serve the policy make of it.",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "conditions": {
                "type": "array",
                "description": "What is the case, by type.",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": text(),
                        "status": text(),
                        "reason": text(),
                        "message": text(),
                        "lastTransitionTime": time(),
                        "lastProbeTime": time(),
                        "observedGeneration": generation(),
                    },
                },
            },
            "observedGeneration": generation(),
            "validationMessages": {
                "type": "array",
                "description": "What an analyzer has found.",
                "items": {
                    "type": "object",
                    "properties": {
                        "level": {"type": "string", "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"]},
                        "documentationUrl": text(),
                        "type": {"type": "object", "properties": {"code": text(), "name": text()}},
                    },
                },
            },
        },
    })
}
