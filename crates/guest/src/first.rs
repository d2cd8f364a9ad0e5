//! The first process of a container that an agent lives in: it waits for the word to begin, starts the agent, and
//! reaps whatever is left to it.
//!
//! A runtime passes three streams on, so its channel to the host is standard input. Until the word comes the host
//! looks at the walls around this very process, which the agent then has from it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use casemate_driver::handover::{GO, READY};
use casemate_driver::packets::{Packets, Received};
use casemate_driver::system::AGENT_CHANNEL;
use casemate_linux::jail::reap_until;
use casemate_linux::{Exit, Spawn};

/// Waits, and is the parent of an agent with these arguments, whose end is its own.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let channel = io::stdin().as_fd().try_clone_to_owned();
    let mut channel = Packets::new(channel.map_err(failed("the channel"))?);
    // The agent finds no other way to it than the one that it is given.
    let null = std::fs::File::open("/dev/null").map_err(failed("/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| format!("standard input: {error}"))?;
    channel.send(READY, &[]).map_err(failed("the host"))?;
    match channel.receive(true).map_err(failed("the host"))? {
        Received::Packet(GO, _) => {}
        _ => return Err("the host did not say that it may begin".to_owned()),
    }
    let spawn = args
        .iter()
        .fold(Spawn::this_program(), |spawn, arg| spawn.arg(arg));
    let spawn = std::env::vars_os().fold(spawn, |spawn, (name, value)| spawn.env(name, value));
    let spawn = spawn.fd(io::stdout(), 1).fd(io::stderr(), 2);
    let agent = spawn.fd(&channel, AGENT_CHANNEL).spawn_alone();
    let agent = agent.map_err(failed("starting the agent"))?;
    drop(channel);
    Ok(match reap_until(&agent)? {
        Exit::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        // As shells say it.
        Exit::Signal(signal) => {
            ExitCode::from(u8::try_from(128_i32.saturating_add(signal)).unwrap_or(u8::MAX))
        }
    })
}
