//! The functions the guest imports: preview 1, and the one `host.call` that we answer with "none".

use std::sync::Arc;
use std::time::Duration;

use casemate_model::event::What;
use wasmtime::{Caller, Linker};

use super::Wasi;
use super::errno::{Answer, Errno, Halt, Stop};
use super::mem::{Mem, offset};
use super::paths::OpenCall;
use super::table::{ROOT_FD, SECOND_FD, SECOND_PATH, Target};
use crate::guest::Guest;
use crate::machine::interrupt;

/// Random bytes drawn before the deadline is looked at again.
const RANDOM_CHUNK: usize = 1 << 20;

/// Runs one call: guest memory and state in, an error number or a trap out.
fn answer(
    caller: &mut Caller<'_, Guest>,
    call: impl FnOnce(&mut Wasi, &mut Mem<'_>) -> Answer,
) -> wasmtime::Result<i32> {
    let memory = caller
        .data()
        .memory()
        .ok_or_else(|| wasmtime::Error::msg("the guest has no memory"))?;
    let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
    let result = call(&mut guest.wasi, &mut Mem(bytes));
    guest.wasi.flush(false).map_err(wasmtime::Error::new)?;
    match result {
        Ok(()) => Ok(0),
        Err(Stop::Errno(errno)) => {
            if errno == Errno::Intr {
                interrupt(caller)?;
            }
            Ok(errno.code())
        }
        Err(Stop::Halt(halt)) => Err(wasmtime::Error::new(halt)),
    }
}

type Call<'a> = Caller<'a, Guest>;

/// Gives the linker everything the guest imports.
///
/// # Errors
/// Those of the engine, when a name is defined twice.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    link_process(linker)?;
    link_descriptors(linker)?;
    link_files(linker)?;
    link_paths(linker)?;
    link_links(linker)?;
    link_refused(linker)
}

const P1: &str = "wasi_snapshot_preview1";

fn link_process(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        P1,
        "args_sizes_get",
        |mut c: Call<'_>, count: u32, size: u32| {
            answer(&mut c, |w, m| {
                strings_sizes(m, &w.argv_strings(), count, size)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "args_get",
        |mut c: Call<'_>, table: u32, buffer: u32| {
            answer(&mut c, |w, m| {
                strings_get(m, &w.argv_strings(), table, buffer)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "environ_sizes_get",
        |mut c: Call<'_>, count: u32, size: u32| {
            answer(&mut c, |w, m| {
                strings_sizes(m, &w.env_strings(), count, size)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "environ_get",
        |mut c: Call<'_>, table: u32, buffer: u32| {
            answer(&mut c, |w, m| {
                strings_get(m, &w.env_strings(), table, buffer)
            })
        },
    )?;
    linker.func_wrap(P1, "clock_res_get", |mut c: Call<'_>, id: u32, out: u32| {
        answer(&mut c, |w, m| {
            w.clock.read(id).ok_or(Errno::Inval)?;
            Ok(m.write_u64(out, w.clock.resolution())?)
        })
    })?;
    linker.func_wrap(
        P1,
        "clock_time_get",
        |mut c: Call<'_>, id: u32, _precision: u64, out: u32| {
            answer(&mut c, |w, m| {
                Ok(m.write_u64(out, w.clock.read(id).ok_or(Errno::Inval)?)?)
            })
        },
    )?;
    linker.func_wrap(P1, "random_get", |mut c: Call<'_>, at: u32, len: u32| {
        answer(&mut c, |w, m| random(w, m.bytes_mut(at, len)?))
    })?;
    linker.func_wrap(P1, "sched_yield", |_: Call<'_>| Ok(0_i32))?;
    linker.func_wrap(
        P1,
        "proc_exit",
        |_: Call<'_>, code: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(Halt::Exit(code & 0xff)))
        },
    )?;
    linker.func_wrap(
        P1,
        "poll_oneoff",
        |mut c: Call<'_>, subs: u32, out: u32, count: u32, made: u32| {
            answer(&mut c, |w, m| poll(w, m, subs, out, count, made))
        },
    )?;
    Ok(())
}

fn link_descriptors(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(P1, "fd_close", |mut c: Call<'_>, fd: u32| {
        answer(&mut c, |w, _| w.fd_close(fd))
    })?;
    linker.func_wrap(P1, "fd_fdstat_get", |mut c: Call<'_>, fd: u32, out: u32| {
        answer(&mut c, |w, m| w.fd_fdstat_get(m, fd, out))
    })?;
    linker.func_wrap(
        P1,
        "fd_fdstat_set_flags",
        |mut c: Call<'_>, fd: u32, flags: u32| {
            answer(&mut c, |w, _| {
                w.table.get_mut(fd)?.append = flags & 1 != 0;
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_prestat_get",
        |mut c: Call<'_>, fd: u32, out: u32| {
            answer(&mut c, |_, m| {
                let name = preopen_name(fd)?;
                m.write_u32(out, 0)?;
                Ok(m.write_u32(offset(out, 4)?, len32(name.len())?)?)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_prestat_dir_name",
        |mut c: Call<'_>, fd: u32, at: u32, len: u32| {
            answer(&mut c, |_, m| {
                let name = preopen_name(fd)?;
                if (len as usize) < name.len() {
                    return Err(Errno::NameTooLong.into());
                }
                Ok(m.write(at, name.as_bytes())?)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_seek",
        |mut c: Call<'_>, fd: u32, by: i64, whence: u32, out: u32| {
            answer(&mut c, |w, m| w.fd_seek(m, fd, by, whence, out))
        },
    )?;
    linker.func_wrap(P1, "fd_tell", |mut c: Call<'_>, fd: u32, out: u32| {
        answer(&mut c, |w, m| w.fd_seek(m, fd, 0, 1, out))
    })?;
    linker.func_wrap(
        P1,
        "fd_filestat_get",
        |mut c: Call<'_>, fd: u32, out: u32| answer(&mut c, |w, m| w.fd_filestat_get(m, fd, out)),
    )?;
    linker.func_wrap(
        P1,
        "fd_filestat_set_size",
        |mut c: Call<'_>, fd: u32, size: u64| answer(&mut c, |w, _| w.fd_resize(fd, size)),
    )?;
    linker.func_wrap(
        P1,
        "fd_filestat_set_times",
        |mut c: Call<'_>, fd: u32, _atime: u64, mtime: u64, flags: u32| {
            answer(&mut c, |w, _| {
                let open = w.table.get(fd)?;
                let (Target::File(ino) | Target::Dir(ino)) = open.target else {
                    return Err(Errno::Inval.into());
                };
                let path = open.path.clone();
                let mtime = chosen_mtime(w, mtime, flags)?;
                Ok(w.set_mtime(ino, mtime, &path)?)
            })
        },
    )?;
    Ok(())
}

fn link_files(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        P1,
        "fd_read",
        |mut c: Call<'_>, fd: u32, iovs: u32, count: u32, out: u32| {
            answer(&mut c, |w, m| w.fd_read(m, fd, iovs, count, None, out))
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_pread",
        |mut c: Call<'_>, fd: u32, iovs: u32, count: u32, at: u64, out: u32| {
            answer(&mut c, |w, m| w.fd_read(m, fd, iovs, count, Some(at), out))
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_write",
        |mut c: Call<'_>, fd: u32, iovs: u32, count: u32, out: u32| {
            answer(&mut c, |w, m| w.fd_write(m, fd, iovs, count, None, out))
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_pwrite",
        |mut c: Call<'_>, fd: u32, iovs: u32, count: u32, at: u64, out: u32| {
            answer(&mut c, |w, m| w.fd_write(m, fd, iovs, count, Some(at), out))
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_readdir",
        |mut c: Call<'_>, fd: u32, at: u32, len: u32, cookie: u64, out: u32| {
            answer(&mut c, |w, m| w.fd_readdir(m, fd, at, len, cookie, out))
        },
    )?;
    linker.func_wrap(
        P1,
        "fd_advise",
        |mut c: Call<'_>, fd: u32, _: u64, _: u64, _: u32| {
            answer(&mut c, |w, _| Ok(w.table.get(fd).map(drop)?))
        },
    )?;
    for name in ["fd_sync", "fd_datasync"] {
        linker.func_wrap(P1, name, |mut c: Call<'_>, fd: u32| {
            answer(&mut c, |w, _| Ok(w.table.get(fd).map(drop)?))
        })?;
    }
    Ok(())
}

fn link_paths(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        P1,
        "path_open",
        |mut c: Call<'_>,
         dir_fd: u32,
         lookup: u32,
         path: u32,
         len: u32,
         oflags: u32,
         rights: u64,
         _inheriting: u64,
         fdflags: u32,
         out: u32| {
            answer(&mut c, |w, m| {
                let path = m.path(path, len)?.to_owned();
                m.bytes(out, 4)?;
                let follow = lookup & 1 != 0;
                let call = OpenCall {
                    dir_fd,
                    follow,
                    path: &path,
                    oflags,
                    rights,
                    fdflags,
                };
                let fd = w.path_open(&call)?;
                Ok(m.write_u32(out, fd)?)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "path_filestat_get",
        |mut c: Call<'_>, fd: u32, lookup: u32, path: u32, len: u32, out: u32| {
            answer(&mut c, |w, m| {
                let path = m.path(path, len)?.to_owned();
                w.path_filestat_get(m, fd, lookup & 1 != 0, &path, out)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "path_filestat_set_times",
        |mut c: Call<'_>,
         fd: u32,
         lookup: u32,
         path: u32,
         len: u32,
         _atime: u64,
         mtime: u64,
         flags: u32| {
            answer(&mut c, |w, m| {
                let path = m.path(path, len)?.to_owned();
                let mtime = chosen_mtime(w, mtime, flags)?;
                w.path_set_times(fd, lookup & 1 != 0, &path, mtime)
            })
        },
    )?;
    for (name, folder) in [("path_remove_directory", true), ("path_unlink_file", false)] {
        linker.func_wrap(
            P1,
            name,
            move |mut c: Call<'_>, fd: u32, path: u32, len: u32| {
                answer(&mut c, |w, m| {
                    let path = m.path(path, len)?.to_owned();
                    w.path_remove(fd, &path, folder)
                })
            },
        )?;
    }
    linker.func_wrap(
        P1,
        "path_create_directory",
        |mut c: Call<'_>, fd: u32, path: u32, len: u32| {
            answer(&mut c, |w, m| {
                let path = m.path(path, len)?.to_owned();
                w.path_create_directory(fd, &path)
            })
        },
    )?;
    Ok(())
}

fn link_links(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        P1,
        "path_rename",
        |mut c: Call<'_>, fd: u32, old: u32, old_len: u32, to_fd: u32, new: u32, new_len: u32| {
            answer(&mut c, |w, m| {
                let (old, new) = (
                    m.path(old, old_len)?.to_owned(),
                    m.path(new, new_len)?.to_owned(),
                );
                w.path_rename(fd, &old, to_fd, &new)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "path_link",
        |mut c: Call<'_>,
         fd: u32,
         lookup: u32,
         old: u32,
         old_len: u32,
         to_fd: u32,
         new: u32,
         new_len: u32| {
            answer(&mut c, |w, m| {
                let (old, new) = (
                    m.path(old, old_len)?.to_owned(),
                    m.path(new, new_len)?.to_owned(),
                );
                w.path_link(fd, lookup & 1 != 0, &old, to_fd, &new)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "path_symlink",
        |mut c: Call<'_>, target: u32, target_len: u32, fd: u32, path: u32, len: u32| {
            answer(&mut c, |w, m| {
                let (target, path) = (
                    m.path(target, target_len)?.to_owned(),
                    m.path(path, len)?.to_owned(),
                );
                w.path_symlink(&target, fd, &path)
            })
        },
    )?;
    linker.func_wrap(
        P1,
        "path_readlink",
        |mut c: Call<'_>, fd: u32, path: u32, len: u32, at: u32, room: u32, out: u32| {
            answer(&mut c, |w, m| {
                let path = m.path(path, len)?.to_owned();
                let target = w.path_readlink(fd, &path)?;
                let fits = target.len().min(room as usize);
                m.write(at, &target.as_bytes()[..fits])?;
                Ok(m.write_u32(out, len32(fits)?)?)
            })
        },
    )?;
    Ok(())
}

/// What does not exist here: sockets and host tools. Each attempt is an event.
fn link_refused(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn socket(c: &mut Call<'_>, call: &str) -> wasmtime::Result<i32> {
        answer(c, |w, _| {
            w.note(What::Network {
                detail: call.to_owned(),
            });
            Err(w
                .denied("no sockets", call, String::new(), Errno::NotSup)
                .into())
        })
    }
    linker.func_wrap(
        P1,
        "sock_accept",
        |mut c: Call<'_>, _: u32, _: u32, _: u32| socket(&mut c, "sock_accept"),
    )?;
    linker.func_wrap(
        P1,
        "sock_recv",
        |mut c: Call<'_>, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {
            socket(&mut c, "sock_recv")
        },
    )?;
    linker.func_wrap(
        P1,
        "sock_send",
        |mut c: Call<'_>, _: u32, _: u32, _: u32, _: u32, _: u32| socket(&mut c, "sock_send"),
    )?;
    linker.func_wrap(P1, "sock_shutdown", |mut c: Call<'_>, _: u32, _: u32| {
        socket(&mut c, "sock_shutdown")
    })?;
    linker.func_wrap(
        "host",
        "call",
        |mut c: Call<'_>, _: u32, _: u32, _: u32, _: u32| {
            answer(&mut c, |w, _| {
                w.denied("no host tools", "host.call", String::new(), Errno::NotSup);
                Ok(())
            })?;
            Ok::<i32, wasmtime::Error>(-1)
        },
    )?;
    Ok(())
}

pub(crate) fn len32(len: usize) -> Result<u32, Errno> {
    u32::try_from(len).map_err(|_| Errno::FBig)
}

fn preopen_name(fd: u32) -> Result<&'static str, Errno> {
    match fd {
        ROOT_FD => Ok("/"),
        SECOND_FD => Ok(SECOND_PATH),
        _ => Err(Errno::BadF),
    }
}

fn strings_sizes(mem: &mut Mem<'_>, strings: &[Arc<[u8]>], count: u32, size: u32) -> Answer {
    mem.write_u32(count, len32(strings.len())?)?;
    Ok(mem.write_u32(size, len32(strings.iter().map(|s| s.len()).sum())?)?)
}

fn strings_get(mem: &mut Mem<'_>, strings: &[Arc<[u8]>], table: u32, buffer: u32) -> Answer {
    let mut at = buffer;
    for (index, string) in (0..).zip(strings) {
        mem.write_u32(offset(table, index * 4)?, at)?;
        mem.write(at, string)?;
        at = offset(at, len32(string.len())?)?;
    }
    Ok(())
}

fn chosen_mtime(w: &Wasi, mtime: u64, flags: u32) -> Result<Option<u64>, Errno> {
    match flags & 0b1100 {
        0b0000 => Ok(None),
        0b0100 => Ok(Some(mtime)),
        0b1000 => Ok(Some(w.now())),
        _ => Err(Errno::Inval),
    }
}

pub(crate) fn random(w: &Wasi, buffer: &mut [u8]) -> Answer {
    for chunk in buffer.chunks_mut(RANDOM_CHUNK) {
        w.clock.check()?;
        let mut filled = 0;
        while filled < chunk.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled +=
                rustix::rand::getrandom(&mut chunk[filled..], flags).map_err(|_| Errno::Io)?;
        }
    }
    Ok(())
}

/// Waits for the earliest clock, at most to the deadline. Descriptors are always ready.
fn poll(w: &mut Wasi, mem: &mut Mem<'_>, subs: u32, out: u32, count: u32, made: u32) -> Answer {
    const SUBSCRIPTION: u32 = 48;
    if count == 0 || count > 1024 {
        return Err(Errno::Inval.into());
    }
    let mut ready = Vec::new();
    let mut clocks = Vec::new();
    for index in 0..count {
        let sub = offset(subs, index * SUBSCRIPTION)?;
        let user = mem.read_u64(sub)?;
        match mem.bytes(offset(sub, 8)?, 1)?[0] {
            0 => clocks.push((clock_wait(w, mem, sub)?, user)),
            tag @ (1 | 2) => {
                let fd = mem.read_u32(offset(sub, 16)?)?;
                let errno = w.table.get(fd).err();
                ready.push((user, tag, errno));
            }
            _ => return Err(Errno::Inval.into()),
        }
    }
    if ready.is_empty() {
        let first = clocks
            .iter()
            .map(|(wait, _)| *wait)
            .min()
            .unwrap_or_default();
        sleep(w, first)?;
        ready.extend(
            clocks
                .iter()
                .filter(|(wait, _)| *wait <= first)
                .map(|(_, user)| (*user, 0, None)),
        );
    }
    for (index, (user, tag, errno)) in (0..).zip(&ready) {
        let event = offset(out, index * 32)?;
        mem.bytes_mut(event, 32)?.fill(0);
        mem.write_u64(event, *user)?;
        let code = errno.map_or(0, |errno| u16::try_from(errno.code()).unwrap_or(u16::MAX));
        mem.write(offset(event, 8)?, &code.to_le_bytes())?;
        mem.write(offset(event, 10)?, &[*tag])?;
    }
    Ok(mem.write_u32(made, len32(ready.len())?)?)
}

fn clock_wait(w: &Wasi, mem: &Mem<'_>, sub: u32) -> Result<Duration, Errno> {
    let id = mem.read_u32(offset(sub, 16)?)?;
    let timeout = mem.read_u64(offset(sub, 24)?)?;
    let absolute = mem.read_u16(offset(sub, 40)?)? & 1 != 0;
    let now = w.clock.read(id).ok_or(Errno::Inval)?;
    let nanos = if absolute {
        timeout.saturating_sub(now)
    } else {
        timeout
    };
    Ok(Duration::from_nanos(nanos))
}

/// Sleeps, but never past the wall deadline: a guest that waits is stopped and interrupted like one that spins.
fn sleep(w: &mut Wasi, wait: Duration) -> Answer {
    let allowed = w.clock.remaining().unwrap_or(Duration::MAX);
    let interrupted = w.interrupted(wait.min(allowed))?;
    w.clock.check()?;
    if interrupted {
        return Err(Errno::Intr.into());
    }
    Ok(())
}

impl Wasi {
    fn argv_strings(&self) -> Vec<Arc<[u8]>> {
        self.argv.iter().map(|arg| terminated(arg)).collect()
    }

    fn env_strings(&self) -> Vec<Arc<[u8]>> {
        self.env
            .iter()
            .map(|(name, value)| terminated(&format!("{name}={value}")))
            .collect()
    }
}

fn terminated(text: &str) -> Arc<[u8]> {
    let mut bytes = clip_nul(text).as_bytes().to_vec();
    bytes.push(0);
    bytes.into()
}

/// Arguments and variables are validated when the job is built; a NUL here would end the text early.
fn clip_nul(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}
