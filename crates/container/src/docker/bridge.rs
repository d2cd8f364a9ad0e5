//! From the daemon's stream to the channels that every sandbox is listened to on: a thread for each
//! container, with the connection that holds it.
//!
//! The connection is also what the container lives by: when it goes, with this process or before it, process 1
//! in there sees its end and ends.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptionsBuilder;
use casemate_driver::handover::{ENDED, FAILED, GO};
use casemate_driver::listen::Ends;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::daemon::{Daemon, runtime};
use super::frames::{self, Frame, Frames};
use super::trouble::Trouble;

/// How long the daemon may take to begin to pass streams on.
const ATTACHED_WITHIN: Duration = Duration::from_secs(60);

/// The thread, and the way to it.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// What is said here goes to the container; with the sender it is over.
    words: Option<UnboundedSender<u8>>,
    /// Whether everything that the container had to say has been passed on.
    said_all: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has.
struct Far {
    daemon: Daemon,
    id: String,
    ends: Ends,
    words: UnboundedReceiver<u8>,
    said_all: Arc<AtomicBool>,
}

impl Bridge {
    /// Begins to listen to a container that was made and not started, so that nothing it says is lost.
    pub(crate) fn attach(daemon: &Daemon, id: &str, ends: Ends) -> Result<Self, Trouble> {
        let (words, hears) = unbounded_channel();
        let (attached, is_attached) = mpsc::channel();
        let said_all = Arc::new(AtomicBool::new(false));
        let far = Far {
            daemon: daemon.clone(),
            id: id.to_owned(),
            ends,
            words: hears,
            said_all: Arc::clone(&said_all),
        };
        let thread = std::thread::Builder::new()
            .name("docker-streams".to_owned())
            .spawn(move || far.run(&attached))
            .map_err(|error| Trouble::Other(format!("a thread for the streams: {error}")))?;
        let bridge = Self {
            words: Some(words),
            said_all,
            thread: Some(thread),
        };
        match is_attached.recv_timeout(ATTACHED_WITHIN) {
            Ok(Ok(())) => Ok(bridge),
            Ok(Err(trouble)) => Err(trouble),
            Err(_) => Err(Trouble::Other("it passes no streams on".to_owned())),
        }
    }

    /// The word to begin.
    pub(crate) fn go(&self) -> bool {
        self.words
            .as_ref()
            .is_some_and(|words| words.send(GO).is_ok())
    }

    /// Whether everything that the container had to say has been passed on.
    pub(crate) fn has_said_all(&self) -> bool {
        self.said_all.load(Ordering::Acquire)
    }
}

impl Drop for Bridge {
    /// Lets the connection go. Whoever holds the other ends of the channels has let those go before, so that
    /// the thread waits for nobody.
    fn drop(&mut self) {
        self.words = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and there is nothing left to do about it.
            drop(thread.join());
        }
    }
}

impl Far {
    fn run(mut self, attached: &mpsc::Sender<Result<(), Trouble>>) {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(trouble) => return drop(attached.send(Err(trouble))),
        };
        let end = runtime.block_on(self.pass_on(attached));
        if let End::Failed(why) = end {
            // Whoever listens may have gone, and then there is nobody to tell.
            drop(self.ends.control.send(FAILED, why.as_bytes()));
        }
        self.said_all.store(true, Ordering::Release);
    }

    async fn pass_on(&mut self, attached: &mpsc::Sender<Result<(), Trouble>>) -> End {
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .build();
        let client = match self.daemon.client() {
            Ok(client) => client,
            Err(trouble) => return told(attached, trouble),
        };
        let held = match client.attach_container(&self.id, Some(options)).await {
            Ok(held) => held,
            Err(error) => return told(attached, error.into()),
        };
        if attached.send(Ok(())).is_err() {
            return End::Unheard;
        }
        let (mut output, mut input) = (held.output, held.input);
        let mut frames = Frames::default();
        loop {
            tokio::select! {
                word = self.words.recv() => {
                    let Some(word) = word else { return End::Unheard };
                    let said = async { input.write_all(&[word]).await?; input.flush().await };
                    if let Err(error) = said.await {
                        return End::Failed(format!("the daemon takes no input: {error}"));
                    }
                }
                item = output.next() => match item {
                    Some(Ok(LogOutput::StdOut { message })) => {
                        if let Some(end) = self.hear(&mut frames, &message) {
                            return end;
                        }
                    }
                    Some(Ok(LogOutput::StdErr { message })) => {
                        if self.ends.stderr.write_all(&message).is_err() {
                            return End::Unheard;
                        }
                    }
                    Some(Ok(_)) => return End::Failed("the daemon's stream is not one".to_owned()),
                    Some(Err(error)) => return End::Failed(format!("the daemon's stream: {error}")),
                    None if self.said_all.load(Ordering::Acquire) => return End::Told,
                    None => return self.without_a_word(&client).await,
                },
            }
        }
    }

    /// Passes on what process 1 said.
    fn hear(&mut self, frames: &mut Frames, bytes: &[u8]) -> Option<End> {
        frames.take(bytes);
        loop {
            let frame = match frames.pop() {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(frames::Malformed) => {
                    return Some(End::Failed("process 1 says what it never would".to_owned()));
                }
            };
            if self.pass(frame).is_err() {
                return Some(End::Unheard);
            }
        }
    }

    fn pass(&mut self, frame: Frame) -> std::io::Result<()> {
        let Frame { kind, content } = frame;
        match kind {
            frames::OUT => self.ends.stdout.write_all(&content)?,
            frames::ERR => self.ends.stderr.write_all(&content)?,
            frames::TOLD => {
                if let Some((kind, rest)) = content.split_first() {
                    self.ends.messages.send(*kind, rest)?;
                }
            }
            _ => {
                self.ends.control.send(ENDED, &content)?;
                // The connection stays: the container is looked at once more before it goes.
                self.said_all.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// The stream is over and nobody said how the program ended: the container was killed as a whole,
    /// or the daemon is gone.
    async fn without_a_word(&self, client: &bollard::Docker) -> End {
        let state = client.inspect_container(&self.id, None).await;
        match state.ok().and_then(|found| found.state) {
            // Whoever listens sees the channel's end.
            Some(state) if state.exit_code == Some(128 + 9) => End::Told,
            Some(state) => {
                let code = state.exit_code.unwrap_or_default();
                let why = state.error.filter(|why| !why.is_empty());
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                End::Failed(format!("process 1 ended by itself, with {code}{why}"))
            }
            None => End::Failed("the connection to the daemon was lost".to_owned()),
        }
    }
}

/// How it was over.
enum End {
    /// Whoever listens knows.
    Told,
    /// Nobody listens any more.
    Unheard,
    /// What is wrong.
    Failed(String),
}

fn told(attached: &mpsc::Sender<Result<(), Trouble>>, trouble: Trouble) -> End {
    // Whoever waited for it has gone where this cannot be sent.
    drop(attached.send(Err(trouble)));
    End::Told
}

#[cfg(test)]
mod tests {
    use casemate_driver::handover::WireEnd;
    use casemate_linux::Exit;

    fn as_said(exit: Exit) -> Vec<u8> {
        serde_json::to_vec(&WireEnd { exit }).unwrap()
    }

    #[test]
    fn process_1_says_an_end_as_every_keeper_does() {
        assert_eq!(as_said(Exit::Code(3)), br#"{"exit":{"code":3}}"#);
        assert_eq!(as_said(Exit::Signal(31)), br#"{"exit":{"signal":31}}"#);
    }
}
