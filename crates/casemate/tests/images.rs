//! Images by the real binary: made from archives, hostile ones among them, listed, run on, removed; and the
//! languages that the machine's own system and images have.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "images/registry.rs"]
mod registry;
mod served;
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use casemate_backend::contract::{Backend, Cancel, Signal};
use casemate_backend::plan::Guest;
use casemate_backend::suite;
use casemate_images::{Images, Systems};
use casemate_jail::setup::Store;
use casemate_jail::{JailBackend, Warm};
use casemate_model::guarantee::Guarantee;
use casemate_model::job::{ImageChoice, Language};
use support::{casemate, code, outcome, stderr, stdout};
use tar::{Builder, EntryType, Header};

/// Runs it with images in a folder of its own.
fn in_cache(cache: &Path, args: &[&str]) -> Output {
    let output = casemate().env("CASEMATE_CACHE", cache).args(args).output();
    output.unwrap()
}

/// The files that a small Python and bash need, as this machine has them.
fn small_system() -> Vec<PathBuf> {
    let python = fs::canonicalize("/usr/bin/python3").unwrap();
    let library = PathBuf::from("/usr/lib").join(python.file_name().unwrap());
    let mut files = BTreeSet::from([python, PathBuf::from("/usr/bin/bash")]);
    walk(&library, &mut files);
    // The interpreter's own ending is its version's.
    let is_program = |path: &Path| {
        path.extension()
            .is_none_or(|ending| ending == "so" || path.starts_with("/usr/bin"))
    };
    let programs: Vec<PathBuf> = files
        .iter()
        .filter(|path| is_program(path))
        .cloned()
        .collect();
    for library in libraries(&programs) {
        files.insert(library);
    }
    files.into_iter().collect()
}

fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        let left_out = [
            "__pycache__",
            "test",
            "idlelib",
            "ensurepip",
            "lib2to3",
            "tkinter",
        ];
        if kind.is_dir() && !left_out.iter().any(|other| name == *other) {
            walk(&entry.path(), files);
        } else if kind.is_file() {
            files.insert(entry.path());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the system's own tool, over the system's own programs"
)]
fn libraries(programs: &[PathBuf]) -> BTreeSet<PathBuf> {
    let said = Command::new("ldd").args(programs).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let words = said.split_whitespace();
    words
        .filter(|word| word.starts_with("/lib") && word.contains(".so"))
        .map(PathBuf::from)
        .collect()
}

/// An archive of a small system, made once.
fn archive() -> &'static Path {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("system.tar");
        let mut builder = Builder::new(File::create(&path).unwrap());
        builder.follow_symlinks(true);
        for file in small_system() {
            let name = file.strip_prefix("/").unwrap();
            builder.append_path_with_name(&file, name).unwrap();
        }
        let python = fs::canonicalize("/usr/bin/python3").unwrap();
        link(
            &mut builder,
            "usr/bin/python3",
            python.file_name().unwrap().to_str().unwrap(),
        );
        link(&mut builder, "bin", "usr/bin");
        let mut device = Header::new_gnu();
        device.set_entry_type(EntryType::Char);
        device.set_size(0);
        device.set_mode(0o600);
        device.set_path("dev/mem").unwrap();
        device.set_cksum();
        builder.append(&device, &[][..]).unwrap();
        builder.into_inner().unwrap().flush().unwrap();
        (dir, path)
    });
    path
}

fn link(builder: &mut Builder<File>, name: &str, target: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    builder.append_link(&mut header, name, target).unwrap();
}

/// A folder with the image `small`, made once. What the driver is made of is fetched into it.
fn cache() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive().to_str().unwrap();
        let output = in_cache(dir.path(), &["image", "import", "small", archive]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("1 devices or pipes left out"));
        let said = stdout(&output);
        assert!(
            said.contains("Python 3.") && said.contains("Bash"),
            "{said}"
        );
        dir
    });
    dir.path()
}

/// What is screened is warned about and not refused: it is the walls that are tried.
fn ran(backend: &str, file: &str, program: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    fs::write(&path, program).unwrap();
    let path = path.to_str().unwrap();
    let args = [
        "run",
        "-q",
        "--policy",
        "native",
        "--image",
        "small",
        "--screen",
        "warn",
        "--backend",
        backend,
        path,
    ];
    in_cache(cache(), &args)
}

#[test]
fn programs_run_on_an_image_and_see_nothing_of_the_machines_own() {
    let program = "import sys\nprint(sys.version_info[:2])\n\
        try:\n    import pandas\nexcept ImportError:\n    print('no pandas')\n6 * 7\n";
    let output = ran("jail", "a.py", program);
    let said = stdout(&output);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(said.contains("no pandas") && said.contains("42"), "{said}");
    let output = ran(
        "jail",
        "a.sh",
        "echo \"$BASH_VERSION\"; compgen -G '/usr/bin/*'; exit 3\n",
    );
    let said = stdout(&output);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(
        said.contains("/usr/bin/bash") && !said.contains("/usr/bin/env"),
        "{said}"
    );
    let output = ran(
        "jail",
        "b.sh",
        "echo x > /usr/bin/x; echo y > /x; echo z > /opt/z; echo $?\n",
    );
    assert_eq!(stdout(&output).trim(), "1", "{}", stderr(&output));
    let name = casemate_images::ImageName::new("small").unwrap();
    casemate_images::Images::at(cache()).verify(&name).unwrap();
}

/// What keeps jails and interpreters ready keeps them of the machine's own system: a program on an image, with an
/// environment of the user's or in another language gets none of them, and says so.
#[test]
fn what_waits_is_of_the_machines_own_system_and_is_given_to_no_other() {
    if !rustix_is_root() {
        assert!(std::env::var_os("CI").is_none(), "only root has zygotes");
        eprintln!("skipped: only root has zygotes");
        return;
    }
    let systems = Systems::new(Store::open().unwrap(), Images::at(cache()));
    let jail = JailBackend::new(systems, env!("CARGO_BIN_EXE_casemate"));
    let keep = Warm {
        spares: 2,
        zygotes: 1,
    };
    let jail = jail.warm(keep).unwrap();
    let lacking = [Guarantee::ClockCoarse].into_iter().collect();
    let plan = |program: &str, guest: Guest| {
        let mut plan = suite::plan_without(program, &lacking);
        plan.guest = guest;
        plan
    };
    let on = |language, image| Guest::new(language, image);
    let ready = || jail.wait_warm(&plan("", Guest::default()).tenant).unwrap();
    // How it began, what it is, and what it printed.
    let ran = |program: &str, guest: Guest| {
        let plan = plan(program, guest);
        let (sandbox, receipt) = jail.create(&plan).unwrap();
        receipt.satisfies(&plan.asked).unwrap();
        let layout = receipt
            .walls
            .iter()
            .find(|wall| wall.name == "memory_layout");
        let layout = layout.unwrap().clone();
        let mut said = String::new();
        let mut hear = |signal: Signal| {
            if let Signal::Stdout(bytes) = signal {
                said.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        sandbox.run(&plan, &mut hear, &Cancel::new()).unwrap();
        (layout.got.or(layout.missing).unwrap(), receipt.guest, said)
    };
    let program = "import os\nprint(os.path.exists('/usr/bin/env'), os.path.exists('/opt/casemate/site-packages/pandas'))";
    let (small, host) = (ImageChoice::named("small"), ImageChoice::default());
    for _ in 0..2 {
        ready();
        let (layout, guest, said) = ran(program, on(Language::Python, host.clone()));
        assert!(layout.starts_with("forked from zygote"), "{layout}");
        assert!(!guest.contains("image"), "{guest}");
        assert_eq!(said, "True True\n");
        ready();
        let (layout, guest, said) = ran(program, on(Language::Python, small.clone()));
        assert!(layout.contains("another system"), "{layout}");
        assert!(guest.starts_with("image small (sha256:"), "{guest}");
        assert_eq!(said, "False False\n");
        let (layout, _, said) = ran("echo $((6 * 7))", on(Language::Bash, host.clone()));
        assert!(layout.contains("no zygote runs Bash"), "{layout}");
        assert_eq!(said, "42\n");
    }
    let (_dir, venv) = environment();
    let choice = ImageChoice {
        venv: Some(venv),
        ..host
    };
    ready();
    let (layout, guest, said) = ran("import mine; print(mine.x)", on(Language::Python, choice));
    assert!(layout.contains("another system"), "{layout}");
    assert!(guest.contains("venv"), "{guest}");
    assert_eq!(said, "42\n");
}

/// An image among the user's own, where a server finds it; taken away again.
struct Imported(String);

impl Imported {
    fn new() -> Self {
        let name = format!("of-a-test-{}", std::process::id());
        let archive = archive().to_str().unwrap();
        let output = casemate()
            .args(["image", "import", &name, archive])
            .output();
        let output = output.unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        Self(name)
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        casemate().args(["image", "rm", &self.0]).output().ok();
    }
}

#[test]
fn a_template_is_of_the_image_it_was_given() {
    if !rustix_is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "only root has sandboxes that live on"
        );
        eprintln!("skipped: only root has sandboxes that live on");
        return;
    }
    let image = Imported::new();
    let templates = [format!("base=jail:{}", image.0), "plain=jail".to_owned()];
    let [base, plain] = templates.each_ref().map(String::as_str);
    let server = served::start(&["--template", base, "--template", plain]);
    let listed = server.get("/templates").json();
    let told = listed.as_array().unwrap().iter();
    let told = told
        .map(|one| ["templateID", "backend", "image"].map(|field| one[field].as_str().unwrap()));
    let told: Vec<[&str; 3]> = told.collect();
    assert_eq!(
        told,
        [
            ["base", "jail", image.0.as_str()],
            ["code-interpreter-v1", "jail", "host"],
            ["plain", "jail", "host"]
        ]
    );
    let looked = |template: &str| {
        let made = server.post("/v1/sandboxes", &serde_json::json!({"template": template}));
        assert_eq!(made.status, 201, "{}", made.json());
        let place = made.json()["href"].as_str().unwrap().to_owned();
        let line = serde_json::json!({"command": "test -e /usr/bin/env && echo env; cd && echo >x && pwd"});
        let said = server.post(&format!("{place}/commands"), &line).json();
        let receipt = server.get(&format!("{place}/receipt")).json();
        let guest = receipt["receipt"]["guest"].as_str().unwrap().to_owned();
        (place, said["stdout"].as_str().unwrap().to_owned(), guest)
    };
    let (place, said, guest) = looked("base");
    assert_eq!(said, "/home/user\n");
    assert!(
        guest.starts_with(&format!("image {} (", image.0)),
        "{guest}"
    );
    // An image without IPython has no contexts, and says what it lacks.
    let cell = serde_json::json!({"code": "1 + 1"});
    let answer = server.post(&format!("{place}/cells"), &cell);
    let text = answer.json().to_string();
    assert!(text.contains("IPython"), "{} {text}", answer.status);
    let (_, said, guest) = looked("plain");
    assert_eq!(said, "env\n/home/user\n");
    assert!(!guest.contains("image"), "{guest}");
}

#[test]
fn a_server_with_a_template_it_cannot_have_does_not_start() {
    let data = served::folder();
    for (template, why) in [
        ("x=jail:none-of-this-name", "none-of-this-name"),
        ("x=nowhere", "none of them"),
        ("x", "NAME=BACKEND"),
    ] {
        let mut command = casemate();
        command.args(["serve", "--listen", "127.0.0.1:0", "--template", template]);
        let output = command.arg("--data-dir").arg(data.path()).output().unwrap();
        assert_ne!(code(&output), 0);
        assert!(
            stderr(&output).contains(why),
            "{template}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_receipt_names_the_image_by_its_digest() {
    let args = [
        "run",
        "--json",
        "--policy",
        "native",
        "--backend",
        "jail",
        "--image",
        "small",
        "-c",
        "print(6 * 7)",
    ];
    let output = in_cache(cache(), &args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let outcome: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let listed = stdout(&in_cache(cache(), &["image", "ls", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let digest = listed["images"][0]["image"]["digest"].as_str().unwrap();
    let guest = outcome["receipt"]["guest"].as_str().unwrap();
    assert!(
        guest.starts_with(&format!("image small ({digest})")),
        "{guest}"
    );
}

/// An image gives nobody a right that the program does not have: no set-user-id bit, no device, nothing to write.
#[test]
fn an_image_gives_no_rights() {
    let program = "import os\n\
        bad = []\n\
        for folder, _, names in os.walk('/usr'):\n\
        \x20   for name in names:\n\
        \x20       mode = os.lstat(os.path.join(folder, name)).st_mode\n\
        \x20       bad += [name] if mode & 0o7000 or (mode >> 12) in (2, 6) else []\n\
        flags = [os.statvfs(at).f_flag & 7 for at in ('/usr', '/lib', '/lib64', '/')]\n\
        print(bad, flags, os.path.exists('/dev/mem'), os.path.exists('/home'), os.path.exists('/usr/local/bin'))\n";
    // Screening would refuse it: here the walls are asked.
    let args = [
        "run",
        "-q",
        "--policy",
        "native",
        "--screen",
        "off",
        "--backend",
        "jail",
        "--image",
        "small",
        "-c",
        program,
    ];
    let output = in_cache(cache(), &args);
    // Read-only, no set-user-id, no devices.
    assert_eq!(
        stdout(&output),
        "[] [7, 7, 7, 7] False False False\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn containers_take_the_same_image() {
    for backend in ["crun", "runc", "gvisor"] {
        let output = ran(backend, "a.py", "print(6 * 7)");
        let why = stderr(&output);
        if code(&output) == 126 && why.contains("there is no") && std::env::var_os("CI").is_none() {
            eprintln!("skipped: {why}");
            continue;
        }
        assert_eq!(stdout(&output).trim(), "42", "{backend}: {why}");
        let output = ran(
            backend,
            "a.sh",
            "read -r x < /etc/hostname; echo \"$((6 * 7))$x\"",
        );
        assert_eq!(
            stdout(&output).trim(),
            "42",
            "{backend}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn what_takes_no_image_says_so() {
    for (backend, part) in [
        ("wasm", "its guest is its own"),
        ("docker", "take no image"),
    ] {
        let output = ran(backend, "a.py", "print(1)");
        let why = stderr(&output);
        assert_eq!(code(&output), 126, "{backend}: {why}");
        // Without a daemon that is the reason, and it is one too.
        let reason = why.contains(part) || backend == "docker" && why.contains("daemon");
        assert!(reason, "{backend}: {why}");
    }
    let output = ran("jail", "a.js", "console.log(1)");
    assert!(stderr(&output).contains("no node"), "{}", stderr(&output));
    let args = [
        "run",
        "--attacked",
        "--policy",
        "native",
        "--image",
        "small",
        "-c",
        "1",
    ];
    let output = in_cache(cache(), &args);
    assert_eq!(code(&output), 126);
    assert!(
        stderr(&output).contains("not on an image"),
        "{}",
        stderr(&output)
    );
}

/// An archive of one entry, written as no library would write it.
fn archive_of(member: &str, kind: EntryType, target: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..member.len()].copy_from_slice(member.as_bytes());
    gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([0; 1024]);
    bytes
}

/// 64 MiB of zeros, packed.
fn bomb() -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = Header::new_gnu();
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_path("bomb").unwrap();
    header.set_cksum();
    packed.write_all(header.as_bytes()).unwrap();
    packed.write_all(&vec![0; 64 << 20]).unwrap();
    packed.finish().unwrap()
}

#[test]
fn bad_names_and_archives_are_told_with_a_way_out_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let hostile = |name: &str, member: &str, kind: EntryType, target: &str| {
        fs::write(dir.path().join(name), archive_of(member, kind, target)).unwrap();
        at(name)
    };
    fs::write(dir.path().join("none.tar"), "this is no archive").unwrap();
    fs::write(dir.path().join("a.zst"), [0x28, 0xb5, 0x2f, 0xfd, 0]).unwrap();
    fs::write(dir.path().join("bomb.tgz"), bomb()).unwrap();
    let import = |archive: &str| {
        let args = ["image", "import", "bad", archive, "--max-size", "32m"];
        in_cache(dir.path(), &args)
    };
    for (archive, part) in [
        (at("missing.tar"), "No such file"),
        (at(""), "not a file"),
        (at("none.tar"), "not a whole tar archive"),
        (at("a.zst"), "zstd -d"),
        (at("bomb.tgz"), "--max-size"),
        (
            hostile("abs.tar", "/etc/x", EntryType::Regular, ""),
            "absolute",
        ),
        (hostile("up.tar", "../x", EntryType::Regular, ""), "`..`"),
        (
            hostile("hard.tar", "x", EntryType::Link, "/etc/passwd"),
            "absolute",
        ),
        (
            hostile("empty.tar", "x", EntryType::Symlink, "/"),
            "no python3",
        ),
        (
            hostile("saved.tar", "manifest.json", EntryType::Regular, ""),
            "docker export",
        ),
    ] {
        let output = import(&archive);
        let why = stderr(&output);
        assert_eq!(code(&output), 125, "{archive}: {why}");
        assert!(why.contains(part), "{archive}: {why}");
    }
    let left = fs::read_dir(dir.path().join("images")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(
        left.iter().all(|name| name == ".lock" || name == ".stages"),
        "{left:?}"
    );
    for (args, part) in [
        (&["image", "rm", "none"][..], "there is no image none"),
        (&["image", "rm", "../x"], "cannot be the name"),
        (
            &["image", "import", "host", "x.tar"],
            "the machine's own system",
        ),
        (&["image", "build", "mine"], "--packages"),
        (&["image", "build", "mine", "--packages", "./x"], "its name"),
        (
            &[
                "image",
                "build",
                "mine",
                "--packages",
                "none",
                "--debian",
                "--x",
            ],
            "--x",
        ),
        (
            &["run", "--image", "none", "-c", "1"],
            "there is no image none",
        ),
        (
            &["run", "--image", "x", "--venv", "/v", "-c", "1"],
            "--venv",
        ),
        (
            &[
                "run",
                "--venv",
                "/nonexistent",
                "--policy",
                "native",
                "-c",
                "1",
            ],
            "--venv",
        ),
    ] {
        let output = in_cache(dir.path(), args);
        assert!([125, 126].contains(&code(&output)), "{args:?}");
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn images_are_listed_replaced_damaged_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir_all(&images).unwrap();
    // The driver as it was fetched for the other tests.
    copy(&cache().join("images/.stages"), &images.join(".stages"));
    own(dir.path());
    let archive = archive().to_str().unwrap();
    let import = ["image", "import", "one", archive];
    assert_eq!(code(&in_cache(dir.path(), &import)), 0);
    let again = in_cache(dir.path(), &import);
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
    let forced = [&import[..], &["--force"]].concat();
    assert_eq!(code(&in_cache(dir.path(), &forced)), 0);
    let listed = stdout(&in_cache(dir.path(), &["image", "ls", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["images"][0]["name"], "one");
    assert_eq!(listed["images"][0]["usable"], true);
    assert_eq!(code(&in_cache(dir.path(), &["image", "verify", "one"])), 0);
    let library = images.join("one/root/usr/bin/bash");
    fs::write(library, "changed").unwrap();
    let verify = in_cache(dir.path(), &["image", "verify", "one"]);
    assert!(stderr(&verify).contains("changed"), "{}", stderr(&verify));
    let refused = |what: &str| {
        let run = ["run", "--policy", "native", "--image", "one", "-c", "1"];
        let run = in_cache(dir.path(), &run);
        assert_eq!((code(&run), stdout(&run)), (125, String::new()), "{what}");
        let why = stderr(&run);
        assert!(why.contains("casemate image rm one"), "{what}: {why}");
    };
    let root = images.join("one/root");
    fs::rename(&root, images.join("one/away")).unwrap();
    refused("its tree is gone");
    std::os::unix::fs::symlink("/", &root).unwrap();
    refused("its tree leads elsewhere");
    fs::remove_file(&root).unwrap();
    fs::rename(images.join("one/away"), &root).unwrap();
    let mode = |mode| fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    refused("others can write it");
    mode(0o755);
    let driver = fs::read_dir(images.join("one")).unwrap().flatten();
    let is_driver = |name: &std::ffi::OsStr| name.to_str().unwrap().starts_with("opt-");
    let driver = driver.map(|entry| entry.path());
    let driver = driver.filter(|path| is_driver(path.file_name().unwrap()));
    let driver = driver.collect::<Vec<_>>().pop().unwrap();
    fs::rename(&driver, images.join("one/away")).unwrap();
    refused("its driver is gone");
    fs::rename(images.join("one/away"), &driver).unwrap();
    fs::write(images.join("one/image.json"), "{}").unwrap();
    refused("its description says nothing");
    let listed = stdout(&in_cache(dir.path(), &["image", "ls"]));
    assert!(listed.contains("cannot be used"), "{listed}");
    assert_eq!(code(&in_cache(dir.path(), &["image", "rm", "one"])), 0);
    assert!(!images.join("one").exists());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let new = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &new),
            false => drop(fs::copy(entry.path(), new).unwrap()),
        }
    }
}

fn own(folder: &Path) {
    for path in [
        folder.to_owned(),
        folder.join("images"),
        folder.join("images/.stages"),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// Runs with the packages that are set up for the jail.
fn on_the_host(backend: &str, name: &str, program: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, program).unwrap();
    outcome(&[
        "--policy",
        "native",
        "--backend",
        backend,
        path.to_str().unwrap(),
        "--",
        "a b",
    ])
}

#[test]
fn bash_is_analysed_and_javascript_is_said_not_to_be_on_the_machines_own_system() {
    for backend in ["jail", "crun"] {
        let outcome = on_the_host(
            backend,
            "a.sh",
            "echo \"$1\"; wc -c < /dev/null > n; exit 4\n",
        );
        assert_eq!(outcome["stdout"], "a b\n", "{outcome}");
        assert_eq!(outcome["exit_code"], 4, "{outcome}");
        let findings = outcome["screening"]["findings"].as_array().unwrap();
        let rules: Vec<&str> = findings
            .iter()
            .filter_map(|finding| finding["rule"].as_str())
            .collect();
        assert!(!rules.contains(&"not-analysed"), "{rules:?}");
        assert!(rules.contains(&"process"), "{rules:?}");
        if !Path::new("/usr/bin/node").exists() {
            assert!(std::env::var_os("CI").is_none(), "there is no node");
            eprintln!("skipped: there is no node");
            continue;
        }
        let program = "console.log(process.argv[2], 6 * 7); process.exit(5)";
        let outcome = on_the_host(backend, "a.js", program);
        assert_eq!(outcome["stdout"], "a b 42\n", "{outcome}");
        assert_eq!(outcome["exit_code"], 5, "{outcome}");
        assert_eq!(outcome["screening"]["findings"][0]["rule"], "not-analysed");
    }
}

/// A virtual environment with a module of its own in it.
#[expect(clippy::disallowed_methods, reason = "a user makes an environment so")]
fn environment() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let venv = dir.path().join("venv");
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let library = fs::read_dir(venv.join("lib"))
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    fs::write(library.path().join("site-packages/mine.py"), "x = 42\n").unwrap();
    (dir, venv)
}

#[test]
fn a_virtual_environment_is_shown_beside_the_machines_own() {
    let (_dir, venv) = environment();
    let code = "import mine; print(mine.x, mine.__file__)";
    let venv = venv.to_str().unwrap();
    let args = [
        "--policy",
        "native",
        "--backend",
        "jail",
        "--venv",
        venv,
        "-c",
        code,
    ];
    let outcome = outcome(&args);
    assert_eq!(outcome["stdout"], "42 /opt/venv/mine.py\n", "{outcome}");
}

/// The smallest image that is built: its stages are kept in the user's cache, so that this takes minutes once.
#[test]
fn an_image_is_built_of_debian_and_of_packages() {
    let root = rustix_is_root();
    if !root || !Path::new("/usr/bin/mmdebstrap").exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "it takes root and mmdebstrap"
        );
        eprintln!("skipped: it takes root and mmdebstrap");
        return;
    }
    let cache = casemate_backend::setup::cache_root()
        .unwrap()
        .join("test-images");
    let args = [
        "image",
        "build",
        "tiny",
        "--packages",
        "six==1.17.0",
        "--force",
    ];
    let output = in_cache(&cache, &args);
    let said = stdout(&output);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        said.contains("six 1.17.0") && said.contains("Debian"),
        "{said}"
    );
    let code = "import six, sys; print(six.__version__, six.__file__)";
    let run = [
        "run",
        "-q",
        "--policy",
        "native",
        "--backend",
        "jail",
        "--image",
        "tiny",
        "-c",
        code,
    ];
    let output = in_cache(&cache, &run);
    let said = stdout(&output);
    assert!(
        said.starts_with("1.17.0 /usr/local/lib/python3"),
        "{said}{}",
        stderr(&output)
    );
    let begun = std::time::Instant::now();
    let again = in_cache(&cache, &args);
    assert!(
        stderr(&again).contains("from an earlier build"),
        "{}",
        stderr(&again)
    );
    assert!(
        begun.elapsed().as_secs() < 120,
        "finished stages are taken up"
    );
}

fn rustix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}
