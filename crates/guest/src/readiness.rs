//! Waiting for descriptors.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers what owns a descriptor, so that one can wait for it.
pub(crate) fn watched<T: AsRawFd + Into<OwnedFd>>(owner: T) -> io::Result<AsyncFd<T>> {
    #[allow(
        deprecated,
        reason = "unsound only for what does not own its descriptor, which cannot become an `OwnedFd`; \
                  the function that replaces it is unsafe"
    )]
    AsyncFd::new(owner)
}
