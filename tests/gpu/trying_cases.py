"""Trying cases in a separate process: an algorithm that crashes, hangs or breaks the device costs its case alone."""

import math
import multiprocessing
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

import torch
from gpu_convolutions import Case, bound

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native import cudnn
from latte_cli.measure import Outcome

_LIMIT_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a case ended: its relative error, whether it wrote beyond its workspace, whether its process is well."""

    outcome: Outcome
    error: float = math.nan
    overrun: bool = False
    detail: str = ""
    sound: bool = True


def attempt(library: cudnn.Library, handle: int, case: Case) -> Answer:
    """Run `case` once on poisoned memory."""
    try:
        with bound(library, handle, case) as call:
            call.run()
            torch.cuda.synchronize()
            return Answer(outcome=Outcome.OK, error=call.error(), overrun=not call.workspace.intact)
    except Unsupported as exc:
        return Answer(outcome=Outcome.UNSUPPORTED, detail=str(exc))
    except (OutOfMemory, torch.cuda.OutOfMemoryError) as exc:
        torch.cuda.empty_cache()
        return Answer(outcome=Outcome.OUT_OF_MEMORY, detail=_first_line(exc))
    except (Failed, RuntimeError) as exc:
        return Answer(outcome=Outcome.FAILED, detail=_first_line(exc), sound=_sound())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _sound() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def serve(connection: Connection) -> None:
    """The child's life: answer cases until there are no more."""
    torch.cuda.init()
    library = cudnn.open_library()
    handle = library.handle(0)
    library.set_stream(handle, torch.cuda.current_stream().cuda_stream)
    with suppress(EOFError):
        while True:
            connection.send(attempt(library, handle, connection.recv()))


class Trial:
    """A child process that tries cases, and its restarts; a context manager."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def answer(self, case: Case) -> Answer:
        """What comes of `case`."""
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._connection.send(case)
            if not self._connection.poll(_LIMIT_S):
                self._stop()
                return Answer(outcome=Outcome.TIMEOUT, detail=f"no answer within {_LIMIT_S:g} s", sound=False)
            answer: Answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(10)
            code = self._process.exitcode
            self._stop()
            return Answer(outcome=Outcome.FAILED, detail=f"the process ended with code {code}", sound=False)
        if not answer.sound:
            self._stop()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None
