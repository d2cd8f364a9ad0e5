//! The matrix in the terminal: which wall stopped each attack, in eighty columns and any number of backends.

use super::control::{Control, Python};
use super::header::Threat;
use super::oracle::Held;
use super::report::{Row, Tally};
use super::sandbox::{Run, Target};
use crate::text::line;

/// Columns of a terminal that everybody has.
const WIDTH: usize = 80;
/// Columns of a name and of a control's verdict.
const NAME: usize = 22;
const CONTROL: usize = 11;

/// The head of the table, and what its columns mean.
pub(crate) fn head(targets: &[Target]) -> String {
    let names: Vec<&str> = targets
        .iter()
        .map(|target| target.backend.as_str())
        .collect();
    let intro = format!(
        "Attacked: {}. Each attack also runs with no sandbox, where it must succeed.",
        names.join(", ")
    );
    format!(
        "{}\n{:<NAME$}{:<CONTROL$}STOPPED BY WHICH WALL: WHERE\n",
        wrapped(&intro, WIDTH, 0),
        "ATTACK",
        "NO SANDBOX",
    )
}

/// The line before the first attack of a threat.
pub(crate) fn threat(threat: Threat) -> String {
    format!("\n{threat}\n")
}

/// One attack: its walls with the backends that each stands in, and a line more for each thing that is not
/// as it must be.
pub(crate) fn row(row: &Row) -> String {
    let control = match &row.control {
        Control::Succeeded { .. } => "succeeded",
        Control::Impossible { .. } => "impossible",
        Control::Failed { .. } => "FAILED",
        Control::NotRun { .. } => "not run",
    };
    let cells = wrapped(&groups(&row.runs).join(", "), WIDTH, NAME + CONTROL);
    let mut text = format!(
        "{:<NAME$}{control:<CONTROL$}{}",
        row.header.attack,
        cells.trim_start()
    );
    for run in &row.runs {
        if let Held::GotThrough { harm: why } | Held::Unproven { why } | Held::NotRun { why } =
            &run.held
        {
            text.push_str(&trouble(&format!("in {}: {}", run.backend, line(why, 400))));
        }
    }
    if let Control::Failed { why } | Control::Impossible { why } = &row.control {
        text.push_str(&trouble(&format!("control: {}", line(why, 400))));
    }
    text
}

fn trouble(text: &str) -> String {
    format!("    {}", wrapped(text, WIDTH, 4).trim_start())
}

/// `WALL: BACKEND BACKEND`, in the order of the backends; one backend alone has room for the sign as well.
fn groups(runs: &[Run]) -> Vec<String> {
    if let [run] = runs {
        return vec![match (&run.held, &run.wall) {
            (Held::Stopped { by }, Some(wall)) => format!("stopped: {wall} ({by})"),
            _ => cell(run),
        }];
    }
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for run in runs {
        let cell = cell(run);
        match groups.iter_mut().find(|(known, _)| *known == cell) {
            Some((_, backends)) => backends.push(&run.backend),
            None => groups.push((cell, vec![&run.backend])),
        }
    }
    if let [(cell, _)] = groups.as_slice() {
        return vec![format!("{cell}: everywhere")];
    }
    groups
        .into_iter()
        .map(|(cell, backends)| format!("{cell}: {}", backends.join(" ")))
        .collect()
}

/// What stands for one run: the wall where it held.
fn cell(run: &Run) -> String {
    match &run.held {
        Held::Stopped { .. } => run.wall.clone().unwrap_or_default(),
        Held::GotThrough { .. } => "GOT THROUGH".to_owned(),
        Held::Unproven { .. } => "NOT BY ITS WALL".to_owned(),
        Held::NotRun { .. } => "DID NOT RUN".to_owned(),
        Held::NotPromised { .. } => match run.channel {
            Some(channel) if channel.is_there() => {
                format!("not promised, {:.1} bit/s", channel.rate())
            }
            Some(_) => "not promised, nothing measured".to_owned(),
            None => "not promised".to_owned(),
        },
    }
}

/// Words over as many lines as they need, each but the first after `indent` spaces.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let here = lines.last().map_or(0, |line| line.chars().count());
        if here > 0 && indent + here + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    let pad = " ".repeat(indent);
    lines
        .into_iter()
        .map(|line| format!("{pad}{line}\n"))
        .collect()
}

/// Threats by backends, then the last lines.
pub(crate) fn summary(rows: &[Row], python: &Result<Python, String>, left: &[u32]) -> String {
    let mut text = by_threat(rows);
    let count = |test: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| test(row)).count();
    let (all, open) = (rows.len(), count(&|row| row.promised_nowhere()));
    let (promised, stopped) = (all - open, count(&|row| row.stopped()) - open);
    text.push_str(&format!(
        "\n{stopped} of {promised} attacks stopped by their wall"
    ));
    if open > 0 {
        text.push_str(&format!(", {open} promised nowhere"));
    }
    match python {
        Ok(python) => {
            let succeeded = count(&|row| row.succeeded());
            let impossible = count(&|row| row.proven()) - succeeded;
            text.push_str(&format!(
                ";\n{succeeded} of {all} controls succeeded with Python {}",
                line(&python.version, 20)
            ));
            if impossible > 0 {
                text.push_str(&format!(", {impossible} cannot be made on this machine"));
            }
            text.push('\n');
        }
        Err(why) => {
            let why = format!("controls not run: {}", line(why, 200));
            text.push_str(";\n");
            text.push_str(&wrapped(&why, WIDTH, 0));
        }
    }
    if !left.is_empty() {
        text.push_str(&format!("processes were left behind: {left:?}\n"));
    }
    text
}

/// How many of what is promised each backend stopped, a line a threat. Turned over where there are more
/// backends than columns for them.
fn by_threat(rows: &[Row]) -> String {
    let backends: Vec<&str> = match rows.first() {
        Some(row) => row.runs.iter().map(|run| run.backend.as_str()).collect(),
        None => return String::new(),
    };
    let width = backends.iter().map(|name| name.len()).max().unwrap_or(0) + 2;
    let mut text = format!("\n{:width$}", "");
    for threat in Threat::ALL {
        text.push_str(&format!("{threat:>13}"));
    }
    text.push('\n');
    for (at, backend) in backends.iter().enumerate() {
        text.push_str(&format!("{backend:<width$}"));
        for threat in Threat::ALL {
            let runs = rows.iter().filter(|row| row.header.threat == threat);
            let tally = Tally::of(runs.filter_map(|row| row.runs.get(at)));
            let cell = match tally {
                Tally { promised: 0, .. } => "-".to_owned(),
                tally => format!("{} of {}", tally.stopped, tally.promised),
            };
            text.push_str(&format!("{cell:>13}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::channel::Channel;
    use super::super::header::Header;
    use super::*;

    fn run(backend: &str, wall: Option<&str>, held: Held) -> Run {
        Run {
            backend: backend.to_owned(),
            wall: wall.map(str::to_owned),
            held,
            ending: None,
            took: Duration::ZERO,
            channel: None,
        }
    }

    fn stopped(backend: &str, wall: &str) -> Run {
        run(
            backend,
            Some(wall),
            Held::Stopped {
                by: "event missing".into(),
            },
        )
    }

    fn sample(runs: Vec<Run>) -> Row {
        let source = "# attack: disk_fill\n# threat: exhaustion\n# tries: t\n# wall: w\n# control: c\n# oracle: o\n";
        Row {
            header: Header::parse("disk_fill", source).unwrap(),
            runs,
            control: Control::Succeeded { harm: "h".into() },
        }
    }

    const MANY: [&str; 8] = [
        "jail",
        "crun",
        "runc",
        "gvisor",
        "gvisor-ptrace",
        "docker",
        "docker-runsc",
        "microvm",
    ];

    #[test]
    fn many_backends_fit_in_eighty_columns() {
        let mut runs = vec![stopped("wasm", "wasi_files")];
        runs.extend(MANY.map(|name| stopped(name, "network_namespace")));
        let rows = [sample(runs)];
        let python = Err("there is none".to_owned());
        let text = row(&rows[0]) + &summary(&rows, &python, &[1]);
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert!(
            text.contains("wasi_files: wasm, network_namespace: jail crun"),
            "{text}"
        );
        assert!(text.contains("1 of 1"), "{text}");
    }

    #[test]
    fn what_is_not_as_it_must_be_stands_out_and_says_why() {
        let through = Held::GotThrough {
            harm: "the secret is out".into(),
        };
        let text = row(&sample(vec![
            stopped("wasm", "wasm"),
            run("jail", Some("root"), through),
        ]));
        assert!(text.contains("wasm: wasm, GOT THROUGH: jail"), "{text}");
        assert!(text.contains("in jail: the secret is out"), "{text}");
    }

    #[test]
    fn one_wall_everywhere_and_one_backend_alone_are_said_shortly() {
        let text = row(&sample(vec![
            stopped("wasm", "limit_disk"),
            stopped("jail", "limit_disk"),
        ]));
        assert!(text.contains("limit_disk: everywhere"), "{text}");
        let text = row(&sample(vec![stopped("wasm", "limit_disk")]));
        assert!(
            text.contains("stopped: limit_disk (event missing)"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_promised_shows_what_was_measured() {
        let mut open = run(
            "jail",
            None,
            Held::NotPromised {
                why: "shared".into(),
            },
        );
        open.channel = Some(Channel {
            bits_right: 64,
            bits_sent: 64,
        });
        let text = row(&sample(vec![open, stopped("wasm", "wasm")]));
        assert!(text.contains("not promised, 25.0 bit/s: jail"), "{text}");
    }
}
