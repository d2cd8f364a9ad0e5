//! Signals that ask the program to stop, delivered to a closure on a thread of its own.

#![allow(
    unsafe_code,
    reason = "a signal handler has to be installed through sigaction"
)]

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Why the program should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C, `SIGINT`.
    Interrupted,
    /// `SIGTERM`.
    Terminated,
    /// The terminal went away, `SIGHUP`.
    HungUp,
}

impl Interrupt {
    /// The signal's number; a program that stops for it exits with 128 and this.
    #[must_use]
    pub const fn signal(self) -> i32 {
        match self {
            Self::Interrupted => libc::SIGINT,
            Self::Terminated => libc::SIGTERM,
            Self::HungUp => libc::SIGHUP,
        }
    }

    const ALL: [Self; 3] = [Self::Interrupted, Self::Terminated, Self::HungUp];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.signal() == i32::from(byte))
    }
}

/// The writing end of the pipe, for the handler. Set once and never closed.
static PIPE: AtomicI32 = AtomicI32::new(-1);
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Calls `action` for every `SIGINT`, `SIGTERM` and `SIGHUP` this process gets from now on. It
/// runs on a thread of its own, so it may do whatever a thread may. A signal that was ignored
/// when the program started, as under `nohup`, stays ignored.
///
/// # Errors
/// When it has been called before, or the system refuses a pipe, a thread or the handler.
pub fn on_interrupt(action: impl FnMut(Interrupt) + Send + 'static) -> io::Result<()> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "interrupts are already handled",
        ));
    }
    let (reader, writer) = io::pipe()?;
    // A handler must never wait: a full pipe already holds more interrupts than anybody needs.
    rustix::io::ioctl_fionbio(&writer, true)?;
    std::thread::Builder::new()
        .name("interrupts".to_owned())
        .spawn(move || deliver(reader, action))?;
    PIPE.store(writer.as_raw_fd(), Ordering::SeqCst);
    // The handler holds the number from now on, so the descriptor must stay open for good.
    let _kept_open = writer.into_raw_fd();
    Interrupt::ALL.into_iter().try_for_each(install)
}

fn deliver(mut reader: io::PipeReader, mut action: impl FnMut(Interrupt)) {
    let mut byte = [0u8];
    // The pipe never ends, so an error here is not something to go on after.
    while io::Read::read_exact(&mut reader, &mut byte).is_ok() {
        if let Some(kind) = Interrupt::from_byte(byte[0]) {
            action(kind);
        }
    }
}

fn install(kind: Interrupt) -> io::Result<()> {
    // SAFETY: zero bytes are a valid `sigaction`: no handler, no flags, an empty mask.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only reads the old one into live memory of the right type.
    let rc = unsafe { libc::sigaction(kind.signal(), std::ptr::null(), &raw mut old) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    if old.sa_sigaction == libc::SIG_IGN {
        return Ok(());
    }
    // SAFETY: as above.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler as *const () as usize;
    new.sa_flags = libc::SA_RESTART;
    // SAFETY: `handler` has the signature of a handler without SA_SIGINFO and makes only
    // async-signal-safe calls; `new` lives through the call.
    let rc = unsafe { libc::sigaction(kind.signal(), &raw const new, std::ptr::null_mut()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn handler(signal: libc::c_int) {
    let byte = signal.to_le_bytes()[0];
    // SAFETY: the address of this thread's errno, which the interrupted code may be about to
    // read, so it is put back below.
    let errno = unsafe { *libc::__errno_location() };
    let pipe = PIPE.load(Ordering::SeqCst);
    // SAFETY: one byte from a live local; `write` is async-signal-safe, and the descriptor was
    // set before the handler was installed and is never closed.
    unsafe { libc::write(pipe, std::ptr::from_ref(&byte).cast(), 1) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}
