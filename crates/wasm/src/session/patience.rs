//! When a cell is interrupted: nobody waits for it any more, or its interpreter is to be started anew.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use casemate_envd::interpreter::Line;
use tokio::sync::mpsc;

use super::state::State;
use crate::wire::{Kind, send};

/// How long a cell has to begin before it is interrupted.
const BEGINS_WITHIN: Duration = Duration::from_millis(200);
/// How often a cell that nobody waits for is interrupted again, as the agent of a Linux sandbox does it.
const INTERRUPT_EVERY: Duration = Duration::from_secs(3);
/// How often, before its interpreter is started anew.
const INTERRUPTS_MAX: usize = 6;

/// How long one cell is let run.
pub(super) struct Patience<'a> {
    /// Where its lines go.
    out: &'a mpsc::Sender<Line>,
    state: &'a State,
    /// When it may be interrupted next.
    next: Instant,
    interrupts: usize,
    is_over: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(out: &'a mpsc::Sender<Line>, state: &'a State) -> Self {
        Self {
            out,
            state,
            next: Instant::now() + BEGINS_WITHIN,
            interrupts: 0,
            is_over: false,
        }
    }

    /// Looks whether the cell is to go on, and has it interrupted where it is not. What was stopped in its middle
    /// hears nothing, and is left alone until it goes on.
    pub(super) fn look(&mut self, mut to: &UnixStream) -> io::Result<()> {
        if self.is_over || self.state.is_frozen() {
            return Ok(());
        }
        let is_wanted = !self.out.is_closed();
        if self.state.is_to_be_renewed() || (!is_wanted && self.is_deaf()) {
            self.is_over = true;
            return send(&mut to, Kind::Renew, &[]);
        }
        if is_wanted || Instant::now() < self.next {
            return Ok(());
        }
        self.interrupts += 1;
        self.next = Instant::now() + INTERRUPT_EVERY;
        send(&mut to, Kind::Interrupt, &[])
    }

    /// Whether it was interrupted as often as it may be, and goes on.
    fn is_deaf(&self) -> bool {
        self.interrupts >= INTERRUPTS_MAX && Instant::now() >= self.next
    }

    pub(super) fn has_interrupted(&self) -> bool {
        self.interrupts > 0
    }

    /// Whether its interpreter was told to make room for another.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::receive;

    #[test]
    fn a_cell_that_is_waited_for_is_left_alone_and_others_are_not() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut said = move || receive(&mut ours).ok().flatten().map(|(kind, _)| kind);
        let state = State::new(None, std::process::id());
        let (out, lines) = mpsc::channel(1);
        let mut patience = Patience::new(&out, &state);
        patience.next = Instant::now();
        patience.look(&theirs).unwrap();
        assert_eq!(said(), None);
        drop(lines);
        for _ in 0..INTERRUPTS_MAX {
            patience.look(&theirs).unwrap();
            assert_eq!(said(), Some(Kind::Interrupt));
            patience.look(&theirs).unwrap();
            assert_eq!(said(), None);
            patience.next = Instant::now();
        }
        assert!(patience.has_interrupted() && !patience.is_over());
        patience.look(&theirs).unwrap();
        assert_eq!(said(), Some(Kind::Renew));
        patience.next = Instant::now();
        patience.look(&theirs).unwrap();
        assert_eq!((said(), patience.is_over()), (None, true));
    }

    #[test]
    fn another_interpreter_is_asked_for_once() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let state = State::new(None, std::process::id());
        let (out, _lines) = mpsc::channel(1);
        let mut patience = Patience::new(&out, &state);
        let mut renewed = state.renew();
        for _ in 0..2 {
            patience.look(&theirs).unwrap();
        }
        assert_eq!(receive(&mut ours).unwrap().unwrap().0, Kind::Renew);
        assert!(receive(&mut ours).is_err());
        assert!(renewed.try_recv().is_err());
        state.was_renewed();
        assert!(renewed.try_recv().is_ok() && !state.is_to_be_renewed());
    }
}
