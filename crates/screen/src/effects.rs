//! What well-known functions do to the world: the tables behind the manifest.
//!
//! These say what a call needs, not whether that is good; the rules say that.

use std::collections::HashSet;
use std::sync::LazyLock;

use casemate_model::manifest::Access;
use foldhash::fast::RandomState;

/// A path argument: its position and what happens to it.
pub(crate) type PathArg = (usize, Access);

const READ: &[PathArg] = &[(0, Access::Read)];
const WRITE: &[PathArg] = &[(0, Access::Write)];
const DELETE: &[PathArg] = &[(0, Access::Delete)];
const LOOK: &[PathArg] = &[(0, Access::Unknown)];
const COPY: &[PathArg] = &[(0, Access::Read), (1, Access::Write)];
const MOVE: &[PathArg] = &[(0, Access::Delete), (1, Access::Write)];
const LINK: &[PathArg] = &[(0, Access::Link), (1, Access::Write)];

/// The path arguments of a function by its qualified name. `builtins.open` and its like have a mode
/// and are handled where they are called.
pub(crate) fn paths(name: &str) -> &'static [PathArg] {
    if let Some(reader) = name.strip_prefix("pandas.read_") {
        let other = reader.starts_with("sql") || reader == "clipboard" || reader.contains('(');
        return if other { &[] } else { READ };
    }
    match name {
        "numpy.load"
        | "numpy.loadtxt"
        | "numpy.genfromtxt"
        | "numpy.fromfile"
        | "numpy.memmap"
        | "PIL.Image.open"
        | "matplotlib.image.imread"
        | "matplotlib.pyplot.imread"
        | "cv2.imread"
        | "imageio.imread"
        | "joblib.load"
        | "torch.load"
        | "linecache.getline"
        | "linecache.getlines"
        | "fileinput.input"
        | "zipfile.ZipFile().write"
        | "tarfile.open().add"
        | "tarfile.TarFile().add"
        | "shutil.unpack_archive"
        | "os.listdir"
        | "os.scandir"
        | "os.walk"
        | "os.readlink"
        | "os.chdir"
        | "os.chroot"
        | "glob.glob"
        | "glob.iglob"
        | "mmap.mmap"
        | "runpy.run_path"
        | "configparser.ConfigParser().read"
        | "polars.read_csv"
        | "polars.read_parquet"
        | "wave.open"
        | "json.load"
        | "xml.etree.ElementTree.parse"
        | "openpyxl.load_workbook"
        | "dotenv.load_dotenv"
        | "os.sendfile"
        | "importlib.machinery.SourceFileLoader" => READ,
        "os.stat" | "os.lstat" | "os.access" | "os.path.exists" | "os.path.isfile"
        | "os.path.isdir" | "os.path.getsize" | "os.path.islink" | "pathlib.Path" | "os.open"
        | "sqlite3.connect" => LOOK,
        "numpy.save"
        | "numpy.savez"
        | "numpy.savez_compressed"
        | "numpy.savetxt"
        | "matplotlib.pyplot.savefig"
        | "matplotlib.image.imsave"
        | "matplotlib.pyplot.imsave"
        | "cv2.imwrite"
        | "os.mkdir"
        | "os.makedirs"
        | "os.chmod"
        | "os.chown"
        | "os.lchown"
        | "os.truncate"
        | "os.utime"
        | "os.mknod"
        | "os.mkfifo"
        | "shelve.open"
        | "dbm.open"
        | "os.setxattr"
        | "shutil.chown"
        | "zipfile.ZipFile().extractall"
        | "tarfile.open().extractall"
        | "logging.FileHandler" => WRITE,
        "urllib.request.urlretrieve" | "wget.download" => &[(1, Access::Write)],
        "os.remove" | "os.unlink" | "os.rmdir" | "os.removedirs" | "shutil.rmtree" => DELETE,
        "shutil.copy" | "shutil.copy2" | "shutil.copyfile" | "shutil.copytree"
        | "shutil.copymode" | "shutil.copystat" => COPY,
        "os.symlink" | "os.link" => LINK,
        "os.rename" | "os.renames" | "os.replace" | "shutil.move" => MOVE,
        "shutil.make_archive" => &[(2, Access::Read), (0, Access::Write)],
        "joblib.dump" | "torch.save" => &[(1, Access::Write)],
        _ => &[],
    }
}

/// Functions that take a path and a mode as `open` does.
pub(crate) fn opens(name: &str) -> bool {
    matches!(
        name,
        "builtins.open"
            | "codecs.open"
            | "gzip.open"
            | "bz2.open"
            | "lzma.open"
            | "tempfile.open"
            | "os.fdopen"
            | "zipfile.ZipFile"
            | "tarfile.open"
            | "tarfile.TarFile.open"
    )
}

/// What a mode of `open` does.
pub(crate) fn mode_access(mode: Option<&str>) -> Access {
    match mode {
        Some(mode) if mode.contains(['w', 'a', 'x', '+']) => Access::Write,
        _ => Access::Read,
    }
}

/// What a method of a path does to it: `Path("x").read_text()`.
pub(crate) fn path_method(method: &str) -> Option<Access> {
    match method {
        "read_text" | "read_bytes" | "iterdir" | "glob" | "rglob" | "walk" | "readlink" => {
            Some(Access::Read)
        }
        "write_text" | "write_bytes" | "touch" | "mkdir" | "chmod" | "symlink_to"
        | "hardlink_to" => Some(Access::Write),
        "unlink" | "rmdir" | "rename" | "replace" => Some(Access::Delete),
        _ => None,
    }
}

/// What a method of an object that is not in sight does to the path it is given: `df.to_csv("x")`.
pub(crate) fn saving_method(method: &str) -> bool {
    matches!(
        method,
        "to_csv"
            | "to_excel"
            | "to_parquet"
            | "to_json"
            | "to_pickle"
            | "to_html"
            | "to_feather"
            | "to_latex"
            | "to_markdown"
            | "to_stata"
            | "to_hdf"
            | "savefig"
    )
}

/// Modules that talk to other machines.
const NETWORK: &[&str] = &[
    "requests",
    "urllib.request",
    "urllib3",
    "http.client",
    "httpx",
    "aiohttp",
    "socket",
    "ftplib",
    "smtplib",
    "telnetlib",
    "poplib",
    "imaplib",
    "nntplib",
    "paramiko",
    "websocket",
    "websockets",
    "xmlrpc.client",
    "pycurl",
    "boto3",
    "dns.resolver",
    "fabric",
    "pysftp",
    "zmq",
    "socketserver",
    "http.server",
    "asyncio.open_connection",
    "asyncio.start_server",
    "ssl",
    "tornado.httpclient",
    "grpc",
    "pika",
    "redis",
    "pymongo",
    "psycopg2",
    "pymysql",
    "mysql.connector",
    "wget",
    "yfinance",
    "pandas_datareader",
    "select.epoll",
    "multiprocessing.connection",
    "webbrowser.open",
    "mechanize",
    "scapy",
    "urllib.urlopen",
    "urllib.urlretrieve",
    "openai",
    "anthropic",
];

/// Names inside those modules that touch no network.
const LOCAL: &[&str] = &[
    "socket.gethostname",
    "requests.exceptions",
    "requests.RequestException",
    "requests.models",
    "urllib3.util",
    "urllib3.exceptions",
    "urllib.request.pathname2url",
    "http.client.responses",
    "socket.AF_",
    "socket.SOCK_",
    "socket.error",
    "socket.timeout",
    "socket.inet_",
    "socket.hton",
    "socket.ntoh",
    "socket.gaierror",
    "requests.HTTPError",
    "requests.ConnectionError",
    "requests.Timeout",
    "requests.Response",
    "requests.codes",
    "httpx.HTTPError",
    "aiohttp.ClientError",
    "requests.structures",
    "requests.utils",
    "ssl.SSLError",
    "urllib3.disable_warnings",
    "requests.packages",
    "socket.herror",
    "socket.SOL_",
    "socket.SO_",
];

/// The first segment of a qualified name.
fn root(name: &str) -> &str {
    let end = name
        .bytes()
        .position(|byte| matches!(byte, b'.' | b'(' | b'['));
    name.get(..end.unwrap_or(name.len())).unwrap_or(name)
}

/// Whether a qualified name, when it is called, talks to other machines.
pub(crate) fn network(name: &str) -> bool {
    // Most names are asked about in vain, and often.
    static ROOTS: LazyLock<HashSet<&str, RandomState>> =
        LazyLock::new(|| NETWORK.iter().map(|name| root(name)).collect());
    if !ROOTS.contains(root(name)) {
        return false;
    }
    let inside = |module: &&str| {
        name.strip_prefix(*module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '(']))
    };
    NETWORK.iter().any(inside) && !LOCAL.iter().any(|local| name.starts_with(local))
}

/// Whether a call loads a library's own sample data, from its cache or else from its site.
pub(crate) fn fetches(name: &str) -> bool {
    name == "seaborn.load_dataset"
        || name == "seaborn.get_dataset_names"
        || name.starts_with("sklearn.datasets.fetch_")
}

/// Whether a qualified name, when it is called, starts a process or replaces this one.
pub(crate) fn process(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix("os.") {
        return matches!(
            rest,
            "system" | "popen" | "startfile" | "posix_spawn" | "posix_spawnp" | "fork" | "forkpty"
        ) || rest.starts_with("exec") && rest.len() <= 7
            || rest.starts_with("spawn");
    }
    matches!(
        name,
        "subprocess.run"
            | "subprocess.Popen"
            | "subprocess.call"
            | "subprocess.check_call"
            | "subprocess.check_output"
            | "subprocess.getoutput"
            | "subprocess.getstatusoutput"
            | "pty.spawn"
            | "pty.fork"
            | "commands.getoutput"
            | "commands.getstatusoutput"
            | "popen2.popen2"
            | "asyncio.create_subprocess_shell"
            | "asyncio.create_subprocess_exec"
            | "multiprocessing.Process"
            | "multiprocessing.Pool"
            | "multiprocessing.pool.Pool"
            | "concurrent.futures.ProcessPoolExecutor"
            | "_posixsubprocess.fork_exec"
            | "pexpect.spawn"
            | "pexpect.run"
            | "sh.Command"
            | "plumbum.local"
            | "invoke.run"
            | "docker.from_env"
            | "docker.DockerClient"
    )
}

/// Whether a call stops or pauses a process.
pub(crate) fn stops(name: &str) -> bool {
    let how = name.rsplit('.').next().unwrap_or(name);
    matches!(
        how,
        "kill"
            | "killpg"
            | "terminate"
            | "suspend"
            | "send_signal"
            | "pidfd_send_signal"
            | "pthread_kill"
    )
}

/// Whether a call makes code at run time.
pub(crate) fn dynamic(name: &str) -> bool {
    matches!(
        name,
        "builtins.eval"
            | "builtins.exec"
            | "builtins.compile"
            | "builtins.__import__"
            | "importlib.import_module"
            | "importlib.__import__"
            | "runpy.run_path"
            | "runpy.run_module"
            | "types.FunctionType"
            | "types.CodeType"
            | "types.LambdaType"
            | "marshal.loads"
            | "marshal.load"
            | "pickle.loads"
            | "pickle.load"
            | "dill.load"
            | "dill.loads"
            | "cloudpickle.load"
            | "cloudpickle.loads"
            | "code.InteractiveInterpreter"
            | "code.InteractiveConsole"
            | "code.interact"
            | "builtins.breakpoint"
            | "pdb.set_trace"
            | "pdb.run"
            | "execfile"
    )
}

/// Whether a call or a module loads or calls native code.
pub(crate) fn native(name: &str) -> bool {
    let inside = |module: &str| {
        name.strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '(']))
    };
    match root(name) {
        module @ ("ctypes" | "cffi" | "_cffi_backend" | "llvmlite" | "pyximport" | "cython"
        | "weave") => inside(module),
        "numpy" => inside("numpy.ctypeslib"),
        _ => matches!(
            name,
            "torch.ops.load_library"
                | "importlib.machinery.ExtensionFileLoader"
                | "sys.setdlopenflags"
        ),
    }
}

/// Whether a call turns bytes into objects in a way that can run code.
pub(crate) fn deserialises(name: &str) -> bool {
    let modules = [
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "marshal",
        "jsonpickle",
        "joblib",
        "shelve",
    ];
    let module = name.split('.').next().unwrap_or("");
    let loads = [
        ".load",
        ".loads",
        ".decode",
        ".open",
        ".Unpickler",
        ".Unpickler().load",
    ];
    modules.contains(&module) && loads.iter().any(|end| name.ends_with(end))
        || matches!(
            name,
            "pandas.read_pickle"
                | "numpy.load"
                | "torch.load"
                | "torch.jit.load"
                | "pandas.read_hdf"
                | "keras.models.load_model"
                | "tensorflow.keras.models.load_model"
                | "skops.io.load"
                | "yaml.load"
                | "yaml.unsafe_load"
                | "yaml.full_load"
                | "multiprocessing.reduction.ForkingPickler.loads"
        )
}

/// Attributes of frames, tracebacks and generators that lead into the interpreter.
pub(crate) fn frame_attribute(name: &str) -> bool {
    matches!(
        name,
        "gi_frame"
            | "f_globals"
            | "f_builtins"
            | "f_back"
            | "f_code"
            | "tb_frame"
            | "cr_frame"
            | "ag_frame"
            | "gi_code"
            | "func_globals"
            | "func_code"
            | "f_locals"
            | "co_code"
            | "co_consts"
    )
}

/// Attributes that belong to the interpreter rather than to the program.
pub(crate) fn introspects(name: &str) -> bool {
    frame_attribute(name)
        || matches!(
            name,
            "__subclasses__"
                | "__builtins__"
                | "__globals__"
                | "__bases__"
                | "__base__"
                | "__mro__"
                | "__code__"
                | "__closure__"
                | "__reduce_ex__"
                | "__getattribute__"
                | "__loader__"
                | "__self__"
                | "__init_subclass__"
                | "__import__"
        )
        || name.starts_with("module _")
}

/// Functions that reach into the interpreter: other objects, frames, hooks and code.
pub(crate) fn reaches_in(name: &str) -> bool {
    matches!(
        name,
        "gc.get_objects"
            | "gc.get_referrers"
            | "gc.get_referents"
            | "sys._getframe"
            | "sys._current_frames"
            | "sys.settrace"
            | "sys.setprofile"
            | "sys.addaudithook"
            | "inspect.currentframe"
            | "inspect.stack"
            | "inspect.trace"
            | "types.CodeType"
            | "types.FunctionType"
    )
}

/// Whether a format text reads special attributes: `{0.__class__}`.
pub(crate) fn format_walks(text: &str) -> bool {
    let mut fields = text.split('{').skip(1);
    fields.any(|field| {
        let field = field.split(['}', ':', '!']).next().unwrap_or("");
        field.contains(".__")
    })
}

/// Whether the arguments of a call of this name are worth following to where they come from.
pub(crate) fn carries(name: &str) -> bool {
    network(name)
        || process(name)
        || opens(name)
        || dynamic(name)
        || deserialises(name)
        || crate::resolve::runs_code(name)
        || [
            "aiohttp", "httpx", "requests", "urllib", "boto3", "paramiko", "smtplib", "ftplib",
            "http",
        ]
        .iter()
        .any(|module| name.starts_with(module))
}

/// Whether a function that is passed on under this name is worth following.
pub(crate) fn matters(name: &str) -> bool {
    !name.ends_with([')', ']'])
        && (process(name)
            || network(name)
            || dynamic(name)
            || deserialises(name)
            || opens(name)
            || !paths(name).is_empty()
            || crate::resolve::runs_code(name)
            || native(name)
            || name.starts_with("os.")
            || name.starts_with("shutil."))
}

/// Libraries whose functions take no part in what the rules look for, unless they take paths or texts
/// that are run.
const DULL: &[&str] = &[
    "numpy",
    "pandas",
    "matplotlib",
    "math",
    "random",
    "statistics",
    "re",
    "collections",
    "seaborn",
    "scipy",
    "sklearn",
    "datetime",
    "time",
    "decimal",
    "fractions",
    "string",
    "heapq",
    "bisect",
    "itertools",
    "typing",
    "dataclasses",
    "enum",
    "json",
    "csv",
    "unittest",
    "plotly",
    "statsmodels",
    "networkx",
    "sympy",
    "cmath",
    "calendar",
    "pprint",
    "textwrap",
    "copy",
    "warnings",
    "abc",
    "argparse",
];

/// Whether a call of this name shows nothing, whatever it is given. Functions it is given are followed
/// where they are written.
pub(crate) fn dull(name: &str) -> bool {
    if let Some(builtin) = name.strip_prefix("builtins.") {
        return builtin == "print"
            || crate::names::is_plain(builtin)
                && !matches!(
                    builtin,
                    "map"
                        | "filter"
                        | "getattr"
                        | "sorted"
                        | "list"
                        | "next"
                        | "any"
                        | "all"
                        | "min"
                        | "max"
                        | "iter"
                        | "bytes"
                        | "bytearray"
                );
    }
    static ROOTS: LazyLock<HashSet<&str, RandomState>> =
        LazyLock::new(|| DULL.iter().copied().collect());
    if !ROOTS.contains(root(name)) {
        return false;
    }
    if name.contains("apply")
        || name.contains(".map")
        || name.contains("vectorize")
        || name.contains("eval")
        || name.contains(".query")
    {
        return false;
    }
    if name.starts_with("re.") || name.starts_with("numpy.") || name == "math.factorial" {
        return false;
    }
    paths(name).is_empty()
        && !opens(name)
        && !deserialises(name)
        && !native(name)
        && !fetches(name)
        && !network(name)
        && !name.starts_with("itertools.starmap")
}

/// The protocol and the usual port of what a call connects to by host and port.
pub(crate) fn connects(name: &str) -> Option<(&'static str, Option<i64>)> {
    Some(match name {
        "socket.create_connection" | "asyncio.open_connection" | "asyncio.start_server" => {
            ("tcp", None)
        }
        "http.client.HTTPConnection" => ("http", Some(80)),
        "http.client.HTTPSConnection" => ("https", Some(443)),
        "smtplib.SMTP" => ("smtp", Some(25)),
        "smtplib.SMTP_SSL" => ("smtps", Some(465)),
        "ftplib.FTP" | "ftplib.FTP_TLS" => ("ftp", Some(21)),
        "imaplib.IMAP4_SSL" => ("imaps", Some(993)),
        "telnetlib.Telnet" => ("telnet", Some(23)),
        "paramiko.SSHClient().connect" | "paramiko.Transport" => ("ssh", Some(22)),
        _ if name.starts_with("socket.") => match name.rsplit('.').next()? {
            "connect" | "connect_ex" | "bind" => ("tcp", None),
            _ => return None,
        },
        _ => return None,
    })
}

/// Protocol, host and port of a URL.
pub(crate) fn endpoint(text: &str) -> Option<String> {
    let host = url_host(text)?;
    let (scheme, rest) = text.trim().split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#', ' ']).next()?;
    let authority = authority.rsplit('@').next()?;
    let written = authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let usual = match scheme.as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        "ftp" => Some(21),
        "sftp" | "ssh" => Some(22),
        "redis" => Some(6379),
        "mysql" => Some(3306),
        _ => None,
    };
    Some(match written.or(usual) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// The host of a URL, without user, port and path.
pub(crate) fn url_host(text: &str) -> Option<&str> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let known = [
        "http", "https", "ftp", "ftps", "ws", "wss", "tcp", "s3", "gs", "sftp", "ssh", "redis",
        "mysql",
    ];
    if !known.contains(&scheme.to_ascii_lowercase().as_str()) {
        return None;
    }
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or(rest);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    (!host.is_empty() && host.len() <= 253).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_from_urls() {
        for (url, host) in [
            ("http://a.example/x?y", Some("a.example")),
            ("https://u:p@b.example:8443", Some("b.example")),
            ("http://[::1]:80/x", Some("::1")),
            ("file:///etc/passwd", None),
            ("not a url", None),
            ("http://", None),
        ] {
            assert_eq!(url_host(url), host, "{url}");
        }
    }

    #[test]
    fn endpoints_have_protocol_and_port() {
        for (url, endpoint) in [
            ("http://a.example/x", Some("http://a.example:80")),
            (
                "HTTPS://u:p@b.example:8443/?q",
                Some("https://b.example:8443"),
            ),
            ("s3://bucket/key", Some("s3://bucket")),
            ("a.example", None),
        ] {
            assert_eq!(super::endpoint(url).as_deref(), endpoint, "{url}");
        }
    }

    #[test]
    fn the_network_is_what_talks() {
        for name in ["requests.get", "requests", "socket.socket().connect"] {
            assert!(network(name), "{name}");
        }
        for name in [
            "requestsx.get",
            "socket.gethostname",
            "requests.exceptions.Timeout",
            "sklearn.datasets.load_iris",
        ] {
            assert!(!network(name), "{name}");
        }
    }

    #[test]
    fn processes_are_what_starts_them() {
        for name in ["os.system", "os.execve", "os.spawnlp", "subprocess.run"] {
            assert!(process(name), "{name}");
        }
        for name in [
            "os.path.join",
            "os.execution_time",
            "subprocess.PIPE",
            "os.getpid",
        ] {
            assert!(!process(name), "{name}");
        }
    }

    #[test]
    fn modes_of_open() {
        assert_eq!(mode_access(None), Access::Read);
        assert_eq!(mode_access(Some("rb")), Access::Read);
        assert_eq!(mode_access(Some("r+")), Access::Write);
        assert_eq!(mode_access(Some("ab")), Access::Write);
    }
}
