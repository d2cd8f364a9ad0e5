//! The matrix as one page: no script, nothing from elsewhere, readable without colours and by a screen reader.

use std::fmt::Write as _;

use super::control::{Control, Python};
use super::header::Threat;
use super::oracle::Held;
use super::report::{Row, Tally, control_verdict, verdict};
use super::sandbox::Run;
use crate::text::line;

/// What is shown of a reason.
const REASON: usize = 300;
const STYLE: &str = include_str!("page.css");

/// The page. Everything that a guest or a file had a say in is escaped.
pub(crate) fn page(rows: &[Row], python: &Result<Python, String>, left: &[u32]) -> String {
    let open = rows.iter().filter(|row| row.promised_nowhere()).count();
    let stopped = rows.iter().filter(|row| row.stopped()).count() - open;
    let promised = rows.len() - open;
    let title = format!("{stopped} of {promised} attacks stopped by their wall");
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>casemate attack: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Attacks on this machine</h1>\n<p class=\"verdict\">{title}.</p>\n{}{}",
        about(rows, python, left),
        threats(rows)
    );
    out.push_str(&matrix(rows));
    out.push_str(LEGEND);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

const LEGEND: &str = "<h2>How to read it</h2>\n<dl>\n\
<dt>A wall's name</dt><dd>The attack did no harm that the host could see, this wall stands in the run's receipt, and it left the \
sign below the name.</dd>\n\
<dt>GOT THROUGH</dt><dd>The host saw harm: a hole.</dd>\n\
<dt>NOT BY ITS WALL</dt><dd>No harm, but nothing shows that this wall is the reason.</dd>\n\
<dt>DID NOT RUN</dt><dd>The sandbox refused to start or failed; <code>casemate doctor</code> says more.</dd>\n\
<dt>not promised</dt><dd>Nothing stops it there, and nothing is claimed to. What was measured stands below.</dd>\n\
<dt>no sandbox</dt><dd>The same program without any wall, in a folder and namespaces of its own: it must succeed, or its row \
proves nothing.</dd>\n</dl>\n";

fn about(rows: &[Row], python: &Result<Python, String>, left: &[u32]) -> String {
    let succeeded = rows.iter().filter(|row| row.succeeded()).count();
    let controls = match python {
        Ok(python) => format!(
            "{succeeded} of {} succeeded with no sandbox, in Python {}",
            rows.len(),
            escaped(&line(&python.version, 20))
        ),
        Err(why) => format!("the controls were not run: {}", escaped(&line(why, REASON))),
    };
    let left = match left.len() {
        0 => String::new(),
        count => format!(" <strong>{count} processes were left behind.</strong>"),
    };
    let kernel = rustix::system::uname();
    format!(
        "<p>casemate {} on {} {} ({}), {}; {controls}.{left}</p>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(&kernel.sysname().to_string_lossy()),
        escaped(&kernel.release().to_string_lossy()),
        escaped(&kernel.machine().to_string_lossy()),
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
    )
}

fn backends(rows: &[Row]) -> Vec<String> {
    let runs = rows.first().map(|row| row.runs.as_slice());
    let runs = runs.unwrap_or_default().iter();
    runs.map(|run| escaped(&run.backend)).collect()
}

/// Threats by backends, in numbers.
fn threats(rows: &[Row]) -> String {
    let mut out = "<h2 id=\"threats\">By threat</h2>\n<div class=\"scroll\" role=\"region\" aria-labelledby=\"threats\" \
                   tabindex=\"0\">\n<table>\n<thead><tr><th scope=\"col\">Threat</th>"
        .to_owned();
    for backend in backends(rows) {
        out.push_str(&format!("<th scope=\"col\">{backend}</th>"));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for threat in Threat::ALL {
        out.push_str(&format!("<tr><th scope=\"row\">{threat}</th>"));
        for at in 0..backends(rows).len() {
            let rows = rows.iter().filter(|row| row.header.threat == threat);
            out.push_str(&tally(Tally::of(rows.filter_map(|row| row.runs.get(at)))));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    out
}

fn tally(tally: Tally) -> String {
    let class = match tally {
        Tally { promised: 0, .. } => "open",
        tally if tally.stopped == tally.promised => "good",
        _ => "bad",
    };
    let open = match tally.not_promised {
        0 => String::new(),
        count => format!("<small>{count} not promised</small>"),
    };
    format!(
        "<td class=\"{class}\"><b>{} of {} stopped</b>{open}</td>",
        tally.stopped, tally.promised
    )
}

fn matrix(rows: &[Row]) -> String {
    let mut out = "<h2 id=\"matrix\">Attacks by backends</h2>\n<div class=\"scroll\" role=\"region\" \
                   aria-labelledby=\"matrix\" tabindex=\"0\">\n<table>\n<caption>Each cell names the wall that stopped the \
                   attack there, and the sign by which that is known.</caption>\n<thead><tr><th scope=\"col\">Attack</th>"
        .to_owned();
    for backend in backends(rows) {
        out.push_str(&format!("<th scope=\"col\">{backend}</th>"));
    }
    out.push_str("<th scope=\"col\">no sandbox</th></tr></thead>\n");
    for threat in Threat::ALL {
        let mut of_threat = rows
            .iter()
            .filter(|row| row.header.threat == threat)
            .peekable();
        if of_threat.peek().is_none() {
            continue;
        }
        let columns = backends(rows).len() + 2;
        out.push_str(&format!(
            "<tbody>\n<tr><th scope=\"rowgroup\" colspan=\"{columns}\">{threat}</th></tr>\n"
        ));
        of_threat.for_each(|row| out.push_str(&attack(row)));
        out.push_str("</tbody>\n");
    }
    out.push_str("</table>\n</div>\n");
    out
}

fn attack(row: &Row) -> String {
    let mut out = format!(
        "<tr><th scope=\"row\" title=\"oracle: {}\"><code>{}</code><span>{}</span></th>",
        escaped(&row.header.oracle),
        escaped(&row.header.attack),
        escaped(&row.header.tries)
    );
    row.runs.iter().for_each(|run| out.push_str(&cell(run)));
    out.push_str(&control(&row.control));
    out.push_str("</tr>\n");
    out
}

fn cell(run: &Run) -> String {
    let (_, detail) = verdict(&run.held);
    let wall = run.wall.as_deref().unwrap_or("-");
    let (class, word) = match &run.held {
        Held::Stopped { .. } => ("good", wall),
        Held::NotPromised { .. } => ("open", "not promised"),
        Held::GotThrough { .. } => ("bad", "GOT THROUGH"),
        Held::Unproven { .. } => ("bad", "NOT BY ITS WALL"),
        Held::NotRun { .. } => ("bad", "DID NOT RUN"),
    };
    let detail = match run.channel {
        Some(channel) => format!("{}; {detail}", channel.describe()),
        None => detail.to_owned(),
    };
    td(class, word, &detail)
}

fn control(control: &Control) -> String {
    let (class, word) = match control {
        Control::Succeeded { .. } => ("good", "succeeded"),
        Control::Impossible { .. } => ("open", "impossible here"),
        Control::Failed { .. } => ("bad", "FAILED"),
        Control::NotRun { .. } => ("bad", "not run"),
    };
    td(class, word, control_verdict(control).1)
}

fn td(class: &str, word: &str, detail: &str) -> String {
    format!(
        "<td class=\"{class}\"><b>{}</b><small>{}</small></td>",
        escaped(word),
        escaped(&line(detail, REASON))
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                write!(out, "\\u{{{:x}}}", u32::from(c)).ok();
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::header::Header;
    use super::*;

    fn sample() -> Vec<Row> {
        let source = "# attack: a\n# threat: files\n# tries: read <b>it</b>\n# wall: w\n# control: c\n# oracle: \"o\"\n";
        let run = |backend: &str, held| Run {
            backend: backend.to_owned(),
            wall: Some("wasi_files".to_owned()),
            held,
            ending: None,
            took: Duration::ZERO,
            channel: None,
        };
        let harm = "<script>alert(1)</script>\u{1b}[2J".to_owned();
        vec![Row {
            header: Header::parse("a", source).unwrap(),
            runs: vec![
                run(
                    "wasm",
                    Held::Stopped {
                        by: "event missing".into(),
                    },
                ),
                run("jail", Held::GotThrough { harm }),
            ],
            control: Control::Succeeded { harm: "h".into() },
        }]
    }

    #[test]
    fn the_page_needs_nothing_else_and_runs_nothing() {
        let page = page(&sample(), &Err("none".into()), &[]);
        for word in [
            "<script", "http:", "https:", "src=", "@import", "url(", "\u{1b}",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(
            page.contains("read &lt;b&gt;it&lt;/b&gt;") && page.contains("oracle: &quot;o&quot;")
        );
    }

    #[test]
    fn every_cell_says_in_words_what_its_colour_says() {
        let page = page(&sample(), &Err("none".into()), &[7]);
        for part in [
            "<html lang=\"en\">",
            "<td class=\"good\"><b>wasi_files</b>",
            "<td class=\"bad\"><b>GOT THROUGH</b>",
            "0 of 1 attacks stopped",
            "1 processes were left behind",
            "scope=\"rowgroup\"",
            "<th scope=\"col\">jail</th>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
