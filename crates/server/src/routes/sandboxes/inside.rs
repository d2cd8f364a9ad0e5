//! Speaking to the agent of a sandbox. Whatever it says is the guest's word.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use casemate_envd::{Client, ClientError, Code, Limits};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::e2b::agent::AgentOf;
use crate::e2b::sandboxes::InUse;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::hearing::Hearing;
use crate::intake::few;
use crate::making::found;
use crate::state::{Place, State};

/// Bytes that one call may be answered with where they are all held, and where they go through.
const HELD: u64 = 16 << 20;
const STREAMED: u64 = 1 << 30;
/// How long a cell or a command may take where nothing is said, and at most.
const CALL_S: u32 = 60;
const LONGEST_CALL_S: u32 = 3600;

/// One of the caller's sandboxes, to be spoken to.
pub(super) fn awake(state: &State, caller: &Caller, id: &str) -> Result<InUse, ApiError> {
    caller.may("run")?;
    let sandbox = found(state, caller, id)?;
    if sandbox.life().paused {
        return Err(ApiError::conflict(
            format!("sandbox {} is paused", sandbox.id),
            "POST …/resume lets it go on",
        ));
    }
    Ok(InUse::of(sandbox))
}

/// Its agent.
pub(super) fn agent(sandbox: &InUse, hearing: Hearing) -> Client {
    let limits = Limits {
        stream_bytes: if hearing.is_stream() { STREAMED } else { HELD },
        ..Limits::default()
    };
    Client::new(AgentOf((**sandbox).clone()))
        .with_token(&*sandbox.token)
        .with_limits(limits)
}

/// What the agent answered instead.
pub(super) fn refused(sandbox: &InUse, error: &ClientError) -> ApiError {
    if sandbox.is_gone() {
        return ApiError::unknown("sandbox", &sandbox.id);
    }
    if let Some(why) = sandbox.session.ended() {
        let why: String = why.chars().take(300).collect();
        return ApiError::conflict(
            format!("sandbox {} has ended: {why}", sandbox.id),
            "make another",
        );
    }
    let status = match error {
        ClientError::Request(_) => StatusCode::BAD_REQUEST,
        ClientError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
        ClientError::Refused(error) => match error.code {
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
            // What a guest says is no fault of the server's.
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        },
        _ => StatusCode::BAD_GATEWAY,
    };
    let message: String = error.to_string().chars().take(400).collect();
    ApiError::inside(status, message)
}

/// How long a call may take.
pub(super) fn time(asked: Option<u32>) -> Result<Duration, ApiError> {
    let seconds = asked.unwrap_or(CALL_S);
    if (1..=LONGEST_CALL_S).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    Err(ApiError::bad(
        format!("timeout_s is {seconds}; it is 1 to {LONGEST_CALL_S}"),
        "ask for a time in between, or run it in the background",
    ))
}

/// Environment variables that can be ones.
pub(super) fn environment(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    few(env.len(), "env")?;
    let bad = |(name, value): (&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if env.iter().any(bad) {
        return Err(ApiError::bad(
            "a variable has no name, or a character in it that none can have",
            "name it without = and without a zero byte",
        ));
    }
    Ok(())
}

/// What runs in a sandbox and is listened to.
pub(super) trait Speaks: Send {
    /// The next that it says, as JSON with a `type`; none after the last.
    fn next(&mut self)
    -> impl Future<Output = Result<Option<Self::Says>, ClientError>> + Send + '_;
    /// What it says.
    type Says: Serialize + Send;
    /// What it is called that its time is over.
    fn cut(&self) -> &'static str;
}

/// It, until its end, the end of its time or the sandbox's.
pub(super) struct Listened<S> {
    pub(super) speaker: S,
    pub(super) sandbox: InUse,
    until: Instant,
    time: Duration,
    over: bool,
    _place: Place,
}

/// One thing that was heard.
pub(super) enum Heard<T> {
    Said(T),
    /// There is nothing after it. Why it was not heard to its end, where it was not.
    End(Option<String>),
}

impl<S: Speaks> Listened<S> {
    pub(super) fn new(speaker: S, sandbox: InUse, time: Duration, place: Place) -> Self {
        Self {
            speaker,
            sandbox,
            until: Instant::now() + time,
            time,
            over: false,
            _place: place,
        }
    }

    /// What comes next; nothing after the end, or after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Heard<S::Says>, ApiError>> {
        if self.over {
            return None;
        }
        let heard = tokio::select! {
            said = self.speaker.next() => said,
            () = sleep_until(self.until) => {
                self.over = true;
                let (cut, seconds) = (self.speaker.cut(), self.time.as_secs());
                return Some(Ok(Heard::End(Some(format!("{cut} after {seconds} s")))));
            }
            () = self.sandbox.gone() => {
                self.over = true;
                return Some(Err(ApiError::unknown("sandbox", &self.sandbox.id)));
            }
        };
        Some(match heard {
            Ok(Some(said)) => Ok(Heard::Said(said)),
            Ok(None) => {
                self.over = true;
                Ok(Heard::End(None))
            }
            Err(error) => {
                self.over = true;
                Err(refused(&self.sandbox, &error))
            }
        })
    }

    /// A line for each thing that is heard. Dropping them is no longer listening.
    pub(super) fn stream(self, hearing: Hearing) -> Response
    where
        S: 'static,
    {
        let heard = stream::unfold(self, |mut listened| async {
            let heard = listened.next().await?;
            Some((heard, listened))
        });
        let lines: Pin<Box<dyn Stream<Item = String> + Send>> =
            Box::pin(heard.map(move |heard| match heard {
                Ok(Heard::Said(said)) => line(hearing, &said),
                Ok(Heard::End(cut_off)) => {
                    line(hearing, &json!({"type": "end", "cut_off": cut_off}))
                }
                Err(error) => hearing.failed(&error),
            }));
        hearing.stream(lines)
    }
}

fn line(hearing: Hearing, said: &impl Serialize) -> String {
    #[derive(serde::Deserialize)]
    struct Kind<'a> {
        r#type: &'a str,
    }
    let text = serde_json::to_string(said).unwrap_or_default();
    let kind = serde_json::from_str::<Kind<'_>>(&text).map_or("message", |kind| kind.r#type);
    hearing.line(kind, &text)
}
