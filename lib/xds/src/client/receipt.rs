//! Answers to responses: an ACK, or a NACK that names every resource that was rejected, as far as there is room.

use std::sync::Arc;

use crate::{
    contract::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status},
    resource::ResourceKind,
};

/// `INVALID_ARGUMENT`, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// The longest message of a NACK, in bytes: it ends in another program's log.
const MESSAGE: usize = 4_096;

/// A resource that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The kind.
    pub kind: ResourceKind,
    /// The name.
    pub name: Arc<str>,
    /// The field and what is wrong with it.
    pub reason: String,
}

/// A response that waits for its answer.
#[derive(Debug)]
pub(super) struct Receipt {
    /// `None`: of a type that was not subscribed to.
    pub(super) kind: Option<ResourceKind>,
    /// The state of its kind ends with it.
    pub(super) ends_state: bool,
    type_url: String,
    nonce: String,
    error: Option<String>,
    unnamed: usize,
}

impl Receipt {
    pub(super) fn new(kind: ResourceKind, nonce: String) -> Self {
        let type_url = kind.type_url().into();
        Self { kind: Some(kind), ends_state: false, type_url, nonce, error: None, unnamed: 0 }
    }

    pub(super) fn not_subscribed(type_url: String, nonce: String) -> Self {
        let error = Some("type_url: not subscribed to".into());
        Self { kind: None, ends_state: false, type_url, nonce, error, unnamed: 0 }
    }

    pub(super) fn reject(&mut self, rejected: &Rejected) {
        let text = format!("{}: {}", rejected.name, rejected.reason);
        match &mut self.error {
            None => self.error = Some(text.chars().take(MESSAGE).collect()),
            Some(error) if error.len().saturating_add(text.len()) < MESSAGE => {
                error.push_str("; ");
                error.push_str(&text);
            }
            Some(_) => self.unnamed = self.unnamed.saturating_add(1),
        }
    }

    /// The request that answers. A response without a nonce cannot be answered: a request without one is a new one.
    pub(super) fn answer(self) -> Option<DeltaDiscoveryRequest> {
        let unnamed = self.unnamed;
        let more = if unnamed > 0 { format!("; and {unnamed} more") } else { String::new() };
        let error =
            self.error.map(|error| Status { code: INVALID_ARGUMENT, message: error + &more, details: Vec::new() });
        (!self.nonce.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: self.type_url,
            response_nonce: self.nonce,
            error_detail: error,
            ..Default::default()
        })
    }
}
