//! Images out of a registry: Debian's own, on this machine, with layers that are well made and layers that are not.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use tar::{Builder, EntryType, Header};

use super::support::{code, stderr, stdout};
use super::{archive, archive_of, bomb, cache, copy, in_cache, own};

const PROGRAM: &str = "/usr/bin/docker-registry";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// An address at which nobody listens.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A registry with nothing in it; it ends with this.
struct Registry {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// None: there is no such program, which is said.
    #[expect(clippy::disallowed_methods, reason = "the distribution's own registry")]
    fn start() -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            assert!(std::env::var_os("CI").is_none(), "there is no {PROGRAM}");
            eprintln!("skipped: there is no {PROGRAM}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = free_address();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            child,
            address,
            dir,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(registry)
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Puts an image there; `change` has the last word on its manifest. Gives the manifest's digest.
    fn push(
        &self,
        image: &str,
        config: &str,
        layers: Vec<ImageLayer>,
        change: impl FnOnce(&mut OciImageManifest),
    ) -> String {
        // Once a process; who comes second finds the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let reference: Reference = self.name(image).parse().unwrap();
        let client = Client::new(ClientConfig {
            protocol: ClientProtocol::Http,
            ..ClientConfig::default()
        });
        let config = Config::oci_v1(config.as_bytes().to_vec(), None);
        let auth = RegistryAuth::Anonymous;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            client
                .push(&reference, &layers, config.clone(), &auth, None)
                .await
                .unwrap();
            let mut manifest = OciImageManifest::build(&layers, &config, None);
            change(&mut manifest);
            client
                .push_manifest(&reference, &manifest.into())
                .await
                .unwrap();
            client
                .fetch_manifest_digest(&reference, &auth)
                .await
                .unwrap()
        })
    }

    /// The file in which it keeps a part.
    fn part(&self, digest: &str) -> PathBuf {
        let hash = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hash[..2]).join(hash).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin","GREETING=hello","LD_PRELOAD=/x.so"]},
    "rootfs":{"type":"layers","diff_ids":[]}}"#;

fn layer(data: Vec<u8>, kind: &str) -> ImageLayer {
    ImageLayer::new(data, kind.to_owned(), None)
}

/// The small system, and a layer that adds a file and takes another away.
fn system() -> Vec<ImageLayer> {
    let whole = fs::read(archive()).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &whole).unwrap();
    let mut upper = Builder::new(Vec::new());
    for (name, text) in [
        ("usr/share/added", "added"),
        ("usr/lib/python3.11/.wh.this.py", ""),
    ] {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        upper
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    vec![
        layer(packed.finish().unwrap(), GZIP),
        layer(upper.into_inner().unwrap(), PLAIN),
    ]
}

/// A folder for images whose driver is there already.
fn own_cache() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("images")).unwrap();
    copy(
        &cache().join("images/.stages"),
        &dir.path().join("images/.stages"),
    );
    own(dir.path());
    dir
}

fn pull(cache: &Path, reference: &str, more: &[&str]) -> Output {
    in_cache(cache, &[&["image", "pull", reference], more].concat())
}

#[test]
fn an_image_is_pulled_and_its_programs_run() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let digest = registry.push("team/small:2.0", CONFIG, system(), |_| {});
    let dir = own_cache();
    let output = pull(dir.path(), &registry.name("team/small:2.0"), &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("small-2.0: ") && said.contains(&digest),
        "{said}"
    );
    let program = "import os\nprint(os.environ['GREETING'], 'LD_PRELOAD' in os.environ, os.path.exists('/usr/share/added'))\n\
        try:\n    import this\nexcept ImportError:\n    print('taken away')\n";
    let run = [
        "run",
        "-q",
        "--policy",
        "native",
        "--screen",
        "off",
        "--image",
        "small-2.0",
        "-c",
        program,
    ];
    let output = in_cache(dir.path(), &run);
    assert_eq!(
        stdout(&output),
        "hello False True\ntaken away\n",
        "{}",
        stderr(&output)
    );
    let kept: Vec<_> = fs::read_dir(dir.path().join("images/.stages"))
        .unwrap()
        .flatten()
        .collect();
    assert!(
        kept.iter()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with("layer-")),
        "{kept:?}"
    );
    // By digest, which only what it stands for has.
    let by_digest = format!("{}@{digest}", registry.name("team/small"));
    let output = pull(dir.path(), &by_digest, &["--name", "again"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let other = format!("{}@sha256:{}", registry.name("team/small"), "0".repeat(64));
    let output = pull(dir.path(), &other, &["--name", "other"]);
    assert_eq!(code(&output), 125);
    assert!(
        stderr(&output).contains("no such image"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_was_fetched_whole_is_not_fetched_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layers = system();
    let [base, upper] = [&layers[0], &layers[1]].map(|layer| registry.part(&layer.sha256_digest()));
    registry.push("small:1", CONFIG, layers, |_| {});
    let whole = fs::read(&upper).unwrap();
    let mut altered = whole.clone();
    altered[0] ^= 1;
    fs::write(&upper, altered).unwrap();
    let dir = own_cache();
    let name = registry.name("small:1");
    let output = pull(dir.path(), &name, &[]);
    let why = stderr(&output);
    assert_eq!(code(&output), 125, "{why}");
    assert!(why.contains("sends something else"), "{why}");
    // Nothing of an image is there, and the first layer is.
    assert!(!dir.path().join("images/small-1").exists());
    fs::write(&upper, whole).unwrap();
    fs::write(&base, "gone").unwrap();
    let output = pull(dir.path(), &name, &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn hostile_images_are_refused_and_leave_nothing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let entry = |name: &str, kind, target: &str| layer(archive_of(name, kind, target), PLAIN);
    let one = || vec![entry("x", EntryType::Symlink, "/")];
    let dir = own_cache();
    let refused = |what: &str,
                   layers: Vec<ImageLayer>,
                   config: &str,
                   change: &dyn Fn(&mut OciImageManifest),
                   part: &str| {
        let image = format!("bad:{what}");
        registry.push(&image, config, layers, change);
        let output = pull(dir.path(), &registry.name(&image), &["--max-size", "32m"]);
        let why = stderr(&output);
        assert_eq!(code(&output), 125, "{what}: {why}");
        assert!(why.contains(part), "{what}: {why}");
    };
    let same = |_: &mut OciImageManifest| {};
    refused(
        "up",
        vec![entry("../x", EntryType::Regular, "")],
        CONFIG,
        &same,
        "`..`",
    );
    refused(
        "absolute",
        vec![entry("/etc/x", EntryType::Regular, "")],
        CONFIG,
        &same,
        "absolute",
    );
    refused(
        "hard",
        vec![entry("x", EntryType::Link, "../etc/passwd")],
        CONFIG,
        &same,
        "`..`",
    );
    refused(
        "whiteout",
        vec![entry("../.wh.x", EntryType::Regular, "")],
        CONFIG,
        &same,
        "`..`",
    );
    refused(
        "bomb",
        vec![layer(bomb(), GZIP)],
        CONFIG,
        &same,
        "--max-size",
    );
    refused(
        "words",
        vec![layer(b"this is no archive".to_vec(), PLAIN)],
        CONFIG,
        &same,
        "not a whole tar archive",
    );
    refused(
        "zstd",
        vec![layer(vec![0x28, 0xb5, 0x2f, 0xfd, 0], PLAIN)],
        CONFIG,
        &same,
        "zstd -d",
    );
    refused(
        "kind",
        one(),
        CONFIG,
        &|m| m.layers[0].media_type = "application/x-evil".to_owned(),
        "is of the kind",
    );
    refused(
        "short",
        one(),
        CONFIG,
        &|m| m.layers[0].size = 10,
        "more than the 10 bytes",
    );
    refused(
        "below",
        one(),
        CONFIG,
        &|m| m.layers[0].size = -1,
        "has the size -1",
    );
    refused(
        "huge",
        one(),
        CONFIG,
        &|m| m.layers[0].size = i64::MAX,
        "--max-size",
    );
    refused(
        "many",
        one(),
        CONFIG,
        &|m| m.layers = vec![m.layers[0].clone(); 200],
        "200 layers",
    );
    refused("none", one(), CONFIG, &|m| m.layers.clear(), "0 layers");
    refused("config", one(), "{", &same, "its configuration");
    refused(
        "large",
        one(),
        CONFIG,
        &|m| m.config.size = 2 << 20,
        "more than 1048576 bytes",
    );
    // The bound is for all layers together.
    let filled = |byte: u8| {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(20 << 20);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("f{byte}"), &vec![byte; 20 << 20][..])
            .unwrap();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &builder.into_inner().unwrap()).unwrap();
        layer(packed.finish().unwrap(), GZIP)
    };
    refused(
        "sum",
        vec![filled(1), filled(2)],
        CONFIG,
        &same,
        "--max-size",
    );
    let left: Vec<_> = fs::read_dir(dir.path().join("images"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter().all(|name| name == ".lock" || name == ".stages"),
        "{left:?}"
    );
}

#[test]
fn a_registry_that_does_not_answer_is_told_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = free_address();
    for (reference, part) in [
        (format!("{nobody}/x:1"), "can be reached"),
        ("not a name".to_owned(), "docker pull"),
        ("UPPER".to_owned(), "docker pull"),
    ] {
        let output = pull(dir.path(), &reference, &[]);
        let why = stderr(&output);
        assert_eq!(code(&output), 125, "{reference}: {why}");
        assert!(why.contains(part), "{reference}: {why}");
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let output = pull(dir.path(), &registry.name("nobody/there:1"), &[]);
    assert!(
        stderr(&output).contains("check the name and the tag"),
        "{}",
        stderr(&output)
    );
}
