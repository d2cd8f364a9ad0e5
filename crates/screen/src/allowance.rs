//! What is left of the bounds on one program, and what an answer has cost of it.
//!
//! Answers are remembered, and a program must not get further or less far because of that: whoever takes
//! a remembered answer pays what working it out again would have cost. So a bound is met at the same
//! place as without a memory.

use std::time::{Duration, Instant};

/// Steps of resolving in one program. A program that needs more is too complex.
const STEPS: u64 = 3_000_000;
/// How long steps are taken, whatever is left of their number: well within the deadline of an analysis.
const LOOK_FOR: Duration = Duration::from_millis(1000);
/// Rounds of loops and comprehensions, and statements that are run, in one program.
const FUEL: u64 = 20_000;
/// Bytes of texts that are put together in one program.
const BYTES: u64 = 16 * 1024 * 1024;

/// A number of steps, rounds and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    steps: u64,
    fuel: u64,
    bytes: u64,
}

impl Cost {
    fn minus(self, other: Self) -> Self {
        Self {
            steps: self.steps.saturating_sub(other.steps),
            fuel: self.fuel.saturating_sub(other.fuel),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            steps: self.steps.saturating_add(other.steps),
            fuel: self.fuel.saturating_add(other.fuel),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What is left for a program.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: Cost,
    /// When what is left of the steps is given up: they cost what the program makes them cost.
    until: Instant,
    /// What answers have cost that are remembered for the whole program: nobody pays for those again.
    once: Cost,
    /// How often an answer was cut short by a bound, or by a circle that it stands in. Such an answer
    /// depends on who asked.
    cuts: u64,
}

/// A moment to measure from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    left: Cost,
    once: Cost,
    cuts: u64,
}

impl Allowance {
    pub(crate) fn new() -> Self {
        Self {
            left: Cost {
                steps: STEPS,
                fuel: FUEL,
                bytes: BYTES,
            },
            until: Instant::now() + LOOK_FOR,
            once: Cost::default(),
            cuts: 0,
        }
    }

    /// Takes one step.
    pub(crate) fn spend(&mut self) -> bool {
        self.left.steps = self.left.steps.saturating_sub(1);
        if self.left.steps.is_multiple_of(64) && Instant::now() >= self.until {
            self.left.steps = 0;
        }
        self.unless_over(self.left.steps > 0)
    }

    /// Takes rounds of a loop.
    pub(crate) fn burn(&mut self, rounds: u64) -> bool {
        self.left.fuel = self.left.fuel.saturating_sub(rounds);
        self.unless_over(self.left.fuel > 0)
    }

    /// Takes bytes for a text that is put together.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let left = self.left.bytes.checked_sub(bytes);
        self.left.bytes = left.unwrap_or(0);
        self.unless_over(left.is_some())
    }

    fn unless_over(&mut self, holds: bool) -> bool {
        if !holds {
            self.cut();
        }
        holds
    }

    /// Whether the steps ran out, so that answers since then are incomplete.
    pub(crate) fn exhausted(&self) -> bool {
        self.left.steps == 0
    }

    /// Says that an answer was cut short.
    pub(crate) fn cut(&mut self) {
        self.cuts += 1;
    }

    /// This moment.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            left: self.left,
            once: self.once,
            cuts: self.cuts,
        }
    }

    /// What it would cost to work out again what was worked out since a moment; nothing when some answer
    /// in it was cut short.
    pub(crate) fn again(&self, since: &Mark) -> Option<Cost> {
        let all = since.left.minus(self.left);
        (self.cuts == since.cuts).then(|| all.minus(self.once.minus(since.once)))
    }

    /// Says that what was worked out since a moment is remembered for the whole program.
    pub(crate) fn remembered(&mut self, since: &Mark) {
        self.once = since.once.plus(since.left.minus(self.left));
    }

    /// Pays for an answer that is taken from memory. Without enough left it must be worked out, to be cut
    /// short where it would have been.
    pub(crate) fn pay(&mut self, cost: Cost) -> bool {
        let enough = self.left.steps > cost.steps
            && self.left.fuel > cost.fuel
            && self.left.bytes >= cost.bytes;
        if enough {
            self.left = self.left.minus(cost);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_memory_costs_what_it_cost_to_work_out() {
        let mut allowance = Allowance::new();
        let mark = allowance.mark();
        assert!(allowance.spend() && allowance.burn(10) && allowance.take(100));
        let cost = allowance.again(&mark).unwrap();
        assert!(allowance.pay(cost));
        assert_eq!(allowance.left.steps, STEPS - 2);
        assert_eq!(allowance.left.fuel, FUEL - 20);
        assert_eq!(allowance.left.bytes, BYTES - 200);
    }

    #[test]
    fn what_is_remembered_for_the_whole_program_is_paid_once() {
        let mut allowance = Allowance::new();
        let outer = allowance.mark();
        allowance.burn(5);
        let inner = allowance.mark();
        allowance.burn(100);
        allowance.remembered(&inner);
        assert_eq!(allowance.again(&outer).unwrap().fuel, 5);
    }

    #[test]
    fn an_answer_is_worked_out_again_where_it_would_meet_a_bound() {
        let mut allowance = Allowance::new();
        let mark = allowance.mark();
        allowance.burn(FUEL / 2);
        let cost = allowance.again(&mark).unwrap();
        let before = allowance.left;
        assert!(!allowance.pay(cost));
        assert_eq!(allowance.left, before);
        assert!(!allowance.burn(FUEL));
        assert_eq!(allowance.again(&mark), None);
    }
}
