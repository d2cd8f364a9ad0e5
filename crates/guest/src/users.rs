//! Users and groups, read from the files that say who they are.
//!
//! Not through the C library: a static program cannot load its name services, and the files are all that
//! a sandbox has.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use casemate_envd::{Code, RpcError};

/// Bytes of such a file that are read.
const FILE_MAX: u64 = 1 << 20;
/// Who is meant where nobody says anything, if there is such a user.
const DEFAULT: &str = "user";

/// Where users and groups are listed.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    pub(crate) passwd: PathBuf,
    pub(crate) group: PathBuf,
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: PathBuf,
}

impl Users {
    /// The user with this name; with none, the default one.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<User, RpcError> {
        let own = rustix::process::geteuid().as_raw();
        let listed = self.listed();
        let found = match name {
            Some(name) => listed.iter().find(|user| user.name == name),
            None => listed
                .iter()
                .find(|user| user.name == DEFAULT && may_become(own, user))
                .or_else(|| listed.iter().find(|user| user.uid == own)),
        };
        match (found, name) {
            (Some(user), _) if may_become(own, user) => {
                let mut user = user.clone();
                user.groups = self.groups_of(&user.name);
                Ok(user)
            }
            (Some(user), _) => Err(RpcError::new(
                Code::PermissionDenied,
                format!("this sandbox has one user, and it is not '{}'", user.name),
            )),
            (None, Some(name)) => Err(invalid(name)),
            (None, None) => Ok(nameless(own)),
        }
    }

    fn listed(&self) -> Vec<User> {
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else {
                return None;
            };
            Some(User {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                groups: Vec::new(),
                home: home.into(),
            })
        };
        text(&self.passwd).lines().filter_map(parse).collect()
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members, ..] = fields[..] else {
                return None;
            };
            let member = members.split(',').any(|member| member == name);
            gid.parse().ok().filter(|_| member)
        };
        text(&self.group).lines().filter_map(parse).collect()
    }

    /// The names of all users and groups, for telling whose a file is.
    pub(crate) fn names(&self) -> Names {
        let of = |path: &Path| {
            let parse = |line: &str| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                Some((fields.nth(1)?.parse().ok()?, name))
            };
            // The first name of a number counts, as in every system.
            text(path).lines().rev().filter_map(parse).collect()
        };
        Names {
            users: of(&self.passwd),
            groups: of(&self.group),
        }
    }
}

/// Only root can be somebody else.
const fn may_become(own: u32, user: &User) -> bool {
    own == 0 || own == user.uid
}

/// Where this process's own user has no name: it can be used all the same.
fn nameless(own: u32) -> User {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    User {
        name: own.to_string(),
        uid: own,
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        home: home
            .filter(|home| home.is_absolute())
            .unwrap_or_else(|| "/".into()),
    }
}

pub(crate) fn invalid(name: &str) -> RpcError {
    RpcError::new(Code::Unauthenticated, format!("invalid username: '{name}'"))
}

/// Names by number.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(crate) fn user(&self, uid: u32) -> String {
        name(&self.users, uid)
    }

    pub(crate) fn group(&self, gid: u32) -> String {
        name(&self.groups, gid)
    }
}

fn name(names: &HashMap<u32, String>, number: u32) -> String {
    names
        .get(&number)
        .cloned()
        .unwrap_or_else(|| number.to_string())
}

/// What can be read of a file; one that is not there lists nobody.
fn text(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(folder: &Path, passwd: &str, group: &str) -> Users {
        let users = Users {
            passwd: folder.join("passwd"),
            group: folder.join("group"),
        };
        std::fs::write(&users.passwd, passwd).unwrap();
        std::fs::write(&users.group, group).unwrap();
        users
    }

    #[test]
    fn a_user_is_found_by_name_and_else_by_default() {
        let folder = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let passwd = format!(
            "broken\nmine:x:{own}:7::/home/mine:/bin/sh\nalias:x:{own}:8::/other:/bin/sh\n"
        );
        let users = users(folder.path(), &passwd, "g:x:40:a,mine\nh:x:41:\nbroken\n");
        let mine = users.find(Some("mine")).unwrap();
        assert_eq!((mine.gid, mine.home), (7, PathBuf::from("/home/mine")));
        assert_eq!(mine.groups, [40]);
        assert_eq!(users.find(None).unwrap().name, "mine");
        assert_eq!(users.find(Some("nobody-here")), Err(invalid("nobody-here")));
        assert_eq!(users.names().user(own), "mine");
        assert_eq!(users.names().group(40), "g");
        assert_eq!(users.names().group(99), "99");
    }

    #[test]
    fn the_user_named_user_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let passwd = format!("mine:x:{own}:7::/m:/bin/sh\nuser:x:{own}:7::/u:/bin/sh\n");
        let users = users(folder.path(), &passwd, "");
        assert_eq!(users.find(None).unwrap().name, "user");
    }

    #[test]
    fn without_files_there_is_still_somebody() {
        let users = Users {
            passwd: "/nowhere".into(),
            group: "/nowhere".into(),
        };
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(users.find(None).unwrap().uid, own);
    }
}
