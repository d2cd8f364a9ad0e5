//! Paths: what a pattern of file names can stand for among what matters.

/// Files that rules speak of and programs that do harm, to be found behind patterns.
const KNOWN: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/group",
    "/etc/sudoers",
    "/etc/hosts",
    "/etc/crontab",
    "/etc/ssh/sshd_config",
    "/root/.ssh/id_rsa",
    "/root/.ssh/authorized_keys",
    "/root/.bashrc",
    "~/.ssh/id_rsa",
    "~/.ssh/authorized_keys",
    "~/.aws/credentials",
    "~/.bashrc",
    "~/.bash_history",
    "~/.netrc",
    "/home/user/.ssh/id_rsa",
    "/home/user/.bash_history",
    "/proc/self/environ",
    "/proc/1/environ",
    "/proc/self/mem",
    "/proc/1/root",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/dev/mem",
    "/dev/sda",
    "/dev/nvme0n1",
    "/boot/vmlinuz",
];

/// Programs that patterns such as `/???/b??h` are tried against.
const PROGRAMS: &[&str] = &[
    "rm", "sh", "bash", "dash", "zsh", "cat", "nc", "ncat", "netcat", "curl", "wget", "dd", "mkfs",
    "shred", "chmod", "chown", "mount", "umount", "nsenter", "unshare", "chroot", "insmod",
    "python", "python3", "perl", "ruby", "node", "php", "sudo", "su", "id", "whoami", "env", "ls",
    "tee", "cp", "mv", "tail", "head", "base64", "xxd", "kill", "pkill", "killall", "socat", "ssh",
    "scp", "docker", "gdb", "reboot", "shutdown", "crontab", "find", "xargs", "awk", "sed", "ps",
    "uname", "more", "less", "od", "tac", "nl", "sort", "uniq",
];

/// The known paths that a pattern fits.
pub(super) fn fitting(pattern: &str) -> impl Iterator<Item = &'static str> {
    KNOWN
        .iter()
        .copied()
        .filter(move |known| fits(pattern, known))
}

/// The known programs that a pattern of a program fits: by its last part, below folders of programs.
pub(super) fn programs(pattern: &str) -> Vec<&'static str> {
    let (folder, base) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let folders = [
        "",
        "/bin",
        "/usr/bin",
        "/sbin",
        "/usr/sbin",
        "/usr/local/bin",
    ];
    if !folders.iter().any(|known| fits(folder, known)) {
        return Vec::new();
    }
    let all = PROGRAMS.iter().copied();
    all.filter(|program| fits(base, program)).collect()
}

/// Whether a pattern of the shell fits a path; `*` and `?` do not cross a slash.
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if glob(pattern, part) => {}
            _ => return false,
        }
    }
}

/// A pattern of the shell against a text without slashes: `*`, `?`, `[...]`, and a gap for anything.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().take(512).collect();
    let text: Vec<char> = text.chars().take(4096).collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    // Each step back moves the last star on, so this is bounded by the product of both.
    loop {
        if t == text.len() {
            let rest = pattern.get(p..).unwrap_or_default();
            return rest.iter().all(|&c| c == '*' || c == '…');
        }
        let next = match pattern.get(p) {
            Some('*' | '…') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) => one(&pattern, p, text.get(t).copied()),
            None => None,
        };
        match (next, star) {
            (Some(after), _) => {
                p = after;
                t += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
}

/// Whether one character fits at a place of a pattern; the place after it.
fn one(pattern: &[char], at: usize, c: Option<char>) -> Option<usize> {
    let c = c?;
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => {
            let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
            let first = at + 1 + usize::from(negated);
            let mut end = first + 1;
            while *pattern.get(end)? != ']' {
                end += 1;
            }
            let class = pattern.get(first..end)?;
            let mut inside = class.contains(&c);
            for window in class.windows(3) {
                if let [low, '-', high] = window {
                    inside |= (*low..=*high).contains(&c);
                }
            }
            // A class by name, `[[:alpha:]]`, may hold anything.
            inside |= class.contains(&':');
            (inside != negated).then_some(end + 1)
        }
        wanted => (*wanted == c).then_some(at + 1),
    }
}

/// The name of a program without its folder.
pub(super) fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// A folder after `cd` into another; nothing when it cannot be known. The second word says whether it
/// leaves the folder that the script started in.
pub(super) fn entered(folder: &str, to: &str) -> (String, bool) {
    if to.starts_with(['/', '~']) {
        return (to.trim_end_matches('/').to_owned(), false);
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let mut out = false;
    for part in to
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            out |= parts.pop().is_none();
        } else {
            parts.push(part);
        }
    }
    let slash = if folder.starts_with('/') { "/" } else { "" };
    (format!("{slash}{}", parts.join("/")), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_file_names() {
        assert!(fits("/e?c/pass*", "/etc/passwd") && fits("/etc/[o-q]asswd", "/etc/passwd"));
        assert!(!fits("/*", "/etc/passwd") && !fits("/etc/[!p]asswd", "/etc/passwd"));
        assert!(programs("/???/r?").contains(&"rm") && programs("b*sh").contains(&"bash"));
        assert_eq!(programs("/opt/*"), Vec::<&str>::new());
        assert!(!glob(
            &"*a".repeat(200),
            &"a".repeat(4000).replace("aaaa", "aaab")[..100]
        ));
    }

    #[test]
    fn folders_are_followed() {
        assert_eq!(entered("", "sub/x"), ("sub/x".to_owned(), false));
        assert_eq!(entered("sub", ".."), (String::new(), false));
        assert!(entered("", "..").1);
        assert_eq!(entered("x", "/etc/"), ("/etc".to_owned(), false));
        assert_eq!(entered("/etc/x", ".."), ("/etc".to_owned(), false));
    }
}
