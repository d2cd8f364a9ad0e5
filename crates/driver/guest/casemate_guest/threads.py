"""One thread for programs that ask for more: their calls run where they are started, one after the other.

For the common uses (a pool mapping a function, threads started and then joined) the results are the same.
Where a program would wait for a thread that cannot exist, it gets an error instead of a wait without end;
the interpreter itself would stop dead there.
"""

import queue
import threading
import time

from . import observe

_FOREVER = "would wait forever: no other thread can exist in this sandbox to end the wait"


class Deadlock(RuntimeError):
    """The only thread waited for another one."""

    __module__ = "builtins"


def _wait(timeout):
    """A wait that nobody can end: the timeout passes, or the program is told."""
    if timeout is None or timeout < 0:
        raise Deadlock(_FOREVER)
    time.sleep(timeout)
    return False


class Lock:
    """A lock among one thread."""

    __slots__ = ("__weakref__", "_locked")

    def __init__(self):
        self._locked = False

    def acquire(self, blocking=True, timeout=-1):
        """Take the lock; a wait for it can only end by its timeout."""
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if not self._locked:
            self._locked = True
            return True
        return _wait(timeout) if blocking else False

    def release(self):
        """Give the lock back."""
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False

    def locked(self):
        """Whether the lock is taken."""
        return self._locked

    def _at_fork_reinit(self):
        self._locked = False

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *error):
        self.release()


def _condition_wait(self, timeout=None):
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    return _wait(None if timeout is None else max(timeout, 0))


def _start(self):
    """`Thread.start`: run the thread's work now. A daemon, made to outlive its start, is refused."""
    if not self._initialized:
        raise RuntimeError("thread.__init__() not called")
    if self._started.is_set():
        raise RuntimeError("threads can only be started once")
    if self.daemon:
        observe.event("thread", f"daemon {self.name}")
        raise RuntimeError(observe.NO_THREAD)
    observe.event("thread", f"{self.name}, run in the calling thread")
    self._ident = threading.get_ident()
    outer = threading._active.get(self._ident)
    self._started.set()
    threading._active[self._ident] = self
    try:
        self.run()
    except Deadlock:
        raise
    except BaseException:
        self._invoke_excepthook(self)
    finally:
        threading._active[self._ident] = outer
        self._ran = True


def _install_threads():
    original_join, original_is_alive = threading.Thread.join, threading.Thread.is_alive

    def join(self, timeout=None):
        return None if getattr(self, "_ran", False) else original_join(self, timeout)

    def is_alive(self):
        return False if getattr(self, "_ran", False) else original_is_alive(self)

    threading.Thread.start, threading.Thread.join, threading.Thread.is_alive = _start, join, is_alive
    threading.Lock = Lock
    threading.Condition.wait = _condition_wait
    queue.SimpleQueue = queue._PySimpleQueue


def _install_executors():
    from asyncio import BaseEventLoop
    from concurrent.futures import Future, ThreadPoolExecutor

    def submit(self, fn, /, *args, **kwargs):
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        observe.event("thread", "ThreadPoolExecutor.submit, run in the calling thread")
        future = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future

    async def shutdown_default_executor(self, timeout=None):
        self._executor_shutdown_called = True
        if self._default_executor is not None:
            self._default_executor.shutdown(wait=False)

    ThreadPoolExecutor.submit = submit
    # The original waits for the executor's threads in a thread.
    BaseEventLoop.shutdown_default_executor = shutdown_default_executor


def _wake_loops_without_a_socket():
    """An event loop wakes itself through a socket pair. With one thread nobody else could wake it."""
    from asyncio.selector_events import BaseSelectorEventLoop

    for name in ("_make_self_pipe", "_close_self_pipe", "_write_to_self"):
        setattr(BaseSelectorEventLoop, name, lambda self: None)


def install():
    """Replace what would start or wait for threads. Called once, in the guest, before the snapshot."""
    _install_threads()
    _install_executors()
    _wake_loops_without_a_socket()
