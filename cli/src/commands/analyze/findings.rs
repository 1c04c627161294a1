//! Problems of the door, findings of the World and remarks of the check of references, in one shape and order, each
//! with its line.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use serde::Serialize;
use underpass_config::door::State;
use underpass_core::{
    ObjectKey,
    dangling::{Level, dangling},
    resolve::{self, Model},
};
use underpass_door::{Fault, Observation, Path, Problem, Severity, Source, Update};

use super::{input::Inputs, live::Live, snippet};
use crate::lines::Lines;

/// In place of a file: the object is the cluster's.
const LIVE: &str = "the cluster";

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) file: Arc<str>,
    /// From 1, as near as it is known.
    pub(super) line: Option<u32>,
    /// From 1, in characters.
    pub(super) column: Option<usize>,
    /// Kind and name.
    pub(super) object: Option<String>,
    /// Empty for the object as a whole.
    pub(super) field: String,
    pub(super) says: String,
    /// The effect of an error.
    pub(super) effect: Option<String>,
    /// The advice.
    pub(super) help: Option<&'static str>,
    /// The part of the line.
    #[serde(skip)]
    pub(super) mark: snippet::Mark,
}

impl Finding {
    /// It is about an object of this namespace, about the namespace itself, or about no object at all.
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        let Some(object) = &self.object else { return true };
        match object.split_once(' ') {
            Some((kind, name)) => match name.split_once('/') {
                Some((of, _)) => of == namespace,
                None => kind == "Namespace" && name == namespace,
            },
            None => true,
        }
    }
}

pub(super) fn collect(
    inputs: &Inputs,
    state: &State,
    update: &Update,
    live: Option<&Live>,
    model: &Model,
) -> Vec<Finding> {
    let mut all: Vec<Finding> = update.problems.iter().chain(&update.notices).map(of_problem).collect();
    // An object of a file takes the place of the cluster's, with the problems of either.
    let is_replaced = |p: &Problem| {
        let key = p.object.as_ref().and_then(|object| object.to_string().parse::<ObjectKey>().ok());
        key.is_some_and(|key| state.claim(&key).is_some())
            || (p.object.is_some() && update.notices.iter().any(|of_file| of_file.object == p.object))
    };
    let of_cluster = live
        .into_iter()
        .flat_map(|live| live.update.problems.iter().chain(&live.update.notices).chain(&live.others.notices));
    all.extend(of_cluster.filter(|p| !is_replaced(p)).map(of_problem));
    all.extend(live.into_iter().flat_map(|live| &live.others.unread).map(unread));
    let accounts = live.into_iter().flat_map(|live| live.accounts.iter().cloned());
    let mut dangling = dangling(model, state.templates().cloned(), state.accounts().cloned().chain(accounts));
    // The stand-in of a broken policy is not what its author wrote.
    let is_written =
        |key: &ObjectKey| state.claim(key).is_none_or(|(_, claim)| matches!(claim.observed, Observation::Good(_)));
    dangling.retain(|r| is_written(&r.finding.object));
    let mut lines = Lines::new(state, inputs.found.contents());
    all.extend(model.sources().findings().map(|f| of_core(&mut lines, f, Severity::Warning)));
    all.extend(dangling.iter().map(|r| of_core(&mut lines, &r.finding, severity(r.level))));
    let mut texts: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for finding in &mut all {
        let lines = texts.entry(Arc::clone(&finding.file)).or_insert_with(|| inputs.lines(&finding.file));
        let line = finding.line.and_then(|l| lines.get(usize::try_from(l).ok()?.checked_sub(1)?));
        finding.column = line.map(|line| line[..finding.mark.find(line).start].chars().count() + 1);
    }
    // On one line the worst comes first. The cluster's objects have no lines.
    let key = |f: &Finding| {
        let (object, field, says) = (f.object.clone(), f.field.clone(), f.says.clone());
        (Arc::clone(&f.file), f.line, Reverse(f.severity), object, field, says)
    };
    all.sort_by_cached_key(key);
    all.dedup_by_key(|f| key(f));
    all
}

const fn severity(level: Level) -> Severity {
    match level {
        Level::Notice => Severity::Notice,
        Level::Warning => Severity::Warning,
    }
}

fn of_problem(p: &Problem) -> Finding {
    let mark = match &p.reason {
        Fault::Series { found, .. } => snippet::Mark::Text(Arc::clone(found)),
        _ => snippet::Mark::Field(p.field.clone()),
    };
    let (file, line) = match &p.source {
        Source::File { file, line, .. } => (Arc::clone(file), *line),
        Source::ApiServer { .. } => (LIVE.into(), None),
        other => (other.to_string().into(), None),
    };
    Finding {
        severity: p.severity(),
        file,
        line,
        column: None,
        object: p.object.as_ref().map(ToString::to_string),
        field: p.field.to_string(),
        says: p.reason.to_string(),
        effect: p.effect.map(|e| e.to_string()),
        help: p.reason.help(),
        mark,
    }
}

/// Objects that the cluster did not give.
fn unread(says: &String) -> Finding {
    Finding {
        severity: Severity::Notice,
        file: LIVE.into(),
        line: None,
        column: None,
        object: None,
        field: String::new(),
        says: format!("cannot be read: {says}"),
        effect: None,
        help: Some("these kinds are not served; what their objects would do is not said"),
        mark: snippet::Mark::Field(Path::default()),
    }
}

/// A finding of core, which knows objects and fields only.
fn of_core(lines: &mut Lines<'_>, f: &resolve::Finding, severity: Severity) -> Finding {
    let path = Path::parse(&f.field);
    let place = lines.of(&f.object, &path);
    Finding {
        severity,
        file: place.map_or_else(|| LIVE.into(), |(file, _)| Arc::clone(file)),
        line: place.map(|(_, line)| line).filter(|l| *l > 0),
        column: None,
        object: Some(f.object.to_string()),
        field: f.field.clone(),
        says: f.says.clone(),
        effect: None,
        help: None,
        mark: snippet::Mark::Field(path),
    }
}
