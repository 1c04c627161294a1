//! Envoy's response flags of a request, and the rest of what its series says about the answer.

/// The flags of a request, in Envoy's order once they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags {
    /// Of its end.
    pub(super) end: Option<&'static str>,
    /// A fault delayed it.
    pub(super) is_delayed: bool,
    pub(super) retry: Retry,
}

/// Why a last try that was a reason for another one was not followed by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Retry {
    /// It was no reason.
    #[default]
    NotWanted,
    /// There was none left.
    UsedUp,
    /// A limit of the cluster.
    Overflow,
}

/// Envoy writes its flags in this order; those of [`underpass_core::http::RequestEnd::flag`], `DI` and `URX`.
const ORDER: [&str; 15] =
    ["UH", "UT", "LR", "UF", "UC", "UO", "NR", "DI", "FI", "UAEX", "DC", "URX", "DPE", "UPE", "NC"];

impl Flags {
    /// As the label has them: `UF,URX`; without any `-`.
    pub(crate) fn text(self) -> String {
        let has = |flag: &&str| match *flag {
            "DI" => self.is_delayed,
            "URX" => self.retry == Retry::UsedUp,
            "UO" if self.retry == Retry::Overflow => true,
            other => self.end == Some(other),
        };
        let all: Vec<&str> = ORDER.into_iter().filter(has).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(",") }
    }
}

/// What the series of a request says about its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub(crate) is_grpc: bool,
    /// 0: the client went away before there was one.
    pub(crate) code: u16,
    /// None: it has none that gRPC knows.
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flags: Flags,
}

impl Answer {
    pub(super) const fn protocol(self) -> &'static str {
        if self.is_grpc { "grpc" } else { "http" }
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::http::{Counted, RequestEnd};

    use super::*;

    #[test]
    fn flags_of_ends() {
        let check = |end: RequestEnd, is_delayed, retry, expect: &str| {
            assert_eq!(Flags { end: end.flag(), is_delayed, retry }.text(), expect, "{end:?}");
        };
        check(RequestEnd::Finished, false, Retry::NotWanted, "-");
        check(RequestEnd::Finished, false, Retry::UsedUp, "URX");
        check(RequestEnd::Finished, true, Retry::NotWanted, "DI");
        check(RequestEnd::Denied, false, Retry::NotWanted, "-");
        check(RequestEnd::Fault, true, Retry::NotWanted, "DI,FI");
        check(RequestEnd::ConnectFailed, false, Retry::UsedUp, "UF,URX");
        check(RequestEnd::EndpointReset, true, Retry::UsedUp, "UC,DI,URX");
        check(RequestEnd::Timeout, false, Retry::UsedUp, "UT,URX");
        check(RequestEnd::Finished, false, Retry::Overflow, "UO");
        check(RequestEnd::ConnectFailed, false, Retry::Overflow, "UF,UO");
        for end in [
            RequestEnd::ClientReset,
            RequestEnd::BadRequest,
            RequestEnd::NoRoute,
            RequestEnd::NoCluster,
            RequestEnd::NotServed,
            RequestEnd::AuthorizerDenied,
            RequestEnd::AuthorizerFailed,
            RequestEnd::NoEndpoint,
            RequestEnd::Overflow(Counted::Pending),
            RequestEnd::Protocol,
            RequestEnd::Drain,
            RequestEnd::Internal,
        ] {
            check(end, false, Retry::NotWanted, end.flag().unwrap());
        }
    }
}
