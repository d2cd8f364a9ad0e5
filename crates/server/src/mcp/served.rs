//! The server as a host of tools: what they run is a run like any other, its caller's by its key.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use casemate_model::job::TenantId;
use casemate_model::outcome::Outcome;
use casemate_model::result::Artifact;
use casemate_screen::report::{self, Scanned, Style};

use super::address::Address;
use super::answer::by_name;
use super::host::{Call, Host, Listed, READ_MAX, ToolError, Wanted, until_ended};
use crate::error::ApiError;
use crate::guard::Caller;
use crate::intake::Read;
use crate::routes::scans::screened;
use crate::runs::{Begun, begin};
use crate::serve::Inside;
use crate::state::State;

/// Files of a tenant's that are listed.
const LISTED: i64 = 100;

/// The server.
pub(super) struct Served {
    pub(super) state: State,
    /// Who calls where there is but one who can; otherwise each request says it.
    only: Option<Caller>,
}

impl Served {
    pub(super) fn of(state: &State) -> Self {
        let state = Arc::clone(state);
        Self { state, only: None }
    }

    /// One that nobody reaches but who started it.
    pub(super) fn inside(inside: &Inside) -> Self {
        Self {
            state: Arc::clone(&inside.state),
            only: Some(Caller {
                tenant: TenantId::local(),
                key: None,
            }),
        }
    }

    /// Who calls: whoever's key came with this very request.
    pub(super) fn caller<'a>(&'a self, call: &'a Call) -> Result<&'a Caller, ToolError> {
        if let Some(only) = &self.only {
            return Ok(only);
        }
        let parts = call.extensions.get::<Parts>();
        let caller = parts.and_then(|parts| parts.extensions.get::<Caller>());
        caller.ok_or_else(|| ToolError::new("nobody calls"))
    }
}

impl Host for Served {
    fn instructions(&self) -> String {
        let mut text = "Runs code that nobody trusts in a sandbox without a network.".to_owned();
        if super::sessions::template(&self.state).is_some() {
            text.push_str(super::sessions::INSTRUCTIONS);
        }
        text
    }

    async fn run(&self, call: &Call, wanted: Wanted) -> Result<Outcome, ToolError> {
        let read = Read::of_call(wanted)?;
        let none = HeaderMap::new();
        let begun = begin(&self.state, self.caller(call)?, &none, read, false).await?;
        let Begun::Now(run) = begun else {
            return Err(ToolError::new("the run was begun before"));
        };
        let ended = until_ended(run.ended, run.cancel, call).await;
        let ended = ended.map_err(|_| ApiError::fault("the run's end was lost"))??;
        let outcome = ended.outcome;
        outcome.ok_or_else(|| {
            let why = format!("{} has no outcome: the engine failed", run.id);
            ApiError::fault(why).into()
        })
    }

    fn told(&self, _outcome: Outcome) {
        // It is stored.
    }

    async fn scan(&self, call: &Call, wanted: Wanted) -> Result<String, ToolError> {
        let path = wanted.program.name.clone();
        let read = Read::of_call(wanted)?;
        let screened = screened(&self.state, self.caller(call)?, read).await?;
        let scanned = Scanned {
            path: &path,
            screening: &screened.screening,
        };
        Ok(report::text(&[scanned], Style::Plain))
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>, ToolError> {
        let tenant = self.caller(call)?.name();
        let rows = self.state.store.artifacts(tenant, LISTED).await;
        let rows = rows.map_err(ApiError::from)?;
        let listed = rows.into_iter().map(|(run, number, row)| Listed {
            address: Address::Artifact {
                run,
                index: usize::try_from(number).unwrap_or_default(),
            },
            mime: by_name(&row.path).unwrap_or(&row.media_type).to_owned(),
            path: row.path,
            bytes: u64::try_from(row.bytes).unwrap_or_default(),
        });
        Ok(listed.collect())
    }

    async fn read(&self, call: &Call, address: &Address) -> Result<Artifact, ToolError> {
        let caller = self.caller(call)?;
        let (run, index) = match address {
            Address::Artifact { run, index } => (run, *index),
            Address::File { session, path } => {
                return self.read_file(caller, session, path).await;
            }
        };
        let number = i64::try_from(index).unwrap_or(i64::MAX);
        let row = self.state.store.artifact(caller.name(), run, number).await;
        let row = row.map_err(ApiError::from)?;
        let row = row.ok_or_else(|| ToolError::unknown(&address.to_string()))?;
        let bytes = u64::try_from(row.bytes).unwrap_or_default();
        if bytes > READ_MAX {
            return Err(ToolError::too_large(&row.path, bytes));
        }
        let (blobs, tenant) = (self.state.blobs.clone(), caller.name().to_owned());
        let read = tokio::task::spawn_blocking(move || blobs.get(&tenant, &row.sha256)).await;
        let read = read.map_err(|error| ApiError::fault(error.to_string()))?;
        Ok(Artifact {
            path: row.path,
            bytes: read.map_err(ApiError::from)?,
        })
    }
}
