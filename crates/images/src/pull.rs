//! Pulling an image from a registry: its manifest, its configuration and its layers, each as large as the manifest
//! says and with the digest it says, unpacked one over the other. What was fetched whole is kept until the image is made.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use casemate_backend::setup::Unit;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::config::ConfigFile;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use tokio::io::AsyncWrite;

use crate::make::{Made, stage};
use crate::store::{ROOT, remove_tree};
use crate::unpack::{Bounds, Unpacked};
use crate::{ImageError, ImageFile, ImageName, Maker, Source};

/// Layers of an image.
const LAYERS_MOST: usize = 128;
/// Bytes of an image's configuration.
const CONFIG_MOST: u64 = 1 << 20;
/// Variables that an image brings, and bytes of one.
const VARIABLES_MOST: usize = 64;
const VARIABLE_MOST: usize = 4 << 10;
/// How long a registry may take to be reached, and to go on sending.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
const SENDS_WITHIN: Duration = Duration::from_secs(60);

/// The name of an image in a registry, such as `python:3.13-slim` or `registry.example/team/image@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(oci_client::Reference);

impl Reference {
    /// Reads one as `docker pull` takes it.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(text: &str) -> Result<Self, ImageError> {
        oci_client::Reference::from_str(text)
            .map(Self)
            .map_err(|error| {
                ImageError::refused(
                    text,
                    format!("it is not the name of an image in a registry: {error}"),
                    "write it as for `docker pull`: REPOSITORY:TAG, HOST/REPOSITORY:TAG, or with @sha256:DIGEST",
                )
            })
    }

    /// What the image is called here unless somebody says otherwise: the last part of its name and, where that says
    /// more, its tag.
    ///
    /// # Errors
    /// When that cannot be a name.
    pub fn name(&self) -> Result<ImageName, ImageError> {
        let last = self.0.repository().rsplit('/').next().unwrap_or_default();
        match self.0.tag() {
            Some(tag) if tag != "latest" => {
                ImageName::new(&format!("{last}-{}", tag.to_ascii_lowercase()))
            }
            _ => ImageName::new(last),
        }
    }

    /// Whether the registry is on this machine, where nobody listens in between and certificates are rare.
    fn is_loopback(&self) -> bool {
        let registry = self.0.resolve_registry();
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Maker<'_> {
    /// Makes an image from one in a registry, for this machine's kind of processor. `docker login` says who asks.
    ///
    /// # Errors
    /// What the registry said, what of the image is not taken, or why it cannot be used here.
    pub fn pull(&self, name: &ImageName, reference: &Reference) -> Result<ImageFile, ImageError> {
        self.check_free(name)?;
        let what = reference.to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ImageError::io("starting to pull", error))?;
        self.in_staging(name, |staging| {
            let stages = self.images.stages()?;
            let pulled = runtime.block_on(self.fetch(reference, &stages, &what))?;
            let unpacked = self.unpack_layers(&pulled, &staging.join(ROOT), &what)?;
            if let Some(notes) = unpacked.notes() {
                self.progress.say(&notes);
            }
            let made = Made {
                source: Source::Registry {
                    reference: what.clone(),
                    digest: pulled.digest.clone(),
                },
                env: variables(&pulled.config),
                packages: Vec::new(),
                request: None,
            };
            let file = self.finish(name, staging, made, &what)?;
            for layer in &pulled.layers {
                remove_tree(layer)?;
            }
            Ok(file)
        })
    }

    /// Everything the image is made of, as files.
    async fn fetch(
        &self,
        reference: &Reference,
        stages: &Path,
        what: &str,
    ) -> Result<Pulled, ImageError> {
        let client = client(reference)?;
        let auth = login(reference.0.resolve_registry(), what)?;
        let told = |error| told(error, what);
        self.progress
            .stage(&format!("asking for {what}"), None, Unit::None);
        let asked = client.pull_image_manifest(&reference.0, &auth).await;
        let (manifest, digest) = asked.map_err(told)?;
        self.progress.done("");
        let total = check(&manifest, self.bounds, what)?;
        let mut config = Vec::new();
        let bounded = Bounded::new(&mut config, size(&manifest.config, what)?, |_| {});
        let fetched = client.pull_blob(&reference.0, &manifest.config, bounded);
        fetched.await.map_err(told)?;
        let config = serde_json::from_slice(&config).map_err(|error| {
            ImageError::refused(what, format!("its configuration: {error}"), OTHER_TOOL)
        })?;
        let free = self.images.free_bytes()?;
        if total > free {
            return Err(ImageError::refused(
                what,
                format!("its layers have {total} bytes, and {free} are free"),
                "free some space, or name another folder with CASEMATE_CACHE",
            ));
        }
        self.progress
            .stage(&format!("fetching {what}"), Some(total), Unit::Bytes);
        let mut before = 0;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let size = size(layer, what)?;
            let finished = stage(stages, "layer", &[&layer.digest]).with_extension("tar");
            if !finished.is_file() {
                let part = finished.with_extension("part.tar");
                remove_tree(&part)?;
                let failed = |error| ImageError::io(format!("writing {}", part.display()), error);
                let mut file = tokio::fs::File::create(&part).await.map_err(failed)?;
                let bounded = Bounded::new(&mut file, size, |at| self.progress.at(before + at));
                let fetched = client.pull_blob(&reference.0, layer, bounded).await;
                fetched.map_err(told)?;
                file.sync_all().await.map_err(failed)?;
                fs::rename(&part, &finished).map_err(failed)?;
            }
            before += size;
            self.progress.at(before);
            layers.push(finished);
        }
        self.progress.done(&format!("{} layers", layers.len()));
        Ok(Pulled {
            digest,
            config,
            layers,
        })
    }

    /// Every layer over those before it; the bounds are those of all together.
    fn unpack_layers(
        &self,
        pulled: &Pulled,
        root: &Path,
        what: &str,
    ) -> Result<Unpacked, ImageError> {
        let mut all = Unpacked::default();
        let count = pulled.layers.len();
        for (index, layer) in pulled.layers.iter().enumerate() {
            let named = format!("layer {} of {count} of {what}", index + 1);
            let mut file = File::open(layer)
                .map_err(|error| ImageError::io(format!("opening {named}"), error))?;
            let left = Bounds {
                bytes: self.bounds.bytes.saturating_sub(all.bytes),
                entries: self.bounds.entries.saturating_sub(all.entries),
            };
            all.add(self.unpack_layer(&mut file, root, &named, true, left)?);
        }
        Ok(all)
    }
}

/// What was fetched.
struct Pulled {
    /// Of the manifest.
    digest: String,
    config: ConfigFile,
    /// In the order in which they lie upon each other.
    layers: Vec<PathBuf>,
}

const OTHER_TOOL: &str = "build the image again with another tool, or take `docker export CONTAINER > FILE.tar` and `casemate image import`";

fn client(reference: &Reference) -> Result<Client, ImageError> {
    // Once a process; who comes second finds the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let protocol = if reference.is_loopback() {
        ClientProtocol::HttpsExcept(vec![reference.0.resolve_registry().to_owned()])
    } else {
        ClientProtocol::Https
    };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECTED_WITHIN),
        read_timeout: Some(SENDS_WITHIN),
        user_agent: concat!("casemate/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| told(error, &reference.to_string()))
}

/// Who asks, as `docker login` noted it; nobody, where it did not.
fn login(registry: &str, what: &str) -> Result<RegistryAuth, ImageError> {
    // Docker's own notes call its registry by this name.
    let noted = match registry {
        "index.docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    match docker_credential::get_credential(noted) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(ImageError::failed(
            format!("reading what `docker login` noted for {what}"),
            error.to_string(),
            format!(
                "`docker login {registry}` writes it anew, `docker logout {registry}` removes it"
            ),
        )),
    }
}

/// That the parts are of known kinds and within bounds; their bytes together.
fn check(manifest: &OciImageManifest, bounds: Bounds, what: &str) -> Result<u64, ImageError> {
    if size(&manifest.config, what)? > CONFIG_MOST {
        return Err(ImageError::refused(
            what,
            format!("its configuration has more than {CONFIG_MOST} bytes"),
            OTHER_TOOL,
        ));
    }
    if manifest.layers.is_empty() || manifest.layers.len() > LAYERS_MOST {
        return Err(ImageError::refused(
            what,
            format!(
                "it has {} layers; 1 to {LAYERS_MOST} are taken",
                manifest.layers.len()
            ),
            OTHER_TOOL,
        ));
    }
    let mut total = 0u64;
    for layer in &manifest.layers {
        // What other kinds there are is in other forms, or is not in the registry.
        if !layer.media_type.ends_with(".tar")
            && !layer.media_type.ends_with("tar+gzip")
            && !layer.media_type.ends_with(".tar.gzip")
        {
            return Err(ImageError::refused(
                what,
                format!("a layer is of the kind {:?}", layer.media_type),
                OTHER_TOOL,
            ));
        }
        total = total.saturating_add(size(layer, what)?);
    }
    if total > bounds.bytes {
        return Err(ImageError::refused(
            what,
            format!("its layers have {total} bytes, more than {}", bounds.bytes),
            "if it is meant to be that large, raise the bound with --max-size",
        ));
    }
    Ok(total)
}

fn size(part: &OciDescriptor, what: &str) -> Result<u64, ImageError> {
    u64::try_from(part.size).map_err(|_| {
        ImageError::refused(
            what,
            format!("a part has the size {}", part.size),
            OTHER_TOOL,
        )
    })
}

/// The variables an image brings. Those that steer the loader are left out: they are about the image's own
/// programs, and the first one here is our driver.
fn variables(config: &ConfigFile) -> BTreeMap<String, String> {
    let all = config
        .config
        .iter()
        .flat_map(|config| config.env.iter().flatten());
    all.filter(|variable| variable.len() <= VARIABLE_MOST && !variable.contains('\0'))
        .filter_map(|variable| variable.split_once('='))
        .filter(|(name, _)| !name.is_empty() && !name.starts_with("LD_"))
        .take(VARIABLES_MOST)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What a registry or the way to it said, with what to do.
fn told(error: OciDistributionError, what: &str) -> ImageError {
    let pulling = || format!("pulling {what}");
    match &error {
        OciDistributionError::IoError(cause) => {
            match cause.get_ref().and_then(|e| e.downcast_ref::<TooMuch>()) {
                Some(too_much) => ImageError::refused(
                    what,
                    too_much.to_string(),
                    "the registry, or somebody on the way to it, sends something else than the image: nothing of it was kept",
                ),
                None => ImageError::io(pulling(), io::Error::from(cause.kind())),
            }
        }
        OciDistributionError::DigestError(why) => ImageError::refused(
            what,
            why.to_string(),
            "the registry, or somebody on the way to it, sends something else than the image: nothing of it was kept",
        ),
        OciDistributionError::ImageManifestNotFoundError(_) => ImageError::failed(
            pulling(),
            error.to_string(),
            format!(
                "check the name and the tag; it must be there for linux/{}",
                std::env::consts::ARCH
            ),
        ),
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => ImageError::failed(
            pulling(),
            error.to_string(),
            "check the name; if it is private, `docker login` for its registry first",
        ),
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|one| {
                matches!(
                    one.code,
                    OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                )
            }) =>
        {
            ImageError::failed(
                pulling(),
                "the registry has no such image",
                "check the name and the tag",
            )
        }
        OciDistributionError::RequestError(cause) => ImageError::failed(
            pulling(),
            innermost(cause),
            "check that the registry can be reached from here, and over HTTPS unless it is on this machine; what was fetched whole is kept",
        ),
        other => ImageError::failed(
            pulling(),
            other.to_string(),
            "check the name, and that the registry can be reached",
        ),
    }
}

/// An error and the one below all of its causes.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last: Option<&dyn std::error::Error> = None;
    let mut next = error.source();
    while let Some(cause) = next {
        last = Some(cause);
        next = cause.source();
    }
    match last {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("more than the {0} bytes that its manifest says came for a part of it")]
struct TooMuch(u64);

/// What takes so many bytes and no more.
struct Bounded<W, F> {
    to: W,
    most: u64,
    taken: u64,
    at: F,
}

impl<W, F: FnMut(u64)> Bounded<W, F> {
    fn new(to: W, most: u64, at: F) -> Self {
        Self {
            to,
            most,
            taken: 0,
            at,
        }
    }
}

impl<W: AsyncWrite + Unpin, F: FnMut(u64) + Unpin> AsyncWrite for Bounded<W, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.taken + bytes.len() as u64 > self.most {
            return Poll::Ready(Err(io::Error::other(TooMuch(self.most))));
        }
        let written = std::task::ready!(Pin::new(&mut self.to).poll_write(context, bytes))?;
        self.taken += written as u64;
        let taken = self.taken;
        (self.at)(taken);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::new(text).unwrap()
    }

    #[test]
    fn a_reference_gives_a_name() {
        for (text, name) in [
            ("python", "python"),
            ("python:latest", "python"),
            ("python:3.13-slim", "python-3.13-slim"),
            ("ghcr.io/team/Tool:V1".to_lowercase().as_str(), "tool-v1"),
            ("localhost:5000/a/b:UP", "b-up"),
        ] {
            assert_eq!(reference(text).name().unwrap().as_str(), name, "{text}");
        }
        assert!(reference(&format!("a:{}", "x".repeat(80))).name().is_err());
        for text in ["", "A", "a b", "../x", "a:", "a@sha256:1"] {
            assert!(Reference::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_registry_on_this_machine_is_spoken_to_in_the_clear() {
        for text in [
            "localhost/x",
            "localhost:5000/x",
            "127.0.0.1:5000/x",
            "127.1.2.3:1/x",
        ] {
            assert!(reference(text).is_loopback(), "{text}");
        }
        for text in [
            "x",
            "localhost.example.com/x",
            "127.0.0.1.example.com/x",
            "10.0.0.1:5000/x",
        ] {
            assert!(!reference(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn an_image_brings_variables_but_none_for_the_loader() {
        let long = format!("LONG={}", "x".repeat(VARIABLE_MOST));
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
            "config": { "Env": ["A=1", "B=x=y", "=x", "C", "LD_PRELOAD=/x", "NUL=\u{0}", long] },
        });
        let found = variables(&serde_json::from_value(config).unwrap());
        let expected = [("A", "1"), ("B", "x=y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(found, expected.into());
    }
}
