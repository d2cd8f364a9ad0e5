//! Screening shares nothing: many programs at once get the answers they get one after another.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::thread;

use casemate_model::job::Language;
use casemate_model::screening::Screening;
use casemate_screen::{ScreenConfig, Source, screen};

const THREADS: usize = 8;

fn programs() -> Vec<String> {
    let groups = [
        include_str!("programs/hostile/files.txt"),
        include_str!("programs/hostile/escapes.txt"),
        include_str!("programs/hostile/network.txt"),
        include_str!("programs/honest/analysis.txt"),
        include_str!("programs/honest/capable.txt"),
    ];
    let programs = groups.iter().flat_map(|group| group.split("=== ").skip(1));
    programs
        .map(|program| program.split_once('\n').unwrap().1.to_owned())
        .collect()
}

/// Everything that is said about a program, but for the time that it took.
fn told(program: &str) -> Screening {
    let source = Source {
        bytes: program.as_bytes(),
        language: Language::Python,
        name: "program.py",
    };
    Screening {
        took_us: 0,
        ..screen(&source, &ScreenConfig::default())
    }
}

#[test]
fn programs_at_once_get_the_answers_they_get_alone() {
    let programs = programs();
    let alone: Vec<Screening> = programs.iter().map(|program| told(program)).collect();
    thread::scope(|scope| {
        for turn in 0..THREADS {
            let (programs, alone) = (&programs, &alone);
            scope.spawn(move || {
                // Every thread begins elsewhere, so that different programs meet.
                let start = turn * programs.len() / THREADS;
                for step in 0..programs.len() {
                    let at = (start + step) % programs.len();
                    assert_eq!(told(&programs[at]), alone[at], "{}", programs[at]);
                }
            });
        }
    });
}

/// An answer does not depend on what was screened before it.
#[test]
fn order_does_not_matter() {
    let programs = programs();
    let forwards: Vec<Screening> = programs.iter().map(|program| told(program)).collect();
    let backwards: Vec<Screening> = programs.iter().rev().map(|program| told(program)).collect();
    assert!(forwards.iter().eq(backwards.iter().rev()));
}
