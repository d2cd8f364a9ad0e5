//! Whoever listens to a process, and what they are told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use casemate_envd::process::{
    DataEvent, Empty, EndEvent, ProcessEvent, ProcessResponse, StartEvent,
};
use casemate_envd::{Code, RpcError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::running::Running;
use casemate_envd::server::rpc::{Call, Out};

/// Messages that wait for a slow listener. After that the process waits.
const WAITING: usize = 8;
/// Listeners of one process.
const LISTENERS_MAX: usize = 64;
/// How long a listener may hold up the others.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told of a process.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Stdout(Bytes),
    Stderr(Bytes),
    Terminal(Bytes),
    Ended(EndEvent),
}

/// One who listens.
pub(crate) type Listener = mpsc::Receiver<Said>;

/// All who listen. What is said while nobody does is lost, except the end.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    senders: Vec<mpsc::Sender<Said>>,
    ended: Option<EndEvent>,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self) -> Result<Listener, RpcError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut inner = self.lock();
        if let Some(end) = &inner.ended {
            // There is room for one.
            sender.try_send(Said::Ended(end.clone())).ok();
            return Ok(receiver);
        }
        inner.senders.retain(|sender| !sender.is_closed());
        if inner.senders.len() >= LISTENERS_MAX {
            let what = format!("{LISTENERS_MAX} listen to this process already");
            return Err(RpcError::new(Code::ResourceExhausted, what));
        }
        inner.senders.push(sender);
        Ok(receiver)
    }

    /// Tells everybody. Waits for a slow listener, and while there are others only so long.
    pub(crate) async fn say(&self, said: Said) {
        let senders = self.lock().senders.clone();
        for sender in senders {
            self.tell(&sender, &said).await;
        }
    }

    async fn tell(&self, sender: &mpsc::Sender<Said>, said: &Said) {
        loop {
            match timeout(PATIENCE, sender.send(said.clone())).await {
                Ok(Ok(())) => return,
                Ok(Err(_gone)) => break,
                Err(_late) if self.lock().senders.len() < 2 => {}
                Err(_late) => break,
            }
        }
        let mut inner = self.lock();
        inner.senders.retain(|other| !other.same_channel(sender));
    }

    /// Tells everybody, now and later, that it is over.
    pub(crate) async fn end(&self, end: EndEvent) {
        let senders = {
            let mut inner = self.lock();
            inner.ended = Some(end.clone());
            std::mem::take(&mut inner.senders)
        };
        for sender in senders {
            let said = Said::Ended(end.clone());
            // The slow ones on their own: nobody waits for them any more.
            if let Err(mpsc::error::TrySendError::Full(said)) = sender.try_send(said) {
                tokio::spawn(async move { sender.send(said).await.ok() });
            }
        }
    }
}

/// Passes on what is told, from the start to the end.
pub(crate) async fn subscribe(
    process: &Running,
    mut told: Listener,
    call: &Call,
    out: &Out<ProcessResponse>,
) -> Result<(), RpcError> {
    let start = ProcessEvent {
        start: Some(StartEvent { pid: process.pid }),
        ..ProcessEvent::default()
    };
    let mut clock = call.clock();
    let mut event = start;
    loop {
        let response = ProcessResponse { event: Some(event) };
        if out.send(&response).await.is_err() {
            return Ok(());
        }
        clock.reset();
        event = tokio::select! {
            said = told.recv() => match said {
                Some(Said::Ended(end)) => {
                    let end = ProcessEvent { end: Some(end), ..ProcessEvent::default() };
                    out.send(&ProcessResponse { event: Some(end) }).await.ok();
                    return Ok(());
                }
                Some(said) => data(said),
                None => return Err(RpcError::new(
                    Code::ResourceExhausted,
                    "this listener was too slow, and others wait for what the process says",
                )),
            },
            _ = clock.tick() => ProcessEvent { keepalive: Some(Empty {}), ..ProcessEvent::default() },
            () = out.gone() => return Ok(()),
        };
    }
}

fn data(said: Said) -> ProcessEvent {
    let mut data = DataEvent::default();
    match said {
        Said::Stdout(bytes) => data.stdout = Some(bytes.to_vec()),
        Said::Stderr(bytes) => data.stderr = Some(bytes.to_vec()),
        Said::Terminal(bytes) => data.pty = Some(bytes.to_vec()),
        // An end is told by whoever asks.
        Said::Ended(_) => {}
    }
    ProcessEvent {
        data: Some(data),
        ..ProcessEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &'static str) -> Said {
        Said::Stdout(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_listener_holds_up_the_process_but_not_the_others() {
        let listeners = Listeners::default();
        let slow = listeners.add().unwrap();
        for _ in 0..WAITING {
            listeners.say(said("x")).await;
        }
        let alone = timeout(PATIENCE * 10, listeners.say(said("waits"))).await;
        assert!(alone.is_err(), "alone, the process waits");
        let mut quick = listeners.add().unwrap();
        timeout(PATIENCE * 2, listeners.say(said("y")))
            .await
            .unwrap();
        assert!(matches!(quick.recv().await, Some(Said::Stdout(_))));
        assert_eq!(listeners.lock().senders.len(), 1);
        drop(slow);
    }

    #[tokio::test]
    async fn the_end_is_told_to_who_comes_late() {
        let listeners = Listeners::default();
        let mut early = listeners.add().unwrap();
        listeners.end(EndEvent::default()).await;
        let mut late = listeners.add().unwrap();
        for listener in [&mut early, &mut late] {
            assert!(matches!(listener.recv().await, Some(Said::Ended(_))));
            assert!(listener.recv().await.is_none());
        }
    }

    #[tokio::test]
    async fn listeners_are_counted() {
        let listeners = Listeners::default();
        let all: Vec<Listener> = (0..LISTENERS_MAX)
            .map(|_| listeners.add().unwrap())
            .collect();
        assert_eq!(listeners.add().unwrap_err().code, Code::ResourceExhausted);
        drop(all);
        assert!(listeners.add().is_ok());
    }
}
