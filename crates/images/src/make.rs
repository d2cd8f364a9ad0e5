//! Making an image: unpacked or built in a folder beside the others, looked through, tried in a sandbox, and
//! only then given its name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use casemate_backend::setup::{Progress, Unit};
use casemate_linux::file::Tree;
use casemate_model::job::Language;
use sha2::{Digest, Sha256};

use crate::digest::{self, hex};
use crate::image::{FORMAT, interpreters};
use crate::store::{ROOT, remove_tree};
use crate::unpack::{Bounds, Form, Unpacked, Unpacker};
use crate::{ImageError, ImageFile, ImageName, Images, Package, Prepared, Python, Source, pack};

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts an interpreter of a system in a sandbox: nothing of an image runs outside one.
pub trait Trial {
    /// Runs a program in the language and gives what it printed.
    ///
    /// # Errors
    /// Why it did not run, in words.
    fn run(&self, prepared: &Prepared, language: Language, program: &str)
    -> Result<String, String>;
}

/// What images are made with.
pub struct Maker<'a> {
    /// Where they are kept.
    pub images: &'a Images,
    /// The program that is started to unpack: this one, unless a test says otherwise.
    pub program: &'a Path,
    /// Who tries them.
    pub trial: &'a dyn Trial,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
    /// What unpacking may come to.
    pub bounds: Bounds,
    /// Whether an image of the same name is replaced.
    pub force: bool,
}

/// What the description of an image says beside what is found in it.
pub(crate) struct Made {
    pub(crate) source: Source,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) packages: Vec<Package>,
    pub(crate) request: Option<String>,
}

impl Maker<'_> {
    /// Makes an image from an archive of a whole system, such as `docker export` writes.
    ///
    /// # Errors
    /// What is wrong with the archive, or why it cannot be unpacked or used here.
    pub fn import(&self, name: &ImageName, archive: &Path) -> Result<ImageFile, ImageError> {
        self.check_free(name)?;
        let what = archive.display().to_string();
        let opened = |error| ImageError::io(format!("opening {what}"), error);
        let mut file = File::open(archive).map_err(opened)?;
        let meta = file.metadata().map_err(opened)?;
        if !meta.is_file() {
            return Err(ImageError::refused(
                &what,
                "it is not a file",
                "name a tar file; to read another program's output, write it to a file first",
            ));
        }
        let source = Source::Archive {
            file: archive
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            digest: self.hash(&mut file, meta.len(), &what)?,
        };
        self.in_staging(name, |staging| {
            self.unpack(&mut file, &staging.join(ROOT), &what)?;
            not_of_docker_save(&staging.join(ROOT), &what)?;
            let made = Made {
                source,
                env: BTreeMap::new(),
                packages: Vec::new(),
                request: None,
            };
            self.finish(name, staging, made, &what)
        })
    }

    /// That the name may be taken, before anything is done for it.
    pub(crate) fn check_free(&self, name: &ImageName) -> Result<(), ImageError> {
        if !self.force && fs::symlink_metadata(self.images.dir(name)).is_ok() {
            return Err(ImageError::Taken(name.to_string()));
        }
        Ok(())
    }

    /// Runs with the lock on making images and an empty folder, which goes when that fails.
    pub(crate) fn in_staging<T>(
        &self,
        name: &ImageName,
        act: impl FnOnce(&Path) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _lock = self.images.lock(self.progress)?;
        self.check_free(name)?;
        let staging = self.images.staging(name)?;
        let root = staging.join(ROOT);
        let failed = |error| ImageError::io(format!("making {}", root.display()), error);
        fs::create_dir(&root).map_err(failed)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let done = act(&staging);
        if done.is_err() {
            remove_tree(&staging)?;
        }
        done
    }

    fn hash(&self, file: &mut File, total: u64, what: &str) -> Result<String, ImageError> {
        self.progress
            .stage(&format!("reading {what}"), Some(total), Unit::Bytes);
        let failed = |error| ImageError::io(format!("reading {what}"), error);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut read = 0;
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else {
                break;
            };
            hash.update(part);
            read += count as u64;
            self.progress.at(read);
        }
        self.progress.done("");
        Ok(format!("sha256:{}", hex(&hash.finalize())))
    }

    /// Unpacks a whole archive below a folder.
    pub(crate) fn unpack(
        &self,
        archive: &mut File,
        root: &Path,
        what: &str,
    ) -> Result<(), ImageError> {
        let unpacked = self.unpack_layer(archive, root, what, false, self.bounds)?;
        if let Some(notes) = unpacked.notes() {
            self.progress.say(&notes);
        }
        Ok(())
    }

    /// Unpacks one archive within bounds of its own. `layer`: its names may take away what is there.
    pub(crate) fn unpack_layer(
        &self,
        archive: &mut File,
        root: &Path,
        what: &str,
        layer: bool,
        bounds: Bounds,
    ) -> Result<Unpacked, ImageError> {
        let failed = |error: io::Error| ImageError::io(format!("reading {what}"), error);
        archive.rewind().map_err(failed)?;
        let mut begin = Vec::new();
        archive.take(8).read_to_end(&mut begin).map_err(failed)?;
        archive.rewind().map_err(failed)?;
        let form = Form::of(&begin, what)?;
        self.progress
            .stage(&format!("unpacking {what}"), None, Unit::Bytes);
        let unpacker = Unpacker {
            program: self.program,
            bounds,
            free_bytes: self.images.free_bytes()?,
        };
        let folder = File::open(root).map_err(failed)?;
        let unpacked = unpacker.unpack(archive, &folder, (form, layer), what, self.progress)?;
        self.progress.done(&format!("{} entries", unpacked.entries));
        Ok(unpacked)
    }

    /// Looks a tree through, puts the driver beside it, tries it, and gives it its name.
    pub(crate) fn finish(
        &self,
        name: &ImageName,
        staging: &Path,
        made: Made,
        what: &str,
    ) -> Result<ImageFile, ImageError> {
        let root = staging.join(ROOT);
        let path = made.env.get("PATH").map_or(PATH, String::as_str);
        let (mut languages, python) = found(&root, path)?;
        pack::make(staging, &self.images.stages()?, python, self.progress)?;
        let version = self.try_out(name, staging, &mut languages, &made.env, what)?;
        self.progress
            .stage("reading what is in it", None, Unit::Bytes);
        let tree = digest::tree(&root, &mut |bytes| self.progress.at(bytes))
            .map_err(|error| ImageError::io(format!("reading {what}"), error))?;
        self.progress.done("");
        let python = languages.get(&Language::Python).cloned();
        let file = ImageFile {
            format: FORMAT,
            name: name.clone(),
            created: jiff::Timestamp::now().to_string(),
            source: made.source,
            digest: tree.digest,
            size_bytes: tree.size_bytes,
            entries: tree.entries,
            python: python.map(|path| Python { path, version }),
            languages,
            env: made.env,
            packages: made.packages,
            pack: pack::key(),
            request: made.request,
        };
        self.images.publish(staging, &file)?;
        Ok(file)
    }

    /// Starts each interpreter once in a sandbox; those that do not start are not the image's. Gives what its
    /// Python says its version is.
    fn try_out(
        &self,
        name: &ImageName,
        staging: &Path,
        languages: &mut BTreeMap<Language, String>,
        env: &BTreeMap<String, String>,
        what: &str,
    ) -> Result<String, ImageError> {
        self.progress
            .stage("starting its interpreters in a sandbox", None, Unit::None);
        let mut version = String::new();
        let mut failures = Vec::new();
        for language in languages.keys().copied().collect::<Vec<_>>() {
            let prepared = Prepared {
                described: format!("image {name}, which is being made"),
                root: staging.join(ROOT),
                packages: pack::folder(staging, &pack::key()),
                interpreters: interpreters(languages),
                env: env.clone().into_iter().collect(),
            };
            let program = match language {
                Language::Python => "import sys; print(sys.version.split()[0])",
                Language::JavaScript => "console.log(process.version)",
                _ => "echo \"$BASH_VERSION\"",
            };
            match self.trial.run(&prepared, language, program) {
                Ok(said) if language == Language::Python => version = said.trim().to_owned(),
                Ok(_) => {}
                Err(why) => {
                    languages.remove(&language);
                    failures.push(format!("{language}: {why}"));
                }
            }
        }
        self.progress.done("");
        if languages.is_empty() {
            let why = if failures.is_empty() {
                "it has no python3, bash or node".to_owned()
            } else {
                format!(
                    "none of its interpreters starts in a sandbox: {}",
                    failures.join("; ")
                )
            };
            return Err(ImageError::refused(
                what,
                why,
                "take a whole system for this machine's processor that has one of them",
            ));
        }
        for failure in failures {
            self.progress
                .say(&format!("left out, because it does not start: {failure}"));
        }
        Ok(version)
    }
}

/// Absolute paths of interpreters by language, and the version of the Python among them.
pub(crate) type Found = (BTreeMap<Language, String>, Option<(u32, u32)>);

/// The interpreters in a tree, by name, without starting one.
pub(crate) fn found(root: &Path, path: &str) -> Result<Found, ImageError> {
    let failed = |error| ImageError::io("looking for interpreters", error);
    let tree = Tree::new(OwnedFd::from(File::open(root).map_err(failed)?));
    let mut languages = BTreeMap::new();
    let mut version = None;
    for (language, program) in [
        (Language::Python, "python3"),
        (Language::Bash, "bash"),
        (Language::JavaScript, "node"),
    ] {
        let there = path
            .split(':')
            .filter(|folder| folder.starts_with('/'))
            .find_map(|folder| {
                let name = format!("{}/{program}", folder.trim_end_matches('/'));
                let relative = name.trim_start_matches('/');
                let (file, real) = tree.open_file(Path::new(relative)).ok()?;
                let mode = file.metadata().ok()?.permissions().mode();
                (mode & 0o111 != 0).then_some((name, real))
            });
        let Some((name, real)) = there else { continue };
        if language == Language::Python {
            version = version_of(&real);
            if version.is_none() {
                continue;
            }
        }
        languages.insert(language, name);
    }
    Ok((languages, version))
}

/// Every distribution names the file that `python3` leads to after its version.
fn version_of(program: &Path) -> Option<(u32, u32)> {
    let name = program.file_name()?.to_str()?.strip_prefix("python")?;
    let (major, minor) = name.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `docker save` writes layers, not a system.
fn not_of_docker_save(root: &Path, what: &str) -> Result<(), ImageError> {
    let there = |name: &str| fs::symlink_metadata(root.join(name)).is_ok();
    let layers = there("manifest.json") || there("oci-layout");
    if layers && !there("usr") && !there("bin") {
        return Err(ImageError::refused(
            what,
            "it holds layers of an image, not a system: `docker save` writes that",
            "make a container of the image and take `docker export CONTAINER > FILE.tar`",
        ));
    }
    Ok(())
}

/// A file's path in the folder of stages.
pub(crate) fn stage(stages: &Path, kind: &str, parts: &[&str]) -> PathBuf {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    stages.join(format!("{kind}-{}", hex(&hash.finalize()[..12])))
}
