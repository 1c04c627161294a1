//! The IO of a [`ListWatch`]: does what it says, and tells it what came of that. Each object is converted while the
//! text of its page or line is there; nothing else of the text is kept.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use underpass_config::json::{self, NoObject};
use underpass_core::ObjectName;

use super::{
    Progress,
    backoff::below,
    health::Health,
    lines::Lines,
    list_watch::{Action, Event, Failure, ListWatch, Output, Step},
};
use crate::client::{Call, Client, Collection, Error, Status};

/// The largest page. Its objects are asked for in smaller ones where there are more.
const MAX_PAGE_BYTES: usize = 64 << 20;
/// The API server ends a watch after this, or up to so much sooner: not all watches at once.
const WATCH: Duration = Duration::from_secs(320);
const WATCH_SPREAD: Duration = Duration::from_secs(80);
/// A watch without a word, bookmarks included, is over: they come once a minute, and a connection may be dead.
const SILENCE: Duration = Duration::from_secs(90);

/// The forms of metadata alone.
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";

type Read<T> = dyn Fn(&str) -> Result<T, NoObject> + Send + Sync;
type Name = dyn Fn(&json::Header<'_>) -> ObjectName + Send + Sync;

/// What is followed.
pub(crate) struct Target<T> {
    /// The path of its collection in each version of its API, the preferred one first.
    pub(crate) paths: Vec<String>,
    /// Only these objects.
    pub(crate) field_selector: Option<String>,
    /// Nothing but their metadata.
    pub(crate) metadata_only: bool,
    /// Reads an object.
    pub(crate) read: Box<Read<T>>,
    /// Names one that is gone.
    pub(crate) name: Box<Name>,
}

/// What is new of a target, and its state.
#[derive(Debug)]
pub(crate) struct News<T> {
    pub(crate) outputs: Vec<Output<T>>,
    pub(crate) health: Health,
    /// As much is known as others had told until lately.
    pub(super) has_listed_anew: bool,
}

impl<T> Target<T> {
    pub(crate) fn new(
        collections: &[Collection],
        read: impl Fn(&str) -> Result<T, NoObject> + Send + Sync + 'static,
        name: impl Fn(&json::Header<'_>) -> ObjectName + Send + Sync + 'static,
    ) -> Self {
        let paths = collections.iter().map(|c| c.all()).collect();
        Self { paths, field_selector: None, metadata_only: false, read: Box::new(read), name: Box::new(name) }
    }

    /// Of its collection, in the preferred version.
    fn path(&self) -> &str {
        self.paths.first().map(String::as_str).unwrap_or_default()
    }

    fn call(&self, at: usize) -> Call {
        let call = Call::get(self.paths.get(at).cloned().unwrap_or_default());
        self.field_selector.iter().fold(call, |call, selector| call.with("fieldSelector", selector))
    }

    fn page_call(&self, at: usize, limit: u32, next: Option<&str>) -> Call {
        let call = self.call(at).with("limit", &limit.to_string());
        let call = next.into_iter().fold(call, |call, next| call.with("continue", next));
        call.accept(if self.metadata_only { METADATA_LIST } else { JSON })
    }

    fn watch_call(&self, at: usize, from: &str, random: u64) -> Call {
        let most = WATCH.as_secs();
        let seconds = most.saturating_sub(below(random, WATCH_SPREAD.as_secs()));
        let call =
            self.call(at).with("watch", "true").with("allowWatchBookmarks", "true").with("resourceVersion", from);
        call.with("timeoutSeconds", &seconds.to_string()).accept(if self.metadata_only { METADATA } else { JSON })
    }

    async fn page(&self, client: &Client, call: &Call) -> Event<T> {
        let text = match client.text(call, MAX_PAGE_BYTES).await {
            Ok(text) => text,
            Err(e) => return Event::Failed(failure(e)),
        };
        self.read_page(&text).unwrap_or_else(|e| Event::Failed(failure(call.unreadable(&e))))
    }

    fn read_page(&self, text: &str) -> Result<Event<T>, Misread> {
        #[derive(Deserialize)]
        struct Page<'a> {
            metadata: Metadata,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: Arc<str>,
            r#continue: Option<Arc<str>>,
        }
        let Page { metadata, items } = serde_json::from_str(text)?;
        let items = items.unwrap_or_default().into_iter().map(|raw| (self.read)(raw.get()));
        let items = items.collect::<Result<_, _>>()?;
        let next = metadata.r#continue.filter(|next| !next.is_empty());
        Ok(Event::Page { version: metadata.resource_version, items, next })
    }

    fn read_event(&self, line: &[u8]) -> Result<Event<T>, Misread> {
        #[derive(Deserialize)]
        struct Change<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let Change { r#type, object } = serde_json::from_slice(line)?;
        let object = object.get();
        if r#type == "ERROR" {
            let status: Status = serde_json::from_str(object)?;
            return Ok(Event::Failed(refused(&status, &format!("the watch has failed: {status}"))));
        }
        let header = json::header(object)?;
        let version = (&*header.resource_version).into();
        Ok(match &*r#type {
            "BOOKMARK" => Event::Bookmark { version },
            "DELETED" => Event::Removed { version, name: (self.name)(&header) },
            _ => Event::Put { version, item: (self.read)(object)? },
        })
    }
}

/// The reason why an answer is not what was asked for.
#[derive(Debug, thiserror::Error)]
enum Misread {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    NoObject(#[from] NoObject),
}

fn failure(error: Error) -> Failure {
    match &error {
        Error::Answered { status, .. } => refused(status, &error.to_string()),
        Error::TooLarge { .. } => Failure::TooLarge,
        _ => Failure::Other { cause: error.to_string().into(), is_refusal: false, retry_after: None },
    }
}

fn refused(status: &Status, cause: &str) -> Failure {
    match status.code {
        404 => Failure::Absent,
        410 => Failure::Expired,
        code => Failure::Other {
            cause: cause.into(),
            is_refusal: matches!(code, 400 | 504),
            retry_after: status.retry_after(),
        },
    }
}

/// What is known beside a target.
pub(crate) struct Beside {
    /// How far all kinds are known.
    pub(super) progress: watch::Receiver<Progress>,
    /// The version of its kind that others have reached, each time that one says so.
    pub(super) overtaken: watch::Receiver<u64>,
}

impl Beside {
    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Self { progress: watch::channel(Progress::default()).1, overtaken: watch::channel(0).1 }
    }
}

/// Waits for another value; for ever where there will be none.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until then; none: for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Follows a target until its receiver is gone. `id` is sent along.
pub(crate) async fn follow<I: Copy, T>(
    client: Client,
    target: Target<T>,
    id: I,
    news: mpsc::Sender<(I, News<T>)>,
    beside: Beside,
) {
    let (machine, mut action) = ListWatch::begin(target.paths.len());
    let random = RandomState::new();
    let mut following = Following { client, target, id, news, beside, machine, told: None, random, asked: 0 };
    while let Some(next) = following.act(action).await {
        action = next;
    }
}

struct Following<I, T> {
    client: Client,
    target: Target<T>,
    id: I,
    news: mpsc::Sender<(I, News<T>)>,
    beside: Beside,
    machine: ListWatch<T>,
    /// The state that was sent last.
    told: Option<Health>,
    random: RandomState,
    /// For the next random number.
    asked: u64,
}

impl<I: Copy, T> Following<I, T> {
    /// Does what is to be done; the next action. None: the receiver is gone.
    async fn act(&mut self, action: Action) -> Option<Action> {
        let event = match action {
            Action::Wait(time) => {
                let waiting = tokio::time::sleep(time);
                tokio::pin!(waiting);
                tokio::select! {
                    () = &mut waiting => Event::Waited,
                    () = self.overtaken() => Event::Overdue,
                }
            }
            Action::List { at, limit, next } => {
                let known = self.beside.progress.borrow().versions().newest();
                self.machine.asks(known.unwrap_or_default());
                let call = self.target.page_call(at, limit, next.as_deref());
                self.target.page(&self.client, &call).await
            }
            Action::Watch { at, from } => {
                let random = self.random();
                let call = self.target.watch_call(at, &from, random);
                return self.watch(&call).await;
            }
        };
        let step = self.step(event);
        let action = step.action;
        self.send(step.output.into_iter().collect()).await?;
        // Every event of these actions is followed by another action.
        Some(action.unwrap_or_else(|| self.machine.action()))
    }

    /// Passes the events of a watch on until the machine wants another action.
    async fn watch(&mut self, call: &Call) -> Option<Action> {
        let opened = tokio::time::timeout(SILENCE, self.client.open(call)).await;
        let mut body = match opened {
            Ok(Ok(body)) => body,
            Ok(Err(e)) => return self.end(Event::Failed(failure(e))).await,
            Err(_) => return self.end(Event::Failed(failure(call.late(SILENCE)))).await,
        };
        self.step(Event::Opened);
        self.send(Vec::new()).await?;
        let mut lines = Lines::default();
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout(SILENCE, body.frame()) => frame,
                () = self.overtaken() => return self.end(Event::Overdue).await,
            };
            let piece = match frame {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                // Proxies and API servers that stop cut watches off; that is no worse than an end in order.
                Ok(Some(Err(_)) | None) | Err(_) => return self.end(Event::Ended).await,
            };
            let (outputs, action) = self.take(call, &mut lines, &piece);
            self.send(outputs).await?;
            if let Some(action) = action {
                return Some(action);
            }
        }
    }

    /// Waits until the target is to be listed anew because others have come further.
    async fn overtaken(&mut self) {
        let mut is_news = self.beside.overtaken.has_changed().unwrap_or_default();
        loop {
            if is_news {
                let version = *self.beside.overtaken.borrow_and_update();
                self.step(Event::Overtaken { version });
            }
            let due = self.machine.overdue();
            tokio::select! {
                () = until(due) => {
                    let (path, version) = (self.target.path(), self.machine.health().resource_version);
                    tracing::info!(path, %version, "another replica has read more: listed anew");
                    return;
                }
                () = changed(&mut self.beside.overtaken) => is_news = true,
            }
        }
    }

    /// The outputs of a piece of a watch, and the action that the machine wants instead, if it does.
    fn take(&mut self, call: &Call, lines: &mut Lines, piece: &[u8]) -> (Vec<Output<T>>, Option<Action>) {
        let mut events = Vec::new();
        let taken = lines.take(piece, |line| {
            if !line.is_empty() {
                events.push(self.target.read_event(line));
            }
        });
        // Read again it may be the same: a list has the object as it is by then.
        let misread = |e: &(dyn std::error::Error + 'static)| {
            let cause = call.unreadable(e).to_string().into();
            Event::Failed(Failure::Other { cause, is_refusal: true, retry_after: None })
        };
        let too_long = taken.err().map(|e| misread(&e));
        let events = events.into_iter().map(|event| event.unwrap_or_else(|e| misread(&e)));
        let mut outputs = Vec::new();
        for event in events.chain(too_long) {
            let step = self.step(event);
            outputs.extend(step.output);
            if step.action.is_some() {
                return (outputs, step.action);
            }
        }
        (outputs, None)
    }

    async fn end(&mut self, event: Event<T>) -> Option<Action> {
        let step = self.step(event);
        self.send(step.output.into_iter().collect()).await?;
        Some(step.action.unwrap_or_else(|| self.machine.action()))
    }

    fn step(&mut self, event: Event<T>) -> Step<T> {
        let random = self.random();
        self.machine.next(event, Instant::now(), random)
    }

    async fn send(&mut self, outputs: Vec<Output<T>>) -> Option<()> {
        let health = self.machine.health();
        if outputs.is_empty() && self.told.as_ref() == Some(&health) {
            return Some(());
        }
        self.told = Some(health.clone());
        let has_listed_anew = self.machine.has_listed_anew();
        self.news.send((self.id, News { outputs, health, has_listed_anew })).await.ok()
    }

    fn random(&mut self) -> u64 {
        self.asked = self.asked.wrapping_add(1);
        self.random.hash_one(self.asked)
    }
}
