//! How the waypoints of this node fare, for people and metrics. Its own file because what supervises one writes it, and every
//! reader takes the whole.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use underpass_core::{Few, ObjectName};
use underpass_telemetry::{
    admin::view::RunningWaypoint,
    metrics::{Family, IntCounterVec, Registry},
};

static WAYPOINTS: Family = Family::gauge(
    "underpass_waypoints",
    "Waypoints that this node runs, by state: starting, serving, restarting, draining.",
    &["state"],
);
static RESTARTS: Family = Family::counter(
    "underpass_waypoint_restarts_total",
    "Starts of a waypoint of this node after it had ended by itself, or could not be started.",
    &["gateway_namespace", "gateway_name"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&WAYPOINTS, &RESTARTS];

/// The state of a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its certificate, its network or its process is on the way, or it has no World yet.
    Starting,
    /// It accepts.
    Serving,
    /// It ended, and is started again after a while.
    Restarting,
    /// It accepts no more, and ends.
    Draining,
}

impl State {
    const ALL: [Self; 4] = [Self::Starting, Self::Serving, Self::Restarting, Self::Draining];

    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Restarting => RunningWaypoint::RESTARTING,
            Self::Draining => "draining",
        }
    }
}

/// How a waypoint fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointStatus {
    /// Its Gateway.
    pub gateway: ObjectName,
    /// Its addresses.
    pub addresses: Few<IpAddr>,
    /// Its state.
    pub state: State,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it last ended, or could not be started; none while it serves.
    pub problem: Option<String>,
}

/// All of them, by pod. Clones show the same.
#[derive(Clone, Debug)]
pub struct Board {
    all: Arc<Mutex<BTreeMap<ObjectName, WaypointStatus>>>,
    restarts: IntCounterVec,
}

impl Board {
    /// Shown in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let board = Self { all: Arc::default(), restarts: registry.counter(&RESTARTS) };
        let shown = board.clone();
        registry.collect(&[&WAYPOINTS], move |samples| {
            let all = shown.list();
            for state in State::ALL {
                let count = all.iter().filter(|waypoint| waypoint.state == state).count();
                samples.add(&WAYPOINTS, &[state.as_str()], u64::try_from(count).unwrap_or(u64::MAX));
            }
        });
        board
    }

    /// All of them, by pod.
    #[must_use]
    pub fn list(&self) -> Vec<WaypointStatus> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn put(&self, pod: &ObjectName, status: WaypointStatus) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.clone(), status);
    }

    pub(super) fn remove(&self, pod: &ObjectName) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }

    pub(super) fn restarted(&self, gateway: &ObjectName) {
        self.restarts.with_label_values(&[gateway.namespace(), gateway.name()]).inc();
    }
}
