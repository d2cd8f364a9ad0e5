//! A process's table of mounts, held against what it is to be.

use casemate_driver::outside::Found;

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
}

impl MountLine<'_> {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.options.split(',').any(|option| option == word)
    }
}

pub(crate) fn mount_lines(text: &str) -> Vec<MountLine<'_>> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(2);
            Some(MountLine {
                device: front.next()?,
                root: front.next()?,
                point: front.next()?,
                options: front.next()?,
                typ: back.split(' ').next()?,
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
