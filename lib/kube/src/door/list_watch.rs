//! One collection of an API server, followed: its objects are listed in pages, and then watched from the list's version
//! on. Pure: events in, the next action and what is new out. No clock, no chance, no IO: `now` and `random` are
//! arguments.
//!
//! ```text
//!            +------------------------ 404: the next version of the API, at last a wait ------+
//!            v                                                                                |
//!  begin -> Listing --page, the last one--> Watching --ended--> Watching, from the version reached
//!            ^  |page                        |   |event, bookmark: the version moves on
//!            |  +-> Listing                  |   +-> Watching
//!            +--410 Gone, or overtaken-------+
//! ```
//!
//! The version of a quiet kind moves on by bookmarks alone, and of these an API server may have nothing new to say for
//! minutes. Where another reader of the same objects has come to a later version, the kind is **overtaken**: unless that
//! version is reached soon, the kind is listed anew, because a list is as new as its answer.
//!
//! Every failure waits before the state goes on where it was: the page that failed is asked for again, the watch begins
//! at the version reached. Ours rather than kube-runtime's watcher, which keeps whole objects of a page, tells no
//! bookmark and no version to its user, knows one version of an API, and treats an absent kind as any other error. A
//! list that is streamed by a watch (`sendInitialEvents`) is not asked for: pages are served by every API server.
//!
//! What must hold: after a list or an event, what was handed on is the state of the server at that version; nothing
//! is handed on twice; an absent kind takes away what it had only when that is certain; and an API server that fails is
//! asked ever less often.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_core::ObjectName;

use super::{
    backoff,
    health::{Health, Phase, number},
};

/// Objects of a page.
pub(super) const PAGE: u32 = 500;
/// A watch that ended sooner is not begun again at once; without a word, it has failed.
const SHORT: Duration = Duration::from_secs(5);
/// Refusals of a watch in a row after which its version is given up.
const REFUSALS: u32 = 3;
/// The time for a version that others have reached to arrive by the watch as well, before the kind is listed anew.
const LAG: Duration = Duration::from_secs(2);
/// A kind that is overtaken again is not listed anew sooner than this after the last time.
const BETWEEN_LISTS: Duration = Duration::from_secs(15);
/// Answers in a row that a kind is absent after which objects that it had are gone. Its API is served before any object
/// of it: a proxy or an API server that starts may be wrong for a moment.
const ABSENCES: u32 = 3;

/// What an API server said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event<T> {
    /// A part of the list.
    Page {
        /// Of the whole list.
        version: Arc<str>,
        /// In order.
        items: Vec<T>,
        /// Where the next page begins; none: this is the last one.
        next: Option<Arc<str>>,
    },
    /// The watch has begun.
    Opened,
    /// An object was made or changed.
    Put {
        /// Of the change.
        version: Arc<str>,
        /// The object.
        item: T,
    },
    /// An object is gone.
    Removed {
        /// Of the change.
        version: Arc<str>,
        /// The object.
        name: ObjectName,
    },
    /// There is no other change up to this version.
    Bookmark {
        /// The version.
        version: Arc<str>,
    },
    /// Others have reached this version.
    Overtaken {
        /// The version.
        version: u64,
    },
    /// [`ListWatch::overdue`] has passed.
    Overdue,
    /// The watch has ended.
    Ended,
    /// The wait is over.
    Waited,
    /// The action has failed.
    Failed(Failure),
}

/// The kinds of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// 410: the version, or the next page of the list, is no longer there.
    Expired,
    /// 404: the API server does not have the collection.
    Absent,
    /// The page is too large.
    TooLarge,
    /// Any other.
    Other {
        /// The cause, in one line.
        cause: Arc<str>,
        /// The request itself is refused (400, 504): asked again, it may be refused again.
        is_refusal: bool,
        /// The API server wants to be asked again after this.
        retry_after: Option<Duration>,
    },
}

/// What is to be done. Its result is the next event; of a watch, every event until `Ended` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask for a page.
    List {
        /// The index of the version of the API.
        at: usize,
        /// The most objects.
        limit: u32,
        /// Where it begins.
        next: Option<Arc<str>>,
    },
    /// Watch.
    Watch {
        /// The index of the version of the API.
        at: usize,
        /// The version after which changes are wanted.
        from: Arc<str>,
    },
    /// Wait.
    Wait(Duration),
}

/// What is new.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output<T> {
    /// These are all objects.
    Replaced(Vec<T>),
    /// An object was made or changed.
    Put(T),
    /// An object is gone, if it was there.
    Removed(ObjectName),
    /// The API server does not have the kind: there are no objects.
    Absent,
}

/// The consequences of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step<T> {
    /// What is new.
    pub(super) output: Option<Output<T>>,
    /// What is to be done instead; none: the present action goes on.
    pub(super) action: Option<Action>,
}

impl<T> Step<T> {
    const NOTHING: Self = Self { output: None, action: None };

    fn go(action: Action) -> Self {
        Self { output: None, action: Some(action) }
    }
}

#[derive(Debug)]
enum State<T> {
    Listing { items: Vec<T>, next: Option<Arc<str>> },
    Watching { since: Option<Instant>, has_heard: bool },
}

impl<T> State<T> {
    const START: Self = Self::Listing { items: Vec::new(), next: None };
}

/// What has been handed on last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Objects,
    Absence,
}

/// A collection of an API server, and what is known about it.
#[derive(Debug)]
pub(super) struct ListWatch<T> {
    /// The count of versions of the API.
    versions: usize,
    /// The index of the one that is asked.
    at: usize,
    limit: u32,
    state: State<T>,
    is_waiting: bool,
    told: Told,
    /// Reached: the list's, or the last change's; of an absent kind, what was known of others before its absence.
    version: Arc<str>,
    /// A version that others have reached, and when the kind is to be listed anew if it has not reached it by then.
    overtaken: Option<(u64, Instant)>,
    /// When it was listed anew because it was overtaken.
    listed_anew: Option<Instant>,
    /// The list that is under way is such a one.
    is_anew: bool,
    /// The watch before that list was in order, and nothing has been heard since that its version is gone: it goes on where the
    /// list fails.
    goes_back: bool,
    /// Such a one has ended since [`Self::has_listed_anew`] was asked.
    has_listed_anew: bool,
    /// What was known of other kinds before the list that is asked for.
    known_before: u64,
    /// In a row.
    failures: u32,
    refusals: u32,
    absences: u32,
    synced: Option<Instant>,
    error: Option<(Arc<str>, Instant)>,
}

impl<T> ListWatch<T> {
    /// Nothing is known yet. The API has `versions` versions, the preferred one first.
    pub(super) fn begin(versions: usize) -> (Self, Action) {
        let begun = Self {
            versions,
            at: 0,
            limit: PAGE,
            state: State::START,
            is_waiting: false,
            told: Told::Nothing,
            version: "".into(),
            overtaken: None,
            listed_anew: None,
            is_anew: false,
            goes_back: false,
            has_listed_anew: false,
            known_before: 0,
            failures: 0,
            refusals: 0,
            absences: 0,
            synced: None,
            error: None,
        };
        let action = begun.action();
        (begun, action)
    }

    /// Takes an event. One that does not belong to the present action is ignored.
    pub(super) fn next(&mut self, event: Event<T>, now: Instant, random: u64) -> Step<T> {
        match (event, &mut self.state) {
            (Event::Overtaken { version }, _) => self.is_overtaken(version, now),
            (Event::Overdue, _) => self.list_anew(now),
            (Event::Waited, _) if self.is_waiting => self.go_on(now),
            (_, _) if self.is_waiting => Step::NOTHING,
            (Event::Failed(failure), _) => self.fail(failure, now, random),
            (Event::Page { version, items: more, next }, State::Listing { items, next: at }) => {
                items.extend(more);
                if next.is_some() {
                    *at = next;
                    return Step::go(self.action());
                }
                let items = std::mem::take(items);
                self.list_is_whole(version, items, now)
            }
            (Event::Opened, State::Watching { .. }) => {
                self.error = None;
                Step::NOTHING
            }
            (Event::Put { version, item }, State::Watching { .. }) => self.change(version, Output::Put(item)),
            (Event::Removed { version, name }, State::Watching { .. }) => self.change(version, Output::Removed(name)),
            (Event::Bookmark { version }, State::Watching { .. }) => {
                if !self.has_reached(&version) {
                    self.version = version;
                }
                self.hear();
                Step::NOTHING
            }
            (Event::Ended, State::Watching { since, has_heard }) => {
                let lasted = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                match *has_heard {
                    _ if lasted >= SHORT => {
                        self.hear();
                        self.go_on(now)
                    }
                    true => self.wait(backoff::delay(1, random), now),
                    false => {
                        let cause = "the watch ended at once".into();
                        self.fail(Failure::Other { cause, is_refusal: false, retry_after: None }, now, random)
                    }
                }
            }
            _ => Step::NOTHING,
        }
    }

    /// Before an action to list: a version that the API server had reached by now. Where the kind turns out to be absent,
    /// it was so after that.
    pub(super) const fn asks(&mut self, known: u64) {
        self.known_before = known;
    }

    /// A list that was asked for because the kind was overtaken has ended since this was asked last: as much as others had
    /// reached before is known.
    pub(super) const fn has_listed_anew(&mut self) -> bool {
        std::mem::replace(&mut self.has_listed_anew, false)
    }

    /// When [`Event::Overdue`] is due, unless another event comes first.
    pub(super) fn overdue(&self) -> Option<Instant> {
        let may_list = match &self.state {
            State::Watching { .. } => !self.is_waiting,
            // Looked for from time to time.
            State::Listing { .. } => self.is_waiting && self.told == Told::Absence,
        };
        let (version, due) = self.overtaken.filter(|_| may_list)?;
        number(&self.version).is_some_and(|reached| reached < version).then_some(due)
    }

    /// The state, for people and for what depends on it.
    pub(super) fn health(&self) -> Health {
        let phase = match &self.state {
            _ if self.told == Told::Absence => Phase::Absent,
            _ if self.is_waiting => Phase::Waiting,
            State::Listing { .. } => Phase::Listing,
            State::Watching { .. } => Phase::Watching,
        };
        let (synced, error) = (self.synced, self.error.clone());
        Health { phase, synced, resource_version: Arc::clone(&self.version), error }
    }

    /// What is to be done in the present state.
    pub(super) fn action(&self) -> Action {
        match &self.state {
            State::Listing { next, .. } => Action::List { at: self.at, limit: self.limit, next: next.clone() },
            State::Watching { .. } => Action::Watch { at: self.at, from: Arc::clone(&self.version) },
        }
    }

    /// Begins the action of the state.
    fn go_on(&mut self, now: Instant) -> Step<T> {
        self.is_waiting = false;
        if let State::Watching { since, has_heard } = &mut self.state {
            (*since, *has_heard) = (Some(now), false);
        }
        Step::go(self.action())
    }

    /// The action of the state, after a while.
    fn wait(&mut self, delay: Duration, now: Instant) -> Step<T> {
        if delay.is_zero() {
            return self.go_on(now);
        }
        self.is_waiting = true;
        Step::go(Action::Wait(delay))
    }

    fn list_is_whole(&mut self, version: Arc<str>, items: Vec<T>, now: Instant) -> Step<T> {
        (self.version, self.told, self.absences, self.refusals) = (version, Told::Objects, 0, 0);
        (self.synced, self.error) = (Some(now), None);
        self.state = State::Watching { since: None, has_heard: false };
        self.goes_back = false;
        if std::mem::take(&mut self.is_anew) {
            // A version beyond this list is of another time, as before a store was restored.
            (self.overtaken, self.has_listed_anew) = (None, true);
        }
        Step { output: Some(Output::Replaced(items)), ..self.go_on(now) }
    }

    /// A change at or before the version reached is a repetition: the changes of a watch are in order.
    fn change(&mut self, version: Arc<str>, output: Output<T>) -> Step<T> {
        self.hear();
        if self.has_reached(&version) {
            return Step::NOTHING;
        }
        self.version = version;
        Step { output: Some(output), action: None }
    }

    /// Versions that are no numbers have no order.
    fn has_reached(&self, version: &str) -> bool {
        number(version).zip(number(&self.version)).is_some_and(|(new, old)| new <= old)
    }

    /// The watch works.
    fn hear(&mut self) {
        (self.failures, self.refusals, self.error) = (0, 0, None);
        if let State::Watching { has_heard, .. } = &mut self.state {
            *has_heard = true;
        }
    }

    fn is_overtaken(&mut self, by: u64, now: Instant) -> Step<T> {
        let due = self.overdue().unwrap_or_else(|| {
            let paced = self.listed_anew.and_then(|listed| listed.checked_add(BETWEEN_LISTS));
            let late = now.checked_add(LAG).unwrap_or(now);
            paced.map_or(late, |paced| paced.max(late))
        });
        let most = self.overtaken.map_or(by, |(version, _)| version.max(by));
        self.overtaken = Some((most, due));
        Step::NOTHING
    }

    fn list_anew(&mut self, now: Instant) -> Step<T> {
        if self.overdue().is_none_or(|due| now < due) {
            return Step::NOTHING;
        }
        // Once more after a while, where the list fails; an absent kind is known only so far as others were before.
        let again = now.checked_add(BETWEEN_LISTS).unwrap_or(now);
        self.overtaken = self.overtaken.map(|(version, _)| (version, again));
        self.is_anew = self.told != Told::Absence;
        self.goes_back = self.is_anew;
        (self.listed_anew, self.state) = (Some(now), State::START);
        self.go_on(now)
    }

    fn fail(&mut self, failure: Failure, now: Instant, random: u64) -> Step<T> {
        let (cause, after) = match failure {
            Failure::Absent => return self.is_absent(now, random),
            Failure::Expired => {
                // An expired watch is no fault, unless it happens again and again.
                let delay = backoff::delay(self.failures, random);
                self.failures = self.failures.saturating_add(1);
                // Where a store was restored, the watch before this list would pass over what is there by now.
                (self.state, self.goes_back) = (State::START, false);
                return self.wait(delay, now);
            }
            Failure::TooLarge if self.limit > 1 => {
                (self.limit, self.state) = (self.limit / 2, State::START);
                return self.go_on(now);
            }
            Failure::TooLarge => ("an object is too large to be read".into(), None),
            Failure::Other { cause, is_refusal, retry_after } => {
                self.refusals = if is_refusal { self.refusals.saturating_add(1) } else { 0 };
                if self.refusals >= REFUSALS {
                    (self.state, self.refusals) = (State::START, 0);
                }
                (cause, retry_after)
            }
        };
        if std::mem::take(&mut self.goes_back) {
            self.is_anew = false;
            self.state = State::Watching { since: None, has_heard: false };
        }
        let since = self.error.as_ref().map_or(now, |(_, since)| *since);
        self.error = Some((cause, since));
        self.failures = self.failures.saturating_add(1);
        let delay = backoff::delay(self.failures, random);
        self.wait(delay.max(after.unwrap_or_default().min(backoff::LONGEST)), now)
    }

    fn is_absent(&mut self, now: Instant, random: u64) -> Step<T> {
        (self.is_anew, self.goes_back) = (false, false);
        if matches!(std::mem::replace(&mut self.state, State::START), State::Watching { .. }) {
            // Listed just now: another version of its API may have taken its place.
            self.at = 0;
            let delay = backoff::delay(self.failures, random);
            self.failures = self.failures.saturating_add(1);
            return self.wait(delay, now);
        }
        self.at = self.at.saturating_add(1);
        if self.at < self.versions {
            return self.go_on(now);
        }
        self.at = 0;
        self.absences = self.absences.saturating_add(1);
        let is_certain = match self.told {
            Told::Nothing => true,
            Told::Objects => self.absences >= ABSENCES,
            Told::Absence => false,
        };
        let mut output = None;
        if is_certain {
            (self.told, self.error) = (Told::Absence, None);
            output = Some(Output::Absent);
        }
        if self.told == Told::Absence {
            (self.version, self.synced) = (self.known_before.to_string().into(), Some(now));
        }
        let delay = backoff::delay(self.absences, random);
        Step { output, ..self.wait(delay, now) }
    }
}

#[cfg(test)]
mod tests;
