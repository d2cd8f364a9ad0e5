//! Sandboxes that live on: how each is made, found and ended, whoever asks.
//!
//! E2B's paths, the native ones and the tools of the Model Context Protocol all come here, so that a limit or a right
//! that holds at one of them holds at all.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_model::policy::Policy;

use crate::e2b::Template;
use crate::e2b::model::Lifecycle;
use crate::e2b::sandboxes::{Parts, Sandbox};
use crate::error::ApiError;
use crate::guard::Caller;
use crate::intake::bound_policy;
use crate::keys::hex;
use crate::spares::Spare;
use crate::state::State;
use crate::store::Entry;

/// The longest life that can be asked for.
pub(crate) const LONGEST_S: i64 = 24 * 3600;
/// Forks that can be asked for at once.
const FORKS: u32 = 20;

/// A sandbox to be, checked.
pub(crate) struct New {
    pub(crate) template: Arc<Template>,
    /// What it was asked for by: the template's name or a snapshot's.
    pub(crate) named: String,
    /// A folder whose files are in it from the beginning.
    pub(crate) files: Option<OwnedFd>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) has_traffic_token: bool,
    pub(crate) masked_host: Option<String>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) timeout_ms: i64,
    /// How long it may be left alone.
    pub(crate) idle_ms: Option<i64>,
}

/// A life in seconds, as milliseconds.
pub(crate) fn seconds(asked: Option<i64>, default: i64) -> Result<i64, ApiError> {
    let seconds = asked.unwrap_or(default);
    if (1..=LONGEST_S).contains(&seconds) {
        return Ok(seconds * 1000);
    }
    Err(ApiError::bad(
        format!("timeout is {seconds} s; a sandbox lives 1 to {LONGEST_S} s"),
        "ask for a time in between",
    ))
}

pub(crate) fn random(bytes: usize) -> Result<String, ApiError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(ApiError::fault)?;
    Ok(hex(&random))
}

/// What a sandbox is made of, by the name that was asked for: a template, or one of the tenant's snapshots.
pub(crate) fn source(
    state: &State,
    caller: &Caller,
    name: &str,
) -> Result<(Arc<Template>, Option<OwnedFd>), ApiError> {
    let template = |name: &str| {
        let mut all = state.templates.iter();
        all.find(|template| template.name == name).map(Arc::clone)
    };
    if let Some(template) = template(name) {
        return Ok((template, None));
    }
    let snapshot = state.snapshots.of(caller.name(), name);
    if let Some((made_of, files)) = snapshot.map_err(ApiError::fault)?
        && let Some(template) = template(&made_of)
    {
        return Ok((template, Some(files)));
    }
    let known = state.templates.iter();
    let known = known.map(|template| template.name.as_str());
    let known = known.collect::<Vec<_>>().join(", ");
    let name: String = name.chars().take(80).collect();
    let has = if known.is_empty() {
        "this server has none, and says why where it was started".to_owned()
    } else {
        format!("this server has: {known}")
    };
    Err(ApiError::missing(
        "unknown_template",
        format!("template {name:?} not found; {has}"),
        "name one that there is, or a snapshot of yours",
    ))
}

/// Makes a sandbox, with its agent ready.
pub(crate) async fn make(
    state: &State,
    caller: &Caller,
    new: New,
) -> Result<Arc<Sandbox>, ApiError> {
    let template = Arc::clone(&new.template);
    may_use(caller, template.sessions.name())?;
    state.count_start(caller)?;
    let policy = policy(state, caller, &template.policy)?;
    let limits = policy.limits.clone();
    let place = state
        .sandboxes
        .reserve(caller.name(), state.config.rules.sandboxes)
        .map_err(|most| {
            let why = format!("this tenant has {most} sandboxes, as many as it may");
            ApiError::busy(why, 5)
        })?;
    // One that waits has the template's own policy, no files and no variables but ours.
    let spare = (policy == template.policy && new.files.is_none() && new.env.is_empty())
        .then(|| state.spares.take(&template))
        .flatten();
    let Spare {
        id,
        token,
        session,
        receipt,
        made_ms,
        ..
    } = match spare {
        Some(spare) => spare,
        None => {
            let (tenant, env) = (caller.tenant.clone(), new.env.clone());
            Spare::make(&template, policy, tenant, env, new.files, None).await?
        }
    };
    let sandbox = Arc::new(Sandbox::new(Parts {
        id,
        maker: caller.clone(),
        made_of: template.name.clone(),
        template: new.named,
        metadata: new.metadata,
        env: new.env,
        token,
        traffic_token: if new.has_traffic_token {
            Some(random(20)?)
        } else {
            None
        },
        masked_host: new.masked_host,
        limits,
        lifecycle: new.lifecycle,
        receipt,
        session: session.at(Some(Arc::new(place))),
        made_ms,
        timeout_ms: new.timeout_ms,
        idle_ms: new.idle_ms,
    }));
    state.spares.fill(&template);
    note(state, caller, "sandbox.created", &sandbox).await?;
    state.sandboxes.insert(Arc::clone(&sandbox));
    Ok(sandbox)
}

/// The template that a sandbox was made of.
pub(crate) fn template_of(state: &State, sandbox: &Sandbox) -> Result<Arc<Template>, ApiError> {
    let mut templates = state.templates.iter();
    let template = templates.find(|template| template.name == sandbox.made_of);
    let template = template.ok_or_else(|| ApiError::fault("its template is gone"))?;
    Ok(Arc::clone(template))
}

/// A key may be bound to backends.
fn may_use(caller: &Caller, backend: &str) -> Result<(), ApiError> {
    let bound = caller.key.as_deref().map(|key| key.backends.as_slice());
    match bound {
        Some(own @ [_, ..]) if !own.iter().any(|name| name == backend) => Err(ApiError::forbidden(
            format!(
                "this key may use: {}; this template is of {backend}",
                own.join(", ")
            ),
            "name a template of another backend, or use another key",
        )),
        _ => Ok(()),
    }
}

/// Says in the audit what was done with a sandbox.
async fn note(
    state: &State,
    caller: &Caller,
    action: &str,
    sandbox: &Sandbox,
) -> Result<(), ApiError> {
    let entry = Entry {
        tenant: caller.name(),
        who: caller.who(),
        action,
        subject: &sandbox.id,
        detail: &sandbox.template,
    };
    Ok(state.store.note(&entry).await?)
}

/// The template's policy, narrowed by what the key is bound to where it is bound. One that screens programs opens
/// nothing then.
pub(crate) fn policy(
    state: &State,
    caller: &Caller,
    template: &Policy,
) -> Result<Policy, ApiError> {
    let bound = caller.key.as_deref().and_then(|key| key.policy.as_deref());
    if bound.is_none() {
        return Ok(template.clone());
    }
    Ok(template.narrowed(&bound_policy(state, caller)?))
}

/// One of the caller's sandboxes.
pub(crate) fn found(state: &State, caller: &Caller, id: &str) -> Result<Arc<Sandbox>, ApiError> {
    let sandbox = state.sandboxes.of(caller.name(), id);
    sandbox.ok_or_else(|| ApiError::unknown("sandbox", id))
}

/// Ends one of the caller's sandboxes.
pub(crate) async fn end(state: &State, caller: &Caller, id: &str) -> Result<(), ApiError> {
    caller.may("run")?;
    let sandbox = found(state, caller, id)?;
    if state.sandboxes.remove(&sandbox.id) {
        return note(state, caller, "sandbox.killed", &sandbox).await;
    }
    Err(ApiError::unknown("sandbox", id))
}

/// Sandboxes with the files of this one, each made or refused for itself. Its processes and what they have in memory
/// are not in them: a jail cannot be copied while it runs.
pub(crate) async fn forks(
    state: &State,
    caller: &Caller,
    sandbox: &Arc<Sandbox>,
    count: u32,
    timeout_ms: i64,
) -> Result<Vec<Result<Arc<Sandbox>, ApiError>>, ApiError> {
    if !(1..=FORKS).contains(&count) {
        return Err(ApiError::bad(
            format!("count is {count}; it is 1 to {FORKS}"),
            "ask for fewer at once",
        ));
    }
    if sandbox.life().paused {
        return Err(ApiError::conflict(
            format!("sandbox {} is paused", sandbox.id),
            "resume it first",
        ));
    }
    let template = template_of(state, sandbox)?;
    let _still = sandbox.still().await.map_err(ApiError::fault)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let copied = Arc::clone(sandbox);
        let files = tokio::task::spawn_blocking(move || copied.session.files());
        let files = files.await.map_err(ApiError::fault)?;
        let new = New {
            template: Arc::clone(&template),
            named: sandbox.template.clone(),
            files: Some(files.map_err(ApiError::fault)?),
            env: sandbox.env.clone(),
            metadata: sandbox.metadata.clone(),
            has_traffic_token: sandbox.traffic_token.is_some(),
            masked_host: sandbox.masked_host.clone(),
            lifecycle: sandbox.lifecycle,
            timeout_ms,
            idle_ms: sandbox.idle_ms,
        };
        all.push(make(state, caller, new).await);
    }
    Ok(all)
}
