//! The thread that owns a session's worker: one cell or one question after the other, each answer bounded, counted
//! and decoded, and believed no further.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_backend::contract::{Cancel, Signal};
use casemate_backend::session::in_words;
use casemate_envd::interpreter::Line;
use casemate_envd::server::lines::Printed;
use casemate_envd::server::shown::shown;
use casemate_model::event::{Event, What, Witness};
use casemate_model::limit::LimitKind;
use casemate_model::outcome::Exit;
use casemate_model::result::Origin;
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::patience::Patience;
use super::state::State;
use crate::listen::{Frames, Heard, Run};
use crate::process::{Worker, killed, reported};
use crate::wire::{
    Kind, WireAnswer, WireAsk, WireCell, WireEnd, WireExit, WireLimits, send, send_json, send_split,
};

/// How long a worker may take over one question about its files.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of one answer.
const ANSWER_MAX: usize = 40 << 20;
/// How long a reader may take over its next line. After that its lines are dropped, and the cell goes on.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// How often a line is tried again for a slow reader.
const RETRY: Duration = Duration::from_millis(2);
/// What is said to those whose cell ended with its interpreter.
const RESTARTED: &str = "Context was restarted";
/// The working folder of cells, which is their user's home.
pub(super) const HOME: &str = "/home/user";

/// What a session is to do.
pub(super) enum Task {
    /// Code to run.
    Cell(Cell),
    /// Something about its files.
    Ask(Question),
}

/// A cell to run.
pub(super) struct Cell {
    pub(super) code: String,
    /// The environment of the session.
    pub(super) env: BTreeMap<String, String>,
    /// Variables of this cell alone.
    pub(super) own_env: BTreeMap<String, String>,
    /// Where its lines go. Where nobody takes them any more it goes on without.
    pub(super) out: mpsc::Sender<Line>,
}

/// A question about files, the bytes that are to be written, and who is told the answer: nobody, if the session ends
/// first.
pub(super) struct Question {
    pub(super) ask: WireAsk,
    pub(super) data: Bytes,
    pub(super) answer: Box<dyn FnOnce(Answered) + Send>,
}

/// An answer, and the bytes of a file that belong to it.
pub(super) type Answered = (WireAnswer, Vec<u8>);

/// A cell as the driver reads it.
#[derive(Serialize)]
struct CellJob<'a> {
    code: &'a str,
    name: &'a str,
    cwd: &'a str,
    env: &'a BTreeMap<String, String>,
    own_env: &'a BTreeMap<String, String>,
    max_result_bytes: u64,
}

/// A session's worker and what waits for it.
pub(super) struct Desk {
    pub(super) worker: Worker,
    pub(super) limits: WireLimits,
    pub(super) tasks: mpsc::Receiver<Task>,
    pub(super) state: Arc<State>,
    pub(super) cancel: Cancel,
    pub(super) runtime: Handle,
    /// Becomes readable when the worker ends.
    pub(super) pidfd: AsyncFd<OwnedFd>,
    /// How many cells there have been.
    pub(super) count: u64,
    /// Cells that came while it was paused.
    pub(super) held_back: VecDeque<Cell>,
}

/// What is next.
enum Next {
    Task(Task),
    /// Another interpreter is wanted.
    Renew,
    /// The worker is gone.
    Died,
    /// Nobody can ask anything any more.
    Left,
}

impl Desk {
    /// Serves until the session ends, and says how it did.
    pub(super) fn serve(mut self) -> String {
        let how = self.serve_to_the_end();
        // What was stopped in a cell could not be killed.
        self.state.thaw();
        how
    }

    fn serve_to_the_end(&mut self) -> String {
        loop {
            let done = match self.next() {
                Ok(Next::Task(Task::Cell(cell))) => self.cell(cell),
                Ok(Next::Task(Task::Ask(question))) => self.ask(question),
                Ok(Next::Renew) => self.renew(),
                Ok(Next::Died) => Err(killed(&mut self.worker, &self.limits)),
                Ok(Next::Left) => Err(Exit::Cancelled),
                Err(error) => Err(Exit::Fault(format!("waiting for work: {error}"))),
            };
            if self.cancel.is_cancelled() {
                return in_words(&Exit::Cancelled);
            }
            if let Err(exit) = done {
                return in_words(&exit);
            }
        }
    }

    fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.state.is_to_be_renewed() {
                return Ok(Next::Renew);
            }
            if !self.state.is_paused()
                && let Some(cell) = self.held_back.pop_front()
            {
                return Ok(Next::Task(Task::Cell(cell)));
            }
            match self.wait()? {
                // Cells wait while it is paused. Questions do not: nothing of the guest's runs for them.
                Some(Next::Task(Task::Cell(cell))) if self.state.is_paused() => {
                    // Those that nobody waits for any more go: there are as many as may be answered at once.
                    self.held_back.retain(|held| !held.out.is_closed());
                    self.held_back.push_back(cell);
                }
                Some(next) => return Ok(next),
                None => {}
            }
        }
    }

    /// What comes next; none when it was resumed, or is to be renewed. Nothing runs here until then.
    fn wait(&mut self) -> io::Result<Option<Next>> {
        let (tasks, state, pidfd) = (&mut self.tasks, &self.state, &self.pidfd);
        self.runtime.block_on(async {
            Ok(tokio::select! {
                biased;
                ready = pidfd.readable() => ready.map(|_| Some(Next::Died))?,
                () = state.stirred() => None,
                task = tasks.recv() => Some(task.map_or(Next::Left, Next::Task)),
            })
        })
    }

    /// Runs a cell. An error is how the session ended over it.
    fn cell(&mut self, cell: Cell) -> Result<(), Exit> {
        if cell.out.is_closed() {
            return Ok(());
        }
        if !self.state.begin_cell() {
            // It was paused a moment ago.
            self.held_back.push_back(cell);
            return Ok(());
        }
        self.count += 1;
        let mut telling = Telling::new(cell.out.clone(), self.cancel.clone());
        telling.send(Line::NumberOfExecutions {
            execution_count: self.count,
        });
        let ended = self.run(&cell, &mut telling);
        self.state.end_cell();
        telling.finish();
        let exit = match ended {
            Ok(end) => {
                self.state.has_files_of(end.disk_bytes);
                let most = self.limits.output_bytes;
                if end.stdout_bytes.max(end.stderr_bytes) > most {
                    telling.cut(most);
                }
                None
            }
            Err(exit) => Some(exit),
        };
        if let Some(exit) = &exit {
            telling.send(error("UnexpectedEndOfExecution", in_words(exit)));
        }
        telling.send(Line::EndOfExecution);
        exit.map_or(Ok(()), Err)
    }

    fn run(&mut self, cell: &Cell, telling: &mut Telling) -> Result<WireEnd, Exit> {
        let job = CellJob {
            code: &cell.code,
            name: &format!("<cell {}>", self.count),
            cwd: HOME,
            env: &cell.env,
            own_env: &cell.own_env,
            // What is more is left out, and named; the limit itself is held outside, and ends the session.
            max_result_bytes: self.limits.result_bytes / 2,
        };
        let sent = serde_json::to_vec(&job)
            .map_err(io::Error::other)
            .and_then(|job| {
                let mut to = &self.worker.channel.stream;
                let job_bytes = job.len() as u64;
                send_json(&mut to, Kind::Cell, &WireCell { job_bytes })?;
                send_split(&mut to, Kind::Data, &job)
            });
        if sent.is_err() {
            return Err(killed(&mut self.worker, &self.limits));
        }
        let mut patience = Patience::new(&cell.out, &self.state);
        let mut sink = |signal| telling.signal(signal);
        let mut run = Run::new(&self.limits, &mut sink);
        let heard = run.listen_and(&mut self.worker.channel, &self.cancel, &mut |to| {
            patience.look(to)
        });
        let end = reported(heard, &mut self.worker, &self.limits)?;
        let finished = run.tally.exit_code().is_some();
        if patience.is_over() && matches!(end.end, WireExit::Renewed | WireExit::Returned { .. }) {
            self.renewed()?;
            if !finished {
                telling.send(error("ContextRestarting", RESTARTED.to_owned()));
            }
            return Ok(end);
        }
        match end.end {
            WireExit::Returned { .. } if finished => Ok(end),
            // It was interrupted where it was not its program's.
            WireExit::Returned { .. } if patience.has_interrupted() => {
                self.renew()?;
                Ok(end)
            }
            // Its driver came to no end: for want of memory, or because a cell broke it.
            WireExit::Returned { .. } => Err(telling.over.take().unwrap_or_else(|| {
                Exit::Fault("its interpreter runs no cells any more".to_owned())
            })),
            // An interpreter without memory breaks WebAssembly's rules before its own.
            ref trapped @ WireExit::Trapped { .. } => {
                let judged = run.judge(trapped);
                Err(telling.over.take().unwrap_or(judged))
            }
            WireExit::Exited { code } => Err(Exit::Code(code)),
            ref other => Err(run.judge(other)),
        }
    }

    /// Has another interpreter take the place of its own. Files stay.
    fn renew(&mut self) -> Result<(), Exit> {
        // A worker that has died is heard to be gone.
        send(&mut &self.worker.channel.stream, Kind::Renew, &[]).ok();
        self.renewed()
    }

    /// Waits until another interpreter has taken that place, and tells those who wanted it.
    fn renewed(&mut self) -> Result<(), Exit> {
        let mut deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Exit::Cancelled);
            }
            if self.state.is_frozen() {
                deadline = Instant::now() + ANSWER_WITHIN;
            }
            match self.worker.channel.next(deadline) {
                Ok(Heard::Frame(Kind::Renewed, _)) => break,
                Ok(Heard::Nothing) => {}
                Ok(Heard::Frame(kind, _)) => {
                    return Err(lie(format!("{kind:?} in place of an interpreter")));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(lie(error.to_string()));
                }
                Ok(Heard::Closed | Heard::Late) | Err(_) => {
                    return Err(killed(&mut self.worker, &self.limits));
                }
            }
        }
        self.state.was_renewed();
        Ok(())
    }

    fn ask(&mut self, question: Question) -> Result<(), Exit> {
        let Question { ask, data, answer } = question;
        let to = &mut &self.worker.channel.stream;
        let sent = send_json(to, Kind::Ask, &ask).and_then(|()| send_split(to, Kind::Data, &data));
        let deadline = Instant::now() + ANSWER_WITHIN;
        let heard = sent.and_then(|()| hear(&mut self.worker.channel, &self.cancel, deadline));
        match heard {
            Ok(answered) => {
                if let WireAnswer::Entries { disk_bytes, .. } = answered.0 {
                    self.state.has_files_of(disk_bytes);
                }
                answer(answered);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(lie(error.to_string())),
            Err(_) => Err(killed(&mut self.worker, &self.limits)),
        }
    }
}

/// A worker that says what none says.
fn lie(reason: String) -> Exit {
    Exit::Wall {
        wall: "worker channel".to_owned(),
        reason,
    }
}

/// Hears an answer: so many bytes, within its time, and nothing else.
fn hear(channel: &mut Frames, cancel: &Cancel, deadline: Instant) -> io::Result<Answered> {
    let lie = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut all = Vec::new();
    loop {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match channel.next(deadline)? {
            Heard::Frame(Kind::AnswerPart, part) if all.len() + part.len() <= ANSWER_MAX => {
                all.extend(part);
            }
            Heard::Frame(Kind::AnswerPart, _) => {
                return Err(lie(format!("an answer of more than {ANSWER_MAX} bytes")));
            }
            Heard::Frame(Kind::AnswerEnd, _) => return decoded(all),
            Heard::Frame(kind, _) => return Err(lie(format!("{kind:?} in place of an answer"))),
            Heard::Nothing => {}
            Heard::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            Heard::Late => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn decoded(mut all: Vec<u8>) -> io::Result<Answered> {
    let lie = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = all.iter().position(|&byte| byte == b'\n');
    let end = end.ok_or_else(|| lie("an answer without an end"))?;
    let answer = serde_json::from_slice(all.get(..end).unwrap_or_default());
    let answer = answer.map_err(|_| lie("an answer that is none"))?;
    all.drain(..=end);
    Ok((answer, all))
}

fn error(name: &str, value: String) -> Line {
    Line::Error {
        name: name.to_owned(),
        value,
        traceback: String::new(),
    }
}

/// The lines of one cell.
struct Telling {
    out: mpsc::Sender<Line>,
    cancel: Cancel,
    printed: Printed,
    /// The first error counts.
    failed: bool,
    /// The limit of memory, where it was reached: what it refuses a cell can go on from.
    over: Option<Exit>,
    /// Whether nobody reads any more, or too slowly.
    unheard: bool,
}

impl Telling {
    fn new(out: mpsc::Sender<Line>, cancel: Cancel) -> Self {
        Self {
            out,
            cancel,
            printed: Printed::default(),
            failed: false,
            over: None,
            unheard: false,
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Stdout(bytes) => self.print(&bytes, &[]),
            Signal::Stderr(bytes) => self.print(&[], &bytes),
            Signal::Displayed(displayed) => {
                let is_main = displayed.origin == Origin::Expression;
                let forms = displayed.representations.into_iter();
                let shown = shown(is_main, forms.map(|form| (form.mime, form.content)));
                self.send(Line::Result(Box::new(shown)));
            }
            Signal::Error(told) if !self.failed => {
                self.failed = true;
                self.send(Line::Error {
                    name: told.name,
                    value: told.value,
                    traceback: told.traceback,
                });
            }
            Signal::Event(Event {
                witness: Witness::Host,
                what:
                    What::LimitReached {
                        limit: limit @ LimitKind::Memory,
                        allowed,
                        seen,
                    },
                ..
            }) => {
                self.over = Some(Exit::Limit {
                    limit,
                    allowed,
                    seen,
                });
            }
            Signal::Error(_) | Signal::Event(_) => {}
        }
    }

    fn print(&mut self, stdout: &[u8], stderr: &[u8]) {
        let lines = self.printed.push(stdout, stderr);
        lines.for_each(|line| self.send(line));
    }

    /// What was held back, at the end.
    fn finish(&mut self) {
        let lines = self.printed.finish();
        lines.for_each(|line| self.send(line));
    }

    /// Says that more was printed than a cell may.
    fn cut(&mut self, most: u64) {
        let most = LimitKind::OutputBytes.show(most);
        let note = format!("casemate: a cell may print {most}; the rest was not kept\n");
        self.print(&[], note.as_bytes());
    }

    /// Waits while the reader is slow, and not for ever.
    fn send(&mut self, mut line: Line) {
        let deadline = Instant::now() + READ_WITHIN;
        while !self.unheard {
            line = match self.out.try_send(line) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(line)) => line,
                Err(mpsc::error::TrySendError::Closed(line)) => {
                    self.unheard = true;
                    line
                }
            };
            self.unheard |= self.cancel.is_cancelled() || Instant::now() > deadline;
            std::thread::sleep(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::wire::send;

    fn heard(frames: &[(Kind, &[u8])]) -> io::Result<Answered> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for (kind, payload) in frames {
            send(&mut &theirs, *kind, payload).unwrap();
        }
        drop(theirs);
        let mut channel = Frames::new(ours).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        hear(&mut channel, &Cancel::new(), deadline)
    }

    #[test]
    fn an_answer_is_put_together_from_its_parts() {
        let parts = [
            (Kind::AnswerPart, &b"{\"part\":{\"si"[..]),
            (Kind::AnswerPart, b"ze\":4}}\nfo\nr"),
            (Kind::AnswerEnd, b""),
        ];
        let (answer, bytes) = heard(&parts).unwrap();
        assert_eq!(answer, WireAnswer::Part { size: 4 });
        assert_eq!(bytes, b"fo\nr");
    }

    #[test]
    fn what_is_no_answer_is_a_lie_and_a_cut_one_is_an_end() {
        let lies: [&[(Kind, &[u8])]; 6] = [
            &[(Kind::AnswerEnd, b"")],
            &[(Kind::AnswerPart, b"{}"), (Kind::AnswerEnd, b"")],
            &[(Kind::AnswerPart, b"{}\n"), (Kind::AnswerEnd, b"")],
            &[(Kind::AnswerPart, b"[[[[\n"), (Kind::AnswerEnd, b"")],
            &[(Kind::Stdout, b"x")],
            &[(Kind::End, b"{}")],
        ];
        for frames in lies {
            let error = heard(frames).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{frames:?}");
        }
        let error = heard(&[(Kind::AnswerPart, b"{}\n")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_answer_without_an_end_is_not_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let flood = std::thread::spawn(move || {
            let part = vec![b'x'; 1 << 20];
            while send(&mut &theirs, Kind::AnswerPart, &part).is_ok() {}
        });
        let mut channel = Frames::new(ours).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let error = hear(&mut channel, &Cancel::new(), deadline).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        drop(channel);
        flood.join().unwrap();
    }

    #[test]
    fn a_reader_that_has_gone_holds_nobody_up() {
        let (out, lines) = mpsc::channel(1);
        let cancel = Cancel::new();
        let mut telling = Telling::new(out, cancel.clone());
        drop(lines);
        let begun = Instant::now();
        (0..1000).for_each(|_| telling.print(b"x\n", b""));
        assert!(begun.elapsed() < Duration::from_secs(1));
        let (out, _slow) = mpsc::channel(1);
        let mut telling = Telling::new(out, cancel.clone());
        telling.print(b"x\n", b"");
        cancel.cancel();
        telling.print(b"y\n", b"");
        assert!(telling.unheard);
    }
}
