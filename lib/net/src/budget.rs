//! Per-pod limits on sockets and queued bytes. One module for both, because both go by one rule, and because it is the only
//! thing that the workers of a node share.
//!
//! A pod holds at most its own limit, and never more than twice as much as is left on the node. One greedy
//! pod therefore ends at two thirds of the node, two at two fifths each: something is always left for a pod that holds
//! little, and no pod has to be looked at to judge another.
//!
//! ```text
//!   Budget (the node's)       total = used + left
//!     Share (a pod's)         used <= allowed = min(limit, max(floor, 2 * left))  Plenty | Short: half of that is used | Over
//!       Permit (a guard)      one socket
//!       Reservation (a guard) the bytes of one buffer
//! ```
//! A reservation is not asked for first: the bytes are there already, and other pods may have used up all of the budget. A
//! floor then leaves every pod enough to begin with. Sockets have none, because the kernel has no more of them.
//!
//! Counting is not a lock: workers that take at the same time may go over a limit by one each.

use std::sync::{
    Arc,
    atomic::{
        AtomicUsize,
        Ordering::{Relaxed, SeqCst},
        fence,
    },
};

use tokio::sync::{Notify, futures::Notified};

/// A pod's allowance, as a multiple of what is left on the node.
const TIMES_WHAT_IS_LEFT: usize = 2;

/// The allowance of a pod whose own limit is `limit`, of a budget that has `left`: what other pods use never lowers it
/// below `floor`.
#[must_use]
pub fn allowed(limit: usize, left: usize, floor: usize) -> usize {
    limit.min(left.saturating_mul(TIMES_WHAT_IS_LEFT).max(floor))
}

/// The budget of a node.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    floor: usize,
    used: AtomicUsize,
    freed: Freed,
}

impl Budget {
    /// A budget of `total`.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Self::with_floor(total, 0)
    }

    /// A budget of `total`, of which every pod may use its `floor` even where the others have used up all of it.
    #[must_use]
    pub fn with_floor(total: usize, floor: usize) -> Arc<Self> {
        Arc::new(Self { total, floor, used: AtomicUsize::new(0), freed: Freed::default() })
    }

    /// Its size.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// The part that pods use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The part that is free.
    #[must_use]
    pub fn left(&self) -> usize {
        self.total.saturating_sub(self.used())
    }

    /// Completes when a part is given back after the call.
    pub async fn freed(&self) {
        let (_waits, notified) = self.freed.wait();
        notified.await;
    }
}

/// The wake-up of tasks that wait until a part is given back. Bytes are given back all the time, and no task waits for
/// them: then it is a fence and a load, not a lock.
#[derive(Debug, Default)]
struct Freed {
    waiting: AtomicUsize,
    notify: Notify,
}

impl Freed {
    /// Counts the caller as waiting until the guard is dropped. A waiter reads what is used after this, as a giver reads the
    /// number of waiters after giving back; of two such reads one sees what the other side did, by the fences between.
    fn wait(&self) -> (Waits<'_>, Notified<'_>) {
        // Before it is counted: a giver that sees the count reaches this future, polled or not.
        let notified = self.notify.notified();
        self.waiting.fetch_add(1, Relaxed);
        fence(SeqCst);
        (Waits(self), notified)
    }

    fn wake(&self) {
        fence(SeqCst);
        if self.waiting.load(Relaxed) > 0 {
            self.notify.notify_waiters();
        }
    }
}

/// The guard of one waiter: see [`Freed::wait`].
struct Waits<'a>(&'a Freed);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// How much of its allowance a pod has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Less than half.
    Plenty,
    /// Half or more.
    Short,
    /// More than all of it: other pods have come, or the part was taken without being asked for.
    Over,
}

/// The share of one pod in a [`Budget`].
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    limit: usize,
    used: AtomicUsize,
    freed: Freed,
}

impl Share {
    /// A share of `budget` that is at most `limit`.
    #[must_use]
    pub fn new(budget: &Arc<Budget>, limit: usize) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), limit, used: AtomicUsize::new(0), freed: Freed::default() })
    }

    /// What the pod uses.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Its allowance now.
    #[must_use]
    pub fn allowed(&self) -> usize {
        allowed(self.limit, self.budget.left(), self.budget.floor)
    }

    /// How much of the allowance is used.
    #[must_use]
    pub fn level(&self) -> Level {
        let (used, allowed) = (self.used(), self.allowed());
        match used {
            0 => Level::Plenty,
            _ if used > allowed => Level::Over,
            _ if used > allowed / 2 => Level::Short,
            _ => Level::Plenty,
        }
    }

    /// True if there is room for `amount` more.
    #[must_use]
    pub fn has_room(&self, amount: usize) -> bool {
        self.used().saturating_add(amount) <= self.allowed()
    }

    /// A permit, where there is room for it and for `spare` more.
    #[must_use]
    pub fn try_permit(self: &Arc<Self>, spare: usize) -> Option<Permit> {
        self.has_room(spare.saturating_add(1)).then(|| self.permit())
    }

    /// A permit without asking: the caller has asked for room already.
    #[must_use]
    pub fn permit(self: &Arc<Self>) -> Permit {
        Permit { _reservation: self.reserve(1) }
    }

    /// A reservation without asking, for what is there already and has to be counted.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, amount: usize) -> Reservation {
        let mut reservation = Reservation { share: Arc::clone(self), amount: 0 };
        reservation.set(amount);
        reservation
    }

    /// Completes when there is room for `amount`. Each time that there is none `full` is called, which may see to it that
    /// a part is given back.
    pub async fn room(&self, amount: usize, full: impl Fn()) {
        loop {
            let ((_own_waits, own), (_node_waits, node)) = (self.freed.wait(), self.budget.freed.wait());
            tokio::pin!(own, node);
            // Before the check: what is given back after it wakes this task.
            own.as_mut().enable();
            node.as_mut().enable();
            if self.has_room(amount) {
                return;
            }
            full();
            tokio::select! {
                () = own => {}
                () = node => {}
            }
        }
    }

    /// Completes when the node got a part back after the call.
    pub async fn freed(&self) {
        self.budget.freed().await;
    }
}

/// One socket's part of a budget. Dropped, it is given back.
#[derive(Debug)]
pub struct Permit {
    _reservation: Reservation,
}

/// An amount of a budget that is used. Dropped, it is given back.
#[derive(Debug)]
pub struct Reservation {
    share: Arc<Share>,
    amount: usize,
}

impl Reservation {
    /// Makes it `amount`.
    pub fn set(&mut self, amount: usize) {
        let before = std::mem::replace(&mut self.amount, amount);
        if let Some(more) = amount.checked_sub(before).filter(|&more| more > 0) {
            self.share.used.fetch_add(more, Relaxed);
            self.share.budget.used.fetch_add(more, Relaxed);
        } else if let Some(less) = before.checked_sub(amount).filter(|&less| less > 0) {
            self.share.used.fetch_sub(less, Relaxed);
            self.share.budget.used.fetch_sub(less, Relaxed);
            self.share.freed.wake();
            self.share.budget.freed.wake();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Poll};

    use super::*;

    /// All permits that there is room for.
    fn fill(share: &Arc<Share>) -> Vec<Permit> {
        std::iter::from_fn(|| share.try_permit(0)).collect()
    }

    #[test]
    fn greedy_pods_leave_a_part_to_every_other() {
        for (greedy, left) in [(1, 300), (2, 180), (3, 129), (10, 43)] {
            let budget = Budget::new(900);
            let shares: Vec<_> = (0..greedy).map(|_| Share::new(&budget, usize::MAX)).collect();
            // In turn, as they would.
            let mut all = Vec::new();
            while let Some(permits) = shares.iter().map(|share| share.try_permit(0)).collect::<Option<Vec<_>>>() {
                all.extend(permits);
            }
            assert!(budget.left().abs_diff(left) <= greedy, "{greedy} greedy pods leave {}", budget.left());
            let modest = Share::new(&budget, usize::MAX);
            assert!(fill(&modest).len() >= left / 2, "{greedy}");
            drop(all);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_limit_of_its_own_holds_before_that() {
        let budget = Budget::new(900);
        let share = Share::new(&budget, 10);
        assert_eq!(fill(&share).len(), 10);
        let none = Share::new(&budget, 0);
        assert!(none.try_permit(0).is_none());
        assert!(Share::new(&Budget::new(0), 10).try_permit(0).is_none());
    }

    #[test]
    fn levels() {
        let check = |most, all, others, own, expect| {
            let budget = Budget::new(all);
            let _others = Share::new(&budget, usize::MAX).reserve(others);
            let share = Share::new(&budget, most);
            let _own = share.reserve(own);
            assert_eq!(share.level(), expect, "{own} of {most}, {others} beside, in {all}");
        };
        check(100, 1000, 0, 50, Level::Plenty);
        check(100, 1000, 0, 51, Level::Short);
        check(100, 1000, 0, 100, Level::Short);
        check(100, 1000, 0, 101, Level::Over);
        // What others use counts: 2 * (1000 - 950 - 33) = 34.
        check(100, 1000, 950, 33, Level::Short);
        check(100, 1000, 950, 34, Level::Over);
        // A pod that uses nothing has nothing to give back.
        check(100, 1000, 1000, 0, Level::Plenty);
        check(0, 1000, 0, 1, Level::Over);
    }

    #[test]
    fn a_quiet_pod_is_never_over_because_of_other_pods() {
        let check = |most, others, own, expect| {
            let budget = Budget::with_floor(1000, 40);
            let _greedy = Share::new(&budget, usize::MAX).reserve(others);
            let quiet = Share::new(&budget, most);
            let _own = quiet.reserve(own);
            assert_eq!(quiet.level(), expect, "{own} of {most}, {others} beside");
        };
        check(100, 1000, 40, Level::Short);
        check(100, 1000, 20, Level::Plenty);
        check(100, 1000, 41, Level::Over);
        check(100, 0, 101, Level::Over);
        // Its own limit holds below the floor too.
        check(30, 1000, 31, Level::Over);
    }

    #[test]
    fn budget_and_share_follow_a_reservation() {
        let budget = Budget::new(100);
        let share = Share::new(&budget, 100);
        let mut reservation = share.reserve(0);
        for amount in [10, 70, 30, 30, 0, 5] {
            reservation.set(amount);
            assert_eq!((share.used(), budget.used(), budget.left()), (amount, amount, 100 - amount));
        }
        drop(reservation);
        assert_eq!((share.used(), budget.used()), (0, 0));
    }

    /// One thread gives back while another begins to wait, a little later each round. A wake-up that is lost would leave
    /// the other waiting for ever.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ROUNDS: usize = 2_000;
        const SHIFTS: usize = 100;
        let (budget, begun, woken) = (Budget::new(2), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let share = Share::new(&budget, 1);
        let waiter = {
            let (share, begun, woken) = (Arc::clone(&share), Arc::clone(&begun), Arc::clone(&woken));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
                for round in 1..=ROUNDS {
                    while begun.load(SeqCst) < round {
                        std::hint::spin_loop();
                    }
                    runtime.block_on(share.room(1, || ()));
                    woken.store(round, SeqCst);
                }
            })
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        for round in 1..=ROUNDS {
            let permit = share.permit();
            begun.store(round, SeqCst);
            (0..round % SHIFTS).for_each(|_| std::hint::spin_loop());
            drop(permit);
            while woken.load(SeqCst) < round {
                assert!(std::time::Instant::now() < deadline, "a wake-up was lost in round {round}: {share:?}");
                std::thread::yield_now();
            }
        }
        waiter.join().expect("no panic");
        assert_eq!((share.used(), budget.used()), (0, 0));
        assert_eq!((share.freed.waiting.load(Relaxed), budget.freed.waiting.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_wait_for_room_ends_when_the_pod_or_another_gives_back() {
        let budget = Budget::new(30);
        let (mine, other) = (Share::new(&budget, 10), Share::new(&budget, usize::MAX));
        let (mut own, mut others) = (mine.reserve(10), other.reserve(0));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for by_own in [true, false] {
            own.set(if by_own { 10 } else { 8 });
            others.set(if by_own { 0 } else { 20 });
            let mut room = pin!(mine.room(2, || ()));
            assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
            if by_own {
                own.set(9);
                assert_eq!(room.as_mut().poll(&mut context), Poll::Pending, "room for one");
                own.set(8)
            } else {
                others.set(0)
            }
            assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(()), "{by_own}");
        }
    }
}
