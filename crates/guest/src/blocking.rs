//! Work that blocks, on a few threads of its own.

use casemate_envd::{Code, RpcError};

/// Threads for files at most. The sandbox counts tasks, and every thread is one.
pub(crate) const THREADS: usize = 8;

/// Does it there.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| RpcError::new(Code::Internal, error.to_string()))?
}
