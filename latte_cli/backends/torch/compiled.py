"""Compiled steps: the passes of a network as `torch.compile` makes them, in turn with those of the eager network."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import dropwhile, takewhile
from tempfile import TemporaryDirectory
from typing import Any

from latte_cli import child
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.torch.training import NetworkTraining, RunRequest
from latte_cli.backends.torch.whole import Clocks, Steps, host_marks, parts_of, steps_from
from latte_cli.errors import LatteError
from latte_cli.printable import printable

_LIMIT_S = 900.0  # chosen: compiling takes a minute or two for hundreds of layers, and longer on boards
_IN_A_ROW = 4  # chosen: after the first of them the heap and the caches are those of its kind of step
_LINES_OF_A_REASON = 2  # of torch: who failed, and why
_NO_REASON = ("Set TORCH", "Command:")
"""How the lines begin that torch puts after a reason."""

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where the compiler keeps what it has compiled (torch's documented variable)."""
_SCRATCH = "TMPDIR"
"""Where a C++ compiler puts files between its passes (gcc's documented variable): it may name what is read-only."""


@contextmanager
def compiler_cache() -> Iterator[Mapping[str, str]]:
    """The variables of processes that share what they compile, in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="latte-compiled-") as folder:
        yield {_CACHE: folder, _SCRATCH: folder}


def check_compiler() -> None:
    """Raise LatteError where there is no C++ compiler, which `torch.compile` needs on a CPU."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        message = f"torch.compile needs a C++ compiler, and there is no `{printable(name)}` here"
        raise LatteError(message, hint="install g++, or name a compiler in the variable CXX")


def compile_apart(run: RunRequest, variables: Mapping[str, str]) -> tuple[Steps, Steps]:
    """Steps of the eager network and of the compiled one, in turn in one new process with these `variables`.

    Raises Unsupported, OutOfMemory or Failed.
    """
    try:
        answers = child.ask(f"{__name__}:answer", asdict(run), limit_s=_LIMIT_S + 10 * run.seconds, variables=variables)
    except child.TimedOut as exc:
        raise Failed(str(exc)) from exc
    except child.Ended as exc:
        if exc.killed or "memory" in exc.last.lower():
            raise OutOfMemory(child.meaning(exc.code) if exc.killed else exc.last[:200]) from exc
        raise (Failed if exc.code <= 0 else Unsupported)(exc.last[:200] or str(exc)) from exc
    eager, compiled = map(steps_from, answers)
    return eager, compiled


def answer(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `compile_apart` asks its process for."""
    return [asdict(steps) for steps in compile_here(RunRequest(**body))]


def compile_here(run: RunRequest) -> tuple[Steps, Steps]:
    """Steps of the eager network and of the compiled one in this process; raises what torch and LATTE raise."""
    import torch

    training = NetworkTraining(run)
    ways: tuple[Callable[..., Any], ...] = (training.module, torch.compile(training.module))
    rows: tuple[list[Clocks], list[Clocks]] = ([], [])
    for way, _ in zip(ways, rows, strict=True):
        training.call = way
        _first_step(training)
    start = time.perf_counter()
    while len(rows[0]) < run.least or (time.perf_counter() - start < run.seconds and len(rows[0]) < run.most):
        for way, found in zip(ways, rows, strict=True):
            training.call = way
            found += [host_marks(training.step) for _ in range(_IN_A_ROW)][1:]
    eager, compiled = map(_steps, rows)
    return eager, compiled


def _first_step(training: NetworkTraining) -> None:
    """A step that compiles what is to be compiled; raises RuntimeError with the first words of torch's long reason."""
    try:
        host_marks(training.step)
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        reason = takewhile(lambda line: not line.startswith(_NO_REASON), lines[:_LINES_OF_A_REASON])
        raise RuntimeError(" ".join([*reason, *_compiler_error(lines)])) from None


def _compiler_error(lines: Sequence[str]) -> list[str]:
    """The first error in the words of a C++ compiler, where they are there."""
    said = dropwhile(lambda line: line != "Output:", lines)
    return [line for line in said if "error" in line.lower()][:1]


def _steps(rows: Sequence[Clocks]) -> Steps:
    parts = parts_of([marks for marks, _ in rows])
    return steps_from({**parts, "host": parts, "faults": 0.0, "calls": {}})
