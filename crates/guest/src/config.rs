//! What the agent is started with.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use casemate_driver::system::FIRST;
use lexopt::prelude::*;

use crate::launch::Launch;

const HELP: &str = "\
casemate-guest: the agent inside a sandbox

usage: casemate-guest (--socket PATH | --listen-fd N | --handoff-fd N) [options]

  --socket PATH      make a unix socket there and serve it
  --listen-fd N      serve a listening socket that was passed under this number
  --handoff-fd N     serve connections that are passed, one by one, over the socket under this number
  --user NAME        who is meant where no user is named (default: user, else whoever started this)
  --passwd FILE      users (default: /etc/passwd)
  --group FILE       groups (default: /etc/group)
  --python PATH      the interpreter of Python contexts (default: python3, as found in PATH)
  --deno PATH        the interpreter of JavaScript and TypeScript contexts (default: beside this program, else as found
                     in PATH)
  --packages DIR     a folder of Python packages for contexts; may be given several times
  --warm             start the default Python context when the host has said /init, with what it says there
  --version          print the version";

/// What to do.
pub(crate) enum Command {
    /// Be the agent.
    Serve(Box<Config>),
    /// Become a program of a user.
    Launch(Launch),
    /// Be the first process of a container, and have an agent with these arguments.
    First(Vec<OsString>),
    /// Print something.
    Say(String),
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A socket that is made at this path.
    Path(PathBuf),
    /// A listening socket.
    Listening(RawFd),
    /// A socket over which connected ones are passed.
    Handoff(RawFd),
}

/// What the agent is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) source: Source,
    pub(crate) user: Option<String>,
    pub(crate) passwd: PathBuf,
    pub(crate) group: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) deno: PathBuf,
    pub(crate) packages: Vec<PathBuf>,
    pub(crate) warm: bool,
}

/// Reads the arguments.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Command, String> {
    if args.first().is_some_and(|first| first == Launch::WORD) {
        return Launch::parse(args).map(Command::Launch);
    }
    if args.first().is_some_and(|first| first == FIRST) {
        return Ok(Command::First(args.into_iter().skip(1).collect()));
    }
    parse_serve(args).map_err(|error| format!("{error}; see --help"))
}

fn parse_serve(args: Vec<OsString>) -> Result<Command, lexopt::Error> {
    let mut sources = Vec::new();
    let mut config = Config {
        source: Source::Listening(-1),
        user: None,
        passwd: "/etc/passwd".into(),
        group: "/etc/group".into(),
        python: "python3".into(),
        deno: crate::interpreter::deno::beside_this_program(),
        packages: Vec::new(),
        warm: false,
    };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => sources.push(Source::Path(parser.value()?.into())),
            Long("listen-fd") => sources.push(Source::Listening(parser.value()?.parse()?)),
            Long("handoff-fd") => sources.push(Source::Handoff(parser.value()?.parse()?)),
            Long("user") => config.user = Some(parser.value()?.string()?),
            Long("passwd") => config.passwd = parser.value()?.into(),
            Long("group") => config.group = parser.value()?.into(),
            Long("python") => config.python = parser.value()?.into(),
            Long("deno") => config.deno = parser.value()?.into(),
            Long("packages") => config.packages.push(parser.value()?.into()),
            Long("warm") => config.warm = true,
            Long("help") | Short('h') => return Ok(Command::Say(HELP.to_owned())),
            Long("version") => {
                let version = concat!("casemate-guest ", env!("CARGO_PKG_VERSION"));
                return Ok(Command::Say(version.to_owned()));
            }
            other => return Err(other.unexpected()),
        }
    }
    match <[Source; 1]>::try_from(sources) {
        Ok([source]) => config.source = source,
        Err(_) => return Err("one of --socket, --listen-fd and --handoff-fd is needed".into()),
    }
    Ok(Command::Serve(Box::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Config, String> {
        match parse(args.iter().map(OsString::from).collect())? {
            Command::Serve(config) => Ok(*config),
            _ => Err("not a configuration".to_owned()),
        }
    }

    #[test]
    fn one_source_is_needed() {
        let config = parsed(&["--socket", "/s", "--packages", "/a", "--packages=/b"]).unwrap();
        assert_eq!(config.source, Source::Path("/s".into()));
        assert_eq!(config.packages, [PathBuf::from("/a"), "/b".into()]);
        let config = parsed(&["--handoff-fd", "3", "--user", "u"]).unwrap();
        assert_eq!(config.source, Source::Handoff(3));
        assert_eq!(config.user.as_deref(), Some("u"));
        for wrong in [
            &[][..],
            &["--socket", "/s", "--listen-fd", "3"],
            &["--listen-fd", "x"],
            &["--sockets", "/s"],
            &["/s"],
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.ends_with("see --help"), "{error}");
        }
    }
}
