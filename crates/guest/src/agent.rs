//! What the agent knows and holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use casemate_envd::client::Init;
use casemate_envd::server::paths::{self, text};
use casemate_envd::{Code, RpcError};

use crate::config::Config;
use crate::files::watchers::Watchers;
use crate::interpreter::Contexts;
use crate::metrics::Meter;
use crate::process::table::Table;
use crate::users::{User, Users};

/// Where programs are looked for.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The agent.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) users: Users,
    pub(crate) processes: Table,
    pub(crate) watchers: Watchers,
    pub(crate) contexts: Contexts,
    pub(crate) meter: Meter,
    told: Mutex<Init>,
}

impl Agent {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let users = Users {
            passwd: config.passwd.clone(),
            group: config.group.clone(),
        };
        let told = Init {
            default_user: config.user.clone(),
            ..Init::default()
        };
        Arc::new(Self {
            users,
            config,
            processes: Table::default(),
            watchers: Watchers::default(),
            contexts: Contexts::default(),
            meter: Meter::default(),
            told: Mutex::new(told),
        })
    }

    fn told(&self) -> MutexGuard<'_, Init> {
        // It is replaced as a whole, so a thread that panicked has left it whole.
        self.told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes what the host says. What is not said stays as it is.
    pub(crate) fn init(&self, init: Init) -> Result<(), RpcError> {
        if let Some(user) = &init.default_user {
            self.users.find(Some(user))?;
        }
        let mut told = self.told();
        told.env_vars = init.env_vars.or(told.env_vars.take());
        told.access_token = init.access_token.or(told.access_token.take());
        told.default_user = init.default_user.or(told.default_user.take());
        told.default_workdir = init.default_workdir.or(told.default_workdir.take());
        Ok(())
    }

    /// The token that callers must show, if there is one.
    pub(crate) fn token(&self) -> Option<String> {
        self.told().access_token.clone()
    }

    /// The environment variables of every process.
    pub(crate) fn envs(&self) -> BTreeMap<String, String> {
        self.told().env_vars.clone().unwrap_or_default()
    }

    /// The user with this name, or the default one.
    pub(crate) fn user(&self, name: Option<&str>) -> Result<User, RpcError> {
        let default = self.told().default_user.clone();
        self.users.find(name.or(default.as_deref()))
    }

    /// A path as a user means it: absolute, or below the user's home.
    pub(crate) fn resolve(&self, user: &User, path: &str) -> PathBuf {
        paths::resolve(&user.home, self.told().default_workdir.as_deref(), path)
    }

    /// The folder a process begins in.
    pub(crate) fn cwd(&self, user: &User, path: &str) -> Result<PathBuf, RpcError> {
        let cwd = self.resolve(user, path);
        if cwd.is_dir() {
            return Ok(cwd);
        }
        // A user whose home is not there can still do something.
        if path.is_empty() && !cwd.exists() {
            return Ok("/".into());
        }
        let what = format!("cwd '{}' does not exist", text(&cwd));
        Err(RpcError::new(Code::InvalidArgument, what))
    }

    /// The environment of a process: what every process has, what the host said, what the caller says.
    pub(crate) fn environment(
        &self,
        user: &User,
        own: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let home = text(&user.home);
        let mut all: BTreeMap<String, String> = [
            ("PATH", PATH),
            ("HOME", &home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        // What a context can import, a script can too.
        let packages: Vec<String> = self.config.packages.iter().map(|at| text(at)).collect();
        if !packages.is_empty() {
            all.insert("PYTHONPATH".to_owned(), packages.join(":"));
        }
        all.extend(self.envs());
        all.extend(own.clone());
        all
    }
}

/// A name that nobody can guess.
pub(crate) fn random_name() -> Result<String, RpcError> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .map_err(|error| RpcError::new(Code::Internal, format!("getrandom: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let (one, other) = (random_name().unwrap(), random_name().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
    }
}
