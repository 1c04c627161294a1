//! The two gates of requests and of other connections: policies that name the Service, this waypoint or its class, and policies of
//! the chosen endpoint. Judged with the client as the source; the waypoint is one too, of what it asks for itself.

use std::{net::SocketAddr, sync::Arc};

use underpass_core::{
    ObjectName, Reason, World,
    authz::{
        Check, HttpRequest, Peer, Verdict, WaypointTargets, audits_at_endpoint, audits_at_waypoint, checks_at_endpoint,
        checks_at_waypoint, dry_run_denials_at_endpoint, dry_run_denials_at_waypoint, has_checks_at_waypoint,
        judge_at_endpoint, judge_at_waypoint, judge_connection_at_endpoint, judge_connection_at_waypoint,
    },
    http::RequestHead,
    jwt::Token,
    rejudge::check_endpoint,
    world::Workload,
};

use crate::{
    Own,
    called::{Called, Client},
    cluster::Endpoint,
    judging::{Head, Open, reached},
};

/// What others say of a request, beside what it says itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vouched<'a> {
    /// The token that was verified for it.
    pub(crate) token: Option<&'a Token>,
    /// The external authorizers that have allowed it.
    pub(crate) allowed_by: &'a [Arc<str>],
}

/// Who calls what: what both gates are asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gates<'a> {
    pub(crate) own: &'a Own,
    pub(crate) world: &'a World,
    pub(crate) called: &'a Called,
    pub(crate) client: &'a Client,
}

impl Gates<'_> {
    /// Gate 1, before a request is routed.
    pub(crate) fn at_waypoint(&self, head: RequestHead<'_>, vouched: Vouched<'_>) -> Verdict {
        judge_at_waypoint(self.world, &self.targets(), self.address(), &self.request(head, vouched), &mut ())
    }

    /// Gate 1 has policies that ask external authorizers.
    pub(crate) fn has_checks_at_waypoint(&self) -> bool {
        has_checks_at_waypoint(self.world, &self.targets())
    }

    /// The external authorizers that gate 1 asks.
    pub(crate) fn checks_at_waypoint(&self, head: RequestHead<'_>, vouched: Vouched<'_>) -> Vec<Check> {
        checks_at_waypoint(self.world, &self.targets(), self.address(), &self.request(head, vouched))
    }

    /// Those that gate 2 asks.
    pub(crate) fn checks_at_endpoint(&self, endpoint: &Endpoint, head: &Head) -> Vec<Check> {
        self.of_head(endpoint, head, |workload, request| {
            checks_at_endpoint(self.world, workload, endpoint.target, request)
        })
    }

    /// The dry-run policies of gate 1 that would deny it, and its audits.
    pub(crate) fn aside_at_waypoint(&self, head: RequestHead<'_>, vouched: Vouched<'_>) -> [Vec<ObjectName>; 2] {
        let (targets, address, request) = (self.targets(), self.address(), self.request(head, vouched));
        let dry_runs = dry_run_denials_at_waypoint(self.world, &targets, address, &request);
        [dry_runs, audits_at_waypoint(self.world, &targets, address, &request)]
    }

    /// Those of gate 2.
    pub(crate) fn aside_at_endpoint(&self, endpoint: &Endpoint, head: &Head) -> [Vec<ObjectName>; 2] {
        self.of_head(endpoint, head, |workload, request| {
            let dry_runs = dry_run_denials_at_endpoint(self.world, workload, endpoint.target, request);
            [dry_runs, audits_at_endpoint(self.world, workload, endpoint.target, request)]
        })
    }

    /// What is said of a request to an endpoint; nothing where that is gone.
    fn of_head<T: Default>(
        &self,
        endpoint: &Endpoint,
        head: &Head,
        say: impl FnOnce(&Workload, &HttpRequest<'_>) -> T,
    ) -> T {
        let Some(workload) = self.world.workload(&endpoint.workload) else { return T::default() };
        head.lend(|lent| say(workload, &self.request(lent, head.vouched())))
    }

    /// Gate 2, for each endpoint that a request is sent to. One that the World does not know any more takes nothing.
    pub(crate) fn at_endpoint(&self, endpoint: &Endpoint, head: &Head) -> bool {
        let workload = self.world.workload(&endpoint.workload);
        workload.is_some_and(|workload| self.of_workload(workload, endpoint, Some(head)).is_allow())
    }

    /// Some policy applies to this endpoint, or it is gone.
    pub(crate) fn is_judged(&self, endpoint: &Endpoint) -> bool {
        let workload = self.world.workload(&endpoint.workload);
        workload.is_none_or(|workload| self.world.authorization_policies(workload).next().is_some())
    }

    /// Gate 1 for a connection that is no HTTP.
    pub(crate) fn connection_at_waypoint(&self) -> bool {
        judge_connection_at_waypoint(self.world, &self.targets(), self.address(), self.source()).is_allow()
    }

    /// Gate 2 for a connection that is no HTTP.
    pub(crate) fn connection_at_endpoint(&self, endpoint: &Endpoint) -> bool {
        let workload = self.world.workload(&endpoint.workload);
        let judge = |workload| judge_connection_at_endpoint(self.world, workload, endpoint.target, self.source());
        workload.is_some_and(|workload| judge(workload).is_allow())
    }

    /// Both gates about something that is open, and whether it still leads where it led. An endpoint that is gone says nothing.
    pub(crate) fn again(&self, open: &Open) -> Verdict {
        let first = match &open.head {
            Some(head) => head.lend(|lent| self.at_waypoint(lent, head.vouched())),
            None => judge_connection_at_waypoint(self.world, &self.targets(), self.address(), self.source()),
        };
        let reached_endpoint = open.reached.borrow();
        let Some((endpoint, head)) = reached_endpoint.as_ref().filter(|_| first.is_allow()) else { return first };
        let second = match self.world.workload(&endpoint.workload) {
            Some(workload) => self.of_workload(workload, endpoint, head.as_deref()),
            None => first,
        };
        match reached(self.own, endpoint).filter(|_| second.is_allow()) {
            Some(reached) => check_endpoint(self.world, &reached),
            None => second,
        }
    }

    fn of_workload(&self, workload: &Workload, endpoint: &Endpoint, head: Option<&Head>) -> Verdict {
        let (world, target) = (self.world, endpoint.target);
        match head {
            Some(head) => head.lend(|lent| {
                let request = self.request(lent, head.vouched());
                judge_at_endpoint(world, workload, target, &request, &mut ())
            }),
            None => judge_connection_at_endpoint(world, workload, target, self.source()),
        }
    }

    pub(crate) fn targets(&self) -> WaypointTargets<'_> {
        WaypointTargets { service: Some(&self.called.service), gateway: &self.own.gateway, class: &self.own.class }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.called.address, self.called.port)
    }

    fn source(&self) -> Peer<'_> {
        Peer::itself(self.client.address.ip(), Some(&self.client.identity))
    }

    fn request<'h>(&'h self, head: RequestHead<'h>, vouched: Vouched<'h>) -> HttpRequest<'h> {
        let Vouched { token, allowed_by } = vouched;
        HttpRequest { source: self.source(), head, token, allowed_by }
    }
}

/// A call of the waypoint's own, which passes the gates that the same call of a client would pass. The endpoint's node is not
/// enough: of what comes from a waypoint before its pod it takes for judged what only a waypoint can judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnCall<'a> {
    pub(crate) own: &'a Own,
    /// The waypoint itself.
    pub(crate) client: &'a Client,
    /// What is called, where this waypoint stands before it: the address, and the Service that has it.
    pub(crate) passes: Option<(SocketAddr, Option<&'a ObjectName>)>,
    pub(crate) endpoint: &'a Endpoint,
    /// None: it is in TLS, where a waypoint reads nothing of it.
    pub(crate) head: Option<&'a Head>,
}

impl OwnCall<'_> {
    /// Both gates, of which the first is for what passes this waypoint alone.
    pub(crate) fn judge(&self, world: &World) -> Verdict {
        match self.passes.map(|(called, service)| self.at_waypoint(world, called, service)) {
            None | Some(Verdict::Allow { .. }) => self.at_endpoint(world),
            Some(denied) => denied,
        }
    }

    fn at_waypoint(&self, world: &World, called: SocketAddr, service: Option<&ObjectName>) -> Verdict {
        let targets = WaypointTargets { service, gateway: &self.own.gateway, class: &self.own.class };
        match self.head {
            Some(head) => head.lend(|head| judge_at_waypoint(world, &targets, called, &self.request(head), &mut ())),
            None => judge_connection_at_waypoint(world, &targets, called, self.source()),
        }
    }

    fn at_endpoint(&self, world: &World) -> Verdict {
        let target = self.endpoint.target;
        let Some(workload) = world.workload(&self.endpoint.workload) else {
            return Verdict::Deny { policy: None, reason: Reason::NoEndpoint };
        };
        match self.head {
            Some(head) => head.lend(|head| judge_at_endpoint(world, workload, target, &self.request(head), &mut ())),
            None => judge_connection_at_endpoint(world, workload, target, self.source()),
        }
    }

    fn source(&self) -> Peer<'_> {
        Peer::itself(self.client.address.ip(), Some(&self.client.identity))
    }

    fn request<'h>(&'h self, head: RequestHead<'h>) -> HttpRequest<'h> {
        HttpRequest { source: self.source(), head, token: None, allowed_by: &[] }
    }
}
