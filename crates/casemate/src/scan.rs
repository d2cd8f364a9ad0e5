//! `casemate scan`.

mod baseline;
mod diff;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use casemate_model::finding::{Action, Severity};
use casemate_model::job::Language;
use casemate_model::screening::{Screening, Verdict};
use casemate_screen::report::{self, Scanned, Style};
use casemate_screen::{ScreenConfig, Source, screen};
use indicatif::{ProgressBar, ProgressStyle};
use walkdir::WalkDir;

use crate::cli::{LevelArg, ScanArgs, ScanFormat};
use crate::run::NotFound;

/// Bytes of a file that are read: enough for screening to see that it is too large.
const READ_MAX: u64 = 16 << 20;
/// Folders that hold no source of the user's.
const SKIPPED: [&str; 5] = [".git", ".venv", "venv", "node_modules", "__pycache__"];

/// Screens files: 0 when none is refused, 1 when one is, 125 when one could not be read.
pub(crate) fn command(args: &ScanArgs) -> anyhow::Result<i32> {
    let mut unreadable = 0;
    let mut scanned: Vec<(String, Screening)> = Vec::new();
    let mut only = Only::of(args)?;
    let config = ScreenConfig {
        preset: args.policy,
        ..ScreenConfig::default()
    };
    let files = files(&args.paths)?;
    let bar = bar(files.len());
    for path in files {
        let name = path.display().to_string();
        bar.inc(1);
        if only.skips(&name) {
            continue;
        }
        match read(&path) {
            Ok(bytes) => {
                let source = Source {
                    bytes: &bytes,
                    language: args
                        .language
                        .map(|language| language.language())
                        .or_else(|| Language::of_file(&name))
                        .unwrap_or(Language::Python),
                    name: &name,
                };
                let screening = only.filter(&name, screen(&source, &config));
                scanned.push((name, screening));
            }
            Err(error) => {
                unreadable += 1;
                bar.suspend(|| eprintln!("casemate: {name} cannot be read: {error}"));
            }
        }
    }
    bar.finish_and_clear();
    let refused = scanned
        .iter()
        .any(|(_, screening)| screening.verdict == Verdict::Refuse);
    let list: Vec<Scanned<'_>> = scanned
        .iter()
        .map(|(path, screening)| Scanned { path, screening })
        .collect();
    let text = match args.format {
        ScanFormat::Text => report::text(&list, style()),
        ScanFormat::Jsonl => report::jsonl(&list),
        ScanFormat::Sarif => report::sarif(&list),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if unreadable > 0 {
        125
    } else {
        i32::from(refused)
    })
}

/// What of a scan is shown.
struct Only {
    baseline: Option<baseline::Baseline>,
    changes: Option<diff::Changes>,
    severity: Severity,
}

impl Only {
    fn of(args: &ScanArgs) -> anyhow::Result<Self> {
        let baseline = args
            .baseline
            .as_deref()
            .map(baseline::Baseline::read)
            .transpose()?;
        let changes = args.diff.as_deref().map(changes).transpose()?;
        let severity = match args.severity {
            LevelArg::Low => Severity::Low,
            LevelArg::Medium => Severity::Medium,
            LevelArg::High => Severity::High,
        };
        Ok(Self {
            baseline,
            changes,
            severity,
        })
    }

    /// Whether a file is left out altogether.
    fn skips(&self, path: &str) -> bool {
        self.changes
            .as_ref()
            .is_some_and(|changes| changes.lines(path).is_none())
    }

    /// A screening with the findings that are shown; the verdict is of those.
    fn filter(&mut self, path: &str, mut screening: Screening) -> Screening {
        let severity = self.severity;
        screening
            .findings
            .retain(|finding| finding.action != Action::Pass || finding.severity >= severity);
        if self.baseline.is_none() && self.changes.is_none() {
            return screening;
        }
        if let Some(changes) = &self.changes {
            screening
                .findings
                .retain(|finding| changes.touch(path, finding));
        }
        if let Some(baseline) = &mut self.baseline {
            screening
                .findings
                .retain(|finding| !baseline.knows(path, finding));
        }
        // What was left out for its number was not compared, so the verdict stays as it was.
        if screening.findings_omitted == 0 {
            let strictest = screening
                .findings
                .iter()
                .map(|finding| finding.action)
                .max();
            screening.verdict = match (strictest, screening.verdict) {
                (Some(Action::Refuse), _) => Verdict::Refuse,
                (Some(Action::Confine), Verdict::Confine(walls)) => Verdict::Confine(walls),
                (Some(Action::Confine), _) => {
                    Verdict::Confine(casemate_model::policy::base_guarantees())
                }
                (None | Some(Action::Pass), _) => Verdict::Pass,
            };
        }
        screening
    }
}

fn changes(path: &Path) -> anyhow::Result<diff::Changes> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().take(READ_MAX).read_to_end(&mut bytes)?;
    } else {
        let unreadable = |error| {
            NotFound::new(format!(
                "the diff {} cannot be read: {error}",
                path.display()
            ))
        };
        bytes = read(path).map_err(unreadable)?;
    }
    let changes = diff::Changes::of(&String::from_utf8_lossy(&bytes));
    if changes.is_empty() {
        eprintln!(
            "casemate: the diff adds no line, so there is nothing to scan (a unified diff is needed, as `git diff` prints it)"
        );
    }
    Ok(changes)
}

/// A bar over many files, where there is a terminal.
fn bar(files: usize) -> ProgressBar {
    if files < 20 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(files).unwrap_or(u64::MAX));
    // The template is a constant; were it wrong, a plain bar is still progress.
    let style = ProgressStyle::with_template("  screening {bar:28} {pos} / {len} files {eta:>5}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Colours where a terminal shows them and nobody asked for none.
fn style() -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some() || !io::stdout().is_terminal();
    if plain { Style::Plain } else { Style::Colour }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(READ_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files named, and every `.py`, `.sh` and `.bash` file of the folders named, in a stable order.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let wanted = |entry: &walkdir::DirEntry| {
                !(entry.file_type().is_dir()
                    && SKIPPED.iter().any(|name| entry.file_name() == *name))
            };
            for entry in WalkDir::new(path)
                .sort_by_file_name()
                .into_iter()
                .filter_entry(wanted)
            {
                let entry = entry?;
                if entry.file_type().is_file()
                    && entry
                        .path()
                        .extension()
                        .is_some_and(|e| e == "py" || e == "sh" || e == "bash")
                {
                    files.push(entry.into_path());
                }
            }
        } else if path.exists() {
            files.push(path.clone());
        } else {
            return Err(NotFound::new(format!("{} does not exist", path.display())).into());
        }
    }
    Ok(files)
}
