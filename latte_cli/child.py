"""Child processes: functions that run in a separate process, which dies with the one that started it.

The parent holds one end of a pipe that nothing is ever written to, and the child the other. However the parent ends,
the kernel closes its end, and that kills the child and all that it has started; no handler has to run, so SIGKILL does
it too. Each child leads a process group, so what a terminal sends (Ctrl-C) reaches the parent alone.
"""

import getpass
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from math import inf
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryFile
from typing import IO, Any, Self

from latte_cli.errors import LatteError
from latte_cli.files import POSIX_HINT

# With -P, modules are looked for where the parent does, and not in the current folder.
_START = "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
_START += "from latte_cli.child import live_as_child; live_as_child(**given)"

START_LIMIT_S = 120.0
"""Within this a child has imported torch and opened a device. Chosen: a board under emulation took 45 s for torch."""

_CHUNK_BYTES = 2**20  # the most that a pipe of Linux holds (`pipe-max-size`)
_LAST_BYTES = 2**16  # chosen: the end of a traceback, with room for a library's own words
_POLL_S = 0.1  # chosen: a child that has died is noticed before a person does
_POLL_AT_END_S = 0.005  # chosen: adds little to the end of a short child

_MEANINGS: dict[str, str] = {
    "SIGABRT": "a library gave up",
    "SIGBUS": "memory that is mapped is not there, as on a full disk",
    "SIGFPE": "a division by zero in a library",
    "SIGILL": "a library is built for another processor",
    "SIGKILL": "killed, most likely for its memory",
    "SIGSEGV": "a fault in a library",
    "SIGXCPU": "it used all the processor time it is allowed",
}
"""What it most likely means that a signal has ended a child."""


class Ended(Exception):
    """A child ended without an answer: its exit `code`, negative for a signal, and the last line of its errors."""

    def __init__(self, code: int, last: str) -> None:
        super().__init__(_how_it_ended(code, last))
        self.code, self.last = code, last

    @property
    def killed(self) -> bool:
        """Whether it was killed from outside, as the kernel does to those that eat the memory."""
        return self.code == -signal.SIGKILL


def check_children() -> None:
    """Raise LatteError on a system without what children need: signals, process groups and limits as POSIX has them."""
    try:
        for name in ("fcntl", "resource"):
            import_module(name)
    except ImportError as exc:
        message = "this system cannot run what measures: that needs `fcntl` and `resource`, which Windows has not"
        raise LatteError(message, hint=POSIX_HINT) from exc


class TimedOut(Exception):
    """A child has not ended in time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:g} s")


def signal_name(code: int) -> str:
    """The name of the signal of a negative exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def meaning(code: int) -> str:
    """What it means that a child ended with `code`; "" where nothing more is known."""
    return _MEANINGS.get(signal_name(code), "") if code < 0 else ""


def last_line(errors: bytes) -> str:
    """The last line of what a process wrote to its standard error, in one line of single spaces."""
    return " ".join(errors.decode(errors="replace").strip().rpartition("\n")[2].split())[:_LAST_BYTES]


def _how_it_ended(code: int, last: str) -> str:
    ended = f"ended by {signal_name(code)}" if code < 0 else f"ended with exit code {code}"
    return ": ".join(filter(None, (ended, last[:200] or meaning(code))))


class Child:
    """A process that calls the function `target` ("module:function"), which finds its `arguments` in `sys.argv`.

    A context manager: on leaving, the process and all of its group are dead. Streams are those of subprocess.Popen; the
    standard input is empty by default; `variables` are added to the environment.
    """

    def __init__(
        self,
        target: str,
        *arguments: str,
        pass_fds: tuple[int, ...] = (),
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        check_children()
        pipe, self._held = os.pipe()
        watched = [_opened_anew(each) for each in (*_WATCHED, pipe)]
        given = {"target": target, "arguments": arguments, "watched": watched, "path": sys.path}
        self._open, started = True, False
        try:
            with _STARTING:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, json.dumps(given)],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=(*watched, *pass_fds),
                    process_group=0,
                    env=os.environ | variables if variables else None,
                )
                _LIVING.add(self)
            for each in watched:
                _kernel_watches(each, self._process.pid)  # while it starts, too
            started = True
        finally:
            for each in (pipe, *watched, *(() if started else (self._held,))):
                os.close(each)
        self.pid, self.stdout, self.stderr = self._process.pid, self._process.stdout, self._process.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait()

    def ended_within(self, limit_s: float) -> bool:
        """Wait for its end; whether it came in time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        return not self.alive

    def kill(self) -> int:
        """End it and all that it has started, if that has not happened yet; its exit code."""
        if self._open:
            self._open = False
            _LIVING.discard(self)
            self.end()
            os.close(self._held)
        return self.wait()

    def end(self) -> None:
        """Send SIGKILL to it and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of the dead
            os.killpg(self.pid, signal.SIGKILL)


_WATCHED: list[int] = []
"""The pipes of those above this process: its children watch them too, and need not wait for it to be gone."""
_LIVING: set[Child] = set()
_STARTING = threading.Lock()


def end_all() -> None:
    """Send SIGKILL to all children that live: threads that wait for them go on."""
    with _STARTING:
        for child in tuple(_LIVING):
            child.end()


def call(target: str, *arguments: str, stdout: IO[bytes] | int | None = None) -> int:
    """Call `target` in a child that writes where this process does; its exit code."""
    with Child(target, *arguments, stdout=stdout) as child:
        return child.wait()


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a child ended, all that it wrote to its standard output, and the end of what it wrote to its errors."""

    code: int
    output: bytes
    errors: bytes


def run_child(
    target: str,
    *arguments: str,
    question: bytes = b"",
    limit_s: float = inf,
    variables: Mapping[str, str] | None = None,
) -> Done:
    """Call `target` in a child with `question` as its standard input; raises TimedOut.

    Whatever it has started is dead when this returns or raises. Raises LatteError on a system without what children
    need.
    """
    check_children()
    with TemporaryFile() as file:
        file.write(question)
        file.seek(0)
        pipe = subprocess.PIPE
        with Child(target, *arguments, stdin=file, stdout=pipe, stderr=pipe, variables=variables) as child:
            output, errors = _hear(child, limit_s)
            return Done(code=child.kill(), output=output, errors=errors)


def ask(target: str, request: object, *, limit_s: float = inf, variables: Mapping[str, str] | None = None) -> Any:
    """What `target` returns for `request` in a child, both as JSON; raises Ended and TimedOut.

    What it prints is not part of the answer. It does not run to its end: a library that crashes as it is unloaded has
    done its work.
    """
    question = json.dumps(request).encode()
    done = run_child(f"{__name__}:reply", target, question=question, limit_s=limit_s, variables=variables)
    try:
        return json.loads(done.output)
    except ValueError:
        raise Ended(done.code, last_line(done.errors)) from None


def _hear(child: Child, limit_s: float) -> tuple[bytes, bytes]:
    """All that a child writes to its output and the end of its errors, until it has ended; raises TimedOut."""
    assert child.stdout and child.stderr
    output, errors, end_s = bytearray(), bytearray(), time.monotonic() + limit_s
    with DefaultSelector() as selector:
        selector.register(child.stdout, EVENT_READ, output)
        selector.register(child.stderr, EVENT_READ, errors)
        while child.alive:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimedOut(limit_s)
            silent = child.stdout not in selector.get_map()
            for key, _ in selector.select(min(left_s, _POLL_AT_END_S if silent else _POLL_S)):
                if not _read(key.fd, key.data):
                    selector.unregister(key.fileobj)
            del errors[:-_LAST_BYTES]
        child.end()  # what it has started may go on writing
        for key in selector.get_map().values():
            os.set_blocking(key.fd, False)
            _read(key.fd, key.data)
    return bytes(output), bytes(errors)


def _read(fd: int, into: bytearray) -> bool:
    """Read what is there (a pipe holds at most a chunk); whether there may be more."""
    try:
        chunk = os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    into += chunk
    return bool(chunk)


def live_as_child(*, target: str, arguments: list[str], watched: list[int]) -> None:
    """The child's whole life: call `target`, with `arguments` in `sys.argv`, until one of those above is gone."""
    import resource

    for pipe in watched:
        _die_with(pipe)
    _WATCHED[:] = watched
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the parent, who ends its children
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # be the first to go when memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError, ValueError):  # leave no core file
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _name_user()
    sys.argv[:] = ["latte", *arguments]
    _function(target)()


def _name_user() -> None:
    """Name the user where the system does not, as in a container with any user: torch names a folder for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def reply() -> None:
    """A child's part of `ask`: answer the request on its standard input on its standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print
    answer = json.dumps(_function(sys.argv[1])(json.load(sys.stdin)))
    with os.fdopen(answers, "w", encoding="utf-8") as file:
        file.write(answer)
    os._exit(0)


def die_with_parent() -> None:
    """Let this process, which multiprocessing has spawned, and all that it starts die with its parent."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent
    os.setpgid(0, 0)
    _die_with(parent.sentinel)


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _die_with(watched: int) -> None:
    """See to it that this process and its group are killed when the other end of the pipe `watched` is closed."""
    if not _kernel_watches(watched, os.getpgrp()):
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()
    _watch(watched, limit_ms=0)  # it may have been closed before


def _opened_anew(pipe: int) -> int:
    """`pipe` for a child alone: Linux notes whom to signal in the open file, which a mere copy would share."""
    try:
        return os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return os.dup(pipe)


def _kernel_watches(watched: int, group: int) -> bool:
    """Have Linux send SIGKILL to the group at the end of the pipe, whatever its processes are doing then."""
    import fcntl

    if not hasattr(fcntl, "F_SETSIG"):
        return False
    try:
        fcntl.fcntl(watched, fcntl.F_SETOWN, -group)
        fcntl.fcntl(watched, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(watched, fcntl.F_SETFL, fcntl.fcntl(watched, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False
    return True


def _watch(watched: int, limit_ms: int | None = None) -> None:
    """Wait for the end of the pipe, and kill this process and its group; elsewhere than on Linux a thread does so."""
    ready = select.poll()
    ready.register(watched, select.POLLIN)
    if ready.poll(limit_ms):
        os.killpg(os.getpgrp(), signal.SIGKILL)
