//! The one crate of Casemate that may use `unsafe`: processes, seccomp, Landlock, rlimits,
//! namespaces and control groups, each behind a safe function.
//!
//! It knows nothing of jobs, policies or guests. Its words are the kernel's own, so that a man
//! page and this documentation explain each other. Everything that puts up a wall answers with
//! a [`Step`]: what was asked, and what the kernel gave or why it did not. Nothing here decides
//! that a missing wall is acceptable; that is for the caller, who has the whole list.
//!
//! * [`Spawn`] starts a program with nothing but the descriptors it is given.
//! * [`lockdown`] is called by such a program to give up everything it does not need.
//! * [`jail`] puts such a program, and a native one it then starts, into a root of its own.
//! * [`keeper`] is called by one that has a container made by another program.
//! * [`handoff`] passes one descriptor to another process.
//! * [`owner`] knows what a process that is gone has left behind.
//! * [`cgroup`] caps memory, tasks and processor time, on version 1 and on version 2.
//! * [`mod@file`] opens files that nobody else may have written, and writes below a directory.
//! * [`proc`] reads what the kernel tells about a process or about itself.
//! * [`processor`] switches off what a processor guesses for a process, and gives it cores of its own.
//! * [`term`] turns signals into calls of a closure.
#![deny(unsafe_op_in_unsafe_fn)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "casemate-linux builds for Linux only: every wall in it is made by the Linux kernel"
);

pub mod cgroup;
mod child;
pub mod file;
pub mod handoff;
pub mod jail;
pub mod keeper;
mod limit;
pub mod lockdown;
pub mod memory;
pub mod owner;
pub mod proc;
pub mod processor;
pub mod seccomp;
mod spawn;
mod step;
mod sys;
pub mod term;

pub use child::{Child, Exit, Finished, Usage};
pub use limit::Limit;
pub use spawn::{Spawn, Stderr, take_fd};
pub use step::Step;
