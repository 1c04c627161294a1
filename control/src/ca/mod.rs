//! Certificates: the CA of the mesh, who may have which identity, and the roots that everyone trusts.
//!
//! * [`source`]: the CA, in a Secret of the cluster.
//! * [`grant`]: the decision about a request. [`issuer`]: the request, the decision, the certificate.
//! * [`callers`]: who a caller is, by the API server's word about its token.
//! * [`serving`]: the certificate of the control plane's own port.
//! * [`expiry`]: a warning before the CA ends.
//! * [`roots`]: the ConfigMap of roots in every namespace.

pub mod callers;
pub mod expiry;
pub mod grant;
pub mod issuer;
pub mod roots;
pub mod serving;
pub mod source;
