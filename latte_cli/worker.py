"""The worker: a child process that holds the backend, so that a layer that crashes costs its row and not the sweep."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

from latte_cli.algorithms import Algorithm
from latte_cli.backends import open_backend
from latte_cli.backends.contract import Backend
from latte_cli.devices import Device, Sampling
from latte_cli.errors import LatteError
from latte_cli.layers import Layer, Phase
from latte_cli.measure import Judge, Mark, Measurement, Outcome, measure
from latte_cli.tasks import Layout, Precision, Settings, Task

_START_LIMIT_S = 120.0

Opener: TypeAlias = Callable[..., Backend]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a worker opens: a device of this machine, and the settings it measures with, each precision in each layout.

    `open` opens it, in the worker's process; a function that can be pickled by its name.
    """

    device: str = "auto"
    threads: int | None = None
    name: str | None = None
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    layouts: tuple[Layout, ...] = (Layout.NCHW,)
    memory_share: float = 0.5
    open: Opener = open_backend


@dataclass(frozen=True, kw_only=True)
class Order:
    """One measurement to make; `quiet_s` is how long to wait for other processes first."""

    task: Task
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
        self._process: BaseProcess | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        try:
            self._start()
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._log.close()

    def candidates(self, wanted: Sequence[tuple[Layer, Phase, Settings]]) -> list[tuple[Algorithm, ...]]:
        """The algorithms worth trying for each layer and phase under some settings."""
        self._connection.send(list(wanted))
        return list(self._receive(_START_LIMIT_S))

    def measure(self, order: Order) -> Measurement:
        """Carry out `order`; a crash, a hang or an eaten memory is the outcome of the row."""
        if self._process is None:
            self._start()
        try:
            self._connection.send(order)
            row, sound = self._receive(self._limit_s + order.quiet_s)
        except TimeoutError:
            self._stop()
            return self._failure(order, Outcome.TIMEOUT, f"no answer within {self._limit_s:g} s")
        except (EOFError, ConnectionError, BrokenPipeError):
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
        process = self._process
        assert process is not None
        process.join(5)
        code = process.exitcode or 0
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().rpartition("\n")[2][-200:]
        self._stop()
        if code == -signal.SIGKILL:
            return Outcome.OUT_OF_MEMORY, "killed, most likely for its memory"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome.FAILED, f"worker ended by {name} {last}".strip()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._log.truncate(0)
        with _stderr_into(self._log):
            self._process = context.Process(target=_serve, args=(theirs, self._opening, os.getpid()), daemon=True)
            self._process.start()
        theirs.close()
        try:
            answer = self._receive(_START_LIMIT_S)
        except (EOFError, ConnectionError, TimeoutError) as exc:
            reason = self._verdict()[1]
            raise LatteError(f"the device could not be opened: {reason}", hint="try `--device cpu`") from exc
        if isinstance(answer, LatteError):
            self._stop()
            raise answer
        self.device, self.settings = answer

    def _receive(self, limit_s: float) -> Any:
        if not self._connection.poll(limit_s):
            raise TimeoutError
        return self._connection.recv()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


class _stderr_into:  # noqa: N801 - reads as the statement it is
    """While a process is started, its standard error is `log`: what a library says as it dies is kept."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log

    def __enter__(self) -> None:
        sys.stderr.flush()
        self._saved = os.dup(2)
        os.dup2(self._log.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)


def _serve(connection: Connection, opening: Opening, parent: int) -> None:
    """The child's whole life: open the device, answer orders until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare_process(parent)
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
    judge = Judge()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            request = connection.recv()
            if isinstance(request, Order):
                quiet = backend.settle(request.quiet_s)
                row = measure(
                    backend,
                    request.task,
                    plan=request.plan,
                    judge=judge,
                    best_s=request.best_s,
                    sweep_pass=request.sweep_pass,
                    origin=request.origin,
                )
                connection.send((row if quiet else replace(row, marks=_disturbed(row)), backend.sound))
            else:
                connection.send([backend.candidates(*wanted) for wanted in request])


def _disturbed(row: Measurement) -> tuple[Mark, ...]:
    return tuple(dict.fromkeys((*row.marks, Mark.DISTURBED))) if row.outcome is Outcome.OK else row.marks


def _prepare_process(parent: int) -> None:
    """Die with the parent and be the first to go when memory runs out."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _bound_memory(share: float) -> None:
    """Let the process take no more than a share of the memory, and half as much again for what is not tensors."""
    from latte_cli.backends.host import memory_bytes

    with suppress(OSError, ValueError):
        limit = int(memory_bytes() * min(0.9, 1.5 * share))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
