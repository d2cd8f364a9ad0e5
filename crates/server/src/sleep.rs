//! How a sandbox is paused and woken, whoever asks: E2B's paths, the native ones, tools of a model, or its own time
//! that is over.
//!
//! There are two pauses. One freezes all of it. The other keeps its files alone: the sandbox sleeps, which means that
//! everything in it has ended, its memory is given back, and it is made anew from its files when it is woken, under its
//! own id and token. What was said of it when it was made holds for all of its sessions.
//!
//! Whoever does one of these holds the sandbox's turn, and looks at it again once it has it. What fails on the way
//! changes nothing: one that cannot be saved goes on, and one that cannot be made anew sleeps on.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_backend::contract::Fault;
use casemate_backend::session::{Held as Numbers, Session};

use crate::e2b::sandboxes::{Held, Life, Sandbox};
use crate::error::ApiError;
use crate::making::{policy, random, template_of};
use crate::spares::Spare;
use crate::state::State;
use crate::store::now_ms;

/// Where the files lie, below the data folder.
const FOLDER: &str = "asleep";

/// The files of a sandbox that sleeps. Dropping this removes them.
pub(crate) struct Saved {
    folder: PathBuf,
    pub(crate) bytes: u64,
}

impl Drop for Saved {
    fn drop(&mut self) {
        // What is left of it goes when the server starts again, if it cannot now.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Removes what an earlier server left: its sandboxes have ended with it, those that slept among them.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn clear(data: &Path) -> io::Result<()> {
    match fs::remove_dir_all(data.join(FOLDER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What there is in the place of a session of a sandbox that sleeps: its files.
struct Asleep(Arc<Saved>);

impl Asleep {
    fn nobody() -> io::Error {
        io::Error::new(io::ErrorKind::NotConnected, "the sandbox sleeps")
    }
}

impl Session for Asleep {
    fn connect(&self) -> io::Result<OwnedFd> {
        Err(Self::nobody())
    }

    fn connect_to(&self, _port: u16) -> io::Result<OwnedFd> {
        Err(Self::nobody())
    }

    fn files(&self) -> io::Result<OwnedFd> {
        File::open(&self.0.folder).map(OwnedFd::from)
    }

    fn save(&self, _to: &Path) -> Result<u64, Fault> {
        Err(Fault(Self::nobody().to_string()))
    }

    fn pause(&self) -> Result<(), Fault> {
        Err(Fault(Self::nobody().to_string()))
    }

    fn resume(&self) -> Result<(), Fault> {
        Err(Fault(Self::nobody().to_string()))
    }

    fn held(&self) -> Numbers {
        Numbers {
            disk_bytes: self.0.bytes,
            ..Numbers::default()
        }
    }

    fn end(&self) {}

    fn ended(&self) -> Option<String> {
        None
    }
}

/// The one that there is now by this one's id: it may have slept or been woken since.
fn now(state: &State, sandbox: &Sandbox) -> Result<Arc<Sandbox>, ApiError> {
    let now = state.sandboxes.any(&sandbox.id);
    now.ok_or_else(|| ApiError::unknown("sandbox", &sandbox.id))
}

/// Pauses a sandbox, with what is in memory or without. False when it was paused already.
pub(crate) async fn pause(
    state: &State,
    sandbox: &Arc<Sandbox>,
    memory: bool,
) -> Result<bool, ApiError> {
    let (state, sandbox) = (Arc::clone(state), Arc::clone(sandbox));
    // It is done to the end, whether whoever asked still waits or not.
    let paused = tokio::spawn(async move {
        let _turn = sandbox.turn.lock().await;
        let sandbox = now(&state, &sandbox)?;
        let before = *sandbox.life();
        if before.paused || !freeze(&sandbox).await? {
            return Ok(false);
        }
        if memory {
            return Ok(true);
        }
        match lay_down(&state, &sandbox).await {
            Ok(()) => Ok(true),
            Err(error) => {
                thaw(&sandbox, before.end_ms - now_ms()).await?;
                Err(error)
            }
        }
    });
    paused.await.map_err(ApiError::fault)?
}

/// Gives up what a frozen sandbox has in memory, so that it is made anew when it is woken. Nothing happens to one that
/// runs or sleeps.
pub(crate) async fn forget(state: &State, sandbox: &Arc<Sandbox>) -> Result<(), ApiError> {
    let (state, sandbox) = (Arc::clone(state), Arc::clone(sandbox));
    let forgotten = tokio::spawn(async move {
        let _turn = sandbox.turn.lock().await;
        let sandbox = now(&state, &sandbox)?;
        let frozen = sandbox.life().paused && sandbox.saved.is_none();
        if frozen {
            lay_down(&state, &sandbox).await?;
        }
        Ok(())
    });
    forgotten.await.map_err(ApiError::fault)?
}

/// Puts one to sleep whose time is over. One that cannot be saved stays frozen, with all that it has.
pub(crate) async fn when_over(state: State, sandbox: Arc<Sandbox>) {
    let _turn = sandbox.turn.lock().await;
    let Ok(sandbox) = now(&state, &sandbox) else {
        return;
    };
    let life = *sandbox.life();
    // It may have been given more time meanwhile.
    if !sandbox.is_over(life, now_ms()) {
        return;
    }
    let slept = match freeze(&sandbox).await {
        Ok(_) => lay_down(&state, &sandbox).await,
        Err(error) => {
            state.sandboxes.remove(&sandbox.id);
            Err(error)
        }
    };
    if let Err(error) = slept {
        let why = error.body("").message;
        eprintln!(
            "casemate: sandbox {} could not be put to sleep: {why}",
            sandbox.id
        );
    }
}

/// Wakes a sandbox. False beside it when it was not paused; then its time is only ever made longer.
pub(crate) async fn waken(
    state: &State,
    sandbox: &Arc<Sandbox>,
    timeout_ms: i64,
) -> Result<(Arc<Sandbox>, bool), ApiError> {
    let _turn = sandbox.turn.lock().await;
    let sandbox = now(state, sandbox)?;
    match &sandbox.saved {
        None => {
            let woken = thaw(&sandbox, timeout_ms).await?;
            Ok((sandbox, woken))
        }
        Some(saved) => Ok((make_anew(state, &sandbox, saved, timeout_ms).await?, true)),
    }
}

/// Freezes a sandbox away from the threads that serve. False when it was frozen already.
async fn freeze(sandbox: &Arc<Sandbox>) -> Result<bool, ApiError> {
    let freezing = Arc::clone(sandbox);
    let frozen = tokio::task::spawn_blocking(move || freezing.pause()).await;
    frozen
        .map_err(ApiError::fault)?
        .map_err(ApiError::unavailable)
}

/// Lets it go on, away from the threads that serve. False when it was not frozen.
async fn thaw(sandbox: &Arc<Sandbox>, timeout_ms: i64) -> Result<bool, ApiError> {
    let waking = Arc::clone(sandbox);
    let woken = tokio::task::spawn_blocking(move || waking.wake(timeout_ms)).await;
    woken
        .map_err(ApiError::fault)?
        .map_err(ApiError::unavailable)
}

/// Saves the files of a frozen sandbox, and ends all else of it.
async fn lay_down(state: &State, sandbox: &Arc<Sandbox>) -> Result<(), ApiError> {
    let tenant = sandbox.maker.name();
    let (_, kept) = state.snapshots.count(tenant);
    let kept = kept.saturating_add(state.sandboxes.asleep_bytes(tenant));
    let most = sandbox.session.held().disk_bytes;
    state
        .quota(&sandbox.maker, kept.saturating_add(most))
        .await?;
    let folder = state.config.data.join(FOLDER).join(random(10)?);
    let saving = Arc::clone(sandbox);
    let saved = tokio::task::spawn_blocking(move || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        // From here on it is removed whatever happens.
        let mut saved = Saved { folder, bytes: 0 };
        let bytes = saving.session.save(&saved.folder);
        saved.bytes = bytes.map_err(|fault| io::Error::other(fault.0))?;
        io::Result::Ok(Arc::new(saved))
    });
    let saved = saved.await.map_err(ApiError::fault)?;
    let saved = saved.map_err(ApiError::fault)?;
    let session = Held::new(Box::new(Asleep(Arc::clone(&saved)))).at(sandbox.session.place());
    let life = *sandbox.life();
    let asleep = sandbox.with(session, sandbox.receipt.clone(), Some(saved), life);
    if !state.sandboxes.replace(sandbox, Arc::new(asleep)) {
        return Err(ApiError::unknown("sandbox", &sandbox.id));
    }
    // Whoever still asks its agent something would wait for one that is frozen.
    let ending = Arc::clone(&*sandbox.session);
    tokio::task::spawn_blocking(move || ending.end())
        .await
        .map_err(ApiError::fault)
}

/// Makes a sandbox of the files of one that sleeps, in the place of that one.
async fn make_anew(
    state: &State,
    sandbox: &Arc<Sandbox>,
    saved: &Saved,
    timeout_ms: i64,
) -> Result<Arc<Sandbox>, ApiError> {
    state.count_start(&sandbox.maker)?;
    let template = template_of(state, sandbox)?;
    let policy = policy(state, &sandbox.maker, &template.policy)?;
    let files = File::open(&saved.folder).map_err(ApiError::fault)?;
    let tenant = sandbox.maker.tenant.clone();
    let known = (sandbox.id.clone(), sandbox.token.clone());
    let env = sandbox.env.clone();
    let made = Spare::make(
        &template,
        policy,
        tenant,
        env,
        Some(files.into()),
        Some(known),
    )
    .await?;
    let life = Life {
        end_ms: now_ms().saturating_add(timeout_ms),
        paused: false,
    };
    let session = made.session.at(sandbox.session.place());
    let woken = Arc::new(sandbox.with(session, made.receipt, None, life));
    if state.sandboxes.replace(sandbox, Arc::clone(&woken)) {
        return Ok(woken);
    }
    Err(ApiError::unknown("sandbox", &sandbox.id))
}
