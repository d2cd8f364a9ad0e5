//! From what a program asks for to an opened system.

use std::path::{Path, PathBuf};

use casemate_driver::packages::{Opened, Store};
use casemate_driver::system::{Interpreters, System, host};
use casemate_model::job::ImageChoice;

use crate::{ImageName, Images};

/// The systems that a backend can show.
#[derive(Debug, Clone)]
pub struct Systems {
    of: Of,
}

#[derive(Debug, Clone)]
enum Of {
    /// The machine's own with these packages, and images where there is a place for them.
    Machine(Store, Option<Images>),
    /// One that is being made.
    Only(Prepared),
}

/// A system that is not an image yet.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What it is.
    pub described: String,
    /// Its tree.
    pub root: PathBuf,
    /// What is shown at `/opt/casemate`.
    pub packages: PathBuf,
    /// The interpreters in it.
    pub interpreters: Interpreters,
    /// Environment variables that it brings.
    pub env: Vec<(String, String)>,
}

impl From<Store> for Systems {
    /// The machine's own system alone.
    fn from(store: Store) -> Self {
        Self {
            of: Of::Machine(store, None),
        }
    }
}

impl Systems {
    /// The machine's own system with these packages, and the images.
    #[must_use]
    pub fn new(store: Store, images: Images) -> Self {
        Self {
            of: Of::Machine(store, Some(images)),
        }
    }

    /// One that is being made, whatever is asked for.
    #[must_use]
    pub fn only(prepared: Prepared) -> Self {
        Self {
            of: Of::Only(prepared),
        }
    }

    /// The packages for the machine's own Python, where that is among the systems.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        match &self.of {
            Of::Machine(store, _) => Some(store),
            Of::Only(_) => None,
        }
    }

    /// What a program on the machine's own system runs on.
    #[must_use]
    pub fn rests_on(&self) -> Vec<(String, String)> {
        self.store().map(Store::rests_on).unwrap_or_default()
    }

    /// Opens the system that is asked for.
    ///
    /// # Errors
    /// Why it cannot be shown, and what to do.
    pub fn of(&self, choice: &ImageChoice) -> Result<System, (String, String)> {
        let (store, images) = match &self.of {
            Of::Only(prepared) => return prepared.open(),
            Of::Machine(store, images) => (store, images),
        };
        if choice.is_host() {
            return host(store, choice.venv.as_deref());
        }
        if choice.venv.is_some() {
            return Err((
                "a virtual environment belongs to the machine's own Python, not to an image's".to_owned(),
                "install its packages into the image: `casemate image build NAME --requirements FILE`".to_owned(),
            ));
        }
        let images = images.as_ref().ok_or_else(|| {
            let why = "there is no place for images".to_owned();
            (why, "set HOME or CASEMATE_CACHE".to_owned())
        })?;
        let opened = ImageName::new(&choice.name).and_then(|name| images.get(&name));
        opened
            .map(crate::Image::into_system)
            .map_err(|error| error.parts())
    }
}

impl Prepared {
    fn open(&self) -> Result<System, (String, String)> {
        let open = |path: &Path| {
            Opened::open(path, false).map_err(|why| (why, "make the image again".to_owned()))
        };
        Ok(System {
            described: self.described.clone(),
            root: Some(open(&self.root)?),
            packages: open(&self.packages)?,
            venv: None,
            interpreters: self.interpreters.clone(),
            env: self.env.clone(),
        })
    }
}
