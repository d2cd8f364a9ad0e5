//! The folder of images: the user's own, writable by nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use casemate_backend::setup::{Progress, cache_root};
use casemate_driver::packages::Opened;
use casemate_linux::file::{Untrusted, create_private, lock_alone, open_owned, room};

use crate::image::{FORMAT, Image, ImageFile};
use crate::{ImageError, ImageName, digest, pack};

/// The name of an image's description.
pub(crate) const FILE: &str = "image.json";
/// The tree of an image.
pub(crate) const ROOT: &str = "root";
/// Bytes of a description that are read.
const FILE_MAX: u64 = 4 << 20;
/// Folders that are no images begin with this.
const OURS: &str = ".";

/// The images of a user.
#[derive(Debug, Clone)]
pub struct Images {
    root: PathBuf,
}

/// One of them, usable or not.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: ImageName,
    /// What it is, or why it cannot be used.
    pub image: Result<ImageFile, ImageError>,
}

impl Images {
    /// Those in the user's cache.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn open() -> Result<Self, ImageError> {
        let cache = cache_root().map_err(|error| ImageError::Untrusted(error.to_string()))?;
        Ok(Self::at(&cache))
    }

    /// Those below a cache folder.
    #[must_use]
    pub fn at(cache: &Path) -> Self {
        Self {
            root: cache.join("images"),
        }
    }

    /// Where an image is, or would be.
    #[must_use]
    pub fn dir(&self, name: &ImageName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Opens an image that is complete and that nobody but this user can have made. As long as it is held
    /// its files stay, also when it is removed meanwhile.
    ///
    /// # Errors
    /// What is missing, damaged or not trusted, with the way out.
    pub fn get(&self, name: &ImageName) -> Result<Image, ImageError> {
        let file = self.file(name)?;
        let dir = self.dir(name);
        let open = |path: &Path| {
            Opened::open(path, false).map_err(|why| ImageError::Broken {
                name: name.to_string(),
                why,
                fix: again(name),
            })
        };
        let root = open(&dir.join(ROOT))?;
        // Whoever removes the files asks for the lock first.
        root.folder
            .lock_shared()
            .map_err(|error| ImageError::io(format!("locking {name}"), error))?;
        Ok(Image {
            packages: open(&pack::folder(&dir, &file.pack))?,
            root,
            file,
        })
    }

    /// What the description of an image says, once it fits this program.
    fn file(&self, name: &ImageName) -> Result<ImageFile, ImageError> {
        let broken = |why: String, fix: String| ImageError::Broken {
            name: name.to_string(),
            why,
            fix,
        };
        let file = self.read(name)?;
        if file.format != FORMAT || file.name != *name {
            let why = "its description is of another version, or of another image";
            return Err(broken(why.to_owned(), again(name)));
        }
        if file.pack != pack::key() {
            let why = "it was made for another version of casemate".to_owned();
            return Err(broken(
                why,
                format!(
                    "remove it with `casemate image rm {name}` and make it again; a build takes up its finished stages"
                ),
            ));
        }
        Ok(file)
    }

    /// What the description of an image says.
    pub(crate) fn read(&self, name: &ImageName) -> Result<ImageFile, ImageError> {
        let path = self.dir(name).join(FILE);
        let file = open_owned(&path).map_err(|error| {
            if error.is_not_found() && !self.dir(name).exists() {
                let known = self.names().unwrap_or_default();
                return ImageError::Missing {
                    name: name.to_string(),
                    known: known.iter().map(ToString::to_string).collect(),
                };
            }
            ImageError::Broken {
                name: name.to_string(),
                why: error.to_string(),
                fix: again(name),
            }
        })?;
        serde_json::from_reader(BufReader::new(file.take(FILE_MAX))).map_err(|error| {
            ImageError::Broken {
                name: name.to_string(),
                why: format!("{}: {error}", path.display()),
                fix: again(name),
            }
        })
    }

    /// All images, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let names = self.names()?;
        let listed = names.into_iter().map(|name| Listed {
            image: self.get(&name).map(|image| image.file),
            name,
        });
        Ok(listed.collect())
    }

    fn names(&self) -> Result<Vec<ImageName>, ImageError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => {
                other.map_err(|e| ImageError::io(format!("reading {}", self.root.display()), e))?
            }
        };
        let mut names: Vec<ImageName> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| ImageName::new(entry.file_name().to_str()?).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Reads the whole tree of an image again and compares it with its digest.
    ///
    /// # Errors
    /// When it cannot be opened, or differs.
    pub fn verify(&self, name: &ImageName) -> Result<ImageFile, ImageError> {
        let image = self.get(name)?;
        let tree = digest::tree(Path::new(&image.root.path), &mut |_| {})
            .map_err(|error| ImageError::io(format!("reading {name}"), error))?;
        if tree.digest == image.file.digest {
            return Ok(image.file);
        }
        Err(ImageError::Broken {
            name: name.to_string(),
            why: format!(
                "its files have changed: they are {}, not {}",
                tree.digest, image.file.digest
            ),
            fix: again(name),
        })
    }

    /// Removes an image. Programs that run on it keep its files until they end.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        if fs::symlink_metadata(self.dir(name)).is_err() {
            return Err(ImageError::Missing {
                name: name.to_string(),
                known: self.names()?.iter().map(ToString::to_string).collect(),
            });
        }
        create_folder(&self.root)?;
        self.set_aside(name)?;
        self.reclaim()
    }

    /// One image is made at a time: the second waits for the first, and says so.
    pub(crate) fn lock(&self, progress: &dyn Progress) -> Result<File, ImageError> {
        create_folder(&self.root)?;
        let path = self.root.join(".lock");
        let failed = |error| ImageError::io(format!("locking {}", path.display()), error);
        let waits = || progress.say("another image is being made; waiting for it");
        let file = lock_alone(&path, waits).map_err(failed)?;
        self.reclaim()?;
        Ok(file)
    }

    /// An empty folder in which an image is put together.
    pub(crate) fn staging(&self, name: &ImageName) -> Result<PathBuf, ImageError> {
        let staging = self.root.join(format!("{OURS}new-{name}"));
        remove_tree(&staging)?;
        create_folder(&staging)?;
        Ok(staging)
    }

    /// The folder of finished stages, which later builds take up.
    pub(crate) fn stages(&self) -> Result<PathBuf, ImageError> {
        let stages = self.root.join(format!("{OURS}stages"));
        create_folder(&stages)?;
        Ok(stages)
    }

    /// Gives a complete image its name; one that was there makes room.
    pub(crate) fn publish(&self, staging: &Path, file: &ImageFile) -> Result<(), ImageError> {
        write_file(staging, file)?;
        let dir = self.dir(&file.name);
        if fs::symlink_metadata(&dir).is_ok() {
            self.set_aside(&file.name)?;
        }
        fs::rename(staging, &dir)
            .map_err(|error| ImageError::io(format!("publishing {}", file.name), error))?;
        self.reclaim()
    }

    /// Takes the name off an image; its files are still there for those who use them.
    fn set_aside(&self, name: &ImageName) -> Result<(), ImageError> {
        let failed = |error| ImageError::io(format!("removing {name}"), error);
        for number in 0..10_000 {
            let aside = self.root.join(format!("{OURS}gone-{number}"));
            if fs::symlink_metadata(&aside).is_ok() {
                continue;
            }
            return fs::rename(self.dir(name), aside).map_err(failed);
        }
        Err(failed(io::Error::other(
            "too many removed images are still in use",
        )))
    }

    /// Removes the files of images whose names were taken off and that nobody uses any more.
    fn reclaim(&self) -> Result<(), ImageError> {
        let failed = |error| ImageError::io(format!("reading {}", self.root.display()), error);
        for entry in fs::read_dir(&self.root).map_err(failed)?.flatten() {
            let name = entry.file_name();
            let gone = name.to_str().is_some_and(|name| name.starts_with(".gone-"));
            if !gone {
                continue;
            }
            let path = entry.path();
            let free = match File::open(path.join(ROOT)) {
                Ok(root) => root.try_lock().is_ok(),
                // What never had a tree has no users.
                Err(_) => true,
            };
            if free {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Bytes that can be written where images are kept.
    pub(crate) fn free_bytes(&self) -> Result<u64, ImageError> {
        let failed = |error: io::Error| ImageError::io("asking for free space", error);
        let folder = File::open(&self.root).map_err(failed)?;
        Ok(room(&folder).map_err(failed)?.free_bytes)
    }
}

fn again(name: &ImageName) -> String {
    format!("remove it with `casemate image rm {name}` and make it again")
}

/// Writes the description of an image: it is there whole, or as it was.
pub(crate) fn write_file(dir: &Path, file: &ImageFile) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("writing the description", error);
    let text = serde_json::to_vec_pretty(file).map_err(|error| failed(error.into()))?;
    let part = dir.join(format!("{FILE}.part"));
    remove_tree(&part)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut to = options.open(&part).map_err(failed)?;
    io::Write::write_all(&mut to, &text).map_err(failed)?;
    fs::rename(part, dir.join(FILE)).map_err(failed)
}

/// A folder of the user's own, or none.
pub(crate) fn create_folder(dir: &Path) -> Result<(), ImageError> {
    create_private(dir).map_err(|error| match error {
        Untrusted::Unreadable { path, cause } => {
            ImageError::io(format!("making {}", path.display()), cause)
        }
        other => ImageError::Untrusted(other.to_string()),
    })
}

/// Removes whatever is of that name, following nothing.
pub(crate) fn remove_tree(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(|error| ImageError::io(format!("removing {}", path.display()), error))
}
