//! Trials of the screening: disguises that keep a program's behaviour, generators of hostile input,
//! the oracles they are judged by, and the table of rates over a corpus.
//!
//! Nothing here takes part in a verdict. It is library code so that the benchmark, the fuzzer and the
//! tests use the same.

mod corpus;
mod disguise;
mod edits;
mod fuzz;
mod measure;
mod veil;

pub use corpus::{Class, CorpusError, Row, read};
pub use disguise::{Kind, disguise};
pub use fuzz::{FuzzReport, Worst, fuzz};
pub use measure::{Rate, Speed, Table, judge, measure, speed};
pub use veil::{Veil, veil};

/// A small generator of numbers: the same seed gives the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A generator with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `sides`; zero when there are no sides.
    pub fn roll(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap_or(1);
        usize::try_from(self.draw() % sides).unwrap_or(0)
    }

    /// One of several.
    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        let index = self.roll(from.len());
        from.get(index)
    }
}
