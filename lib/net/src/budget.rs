//! How much of what is scarce one pod may hold: sockets, and bytes that wait for somebody. Its own room because both go by
//! one rule, and because it is the only thing that the workers of a node share.
//!
//! A pod holds at most its own limit, and never more than twice as much as is left on the node. One greedy
//! pod therefore ends at two thirds of the node, two at two fifths each: something is always left for a pod that holds
//! little, and nobody has to look at other pods to judge one.
//!
//! ```text
//!   Stock (the node's)   most = used + left
//!     Share (a pod's)    used <= allowed = min(most, max(floor, 2 * left))    Plenty | Short: half of that is used | Over
//!       Held (a guard)   what one socket, or one buffer, counts for
//! ```
//! Where what is given out is not asked for first, as waiting bytes are not, others may have used up all of it: a floor
//! then leaves every pod enough to begin with. Sockets have none, because the kernel has no more of them.
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

/// A pod may hold so many times what is left on the node.
const TIMES_WHAT_IS_LEFT: usize = 2;

/// What a pod may hold in all, of a stock that has `left`, where its own limit is `most`: never less than `floor` for
/// want of what others hold.
#[must_use]
pub fn allowed(most: usize, left: usize, floor: usize) -> usize {
    most.min(left.saturating_mul(TIMES_WHAT_IS_LEFT).max(floor))
}

/// What a node has.
#[derive(Debug)]
pub struct Stock {
    most: usize,
    floor: usize,
    used: AtomicUsize,
    freed: Freed,
}

impl Stock {
    /// So much.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Self::with_floor(most, 0)
    }

    /// So much, of which a pod may hold its `floor` whatever others hold.
    #[must_use]
    pub fn with_floor(most: usize, floor: usize) -> Arc<Self> {
        Arc::new(Self { most, floor, used: AtomicUsize::new(0), freed: Freed::default() })
    }

    /// All that there is.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// What is held, by whomever.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// What nobody holds.
    #[must_use]
    pub fn left(&self) -> usize {
        self.most.saturating_sub(self.used())
    }

    /// Completes when somebody gives something back after the call.
    pub async fn freed(&self) {
        let (_waits, notified) = self.freed.wait();
        notified.await;
    }
}

/// Tells those who wait that something was given back. Bytes are given back all the time, and nobody waits for them: then
/// it is a fence and a load, not a lock.
#[derive(Debug, Default)]
struct Freed {
    waiting: AtomicUsize,
    notify: Notify,
}

impl Freed {
    /// Counts as waiting until the guard is dropped. The look at what is used comes after this, as the look at who waits
    /// comes after giving back; of two such looks one sees what the other side did, by the fences between.
    fn wait(&self) -> (Waits<'_>, Notified<'_>) {
        // Before it is counted: whoever sees the count reaches this future, polled or not.
        let notified = self.notify.notified();
        self.waiting.fetch_add(1, Relaxed);
        fence(SeqCst);
        (Waits(self), notified)
    }

    fn tell(&self) {
        fence(SeqCst);
        if self.waiting.load(Relaxed) > 0 {
            self.notify.notify_waiters();
        }
    }
}

/// See [`Freed::wait`].
struct Waits<'a>(&'a Freed);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// How a pod stands with its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It may take more.
    Plenty,
    /// It has used half of what it may.
    Short,
    /// It holds more than it may: others have come, or it was not asked.
    Over,
}

/// What one pod may have of a [`Stock`].
#[derive(Debug)]
pub struct Share {
    stock: Arc<Stock>,
    most: usize,
    used: AtomicUsize,
    freed: Freed,
}

impl Share {
    /// Of `stock`, at most `most`.
    #[must_use]
    pub fn new(stock: &Arc<Stock>, most: usize) -> Arc<Self> {
        Arc::new(Self { stock: Arc::clone(stock), most, used: AtomicUsize::new(0), freed: Freed::default() })
    }

    /// What the pod holds.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// What it may hold now.
    #[must_use]
    pub fn allowed(&self) -> usize {
        allowed(self.most, self.stock.left(), self.stock.floor)
    }

    /// How it stands.
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

    /// It may take so many more.
    #[must_use]
    pub fn has_room(&self, amount: usize) -> bool {
        self.used().saturating_add(amount) <= self.allowed()
    }

    /// Takes one, where there is room for it and for so many more.
    #[must_use]
    pub fn take(self: &Arc<Self>, more: usize) -> Option<Held> {
        self.has_room(more.saturating_add(1)).then(|| self.hold(1))
    }

    /// Takes without asking: for what is there already, and has to be counted.
    #[must_use]
    pub fn hold(self: &Arc<Self>, amount: usize) -> Held {
        let mut held = Held { share: Arc::clone(self), amount: 0 };
        held.set(amount);
        held
    }

    /// Completes when there is room for so much, because somebody gave something back or there was some. Each time that
    /// there is none `full` is called, which may see to it that something is given back.
    pub async fn room(&self, amount: usize, full: impl Fn()) {
        loop {
            let ((_own_waits, own), (_node_waits, node)) = (self.freed.wait(), self.stock.freed.wait());
            tokio::pin!(own, node);
            // Before the look: what is given back after it is heard of.
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

    /// Completes when the node got something back after the call.
    pub async fn freed(&self) {
        self.stock.freed().await;
    }
}

/// What is held. Dropped, it is given back.
#[derive(Debug)]
pub struct Held {
    share: Arc<Share>,
    amount: usize,
}

impl Held {
    /// From now on it is so much.
    pub fn set(&mut self, amount: usize) {
        let before = std::mem::replace(&mut self.amount, amount);
        if let Some(more) = amount.checked_sub(before).filter(|&more| more > 0) {
            self.share.used.fetch_add(more, Relaxed);
            self.share.stock.used.fetch_add(more, Relaxed);
        } else if let Some(less) = before.checked_sub(amount).filter(|&less| less > 0) {
            self.share.used.fetch_sub(less, Relaxed);
            self.share.stock.used.fetch_sub(less, Relaxed);
            self.share.freed.tell();
            self.share.stock.freed.tell();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Poll};

    use super::*;

    /// Takes until there is no room.
    fn fill(share: &Arc<Share>) -> Vec<Held> {
        std::iter::from_fn(|| share.take(0)).collect()
    }

    #[test]
    fn greedy_pods_leave_a_part_to_every_other() {
        for (greedy, left) in [(1, 300), (2, 180), (3, 129), (10, 43)] {
            let stock = Stock::new(900);
            let shares: Vec<_> = (0..greedy).map(|_| Share::new(&stock, usize::MAX)).collect();
            // In turn, as they would.
            let mut all = Vec::new();
            while let Some(held) = shares.iter().map(|share| share.take(0)).collect::<Option<Vec<_>>>() {
                all.extend(held);
            }
            assert!(stock.left().abs_diff(left) <= greedy, "{greedy} greedy pods leave {}", stock.left());
            let modest = Share::new(&stock, usize::MAX);
            assert!(fill(&modest).len() >= left / 2, "{greedy}");
            drop(all);
            assert_eq!(stock.used(), 0);
        }
    }

    #[test]
    fn a_limit_of_its_own_holds_before_that() {
        let stock = Stock::new(900);
        let share = Share::new(&stock, 10);
        assert_eq!(fill(&share).len(), 10);
        let none = Share::new(&stock, 0);
        assert!(none.take(0).is_none());
        assert!(Share::new(&Stock::new(0), 10).take(0).is_none());
    }

    #[test]
    fn levels() {
        let check = |most, all, others, own, expect| {
            let stock = Stock::new(all);
            let _others = Share::new(&stock, usize::MAX).hold(others);
            let share = Share::new(&stock, most);
            let _held = share.hold(own);
            assert_eq!(share.level(), expect, "{own} of {most}, {others} beside, in {all}");
        };
        check(100, 1000, 0, 50, Level::Plenty);
        check(100, 1000, 0, 51, Level::Short);
        check(100, 1000, 0, 100, Level::Short);
        check(100, 1000, 0, 101, Level::Over);
        // What others hold counts: 2 * (1000 - 950 - 33) = 34.
        check(100, 1000, 950, 33, Level::Short);
        check(100, 1000, 950, 34, Level::Over);
        // Who holds nothing has nothing to give back.
        check(100, 1000, 1000, 0, Level::Plenty);
        check(0, 1000, 0, 1, Level::Over);
    }

    #[test]
    fn a_quiet_pod_is_never_over_for_what_others_hold() {
        let check = |most, others, own, expect| {
            let stock = Stock::with_floor(1000, 40);
            let _greedy = Share::new(&stock, usize::MAX).hold(others);
            let quiet = Share::new(&stock, most);
            let _held = quiet.hold(own);
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
    fn what_is_held_follows_its_amount() {
        let stock = Stock::new(100);
        let share = Share::new(&stock, 100);
        let mut held = share.hold(0);
        for amount in [10, 70, 30, 30, 0, 5] {
            held.set(amount);
            assert_eq!((share.used(), stock.used(), stock.left()), (amount, amount, 100 - amount));
        }
        drop(held);
        assert_eq!((share.used(), stock.used()), (0, 0));
    }

    /// One thread gives back while another begins to wait, a little later each round. A wake-up that is lost would leave
    /// the other waiting for ever.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ROUNDS: usize = 2_000;
        const SHIFTS: usize = 100;
        let (stock, begun, told) = (Stock::new(2), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let share = Share::new(&stock, 1);
        let waiter = {
            let (share, begun, told) = (Arc::clone(&share), Arc::clone(&begun), Arc::clone(&told));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
                for round in 1..=ROUNDS {
                    while begun.load(SeqCst) < round {
                        std::hint::spin_loop();
                    }
                    runtime.block_on(share.room(1, || ()));
                    told.store(round, SeqCst);
                }
            })
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        for round in 1..=ROUNDS {
            let held = share.hold(1);
            begun.store(round, SeqCst);
            (0..round % SHIFTS).for_each(|_| std::hint::spin_loop());
            drop(held);
            while told.load(SeqCst) < round {
                assert!(std::time::Instant::now() < deadline, "a wake-up was lost in round {round}: {share:?}");
                std::thread::yield_now();
            }
        }
        waiter.join().expect("no panic");
        assert_eq!((share.used(), stock.used()), (0, 0));
        assert_eq!((share.freed.waiting.load(Relaxed), stock.freed.waiting.load(Relaxed)), (0, 0));
    }

    #[test]
    fn whoever_waits_for_room_is_told_by_its_own_and_by_others() {
        let stock = Stock::new(30);
        let (mine, other) = (Share::new(&stock, 10), Share::new(&stock, usize::MAX));
        let (mut own, mut others) = (mine.hold(10), other.hold(0));
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
