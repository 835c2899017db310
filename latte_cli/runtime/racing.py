"""Racing: real steps of a model as PyTorch runs it and as it may be run, in turn, in a separate process."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isnan
from statistics import median, quantiles
from typing import Any

from latte_cli import child
from latte_cli.backends.torch.training import NetworkTraining, RunRequest
from latte_cli.errors import LatteError
from latte_cli.precisions import Precision
from latte_cli.runtime.choices import Choices, choices_document, parse_choices

_LEAST_ROUNDS, _MOST_ROUNDS, _STEPS = 5, 15, 3  # chosen: quartiles need five; a warm step in each
_LEAST_GAIN = 0.02  # chosen: less is not worth another way of running
_LIMIT_FACTOR, _LIMIT_S = 20.0, 120.0  # chosen: far over any race; ends one that hangs


@dataclass(frozen=True, kw_only=True)
class Race:
    """Seconds of a step of each variant in each round; the first variant is PyTorch's own way.

    `differences` are how far each variant's outputs and gradients are from the first one's, as a share of how far
    rounding alone may take them. Over 1 a variant does not count.
    """

    times_s: tuple[tuple[float, ...], ...]
    differences: tuple[float, ...]

    def ratio(self, at: int) -> float:
        """The median over rounds of a variant's step over that of the first in the same round."""
        return median(self._ratios(at))

    def spread(self, at: int) -> tuple[float, float]:
        """The quartiles of those ratios."""
        low, _, high = quantiles(self._ratios(at), n=4)
        return low, high

    def _ratios(self, at: int) -> list[float]:
        return [own / first for own, first in zip(self.times_s[at], self.times_s[0], strict=True)]

    def step_s(self, at: int) -> float:
        """The median step of a variant."""
        return median(self.times_s[at])

    def right(self, at: int) -> bool:
        """Whether a variant computes what the first does."""
        return self.differences[at] <= 1

    @property
    def winner(self) -> int:
        """The quickest right variant: the first, unless another is 2 % quicker, and quicker in three rounds of four."""
        quicker = [
            at for at in range(1, len(self.times_s)) if self.ratio(at) < 1 - _LEAST_GAIN and self.spread(at)[1] < 1
        ]
        return min(filter(self.right, quicker), key=self.ratio, default=0)


def run_race(run: RunRequest, variants: Sequence[Choices]) -> Race:
    """Race `variants` on `run`'s model for about `run.seconds` each; raises LatteError where a step does not run."""
    limit_s = _LIMIT_S + _LIMIT_FACTOR * run.seconds * len(variants)
    request = {"run": asdict(run), "choices": choices_document(variants)}
    try:
        body = child.ask(f"{__name__}:answer", request, limit_s=limit_s)
    except child.TimedOut as exc:
        raise LatteError(f"steps took longer than {limit_s:g} s", hint="a smaller `--batch-size` is quicker") from exc
    except child.Ended as exc:
        raise LatteError(f"a step does not run here: {exc.last[-200:] or exc}") from exc
    return Race(
        times_s=tuple(map(tuple, body["times_s"])),
        differences=tuple(body["differences"]),
    )


_TOLERANCES = {precision: (1e-3, 5e-2) if precision is Precision.FP32 else (5e-2, 0.5) for precision in Precision}
"""How far outputs and gradients may be from PyTorch's, in norm.

A ReLU or a maximum whose inputs are all but equal decides otherwise after another rounding, and that changes gradients
in steps: in PyTorch's own two layouts outputs of the zoo's networks are within 3e-6 of each other (bf16: 5e-3), but
gradients 1e-2 (bf16: 0.2) apart.
"""


def raced_here(run: RunRequest, variants: Sequence[Choices]) -> dict[str, Any]:
    """`run_race` in this process: `times_s` of a step of each variant, round by round, and `differences`.

    A variant of the strategy `pytorch-benchmark` runs with torch's own search switched on.
    """
    trainings = [_training_of(run, each) for each in variants]
    expected, tolerances = trainings[0].answers(), _TOLERANCES[Precision(run.precision)]
    differences = [max(map(_difference, training.answers(), expected, tolerances)) for training in trainings]
    from latte_cli.backends.torch.layers import synchronizer

    synchronize = synchronizer(run.device)
    for training, each in zip(trainings, variants, strict=True):
        _set_search(each)
        for _ in range(2):
            training.step(_no_mark)
    synchronize()
    rounds: list[list[float]] = [[] for _ in variants]
    started = time.perf_counter()
    while len(rounds[0]) < _LEAST_ROUNDS or (
        time.perf_counter() - started < run.seconds * len(variants) and len(rounds[0]) < _MOST_ROUNDS
    ):
        order = list(range(len(variants)))
        for at in order if len(rounds[0]) % 2 == 0 else reversed(order):
            _set_search(variants[at])
            rounds[at].append(_step_s(trainings[at], synchronize))
    return {"times_s": rounds, "differences": differences}


def _difference(found: Sequence[Any], expected: Sequence[Any], tolerance: float) -> float:
    """The largest difference of two tensors as a share of `tolerance`; infinite where one is not a number.

    In norm, over that of the second, at least a thousandth of the largest.
    """
    scales = [float(one.norm()) for one in expected]
    least = max(1e-3 * max(scales, default=0.0), sys.float_info.min)
    shares = [
        float((one - other).norm()) / max(scale, least) / tolerance
        for one, other, scale in zip(found, expected, scales, strict=True)
    ]
    return max((inf if isnan(share) else share for share in shares), default=0.0)


def _training_of(run: RunRequest, choices: Choices) -> NetworkTraining:
    from latte_cli.runtime.optimizing import optimize

    training = NetworkTraining(run)
    if not choices.nothing:
        optimize(training.module, choices=choices)
    return training


def _set_search(choices: Choices) -> None:
    import torch

    torch.backends.cudnn.benchmark = choices.strategy == "pytorch-benchmark"


def _no_mark() -> None: ...


def _step_s(training: NetworkTraining, synchronize: Callable[[], object]) -> float:
    """The median of a few steps after one that is not timed: another model has used the caches."""
    training.step(_no_mark)
    times_s = []
    for _ in range(_STEPS):
        synchronize()
        started = time.perf_counter()
        training.step(_no_mark)
        synchronize()
        times_s.append(time.perf_counter() - started)
    return median(times_s)


def winning_choices(race: Race, variants: Sequence[Choices]) -> Choices:
    """The variant that won, with what was measured in place of what was estimated."""
    best = variants[race.winner]
    alone = next((at for at, each in enumerate(variants) if each.layout == best.layout and not each.bindings), None)
    wrong = sum(not race.right(at) for at in range(len(variants)))
    reasons = best.reasons if race.winner else (*best.reasons, "no other way was measurably faster")
    reasons += (f"{wrong} of the ways computed something else",) if wrong else ()
    return replace(
        best,
        default_s=race.step_s(0),
        layout_s=race.step_s(0) * race.ratio(alone) if alone is not None else None,
        chosen_s=race.step_s(0) * race.ratio(race.winner),
        measured=True,
        reasons=reasons,
    )


def answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `run_race` asks a separate process to run."""
    return raced_here(RunRequest(**body["run"]), parse_choices(body["choices"]))
