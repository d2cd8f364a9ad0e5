//! The code interpreter: `/execute` and `/contexts`.

mod bash;
mod context;
pub(crate) mod deno;
mod jupyter;
mod kernel;
mod language;
mod python;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode};
use casemate_envd::interpreter::{Context as Told, ContextRequest, ExecuteRequest};
use casemate_envd::server::http;
use casemate_envd::server::lines::{Refusal, WAITING, answer, parsed};
use casemate_envd::server::paths::text;
use tokio::sync::mpsc;

use crate::agent::{Agent, random_name};
use context::{Cell, Context};
use language::Language;

/// Contexts at the same time.
const CONTEXTS_MAX: usize = 32;
/// All contexts, the oldest first, and which is the default one of its language.
#[derive(Default)]
pub(crate) struct Contexts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    all: Vec<Arc<Context>>,
    defaults: BTreeMap<Language, String>,
    /// Whether the default contexts that there are from the beginning have been made.
    begun: bool,
}

impl Contexts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the default context before anybody asks for it.
    pub(crate) fn warm(&self, agent: &Arc<Agent>) {
        if let Ok(context) = self.default_of(agent, Language::Python) {
            // If it cannot be started now, whoever asks for it is told why.
            tokio::spawn(async move { context.start().await.ok() });
        }
    }

    /// The default contexts of the languages that are there, so that a list shows them.
    fn begin(&self, agent: &Arc<Agent>) {
        if std::mem::replace(&mut self.lock().begun, true) {
            return;
        }
        for language in Language::FROM_THE_BEGINNING {
            if language.is_there(&agent.config) {
                self.default_of(agent, language).ok();
            }
        }
    }

    fn list(&self, agent: &Arc<Agent>) -> Vec<Told> {
        self.begin(agent);
        self.lock()
            .all
            .iter()
            .map(|context| context.told.clone())
            .collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Context>, Refusal> {
        let found = self.lock().all.iter().find(|c| c.told.id == id).cloned();
        found.ok_or_else(|| Refusal::unknown(id))
    }

    fn default_of(&self, agent: &Arc<Agent>, language: Language) -> Result<Arc<Context>, Refusal> {
        let known = self.lock().defaults.get(&language).cloned();
        if let Some(context) = known.and_then(|id| self.find(&id).ok()) {
            return Ok(context);
        }
        let context = self.make(agent, language, "")?;
        self.lock()
            .defaults
            .insert(language, context.told.id.clone());
        Ok(context)
    }

    fn make(
        &self,
        agent: &Arc<Agent>,
        language: Language,
        cwd: &str,
    ) -> Result<Arc<Context>, Refusal> {
        let wrong = |error: casemate_envd::RpcError| Refusal::failed(error.message);
        let user = agent.user(None).map_err(wrong)?;
        let cwd = agent.cwd(&user, cwd).map_err(wrong)?;
        let told = Told {
            id: random_name().map_err(wrong)?,
            language: language.name().to_owned(),
            cwd: text(&cwd),
        };
        let mut inner = self.lock();
        if inner.all.len() >= CONTEXTS_MAX {
            let what = format!("{CONTEXTS_MAX} contexts are there already; remove one");
            return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, what));
        }
        let context = Context::make(Arc::clone(agent), told, language, user, cwd);
        inner.all.push(Arc::clone(&context));
        Ok(context)
    }

    fn remove(&self, id: &str) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let before = inner.all.len();
        inner.all.retain(|context| context.told.id != id);
        if inner.all.len() == before {
            return Err(Refusal::unknown(id));
        }
        inner.defaults.retain(|_, default| default != id);
        Ok(())
    }
}

fn json<T: serde::Serialize>(value: &T) -> Response<Body> {
    http::json(StatusCode::OK, value)
}

fn answered(done: Result<Response<Body>, Refusal>) -> Response<Body> {
    done.unwrap_or_else(|refusal| refusal.response())
}

pub(crate) async fn list(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(&agent.contexts.list(&agent))
}

pub(crate) async fn create(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let made = async {
        let request: ContextRequest = parsed(request).await?;
        agent.contexts.begin(&agent);
        let language = Language::of(request.language.as_deref()).map_err(Refusal::failed)?;
        let cwd = request.cwd.unwrap_or_default();
        let context = agent.contexts.make(&agent, language, &cwd)?;
        started(&agent, &context).await?;
        Ok(json(&context.told))
    };
    answered(made.await)
}

/// A context that cannot be started is not kept.
async fn started(agent: &Agent, context: &Context) -> Result<(), Refusal> {
    let started = context.start().await;
    started.map_err(|why| {
        agent.contexts.remove(&context.told.id).ok();
        Refusal::failed(why)
    })
}

pub(crate) async fn remove(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
) -> Response<Body> {
    answered(agent.contexts.remove(&id).map(|()| json(&())))
}

pub(crate) async fn restart(
    State(agent): State<Arc<Agent>>,
    Path(id): Path<String>,
) -> Response<Body> {
    let restarted = async {
        let context = agent.contexts.find(&id)?;
        context.restart().await.map_err(Refusal::failed)?;
        Ok(json(&()))
    };
    answered(restarted.await)
}

pub(crate) async fn execute(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let begun = async {
        let request: ExecuteRequest = parsed(request).await?;
        agent.contexts.begin(&agent);
        let id = request.context_id.as_deref().filter(|id| !id.is_empty());
        let context = match (id, &request.language) {
            (Some(_), Some(_)) => {
                let what = "Only one of context_id or language can be provided";
                return Err(Refusal::bad(what));
            }
            (Some(id), None) => agent.contexts.find(id)?,
            (None, language) => {
                let language = Language::of(language.as_deref()).map_err(Refusal::failed)?;
                agent.contexts.default_of(&agent, language)?
            }
        };
        started(&agent, &context).await?;
        let (sender, lines) = mpsc::channel(WAITING);
        let cell = Cell {
            code: request.code,
            env: request.env_vars.unwrap_or_default(),
            out: sender,
        };
        context.execute(cell).await.map_err(Refusal::failed)?;
        Ok(answer(lines))
    };
    answered(begun.await)
}
