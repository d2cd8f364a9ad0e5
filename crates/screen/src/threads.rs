//! The threads that analyses run on.
//!
//! A thread cannot be stopped from outside: one that misses its deadline runs to its end, which the bounds on
//! size and nesting keep near, and its answer is dropped. One that answered in time waits for the next program:
//! starting a thread, and giving what it allocates back, took more time than most programs need.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The stack of a thread, in bytes. Pages that are not touched cost nothing. Every kind of nesting at its bound was
/// measured to need less than 2 MiB; the tests run them on a sixteenth.
pub(crate) const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Threads that are kept for the next program; each keeps the part of its stack that was ever used.
const MAX_WAITING: usize = 8;

type Work = Box<dyn FnOnce() + Send>;

static WAITING: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

/// Why work gave no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No thread could be started.
    NoThread,
    /// It panicked.
    BrokeOff,
    /// It did not end in time.
    Late,
}

/// A thread that does one piece of work after the other; it ends when nobody can give it any.
#[derive(Debug)]
pub(crate) struct Thread(Sender<Work>);

impl Thread {
    /// A thread with a stack of this many bytes.
    pub(crate) fn start(stack: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Work>();
        thread::Builder::new()
            .name("screen".to_owned())
            .stack_size(stack)
            .spawn(move || receiver.into_iter().for_each(|work| work()))?;
        Ok(Self(sender))
    }

    /// What work on this thread gives, and the thread again when it is ready for more.
    pub(crate) fn run<T: Send + 'static>(
        self,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Self), Failed> {
        let (sender, receiver) = mpsc::sync_channel(1);
        // The receiver is gone when the deadline passed; the refusal has been given by then.
        let work = Box::new(move || drop(sender.send(work())));
        self.0.send(work).map_err(|_| Failed::BrokeOff)?;
        match receiver.recv_timeout(deadline) {
            Ok(answer) => Ok((answer, self)),
            Err(RecvTimeoutError::Timeout) => Err(Failed::Late),
            Err(RecvTimeoutError::Disconnected) => Err(Failed::BrokeOff),
        }
    }
}

/// What work gives on a thread that waits for some, or on a new one.
pub(crate) fn run<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failed> {
    let waiting = || WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let ready = waiting().pop();
    let thread = match ready {
        Some(thread) => thread,
        None => Thread::start(STACK_BYTES).map_err(|_| Failed::NoThread)?,
    };
    let (answer, thread) = thread.run(deadline, work)?;
    let mut waiting = waiting();
    if waiting.len() < MAX_WAITING {
        waiting.push(thread);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    const STACK: usize = 1024 * 1024;
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_thread_does_one_piece_of_work_after_the_other() {
        let thread = Thread::start(STACK).unwrap();
        let (first, thread) = thread.run(LONG, || thread::current().id()).unwrap();
        let (second, _) = thread.run(LONG, || thread::current().id()).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn what_panics_gives_no_answer_and_no_thread() {
        let thread = Thread::start(STACK).unwrap();
        let failed = thread.run(LONG, || panic!("meant to"));
        assert!(matches!(failed, Err::<((), _), _>(Failed::BrokeOff)));
    }

    #[test]
    fn what_is_late_keeps_nobody_waiting() {
        let thread = Thread::start(STACK).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let failed = thread.run(Duration::from_millis(5), move || wait.recv().is_ok());
        assert!(matches!(failed, Err(Failed::Late)));
        drop(go);
    }

    #[test]
    fn programs_at_the_same_time_have_threads_of_their_own() {
        let meet = Arc::new(Barrier::new(2));
        let both = [(), ()].map(|()| {
            let meet = Arc::clone(&meet);
            thread::spawn(move || run(LONG, move || meet.wait().is_leader()).is_ok())
        });
        assert!(both.into_iter().all(|one| one.join().unwrap()));
    }
}
