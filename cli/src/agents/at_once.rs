//! Work for each of many, for a bounded number of them at the same time: each request holds a descriptor, and a process has a thousand
//! or so.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

/// The most at the same time.
const AT_ONCE: usize = 64;

/// What the work for each item gives, in the order in which it ends.
pub(crate) async fn at_once<I, T, F>(items: impl IntoIterator<Item = I>, work: impl Fn(I) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = JoinSet::new();
    for item in items {
        let (permits, work) = (Arc::clone(&permits), work(item));
        all.spawn(async move {
            let _permit = permits.acquire().await; // it is never closed
            work.await
        });
    }
    all.join_all().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::agents::runtime;

    #[test]
    fn no_more_than_the_limit_run_together() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |item: usize| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Relaxed);
                item
            }
        };
        let mut all = runtime().unwrap().block_on(at_once(0..200, work));
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<_>>());
        assert_eq!(most.load(Relaxed), AT_ONCE);
    }
}
