//! Patterns as a data plane compares them: as texts. Its own file because core compares trust domains under all their
//! names, and a text does not: each name of the mesh's own is written out, so that both match the same identities.

use underpass_core::{
    TrustDomain,
    authz::{PrincipalMatch, StringMatch},
    world::MeshSettings,
};

use crate::contract::istio::security::{StringMatch as Pattern, string_match::MatchType};

/// One pattern.
pub(crate) fn pattern(text: &StringMatch) -> Pattern {
    let kind = match text {
        StringMatch::Present => MatchType::Presence(()),
        StringMatch::Exact(t) => MatchType::Exact(t.to_string()),
        StringMatch::Prefix(t) => MatchType::Prefix(t.to_string()),
        StringMatch::Suffix(t) => MatchType::Suffix(t.to_string()),
    };
    Pattern { match_type: Some(kind) }
}

/// The patterns of principals that match the same identities.
pub(super) fn principals(settings: &MeshSettings, one: &PrincipalMatch) -> Vec<Pattern> {
    let mut all: Vec<Pattern> = Vec::new();
    if !means_own_alone(settings, one.trust_domain()) {
        all.push(pattern(one.text()));
    }
    // A pattern of the path's end, or of nothing but the presence of an identity, says nothing about the trust domain.
    if *one.trust_domain() != StringMatch::Present && has_own_name(settings, one.trust_domain()) {
        for own in settings.own_trust_domains() {
            let whole = match one.path() {
                StringMatch::Present => StringMatch::Prefix(format!("{own}/").into()),
                StringMatch::Exact(path) => StringMatch::Exact(format!("{own}/{path}").into()),
                StringMatch::Prefix(path) => StringMatch::Prefix(format!("{own}/{path}").into()),
                // Only without a trust domain.
                StringMatch::Suffix(path) => StringMatch::Suffix(path.clone()),
            };
            push(&mut all, pattern(&whole));
        }
    }
    all
}

/// The patterns of principals whose trust domain matches, and whether they are all.
pub(super) fn trust_domains(settings: &MeshSettings, one: &StringMatch) -> (Vec<Pattern>, bool) {
    let mut all = Vec::new();
    let is_whole = |text: &str| pattern(&StringMatch::Prefix(format!("{text}/").into()));
    if *one == StringMatch::Present {
        return (vec![pattern(one)], true);
    }
    if has_own_name(settings, one) {
        settings.own_trust_domains().for_each(|own| push(&mut all, is_whole(own.as_str())));
    }
    match one {
        // No trust domain has a slash: it never matches.
        StringMatch::Exact(t) | StringMatch::Prefix(t) | StringMatch::Suffix(t) if t.contains('/') => {}
        StringMatch::Exact(t) if !means_own_alone(settings, one) => push(&mut all, is_whole(t)),
        StringMatch::Prefix(t) | StringMatch::Suffix(t) if t.is_empty() => {
            push(&mut all, pattern(&StringMatch::Present))
        }
        StringMatch::Prefix(_) => push(&mut all, pattern(one)),
        // The end of something in the middle of a principal.
        StringMatch::Suffix(_) => return (all, false),
        StringMatch::Exact(_) | StringMatch::Present => {}
    }
    (all, true)
}

/// The patterns of a namespace. A data plane takes the namespace of a caller without identity for an empty text, which
/// no pattern may match.
pub(super) fn namespace(one: &StringMatch) -> Option<Pattern> {
    match one {
        StringMatch::Exact(t) if t.is_empty() => None,
        StringMatch::Prefix(t) | StringMatch::Suffix(t) if t.is_empty() => Some(pattern(&StringMatch::Present)),
        _ => Some(pattern(one)),
    }
}

fn push(all: &mut Vec<Pattern>, one: Pattern) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// Some name of the mesh's own trust domain matches.
fn has_own_name(settings: &MeshSettings, pattern: &StringMatch) -> bool {
    settings.own_trust_domains().map(TrustDomain::as_str).chain([TrustDomain::LOCAL]).any(|name| pattern.matches(name))
}

/// `cluster.local`, where that is another mesh's name: in a policy it stands for this one's.
fn means_own_alone(settings: &MeshSettings, pattern: &StringMatch) -> bool {
    matches!(pattern, StringMatch::Exact(name) if &**name == TrustDomain::LOCAL)
        && !settings.own_trust_domains().any(|own| own.as_str() == TrustDomain::LOCAL)
}
