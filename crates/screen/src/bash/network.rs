//! Programs that talk to other machines: to whom, and what they send.

use casemate_model::manifest::Access;
use ruff_text_size::TextRange;

use super::command::{joined, taint_of};
use super::shell::Shell;
use super::value::{ENV, FILE, Field, NET, Value};
use crate::effects;
use crate::gaps::GAP;

/// Programs of the network: their protocol and usual port.
fn protocol(base: &str) -> Option<(&'static str, Option<u16>)> {
    Some(match base {
        "curl" | "wget" | "aria2c" | "http" | "https" | "httpie" | "lynx" | "w3m" | "links"
        | "axel" | "fetch" => ("http", None),
        "nc" | "ncat" | "netcat" | "socat" | "openssl_client" => ("tcp", None),
        "ssh" | "scp" | "sftp" | "rsync" | "sshfs" | "mosh" | "sshpass" | "ssh-copy-id"
        | "autossh" => ("ssh", Some(22)),
        "ftp" | "lftp" | "ncftp" => ("ftp", Some(21)),
        "tftp" => ("tftp", Some(69)),
        "telnet" => ("telnet", Some(23)),
        "dig" | "nslookup" | "host" | "drill" | "kdig" | "resolvectl" => ("dns", Some(53)),
        "ping" | "ping6" | "traceroute" | "tracepath" | "mtr" | "arping" | "hping3" => {
            ("icmp", None)
        }
        "whois" => ("whois", Some(43)),
        "git" | "svn" | "hg" | "pip" | "pip3" | "npm" | "npx" | "yarn" | "gem" | "cargo" | "go"
        | "apt" | "apt-get" | "yum" | "dnf" | "apk" | "brew" | "conda" | "uv" | "uvx" | "pipx" => {
            ("https", None)
        }
        "aws" | "gcloud" | "gsutil" | "az" | "rclone" | "s3cmd" | "kubectl" | "helm" | "gh" => {
            ("https", None)
        }
        "mail" | "mailx" | "sendmail" | "mutt" | "swaks" => ("smtp", Some(25)),
        "redis-cli" => ("redis", Some(6379)),
        "mysql" | "mysqldump" => ("mysql", Some(3306)),
        "psql" | "pg_dump" => ("postgres", Some(5432)),
        "mosquitto_pub" | "mosquitto_sub" => ("mqtt", Some(1883)),
        _ => return None,
    })
}

impl Shell<'_> {
    /// A program of the network; nothing when it is none.
    pub(super) fn network(
        &mut self,
        base: &str,
        words: &[Field],
        stdin: &Value,
        range: TextRange,
    ) -> Option<Value> {
        let args = words.get(1..).unwrap_or_default();
        let client = base == "openssl" && args.iter().any(|arg| arg.text == "s_client");
        let (protocol, port) = if client {
            ("tls", Some(443))
        } else {
            protocol(base)?
        };
        let local = matches!(
            base,
            "git" | "cargo" | "go" | "npm" | "hg" | "svn" | "conda" | "uv"
        ) && !reaches(args);
        self.process(&joined(words), range);
        self.paths_among(args, range);
        if local {
            return Some(Value::unknown(stdin.taint | FILE));
        }
        self.hosts(base, protocol, port, args, range);
        self.sent(base, words, stdin, range);
        if matches!(base, "nc" | "ncat" | "netcat" | "socat" | "telnet") || client {
            self.connected = true;
            let runs = |arg: &Field| {
                let text = arg.text.to_ascii_lowercase();
                matches!(text.as_str(), "-e" | "-c" | "--exec" | "--sh-exec")
                    || text.contains("exec:")
                    || text.contains("system:")
                    || text.starts_with('-')
                        && !text.starts_with("--")
                        && text.contains('e')
                        && base != "socat"
            };
            if args.iter().any(runs) {
                self.act("gives-shell", &joined(words), range);
            }
        }
        if matches!(base, "ssh" | "sshpass") && args.len() > 2 {
            self.act("runs-other", &format!("{base} {GAP}"), range);
        }
        self.downloads(base, args, range);
        Some(Value::unknown(NET))
    }

    fn hosts(
        &mut self,
        base: &str,
        protocol: &str,
        port: Option<u16>,
        args: &[Field],
        range: TextRange,
    ) {
        let mut found = false;
        for arg in args {
            let text = arg.text.as_str();
            let url = text.split_once("://").map_or(text, |_| text);
            if let Some(host) = effects::url_host(url) {
                let host = host.to_owned();
                self.host(&host, effects::endpoint(url), range);
                found = true;
            }
        }
        if found {
            return;
        }
        let words: Vec<&str> = args
            .iter()
            .map(|arg| arg.text.as_str())
            .filter(|text| !text.starts_with(['-', '+', '@']))
            .collect();
        let address = match protocol {
            "ssh" => words.iter().find_map(|word| {
                let host = word.split_once('@').map_or(*word, |(_, host)| host);
                let host = host.split(':').next().unwrap_or(host);
                (word.contains(['@', ':']) || base == "ssh").then_some((host, None))
            }),
            "tls" => words
                .iter()
                .find_map(|word| word.split_once(':').map(|(host, port)| (host, Some(port)))),
            _ if base == "socat" => words.iter().find_map(|word| {
                let (_, rest) = word.split_once(':')?;
                let (host, port) = rest.split_once(':')?;
                Some((host, Some(port)))
            }),
            _ => words.iter().position(|word| is_host(word)).and_then(|at| {
                let word = *words.get(at)?;
                let (host, inline) = word
                    .split_once(['/', ':'])
                    .map_or((word, None), |(host, rest)| (host, Some(rest)));
                let next = words
                    .get(at + 1)
                    .copied()
                    .filter(|next| next.parse::<u16>().is_ok());
                Some((
                    host,
                    inline.filter(|port| port.parse::<u16>().is_ok()).or(next),
                ))
            }),
        };
        match address {
            Some((host, own)) if !host.is_empty() && !host.contains(GAP) => {
                let port = own
                    .map(str::to_owned)
                    .or_else(|| port.map(|port| port.to_string()));
                let endpoint = port.map_or_else(
                    || format!("{protocol}://{host}"),
                    |port| format!("{protocol}://{host}:{port}"),
                );
                let host = host.to_owned();
                self.host(&host, Some(endpoint), range);
            }
            _ => self.host("?", None, range),
        }
    }

    /// Whether what is sent is a file's, a command's or the environment's.
    fn sent(&mut self, base: &str, words: &[Field], stdin: &Value, range: TextRange) {
        let args = words.get(1..).unwrap_or_default();
        let own = FILE | ENV;
        let piped = stdin.taint & own != 0;
        let takes_input = match base {
            "curl" | "wget" | "http" | "https" => args.iter().any(|arg| {
                matches!(arg.text.as_str(), "-" | "@-" | "-d@-" | "-T-")
                    || arg.text.ends_with("=@-")
                    || arg.text.ends_with("=-")
            }),
            "nc" | "ncat" | "netcat" | "socat" | "telnet" | "ssh" | "mail" | "mailx"
            | "sendmail" | "mutt" | "ftp" | "tftp" | "openssl" | "mosquitto_pub" | "redis-cli"
            | "aws" | "gsutil" | "rclone" => true,
            _ => false,
        };
        // A whole address from a file or a setting only says where to; a part of one carries something away.
        let mut data = false;
        let mut carries = false;
        for arg in args {
            let text = arg.text.as_str();
            // A name that is asked for carries what stands in front of its domain.
            let whole = if matches!(base, "dig" | "nslookup" | "host" | "drill" | "kdig") {
                text == GAP
            } else {
                text.starts_with(GAP)
            };
            carries |= arg.taint & own != 0 && (data || !whole);
            data = matches!(
                text,
                "-d" | "--data"
                    | "--data-raw"
                    | "--data-binary"
                    | "--data-urlencode"
                    | "-F"
                    | "--form"
                    | "--post-data"
                    | "--body-data"
            );
        }
        let uploads = match base {
            "curl" => args.iter().any(|arg| {
                let text = arg.text.as_str();
                matches!(text, "-T" | "--upload-file")
                    || text.starts_with("-T")
                    || text.contains("=@")
                    || text.starts_with('@')
                    || text.starts_with("-d@")
            }),
            "wget" => args.iter().any(|arg| {
                arg.text.starts_with("--post-file") || arg.text.starts_with("--body-file")
            }),
            _ => false,
        };
        if piped && takes_input || carries && base != "git" || uploads {
            self.act("sends", &joined(words), range);
        }
    }

    /// Files that a download is written to.
    fn downloads(&mut self, base: &str, args: &[Field], range: TextRange) {
        for (index, arg) in args.iter().enumerate() {
            let text = arg.text.as_str();
            let next = args.get(index + 1);
            let flags = text
                .strip_prefix('-')
                .filter(|flags| !flags.starts_with('-'))
                .unwrap_or("");
            let into = match base {
                "curl" if flags.ends_with('o') || text == "--output" => {
                    next.map(|next| next.text.clone())
                }
                "wget" if flags.ends_with('O') || text == "--output-document" => {
                    next.map(|next| next.text.clone())
                }
                "curl" | "wget" if text.starts_with("--output") => {
                    text.split_once('=').map(|(_, path)| path.to_owned())
                }
                _ => None,
            };
            if let Some(path) = into {
                self.file(&Field::of(path.clone()), Access::Write, range);
                let place = self.place_of(&path);
                self.files.insert(place, Value::unknown(NET));
            }
            if effects::url_host(text).is_some()
                && let Some((_, name)) = text.rsplit_once('/')
                && !name.is_empty()
            {
                let place = self.place_of(name);
                self.files
                    .entry(place)
                    .or_insert_with(|| Value::unknown(NET));
            }
        }
        if matches!(base, "scp" | "rsync" | "git") {
            let last = args.last().map(|last| last.text.clone());
            if let Some(last) = last.filter(|last| !last.contains(':')) {
                let place = self.place_of(&last);
                self.files
                    .entry(place)
                    .or_insert_with(|| Value::unknown(NET | taint_of(args)));
            }
        }
    }
}

/// Whether a tool that also works without a network asks for it.
fn reaches(args: &[Field]) -> bool {
    const FAR: [&str; 16] = [
        "clone",
        "fetch",
        "pull",
        "push",
        "ls-remote",
        "submodule",
        "install",
        "add",
        "update",
        "get",
        "publish",
        "ci",
        "download",
        "remote",
        "checkout",
        "mod",
    ];
    let first = args.iter().find(|arg| !arg.text.starts_with('-'));
    first.is_none_or(|first| FAR.contains(&first.text.as_str()) || !first.is_known())
}

fn is_host(word: &str) -> bool {
    let host = word.split(['/', ':']).next().unwrap_or(word);
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let known = host.contains('.') || host == "localhost";
    known && !host.starts_with('.') && host.chars().all(name)
}
