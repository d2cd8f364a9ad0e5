//! A request's body, bounded in size, in time and in what all of them hold together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::state::State;

/// How long a body may take whatever its size.
const GRACE: Duration = Duration::from_secs(20);
/// And a second more for each of these.
const BYTES_PER_SECOND: u64 = 64 << 10;

/// A body, and the room it takes for as long as it or what was made of it is held.
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    pub(crate) room: Room,
}

/// Memory that is spoken for; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Takes room for so many bytes more.
    ///
    /// # Errors
    /// 429 where there is none.
    pub(crate) fn grow(&mut self, state: &State, bytes: usize) -> Result<(), ApiError> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let more = Arc::clone(&state.room).try_acquire_many_owned(kib);
        let more = more.map_err(|_| {
            ApiError::busy("the requests in hand fill the server's memory for them", 1)
        })?;
        match &mut self.0 {
            Some(held) => held.merge(more),
            None => self.0 = Some(more),
        }
        Ok(())
    }
}

impl FromRequest<State> for Taken {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        take(&parts.headers, body, state).await
    }
}

/// Takes the body of a request that has these headers.
///
/// # Errors
/// When it is too large, comes too slowly, or there is no room for it.
pub(crate) async fn take(
    headers: &HeaderMap,
    body: Body,
    state: &State,
) -> Result<Taken, ApiError> {
    let most = state.config.body_bytes;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        return Err(ApiError::too_large(most));
    }
    read(body, state, most).await
}

async fn read(mut body: Body, state: &State, most: usize) -> Result<Taken, ApiError> {
    let begun = Instant::now();
    let (mut bytes, mut room) = (BytesMut::new(), Room::default());
    loop {
        let earned = Duration::from_secs(bytes.len() as u64 / BYTES_PER_SECOND);
        let frame = timeout_at(begun + GRACE + earned, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ApiError::slow())? else {
            break;
        };
        let frame = frame.map_err(|error| {
            ApiError::bad(
                format!("the body breaks off: {error}"),
                "send it whole, with its length",
            )
        })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if chunk.len() > most - bytes.len() {
            return Err(ApiError::too_large(most));
        }
        room.grow(state, chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(Taken {
        bytes: bytes.freeze(),
        room,
    })
}
