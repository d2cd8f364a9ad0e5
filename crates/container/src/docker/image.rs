//! The image of a container: empty folders, empty files and links, and nothing else. Everything in it is
//! mounted over.
//!
//! Its name is the hash of its contents, and the daemon's own hash of it is compared, so that whatever else
//! got that name is not used.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::daemon::{Daemon, runtime};
use super::trouble::Trouble;
use crate::bundle::Tree;

/// Its name with the daemon, before the tag.
const NAME: &str = "casemate-root";
/// How long making it may take.
const MADE_WITHIN: Duration = Duration::from_secs(60);

/// The image as it goes to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    tar: Vec<u8>,
    sha256: String,
}

impl Image {
    /// From the tree that every root begins with: the same tree is the same image.
    pub(crate) fn of(tree: &Tree) -> std::io::Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        for folder in folders(tree) {
            let mut header = header(tar::EntryType::Directory, 0o755);
            tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        for file in sorted(&tree.files) {
            let mut header = header(tar::EntryType::Regular, 0o444);
            tar.append_data(&mut header, file, std::io::empty())?;
        }
        let mut links = tree.links.clone();
        links.sort();
        for (name, target) in links {
            let mut header = header(tar::EntryType::Symlink, 0o777);
            tar.append_link(&mut header, name, target)?;
        }
        let tar = tar.into_inner()?;
        let hash = Sha256::digest(&tar);
        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { tar, sha256 })
    }

    fn reference(&self) -> String {
        format!("{NAME}:{}", &self.sha256[..16])
    }

    /// Makes sure that the daemon has it; the name by which it is known to be this one.
    pub(crate) fn ensure(&self, daemon: &Daemon) -> Result<String, Trouble> {
        match self.known(daemon) {
            Err(trouble) if trouble.is_gone() => {}
            other => return other,
        }
        self.import(daemon)?;
        self.known(daemon)
    }

    /// By its id, where the daemon has it and it is what was made.
    fn known(&self, daemon: &Daemon) -> Result<String, Trouble> {
        let reference = self.reference();
        let found = daemon.ask(|docker| async move { docker.inspect_image(&reference).await })?;
        let layers = found.root_fs.and_then(|root| root.layers);
        let wanted = format!("sha256:{}", self.sha256);
        match (layers.as_deref(), found.id) {
            (Some([only]), Some(id)) if *only == wanted => Ok(id),
            _ => Err(Trouble::Other(format!(
                "the image {} is not what was made under that name; remove it: docker image rm {}",
                self.reference(),
                self.reference()
            ))),
        }
    }

    fn import(&self, daemon: &Daemon) -> Result<(), Trouble> {
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(NAME)
            .tag(&self.sha256[..16])
            .build();
        let body = bollard::body_full(self.tar.clone().into());
        runtime()?.block_on(async {
            let docker = daemon.client()?;
            let mut said = docker.create_image(Some(options), Some(body), None);
            let all = async {
                while let Some(word) = said.next().await {
                    word?;
                }
                Ok::<(), Trouble>(())
            };
            match tokio::time::timeout(MADE_WITHIN, all).await {
                Ok(done) => done,
                Err(_) => Err(Trouble::Other("the image does not get made".to_owned())),
            }
        })
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    // The same everywhere and at all times.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Every folder and those above it, each after the one it is in.
fn folders(tree: &Tree) -> Vec<&str> {
    let mut found = std::collections::BTreeSet::new();
    let above = tree.files.iter().filter_map(|name| parent(name));
    for name in tree.folders.iter().map(String::as_str).chain(above) {
        let mut next = Some(name);
        while let Some(folder) = next {
            found.insert(folder);
            next = parent(folder);
        }
    }
    found.into_iter().collect()
}

fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree {
            folders: vec!["usr".into(), "opt/casemate".into()],
            files: vec!["etc/ld.so.cache".into()],
            links: vec![("bin".into(), "usr/bin".into())],
        }
    }

    #[test]
    fn the_same_tree_is_the_same_image() {
        let image = Image::of(&tree()).unwrap();
        let mut turned = tree();
        turned.folders.reverse();
        assert_eq!(Image::of(&turned).unwrap(), image);
        turned.folders.push("more".into());
        assert_ne!(Image::of(&turned).unwrap().reference(), image.reference());
    }

    #[test]
    fn it_holds_names_and_nothing_else() {
        let image = Image::of(&tree()).unwrap();
        let mut archive = tar::Archive::new(image.tar.as_slice());
        let found: Vec<(String, u64, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                (path, entry.size(), entry.header().uid().unwrap())
            })
            .collect();
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "etc/",
                "opt/",
                "opt/casemate/",
                "usr/",
                "etc/ld.so.cache",
                "bin"
            ]
        );
        assert!(
            found
                .iter()
                .all(|(_, size, owner)| (*size, *owner) == (0, 0))
        );
    }
}
