"""Loading: how many samples a second a user's own loader gives, in a separate process."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from latte_cli import child
from latte_cli.errors import ExitCode, LatteError

_START_S = 60.0  # chosen: for imports, and for the workers of a loader to start, on a slow disk
_BLOCKS = 10  # chosen: enough for a spread, each of many batches
_LEAST_BATCHES = 3  # chosen: fewer show nothing of a spread


@dataclass(frozen=True, kw_only=True)
class LoadingRate:
    """What the loader `target` gave: samples a second over `seconds`, and the least and most of ten parts of that time.

    `first_batch_s` is what the first batch took, the start of workers with it; `batches` and `samples` are those that
    were timed, after the ones that workers had ready by then.
    """

    target: str
    rate_per_s: float
    least_per_s: float
    most_per_s: float
    first_batch_s: float
    batches: int
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that was there `at_s` seconds after the first one, with `samples` samples."""

    at_s: float
    samples: int


def time_loader(target: str, *, folder: Path, seconds: float) -> LoadingRate:
    """Time the loader that `target`, `module:function`, returns for about `seconds`, or until it ends.

    The module is looked for in `folder` first. Raises LatteError where there is no such function (exit code 2 for what
    is no `module:function`), where it returns no batches, and where it raises.
    """
    module, _, function = target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        hint = "as in `--loader data:train_loader`, for the function `train_loader` of `data.py`"
        raise LatteError(f"`{target}` is no module and function", hint=hint, exit_code=ExitCode.USAGE)
    question = {"target": target, "folder": str(folder), "seconds": seconds}
    try:
        found = child.ask(f"{__name__}:answer", question, limit_s=_START_S + 10 * seconds)
    except child.TimedOut as exc:
        raise LatteError(f"`{target}`: {exc}", hint="a larger `--budget` waits longer") from exc
    except child.Ended as exc:
        raise LatteError(f"`{target}` {exc}", hint="call it by itself, in the same folder") from exc
    if refused := found.get("refused"):
        raise LatteError(
            f"`{target}` {refused}", hint="the function returns an iterable of batches, as a DataLoader is"
        )
    return LoadingRate(**found)


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """What `time_loader` asks in its child: a LoadingRate as a dict, or why there is none as `refused`."""
    os.chdir(question["folder"])
    sys.path.insert(0, question["folder"])
    module, _, name = str(question["target"]).partition(":")
    function = getattr(import_module(module), name, None)
    if not callable(function):
        return {"refused": "is no function"}
    try:
        return asdict(_time(question["target"], function, question["seconds"], time.perf_counter))
    except _Refused as exc:
        return {"refused": str(exc)}


class _Refused(Exception):
    """What a function returned is nothing to time."""


def _time(
    target: str, function: Callable[[], Iterable[object]], seconds: float, clock: Callable[[], float]
) -> LoadingRate:
    began = clock()
    loader = function()
    if not isinstance(loader, Iterable):
        raise _Refused(f"returned `{type(loader).__name__}`, which gives no batches")
    batches = list(_batches(iter(loader), seconds, clock))
    if len(batches) < _LEAST_BATCHES:
        raise _Refused(f"ended after {len(batches)} batches; at least {_LEAST_BATCHES} are needed to tell a rate")
    return loading_rate(target, batches, first_batch_s=batches[0].at_s - began, ready=_ready(loader))


def _batches(iterator: Iterator[object], seconds: float, clock: Callable[[], float]) -> Iterator[Batch]:
    end_s = None
    for batch in iterator:
        at_s = clock()
        yield Batch(at_s=at_s, samples=samples_of(batch))
        end_s = at_s + seconds if end_s is None else end_s
        if at_s >= end_s:
            return


def _ready(loader: object) -> int:
    """How many batches the workers of a DataLoader may have ready when the first one is there."""
    workers = getattr(loader, "num_workers", 0) or 0
    return int(workers) * int(getattr(loader, "prefetch_factor", None) or 1)


def loading_rate(target: str, batches: Sequence[Batch], *, first_batch_s: float, ready: int = 0) -> LoadingRate:
    """The rate of at least three batches in the order they came; of the first, and of `ready` more, no time is known.

    These are left out, but for at most half of all.
    """
    first = min(ready, len(batches) // 2 - 1) if len(batches) > _LEAST_BATCHES else 0
    timed = batches[first:]
    count = len(timed) - 1
    edges = sorted({round(place * count / _BLOCKS) for place in range(_BLOCKS + 1)})
    rates = [_rate(timed[a : b + 1]) for a, b in pairwise(edges)]
    return LoadingRate(
        target=target,
        rate_per_s=_rate(timed),
        least_per_s=min(rates),
        most_per_s=max(rates),
        first_batch_s=first_batch_s,
        batches=count,
        samples=sum(batch.samples for batch in timed[1:]),
        seconds=timed[-1].at_s - timed[0].at_s,
    )


def _rate(batches: Sequence[Batch]) -> float:
    seconds = batches[-1].at_s - batches[0].at_s
    return sum(batch.samples for batch in batches[1:]) / max(seconds, 1e-9)


def samples_of(batch: object) -> int:
    """How many samples a batch has: the first dimension of the first tensor or array in it, else its own length."""
    count = _first_dimension(batch)
    if count is None and isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        count = len(batch)
    if not count:
        raise _Refused(f"gave `{type(batch).__name__}` without samples that can be counted")
    return count


def _first_dimension(batch: object) -> int | None:
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) and prod(shape) else None
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((count for part in parts if (count := _first_dimension(part))), None)
