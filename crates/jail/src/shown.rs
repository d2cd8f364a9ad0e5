//! What a jail shows of a system: its folders, opened and checked, and how two of them are told apart.

use std::fs::File;
use std::io;

use casemate_driver::packages::Opened;
use casemate_driver::system::System;

/// The folders of a system.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) packages: Opened,
    /// The root of an image; none is the machine's own system.
    pub(crate) image: Option<Opened>,
    pub(crate) venv: Option<Opened>,
    /// The folder of the agent that is to live in the jail; none where a program runs to its end.
    pub(crate) agent: Option<Opened>,
}

/// Folders, whatever their names are: packages, image, virtual environment, agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key([Option<(u64, u64)>; 4]);

impl Shown {
    /// The folders of an opened system.
    pub(crate) fn of(system: &System) -> io::Result<Self> {
        let copy = |folder: &Option<Opened>| folder.as_ref().map(same).transpose();
        Ok(Self {
            packages: same(&system.packages)?,
            image: copy(&system.root)?,
            venv: copy(&system.venv)?,
            agent: None,
        })
    }

    /// The same with an agent.
    pub(crate) fn with_agent(self, agent: &Opened) -> io::Result<Self> {
        Ok(Self {
            agent: Some(same(agent)?),
            ..self
        })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let copy = |folder: &Option<Opened>| folder.as_ref().map(same).transpose();
        Ok(Self {
            packages: same(&self.packages)?,
            image: copy(&self.image)?,
            venv: copy(&self.venv)?,
            agent: copy(&self.agent)?,
        })
    }

    pub(crate) fn key(&self) -> io::Result<Key> {
        let of =
            |folder: &Option<Opened>| folder.as_ref().map(|one| place(&one.folder)).transpose();
        Ok(Key([
            Some(place(&self.packages.folder)?),
            of(&self.image)?,
            of(&self.venv)?,
            of(&self.agent)?,
        ]))
    }
}

/// The same folder, opened once more.
fn same(folder: &Opened) -> io::Result<Opened> {
    Ok(Opened {
        folder: folder.folder.try_clone()?,
        path: folder.path.clone(),
    })
}

/// A folder, whatever its name is.
fn place(folder: &File) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = folder.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(dir: &tempfile::TempDir) -> Opened {
        Opened::open(dir.path(), false).unwrap()
    }

    #[test]
    fn systems_differ_by_each_of_their_folders() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let shown = |image: Option<&tempfile::TempDir>, venv: Option<&tempfile::TempDir>| Shown {
            packages: opened(&one),
            image: image.map(opened),
            venv: venv.map(opened),
            agent: None,
        };
        let host = shown(None, None).key().unwrap();
        assert_eq!(host, shown(None, None).try_clone().unwrap().key().unwrap());
        let all = [
            host,
            shown(Some(&one), None).key().unwrap(),
            shown(Some(&other), None).key().unwrap(),
            shown(None, Some(&one)).key().unwrap(),
            shown(None, Some(&other)).key().unwrap(),
            shown(None, None)
                .with_agent(&opened(&one))
                .unwrap()
                .key()
                .unwrap(),
        ];
        for (at, key) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|later| later != key));
        }
    }
}
