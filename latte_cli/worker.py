"""The worker: a child process that holds the backend, so that a layer that crashes costs its row and not the sweep."""

import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, Self, TypeAlias

from latte_cli import child
from latte_cli.algorithms import Algorithm
from latte_cli.backends import OPENERS, add, open_backend
from latte_cli.backends.contract import Backend, Opener
from latte_cli.devices import CPU, Device, Sampling
from latte_cli.errors import LatteError
from latte_cli.layers import Layer, Phase
from latte_cli.measure import DriftMonitor, Measurement, Outcome, QualityFlag, measure
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

_END_LIMIT_S = 5.0  # chosen: for the kernel to free the memory of a process that has closed its pipe

Open: TypeAlias = Callable[..., Backend]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a worker opens: a device of this machine, and the settings it measures with, each precision in each layout.

    `open` opens it, in the worker's process; a function that can be pickled by its name. `openers` are the kinds of
    device that the process knows: those that this one knows.
    """

    device: str = "auto"
    threads: int | None = None
    name: str | None = None
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    layouts: tuple[Layout, ...] = (Layout.NCHW,)
    memory_share: float = 0.5
    open: Open = open_backend
    openers: tuple[Opener, ...] = field(default_factory=lambda: tuple(OPENERS.values()))


@dataclass(frozen=True, kw_only=True)
class Order:
    """One measurement to make, or one question to ask; `quiet_s` is how long to wait for other processes first."""

    task: Task | Question
    sweep_pass: int = 0
    best_s: float | None = None
    quiet_s: float = 0.0
    plan: Sampling = Sampling()
    origin: str = ""


class Worker:
    """A worker process and its restarts; a context manager.

    Raises LatteError where the device cannot be opened.
    """

    device: Device
    settings: tuple[Settings, ...]

    def __init__(self, opening: Opening, *, limit_s: float = 60.0) -> None:
        self._opening, self._limit_s = opening, limit_s
        self._process: child.Child | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._log.close()

    def candidates(self, wanted: Sequence[tuple[Layer, Phase, Settings]]) -> list[tuple[Algorithm, ...]]:
        """The algorithms worth trying for each layer and phase under some settings."""
        return list(self._answer(list(wanted), child.START_LIMIT_S))

    def measure(self, order: Order) -> Measurement:
        """Carry out `order`; a crash, a hang or an eaten memory is the outcome of the row."""
        if self._process is None:
            self._start()
        try:
            row, sound = self._answer(order, self._limit_s + order.quiet_s)
        except TimeoutError:
            return self._failure(order, Outcome.TIMEOUT, f"no answer within {self._limit_s:g} s")
        except (EOFError, ConnectionError):
            return self._failure(order, *self._verdict())
        if not sound:
            self._stop()
        measured: Measurement = replace(row, device=self.device)
        return measured

    def _failure(self, order: Order, outcome: Outcome, detail: str) -> Measurement:
        return Measurement(
            task=order.task,
            device=self.device,
            sweep_pass=order.sweep_pass,
            outcome=outcome,
            detail=detail,
            origin=order.origin,
        )

    def _verdict(self) -> tuple[Outcome, str]:
        """Why the process died: killed from outside is what the kernel does to those that eat the memory."""
        assert self._process is not None
        ended = self._process.ended_within(_END_LIMIT_S)
        code = self._stop()
        if not ended:
            return Outcome.FAILED, "worker has hung up, and did not end"
        if code == -signal.SIGKILL:
            return Outcome.OUT_OF_MEMORY, child.meaning(code)
        self._log.seek(0)
        name = child.signal_name(code) if code < 0 else f"exit code {code}"
        last = child.last_line(self._log.read())[-200:] or child.meaning(code)
        return Outcome.FAILED, f"worker ended by {name} {last}".strip()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        self._log.seek(0)
        self._log.truncate()
        fd = theirs.fileno()
        with theirs:
            self._process = child.Child(
                f"{__name__}:serve", str(fd), pass_fds=(fd,), stdout=self._log, stderr=self._log
            )
        try:
            answer = self._answer(self._opening, child.START_LIMIT_S)
        except TimeoutError as exc:
            raise self._unopened_error(f"no answer within {child.START_LIMIT_S:g} s") from exc
        except (EOFError, ConnectionError) as exc:
            raise self._unopened_error(self._verdict()[1]) from exc
        if isinstance(answer, LatteError):
            self._stop()
            raise answer
        self.device, self.settings = answer

    def _unopened_error(self, reason: str) -> LatteError:
        on_cpu = self._opening.device == CPU.name
        hint = "`latte doctor` tries what it needs, one by one" if on_cpu else "try `--device cpu`"
        return LatteError(f"the device could not be opened: {reason}", hint=hint)

    def _answer(self, request: object, limit_s: float) -> Any:
        """What the process says to `request`; where it says nothing in time or nobody listens any more, it is ended.

        Raises TimeoutError, and EOFError or ConnectionError where the process has died.
        """
        try:
            self._connection.send(request)
            if self._connection.poll(limit_s):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            raise
        except BaseException:
            self._stop()
            raise
        self._stop()
        raise TimeoutError

    def _stop(self) -> int:
        """End the process and all that it has started; its exit code."""
        if self._process is None:
            return 0
        code = self._process.kill()
        self._connection.close()
        self._process = None
        return code


def serve() -> None:
    """The child's whole life: open the device that the first message names, then answer orders."""
    connection = Connection(int(sys.argv[1]))
    opening: Opening = connection.recv()
    for opener in opening.openers:
        add(opener)
    try:
        backend = opening.open(
            opening.device, threads=opening.threads, name=opening.name, memory_share=opening.memory_share
        )
        settings = tuple(backend.settings(*pair) for pair in product(opening.precisions, opening.layouts))
    except LatteError as error:
        connection.send(LatteError(error.message, hint=error.hint, exit_code=error.exit_code))
        return
    if not backend.device.kind.own_memory:
        _bound_memory(opening.memory_share)
    connection.send((backend.device, settings))
    monitor = DriftMonitor()
    with suppress(EOFError):
        while True:
            request = connection.recv()
            if isinstance(request, Order):
                quiet = backend.settle(request.quiet_s)
                row = measure(
                    backend,
                    request.task,
                    plan=request.plan,
                    monitor=monitor,
                    best_s=request.best_s,
                    sweep_pass=request.sweep_pass,
                    origin=request.origin,
                )
                connection.send((row if quiet else replace(row, flags=_with_disturbed(row)), backend.sound))
            else:
                connection.send([backend.candidates(*wanted) for wanted in request])


def _with_disturbed(row: Measurement) -> tuple[QualityFlag, ...]:
    return tuple(dict.fromkeys((*row.flags, QualityFlag.DISTURBED))) if row.outcome is Outcome.OK else row.flags


def _bound_memory(share: float) -> None:
    """Let the process take no more than a share of the memory, and half as much again for what is not tensors."""
    import resource

    from latte_cli.backends.host import memory_bytes

    with suppress(OSError, ValueError):
        limit = int(memory_bytes() * min(0.9, 1.5 * share))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
