//! The messages on the wire, compiled from `proto/`: one module per package, nested as packages are, because generated
//! code refers from one to the other by relative paths.
//!
//! What must hold: names and numbers of fields are those of the public APIs, so that Istio's programs understand them.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code, documented in proto/"
)]

pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod istio {
    pub mod security {
        tonic::include_proto!("istio.security");
    }
    pub mod v1 {
        pub mod auth {
            tonic::include_proto!("istio.v1.auth");
        }
    }
    pub mod workload {
        tonic::include_proto!("istio.workload");
    }
}

pub mod underpass {
    pub mod v1 {
        tonic::include_proto!("underpass.v1");
    }
}
