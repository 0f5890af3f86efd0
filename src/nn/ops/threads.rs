//! The one pool of compute threads.
//!
//! Its size is set once, before the first kernel runs (`GLEANER_THREADS`, else the available cores); its threads
//! are niced below the server's. Kernels run inside [`install`], so that they never land on rayon's global pool.

use std::sync::OnceLock;
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// How far the compute threads stand below the server's in the scheduler.
const NICE_STEP: i32 = 5;

static REQUESTED_COUNT: OnceLock<usize> = OnceLock::new();
static POOL: OnceLock<ThreadPool> = OnceLock::new();

/// The pool has started, or was given another size before.
#[derive(Debug, thiserror::Error)]
#[error("compute threads are already set to {current}: set the count once, before the first kernel runs")]
pub struct ThreadCountFixed {
    /// The count in force.
    pub current: usize,
}

/// Sets the number of compute threads, at least 1; may be called again only with the count in force.
pub fn set_thread_count(count: usize) -> Result<(), ThreadCountFixed> {
    let wanted = count.max(1);
    let current = *REQUESTED_COUNT.get_or_init(|| wanted);
    if current == wanted { Ok(()) } else { Err(ThreadCountFixed { current }) }
}

/// The number of compute threads; fixes it to the available cores when nothing was set.
pub fn thread_count() -> usize {
    *REQUESTED_COUNT.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Runs `work` on the pool and waits for it; parallel iterators inside use the pool's threads.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    POOL.get_or_init(start_pool).install(work)
}

fn start_pool() -> ThreadPool {
    ThreadPoolBuilder::new()
        .num_threads(thread_count())
        .thread_name(|index| format!("gleaner-compute-{index}"))
        .start_handler(|_| lower_priority())
        .build()
        .expect("the system gives the process its compute threads")
}

/// Nices the calling thread; a system that refuses leaves it as it is, which costs only responsiveness.
fn lower_priority() {
    let current = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Err(error) = rustix::process::setpriority_process(None, current + NICE_STEP) {
        tracing::debug!(%error, "compute thread keeps the process's priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_the_fixed_number_of_threads() {
        let count = thread_count();
        assert_eq!(install(rayon::current_num_threads), count);
        assert!(set_thread_count(count).is_ok());
        let refused = set_thread_count(count + 1).expect_err("the count is fixed");
        assert_eq!(refused.current, count);
    }

    #[test]
    fn compute_threads_are_niced() {
        let own = rustix::process::getpriority_process(None).expect("readable");
        let theirs = install(|| rustix::process::getpriority_process(None).expect("readable"));
        assert!(theirs > own || own >= 19 - NICE_STEP);
    }
}
