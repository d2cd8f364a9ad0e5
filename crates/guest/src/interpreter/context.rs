//! One context: its process, and the cells that wait for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use casemate_backend::contract::Signal;
use casemate_driver::{Message, decode};
use casemate_envd::interpreter::{Context as Told, Line};
use casemate_envd::server::lines::Printed;
use casemate_envd::server::shown::shown;
use casemate_linux::Exit;
use casemate_model::result::Origin;
use tokio::sync::{mpsc, oneshot};

use super::kernel::{CellRequest, Event, Kernel, Recipe};
use super::language::Language;
use crate::agent::Agent;
use crate::users::User;

/// Cells that wait for one context.
const CELLS_MAX: usize = 64;
/// Bytes of everything that one cell shows.
const RESULTS_MAX: u64 = 12 << 20;
/// How often a cell that nobody waits for is interrupted again.
const INTERRUPT_EVERY: Duration = Duration::from_secs(3);
/// How often, before its process is ended.
const INTERRUPTS_MAX: usize = 6;

/// A cell to run.
pub(super) struct Cell {
    pub(super) code: String,
    pub(super) env: BTreeMap<String, String>,
    /// Where its lines go. When nobody takes them any more it is interrupted.
    pub(super) out: mpsc::Sender<Line>,
}

/// What is done with a context's process.
enum Control {
    /// It is started if it does not run.
    Start(oneshot::Sender<Result<(), String>>),
    /// It is ended, and another one started.
    Restart(oneshot::Sender<Result<(), String>>),
}

/// A context. Its process ends when nobody holds it any more.
pub(super) struct Context {
    pub(super) told: Told,
    cells: mpsc::Sender<Cell>,
    control: mpsc::Sender<Control>,
}

impl Context {
    pub(super) fn make(
        agent: Arc<Agent>,
        told: Told,
        language: Language,
        user: User,
        cwd: PathBuf,
    ) -> Arc<Self> {
        let (cells, waiting) = mpsc::channel(CELLS_MAX);
        let (control, controls) = mpsc::channel(CELLS_MAX);
        let actor = Actor {
            agent,
            recipe: Recipe {
                language,
                user,
                cwd,
            },
            kernel: None,
            count: 0,
            cells: waiting,
            control: controls,
        };
        tokio::spawn(actor.run());
        Arc::new(Self {
            told,
            cells,
            control,
        })
    }

    /// Starts its process if it does not run.
    pub(super) async fn start(&self) -> Result<(), String> {
        self.ask(Control::Start).await
    }

    /// Starts it anew; its state is lost.
    pub(super) async fn restart(&self) -> Result<(), String> {
        self.ask(Control::Restart).await
    }

    async fn ask(
        &self,
        control: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Control,
    ) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "the context is gone".to_owned();
        self.control
            .send(control(answer))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Runs a cell after those that wait.
    pub(super) async fn execute(&self, cell: Cell) -> Result<(), String> {
        let sent = self.cells.send(cell).await;
        sent.map_err(|_| "the context is gone".to_owned())
    }
}

/// What a context does, one thing after the other.
struct Actor {
    agent: Arc<Agent>,
    recipe: Recipe,
    kernel: Option<Kernel>,
    count: u64,
    cells: mpsc::Receiver<Cell>,
    control: mpsc::Receiver<Control>,
}

/// How a cell ended.
enum Ended {
    /// By itself, or interrupted.
    Whole,
    /// Its process ended.
    Kernel(Exit),
    /// Its process is to be started anew.
    Restart(oneshot::Sender<Result<(), String>>),
    /// Nobody holds the context any more.
    Gone,
}

impl Actor {
    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                control = self.control.recv() => match control {
                    Some(control) => self.controlled(control).await,
                    None => return,
                },
                cell = self.cells.recv() => match cell {
                    Some(cell) => self.execute(cell).await,
                    None => return,
                },
                () = idle(&mut self.kernel) => self.kernel = None,
            }
        }
    }

    async fn controlled(&mut self, control: Control) {
        let (answer, anew) = match control {
            Control::Start(answer) => (answer, false),
            Control::Restart(answer) => (answer, true),
        };
        if anew {
            self.kernel = None;
        }
        // Whoever asked may have gone.
        answer.send(self.stand().await).ok();
    }

    /// Makes sure that there is a process.
    async fn stand(&mut self) -> Result<(), String> {
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::start(&self.agent, &self.recipe).await?);
        }
        Ok(())
    }

    async fn execute(&mut self, cell: Cell) {
        if cell.out.is_closed() {
            return;
        }
        self.count += 1;
        let count = Line::NumberOfExecutions {
            execution_count: self.count,
        };
        cell.out.send(count).await.ok();
        let failed = match self.stand().await {
            Err(why) => Some(error("ContextFailed", why)),
            Ok(()) => match self.run_cell(&cell).await {
                Ended::Whole => None,
                Ended::Kernel(exit) => {
                    self.kernel = None;
                    Some(error("UnexpectedEndOfExecution", how(exit)))
                }
                Ended::Restart(answer) => {
                    let line = error("ContextRestarting", "Context was restarted".to_owned());
                    cell.out.send(line).await.ok();
                    self.controlled(Control::Restart(answer)).await;
                    None
                }
                Ended::Gone => return,
            },
        };
        if let Some(line) = failed {
            cell.out.send(line).await.ok();
        }
        cell.out.send(Line::EndOfExecution).await.ok();
    }

    async fn run_cell(&mut self, cell: &Cell) -> Ended {
        let Some(kernel) = &mut self.kernel else {
            return Ended::Whole;
        };
        // What was printed by nobody's cell is nobody's.
        kernel.printed();
        let name = format!("<cell {}>", self.count);
        let request = CellRequest {
            code: &cell.code,
            name: &name,
            env: &cell.env,
            max_result_bytes: RESULTS_MAX,
        };
        if kernel.send(&request).await.is_err() {
            return Ended::Kernel(Exit::Signal(9));
        }
        let mut told = Telling::new(&cell.out);
        let mut interrupts = 0;
        loop {
            tokio::select! {
                event = kernel.next() => if let Some(ended) = told.event(kernel, event).await {
                    return ended;
                },
                control = self.control.recv() => match control {
                    // It runs.
                    Some(Control::Start(answer)) => drop(answer.send(Ok(()))),
                    Some(Control::Restart(answer)) => return Ended::Restart(answer),
                    None => return Ended::Gone,
                },
                () = nobody_waits(&cell.out, interrupts) => {
                    if interrupts == INTERRUPTS_MAX {
                        return Ended::Kernel(Exit::Signal(9));
                    }
                    interrupts += 1;
                    kernel.interrupt();
                }
            }
        }
    }
}

/// Waits until nobody takes the lines of a cell any more, and then for the next interrupt's turn.
async fn nobody_waits(out: &mpsc::Sender<Line>, interrupts: usize) {
    out.closed().await;
    if interrupts > 0 {
        tokio::time::sleep(INTERRUPT_EVERY).await;
    }
}

/// Takes what a process prints while it is not asked anything, until it ends.
async fn idle(kernel: &mut Option<Kernel>) {
    let Some(kernel) = kernel else {
        return std::future::pending().await;
    };
    while !matches!(kernel.next().await, Event::Ended(_)) {}
}

fn error(name: &str, value: String) -> Line {
    Line::Error {
        name: name.to_owned(),
        value,
        traceback: String::new(),
    }
}

fn how(exit: Exit) -> String {
    let how = match exit {
        Exit::Code(code) => format!("with exit code {code}"),
        Exit::Signal(signal) => format!("by signal {signal}"),
    };
    format!("the context's process ended {how}; its state is lost")
}

/// The lines of one cell.
struct Telling<'a> {
    out: &'a mpsc::Sender<Line>,
    printed: Printed,
    /// The first error counts.
    failed: bool,
}

impl<'a> Telling<'a> {
    fn new(out: &'a mpsc::Sender<Line>) -> Self {
        Self {
            out,
            printed: Printed::default(),
            failed: false,
        }
    }

    /// Tells of what a process did; how the cell ended if it did.
    async fn event(&mut self, kernel: &mut Kernel, event: Event) -> Option<Ended> {
        match event {
            Event::Stdout(bytes) => self.printed(&bytes, &[]).await,
            Event::Stderr(bytes) => self.printed(&[], &bytes).await,
            Event::Message(bytes) => {
                // What was printed before it comes before it.
                let (stdout, stderr) = kernel.printed();
                self.printed(&stdout, &stderr).await;
                return match decode(&bytes, 0) {
                    Ok(message) => self.message(message).await,
                    // What is no message.
                    Err(_) => None,
                };
            }
            Event::Told(message) => {
                let (stdout, stderr) = kernel.printed();
                self.printed(&stdout, &stderr).await;
                return self.message(*message).await;
            }
            Event::Ready => {}
            Event::Ended(exit) => {
                let (stdout, stderr) = kernel.printed();
                self.printed(&stdout, &stderr).await;
                self.finish().await;
                return Some(Ended::Kernel(exit));
            }
        }
        None
    }

    async fn message(&mut self, message: Message) -> Option<Ended> {
        match message {
            Message::Signal(Signal::Displayed(displayed)) => {
                let is_main = displayed.origin == Origin::Expression;
                let forms = displayed.representations.into_iter();
                let shown = shown(is_main, forms.map(|form| (form.mime, form.content)));
                self.send(Line::Result(Box::new(shown))).await;
            }
            Message::Signal(Signal::Error(error)) if !self.failed => {
                self.failed = true;
                let line = Line::Error {
                    name: error.name,
                    value: error.value,
                    traceback: error.traceback,
                };
                self.send(line).await;
            }
            Message::End(code) => {
                self.finish().await;
                if code != 0 && !self.failed {
                    let line = error("CommandFailed", format!("exit status {code}"));
                    self.send(line).await;
                }
                return Some(Ended::Whole);
            }
            // What a driver has no business to say here.
            _ => {}
        }
        None
    }

    async fn printed(&mut self, stdout: &[u8], stderr: &[u8]) {
        for line in self.printed.push(stdout, stderr) {
            self.send(line).await;
        }
    }

    /// What was held back, at the end.
    async fn finish(&mut self) {
        for line in self.printed.finish() {
            self.send(line).await;
        }
    }

    /// Waits while the reader is slow. One that has gone is seen elsewhere.
    async fn send(&self, line: Line) {
        self.out.send(line).await.ok();
    }
}
