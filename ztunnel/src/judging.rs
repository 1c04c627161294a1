//! Open connections after a change of World: those that it may concern are judged again, and end where it denies them. Its
//! own file because everything about the race of a change with a connection being opened is here and in
//! [`Track::open`](crate::track::Track::open).
//!
//! What must hold: after [`Worker::exchange_world`] every connection that is registered is one that the new World allows,
//! or has been told to end; one that is registered later is checked then.

use std::sync::Arc;

use underpass_core::{
    World,
    authz::Verdict,
    rejudge::{self, Changes},
};

use crate::{track::Live, worker::Worker};

impl Worker {
    /// From here on this worker goes by `world`.
    pub(crate) fn exchange_world(&self, world: Arc<World>) {
        let old = self.world.replace(Arc::clone(&world));
        let changes = Changes::new(&old, &world);
        for live in self.live.borrow_mut().values_mut() {
            match &mut live.judged {
                Some(judged) if changes.may_concern(judged) => judge(&world, live),
                Some(judged) => judged.judged_at = world.version(),
                None => {}
            }
        }
    }

    /// Judges a connection that has just been registered, where the World has changed since it was judged.
    pub(crate) fn judge_again(&self, id: u64) {
        let world = self.world();
        if let Some(live) = self.live.borrow_mut().get_mut(&id) {
            judge(&world, live);
        }
    }
}

/// One that is denied ends.
fn judge(world: &World, live: &mut Live) {
    let Some(judged) = live.judged.as_mut().filter(|judged| judged.judged_at != world.version()) else { return };
    match rejudge::check(world, judged) {
        Verdict::Allow { .. } => judged.judged_at = world.version(),
        Verdict::Deny { policy, reason } => live.cancel.cancel(reason, policy),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, rc::Rc};

    use underpass_core::{
        Reason,
        authz::Rule,
        connection::Direction,
        objects::{Batch, Object},
        rejudge::{Judged, Way},
        resolve::Model,
        testing::{ambient, model, name, peer_authentication, policy},
        world::Action,
    };

    use super::*;
    use crate::{
        track::Track,
        worker::testing::{served, worker},
    };

    const Z: &str = "10.0.0.9:9";
    const B: &str = "10.0.0.2:80";

    /// A connection in plaintext that was judged by the World of this turn.
    fn judged(worker: &Worker) -> Judged {
        let (peer, to): (SocketAddr, SocketAddr) = (Z.parse().unwrap(), B.parse().unwrap());
        let way = Way::Inbound { address: to.ip(), port: to.port(), peer: peer.ip(), identity: None };
        let pod = worker.world().pod(&name("default/b")).unwrap().uid.clone();
        Judged { pod, way, judged_at: worker.world().version() }
    }

    fn begin(worker: &Rc<Worker>) -> Track {
        Track::begin(worker, &served(worker), Direction::Inbound, Z.parse().unwrap(), B.parse().unwrap())
    }

    fn change(worker: &Worker, model: &mut Model, object: impl Into<Object>) {
        let mut batch = Batch::default();
        batch.put(object);
        exchange(worker, model, &batch);
    }

    fn exchange(worker: &Worker, model: &mut Model, batch: &Batch) {
        model.apply(batch);
        worker.exchange_world(Arc::new(model.world().clone()));
    }

    /// Why a connection was told to end, in plain words.
    fn told(track: &Track) -> Option<(Reason, String)> {
        track.cancel.told().map(|(reason, policy)| (reason, policy.map_or_else(String::new, |p| p.to_string())))
    }

    #[test]
    fn a_change_between_verdict_and_registration_is_not_missed() {
        let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
        let worker = worker(model.world().clone());
        let refused = Some((Reason::PlaintextRefused, "default/strict".to_owned()));
        for (object, expect) in [
            (Object::from(peer_authentication("default/other app=other STRICT")), None),
            (peer_authentication("default/strict - STRICT").into(), refused.clone()),
        ] {
            let (track, judged) = (begin(&worker), judged(&worker));
            change(&worker, &mut model, object);
            assert_eq!(told(&track), None, "nobody knows of it yet");
            track.open(judged);
            assert_eq!(told(&track), expect);
            track.finish(Reason::Finished);
        }
        // One that is registered is told by the exchange, and keeps the first reason.
        let mut batch = Batch::default();
        batch.remove(Object::from(peer_authentication("default/strict - STRICT")).key());
        exchange(&worker, &mut model, &batch);
        let track = begin(&worker);
        track.open(judged(&worker));
        change(&worker, &mut model, policy("other/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(told(&track), None);
        change(&worker, &mut model, peer_authentication("default/strict - STRICT"));
        assert_eq!(told(&track), refused);
        change(&worker, &mut model, policy("default/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(told(&track), refused);
        track.finish(Reason::PlaintextRefused);
        assert!(worker.live.borrow().is_empty());
    }
}
