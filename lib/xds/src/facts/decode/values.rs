//! Values of policies, from either form of their rules. What could be read as anything is refused.

use std::sync::Arc;

use ipnet::IpNet;
use underpass_core::authz::{Match, PrincipalMatch, ServiceAccount, StringMatch};
use underpass_door::{Fault, ResourceFault};

use crate::{
    contract::istio::security::{Address, ServiceAccountMatch, StringMatch as Pattern, string_match::MatchType},
    facts::names,
};

/// A text that is read: an empty one is refused.
pub(super) type Texts = Result<StringMatch, Fault>;

/// One pattern.
pub(super) fn text(pattern: &Pattern) -> Texts {
    let there = |t: &str| if t.is_empty() { Err(Fault::EmptyValue) } else { Ok(Arc::from(t)) };
    Ok(match pattern.match_type.as_ref().ok_or(ResourceFault::UnknownPattern)? {
        MatchType::Presence(()) => StringMatch::Present,
        MatchType::Exact(t) => StringMatch::Exact(there(t)?),
        MatchType::Prefix(t) => StringMatch::Prefix(there(t)?),
        MatchType::Suffix(t) => StringMatch::Suffix(there(t)?),
    })
}

/// One pattern that our own control plane has written: any text is one.
pub(super) fn exact_text(pattern: &Pattern) -> Texts {
    Ok(match pattern.match_type.as_ref().ok_or(ResourceFault::UnknownPattern)? {
        MatchType::Presence(()) => StringMatch::Present,
        MatchType::Exact(t) => StringMatch::Exact(t.as_str().into()),
        MatchType::Prefix(t) => StringMatch::Prefix(t.as_str().into()),
        MatchType::Suffix(t) => StringMatch::Suffix(t.as_str().into()),
    })
}

/// One pattern of principals, which core takes apart as it is written in a policy.
pub(super) fn principal(text: Texts) -> Result<PrincipalMatch, Fault> {
    let text = text?;
    let written = match &text {
        StringMatch::Present => "*".to_owned(),
        StringMatch::Exact(t) => t.to_string(),
        StringMatch::Prefix(t) => format!("{t}*"),
        StringMatch::Suffix(t) => format!("*{t}"),
    };
    let principal = PrincipalMatch::parse(&written);
    if *principal.text() != text {
        return Err(ResourceFault::Star { found: written.into() }.into());
    }
    Ok(principal)
}

/// One service account.
pub(super) fn account(account: &ServiceAccountMatch) -> Result<ServiceAccount, Fault> {
    if account.namespace.is_empty() || account.service_account.is_empty() {
        return Err(Fault::EmptyValue);
    }
    Ok(ServiceAccount { namespace: account.namespace.as_str().into(), name: account.service_account.as_str().into() })
}

/// One range of addresses.
pub(super) fn block(block: &Address) -> Result<IpNet, Fault> {
    let bytes = &block.address;
    // Of a v4-mapped address the length would count other bits: it stays what it is, and matches nothing.
    let address = match <[u8; 16]>::try_from(&**bytes) {
        Ok(bytes) => Some(bytes.into()),
        Err(_) => names::address(bytes),
    };
    let address = address.ok_or(ResourceFault::AddressLength { bytes: bytes.len() })?;
    let too_long = || ResourceFault::PrefixLength { found: block.length };
    let length = u8::try_from(block.length).map_err(|_| too_long())?;
    IpNet::new(address, length).map_err(|_| too_long().into())
}

/// One port.
pub(super) fn port(port: &u32) -> Result<u16, Fault> {
    u16::try_from(*port).map_err(|_| Fault::Port { found: port.to_string().into() })
}

/// Both lists.
pub(super) fn both<M, T>(
    values: &[M],
    not_values: &[M],
    one: impl Fn(&M) -> Result<T, Fault>,
) -> Result<Match<T>, Fault> {
    let all = |list: &[M]| list.iter().map(&one).collect::<Result<Vec<T>, Fault>>();
    Ok(Match { values: all(values)?, not_values: all(not_values)? })
}
