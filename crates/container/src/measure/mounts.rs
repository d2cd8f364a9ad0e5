//! A process's table of mounts, held against what it is to be.

use casemate_driver::outside::Found;
use casemate_linux::jail::machine;

/// Where terminals are.
const TERMINALS: &str = "/dev/pts";

/// One line of a process's table of mounts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MountLine<'a> {
    /// `major:minor` of its file system.
    pub(crate) device: &'a str,
    /// What of the file system is shown.
    pub(crate) root: &'a str,
    pub(crate) point: &'a str,
    pub(crate) options: &'a str,
    pub(crate) typ: &'a str,
    /// Options of the whole file system.
    pub(crate) of_all: &'a str,
}

impl MountLine<'_> {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.options.split(',').any(|option| option == word)
    }

    fn whole_has(&self, word: &str) -> bool {
        self.of_all.split(',').any(|option| option == word)
    }

    pub(crate) fn is_terminals(&self) -> bool {
        self.point == TERMINALS && self.typ == "devpts" && self.has("nosuid") && self.has("noexec")
    }
}

pub(crate) fn mount_lines(text: &str) -> Vec<MountLine<'_>> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(2);
            let mut back = back.split(' ');
            Some(MountLine {
                device: front.next()?,
                root: front.next()?,
                point: front.next()?,
                options: front.next()?,
                typ: back.next()?,
                of_all: back.nth(1).unwrap_or_default(),
            })
        })
        .collect()
}

/// Every mount is one that the bundle has, with the rights it is to have; whatever else the runtime
/// mounts of itself is a device or its own folder of devices, or one of those that are `harmless`.
pub(crate) fn check_mounts(
    text: &str,
    expected: &[(String, bool)],
    harmless: &dyn Fn(&MountLine<'_>) -> bool,
) -> Found {
    let lines = mount_lines(text);
    for (point, writable) in expected {
        let line = lines.iter().rfind(|line| line.point == *point);
        let line = line.ok_or_else(|| format!("nothing is mounted at {point}"))?;
        if line.has("rw") != *writable {
            return Err(format!("{point} is mounted {}", line.options));
        }
        let bare = point != "/" && !(line.has("nosuid") && line.has("nodev"));
        if bare {
            return Err(format!("{point} could give rights: {}", line.options));
        }
    }
    for line in &lines {
        let known = expected.iter().any(|(point, _)| point == line.point);
        // A part of the system that is a file system of its own on the host comes with it.
        let below_usr = line.point.starts_with("/usr/") && line.has("ro");
        let proc = line.point == "/proc" && line.typ == "proc";
        let devices = line.point == "/dev" && line.typ == "tmpfs";
        let device = ["null", "zero", "full", "tty", "random", "urandom"]
            .iter()
            .any(|name| line.point.strip_prefix("/dev/") == Some(name));
        if !(known || below_usr || proc || devices || device || harmless(line)) {
            return Err(format!(
                "{} ({}) is mounted at {}",
                line.typ, line.options, line.point
            ));
        }
    }
    Ok(format!("{} mounts, all known; / is read-only", lines.len()))
}

/// Every place that may be written shows the file system with this device number: the one that was
/// staged, whose size and files are bounded.
pub(crate) fn only_scratch_is_writable(
    text: &str,
    expected: &[(String, bool)],
    device: u64,
) -> Result<(), String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let staged = format!("{major}:{minor}");
    let lines = mount_lines(text);
    for (point, _) in expected.iter().filter(|(_, writable)| *writable) {
        let line = lines.iter().rfind(|line| line.point == *point);
        if line.is_none_or(|line| line.device != staged) {
            return Err(format!(
                "what can be written at {point} is not the staged scratch"
            ));
        }
    }
    Ok(())
}

/// A text of ours over a name in `/proc`.
pub(crate) fn is_text_in_proc(line: &MountLine<'_>) -> bool {
    let name = line.point.strip_prefix("/proc/");
    let known = name.is_some_and(|name| machine::NAMES.contains(&name));
    known && line.typ == "tmpfs" && line.has("ro") && line.has("nosuid") && line.has("nodev")
}

/// The process file system is read-only and shows processes alone, each to its own user, and nothing lies over it but
/// texts of ours.
pub(crate) fn only_texts_in_proc(text: &str) -> Result<(), String> {
    let lines = mount_lines(text);
    let proc = lines.iter().rfind(|line| line.point == "/proc");
    let proc = proc.ok_or("nothing is mounted at /proc")?;
    let hides = ["hidepid=invisible", "hidepid=2"];
    let narrow = proc.whole_has("subset=pid") && hides.iter().any(|word| proc.whole_has(word));
    let closed = ["ro", "nosuid", "nodev", "noexec"];
    if proc.typ != "proc" || !narrow || !closed.iter().all(|word| proc.has(word)) {
        return Err(format!(
            "/proc is {} ({} {})",
            proc.typ, proc.options, proc.of_all
        ));
    }
    let over = lines.iter().filter(|line| line.point.starts_with("/proc/"));
    match over.into_iter().find(|line| !is_text_in_proc(line)) {
        None => Ok(()),
        Some(line) => Err(format!(
            "{} ({}) is mounted at {}",
            line.typ, line.options, line.point
        )),
    }
}

/// The container's terminals are no other file system's that the host has mounted.
pub(crate) fn own_terminals(text: &str, host: &str) -> Result<(), String> {
    let lines = mount_lines(text);
    let own = lines.iter().rfind(|line| line.is_terminals());
    let own = own.ok_or_else(|| format!("there are no terminals at {TERMINALS}"))?;
    let hosts = mount_lines(host);
    if hosts.iter().any(|line| line.device == own.device) {
        return Err("its terminals are the host's".to_owned());
    }
    Ok(())
}
