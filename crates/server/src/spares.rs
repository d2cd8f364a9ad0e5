//! Sandboxes that are nobody's yet: made in advance, with an agent and an interpreter that are ready, so that whoever
//! asks for one does not wait for them.
//!
//! Each is made by the template's own policy and was never spoken to but by the server: no tenant has seen its id or its
//! token, and nothing of anybody's is in it. One that is asked for with another policy, with files or with variables is
//! made when it is asked for.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_engine::{Opening, open};
use casemate_model::job::TenantId;
use casemate_model::policy::Policy;
use casemate_model::receipt::Receipt;

use crate::e2b::sandboxes::Held;
use crate::e2b::{Template, agent};
use crate::error::ApiError;
use crate::making::random;
use crate::store::now_ms;

/// How long one may wait. Its policy's time runs from when it was made.
const OLDEST: Duration = Duration::from_secs(1800);

/// A sandbox whose walls stand and whose agent is ready.
pub(crate) struct Spare {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) session: Held,
    pub(crate) receipt: Receipt,
    pub(crate) made_ms: i64,
    made: Instant,
}

impl Spare {
    /// Makes one: by the id and the token of one that there was, or by its own.
    pub(crate) async fn make(
        template: &Arc<Template>,
        policy: Policy,
        tenant: TenantId,
        env: BTreeMap<String, String>,
        files: Option<OwnedFd>,
        again: Option<(String, String)>,
    ) -> Result<Self, ApiError> {
        let (id, token) = match again {
            Some(known) => known,
            None => (format!("i{}", random(10)?), random(20)?),
        };
        let opening = Opening {
            id: id.clone(),
            tenant,
            env: env.clone(),
            policy,
            image: template.image.clone(),
            warm: template.warm,
            files,
        };
        let backend = Arc::clone(&template.sessions);
        let made_ms = now_ms();
        let opened = tokio::task::spawn_blocking(move || {
            let (session, receipt) = open(backend.as_ref(), &opening)?;
            Ok((Held::new(session), receipt))
        });
        let opened: Result<_, casemate_backend::contract::CreateError> =
            opened.await.map_err(ApiError::fault)?;
        let (session, receipt) =
            opened.map_err(|error| ApiError::unavailable(error.to_string()))?;
        agent::begin(&session, &env, &token)
            .await
            .map_err(|why| ApiError::unavailable(format!("the sandbox's agent: {why}")))?;
        Ok(Self {
            id,
            token,
            session,
            receipt,
            made_ms,
            made: Instant::now(),
        })
    }

    fn is_good(&self) -> bool {
        self.made.elapsed() < OLDEST && self.session.ended().is_none()
    }
}

/// Those of one template.
#[derive(Default)]
struct Waiting {
    ready: Vec<Spare>,
    /// Whether some are being made.
    filling: bool,
}

/// All of them, by their templates.
pub(crate) struct Spares {
    /// How many of a template wait.
    most: usize,
    all: Mutex<Option<BTreeMap<String, Waiting>>>,
}

impl Spares {
    /// None yet; at most so many of each template. The first are made when the first sandbox of it was asked for: a
    /// server that is asked for none holds none.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            all: Mutex::new(Some(BTreeMap::new())),
        }
    }

    fn all(&self) -> MutexGuard<'_, Option<BTreeMap<String, Waiting>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of a template, if one waits.
    pub(crate) fn take(&self, template: &Template) -> Option<Spare> {
        let mut all = self.all();
        let waiting = all.as_mut()?.get_mut(&template.name)?;
        while let Some(spare) = waiting.ready.pop() {
            if spare.is_good() {
                return Some(spare);
            }
        }
        None
    }

    /// Makes those that are missing, beside.
    pub(crate) fn fill(self: &Arc<Self>, template: &Arc<Template>) {
        {
            let mut all = self.all();
            let Some(all) = all.as_mut() else { return };
            let waiting = all.entry(template.name.clone()).or_default();
            waiting.ready.retain(Spare::is_good);
            if waiting.filling || waiting.ready.len() >= self.most {
                return;
            }
            waiting.filling = true;
        }
        let (spares, template) = (Arc::clone(self), Arc::clone(template));
        tokio::spawn(async move {
            loop {
                // Nobody's: what it is made under is no tenant's.
                let (policy, nobody) = (template.policy.clone(), TenantId::local());
                let made =
                    Spare::make(&template, policy, nobody, BTreeMap::new(), None, None).await;
                if !spares.keep(&template, made.ok()) {
                    return;
                }
            }
        });
    }

    /// Whether another is to be made.
    fn keep(&self, template: &Template, made: Option<Spare>) -> bool {
        let mut all = self.all();
        // Where the server stops, what was made is let go of.
        let waiting = all.as_mut().and_then(|all| all.get_mut(&template.name));
        let Some(waiting) = waiting else { return false };
        let failed = made.is_none();
        waiting.ready.extend(made);
        // Whoever asks next is told why none can be made, and has it tried again.
        waiting.filling = !failed && waiting.ready.len() < self.most;
        waiting.filling
    }

    /// Ends all of them, and makes no more. Blocking.
    pub(crate) fn close(&self) {
        let all = self.all().take().unwrap_or_default();
        let ready = all.into_values().flat_map(|waiting| waiting.ready);
        ready.for_each(|spare| spare.session.end());
    }
}
