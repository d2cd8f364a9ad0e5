//! Set-up's progress in the terminal: one bar a stage, plain lines where there is no terminal.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_wasm::setup::{Progress, Unit};
use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines of a stage where there is no terminal to draw a bar on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Draws set-up's progress on standard error.
pub(crate) struct Bars {
    terminal: bool,
    state: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    bar: ProgressBar,
    begun: Instant,
    last_line: Instant,
    total: Option<u64>,
}

impl Bars {
    /// Bars on a terminal, lines elsewhere.
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            state: Mutex::new(None),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Stage>) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn style(unit: Unit, total: Option<u64>) -> ProgressStyle {
    let template = match (unit, total) {
        (Unit::Bytes, Some(_)) => "  {msg:48} {bar:28} {bytes:>10} / {total_bytes} {eta:>5}",
        (Unit::Functions, Some(_)) => "  {msg:48} {bar:28} {percent:>3} % {eta:>5}",
        _ => "  {msg:48} {spinner} {elapsed}",
    };
    // The templates are constants; were one wrong, a plain bar is still progress.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: Option<u64>, unit: Unit) {
        let bar = if self.terminal {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            bar.set_style(style(unit, total));
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            eprintln!("  {name} ...");
            ProgressBar::hidden()
        };
        let now = Instant::now();
        self.with(|state| {
            *state = Some(Stage {
                name: name.to_owned(),
                bar,
                begun: now,
                last_line: now,
                total,
            })
        });
    }

    fn at(&self, done: u64) {
        self.with(|state| {
            let Some(stage) = state else { return };
            stage
                .bar
                .set_position(done.min(stage.total.unwrap_or(done)));
            if let (false, Some(total)) = (self.terminal, stage.total)
                && stage.last_line.elapsed() >= LINE_EVERY
                && total > 0
            {
                stage.last_line = Instant::now();
                eprintln!("  {} {} %", stage.name, (done * 100 / total).min(100));
            }
        });
    }

    fn done(&self, note: &str) {
        self.with(|state| {
            let Some(stage) = state.take() else { return };
            stage.bar.finish_and_clear();
            let seconds = stage.begun.elapsed().as_secs_f64();
            eprintln!("  {:48} {seconds:6.1} s  {note}", stage.name);
        });
    }

    fn say(&self, text: &str) {
        self.with(|state| match state {
            Some(stage) if self.terminal => stage.bar.println(format!("  {text}")),
            _ => eprintln!("  {text}"),
        });
    }
}
