"""Diagnostics of an estimate: what it rests on, said with what to do about it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends import measurable
from latte_cli.backends.host import KEEPING
from latte_cli.devices import CPU, Kind
from latte_cli.layers import Convolution
from latte_cli.lookup import Z80, Source, Timing, fits_workspace
from latte_cli.strategies import NO_LIMITS, Limits, Strategy, fixed_name

NOISE = "noisy"
"""The code of the doubt about times that vary much from repeat to repeat."""

_FAR_APART = 1.3  # chosen: twice the 15 % at which one row is marked; a quiet machine repeats within 1.1
_WORTH_SAYING = {
    "predicted_share": 0.25,
    "data_sheet": 0.0,
    "extrapolated": 0.05,
    NOISE: 0.1,
    "host_bound": 0.2,
}  # chosen: of the step


def how_to_measure(kind: Kind, updates: Sequence[str] = (), *, elsewhere: bool = False) -> str:
    """How layers, and the `updates` by name, get times that were not measured on a device of `kind`.

    `elsewhere` says that the device is no device of this machine, so that the command has to run there.
    """
    there = "on that device: " if elsewhere else ""
    if measurable(kind) and updates:
        names = ",".join(dict.fromkeys(updates))
        return f"{there}`latte profile MODEL --optimizer {names}` measures a model with its updates"
    if measurable(kind):
        return f"{there}`latte profile --suite network FILE` measures a model's layers"
    if kind.imported_by:
        return f"such a device cannot be profiled; `{kind.imported_by}` adds what others measured"
    return "such a device cannot be profiled"


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """A doubt about an estimate: a stable code, and a sentence that ends in an action.

    An `urgent` one is said even where little is to be said: without it the figures mislead.
    """

    code: str
    message: str
    urgent: bool = False


def diagnose(
    calls: Sequence[Timing],
    *,
    strategy: Strategy,
    limits: Limits = NO_LIMITS,
    kind: Kind = CPU,
    missing: int = 0,
    turned: int = 0,
    versions: int = 1,
    unselected: bool = False,
    alone: int = 0,
    needed_bytes: int = 0,
    memory_share: float = 0.0,
    norms_folded: int = 0,
    waiting_share: float = 0.0,
    returned_bytes: int = 0,
    unpriced_checkpoints: int = 0,
    run_spread: float | None = None,
) -> Iterator[Diagnostic]:
    """What there is to say of a step's `calls`, chosen by `strategy` under `limits` on a device of `kind`.

    `missing` parts were left out; `turned` layers run channels last and were not measured so; rows of that many library
    `versions` were read; `unselected` convolutions took the default for want of a selector; `alone` phases of
    convolutions were timed with nothing to choose from; the step holds `needed_bytes`, `memory_share` of the device's
    memory; an export may have folded `norms_folded` norms into convolutions; a GPU waits for its host for
    `waiting_share` of the step; a CPU's heap may give `returned_bytes` of gradients back to the system after each step;
    the calls of `torch.utils.checkpoint` for `unpriced_checkpoints` regions were left out. `run_spread` is the
    deviation of the logarithm of the network's own steps; the noise of calls with the framework's algorithms, of which
    these consisted, does not matter then.
    """
    measure = how_to_measure(kind)
    if norms_folded:
        message = f"no norms, and {norms_folded} convolutions with biases: an export for inference may have folded "
        yield Diagnostic(code="norms-folded", message=message + "norms into them; `--restore-norms` puts them back")
    if missing:
        parts = "one part of the step is" if missing == 1 else f"{missing} parts of the step are"
        yield Diagnostic(code="missing", message=f"{parts} left out, so it takes longer; {measure}")
    if turned:
        message = (
            f"{turned} layers read activations whose channels the model has moved last, which were not measured so; "
            "their times and workspaces are those in nchw; "
        )
        yield Diagnostic(code="turned", message=message + "`latte profile MODEL` measures them")
    if unpriced_checkpoints:
        regions = "a region" if unpriced_checkpoints == 1 else f"{unpriced_checkpoints} regions"
        message = (
            f"what the call of torch.utils.checkpoint itself takes for {regions} was not measured and is left out; "
        )
        cure = "`latte profile MODEL` measures it" if measurable(kind) else measure
        yield Diagnostic(code="checkpoint_calls", message=message + cure)
    yield from _shares(calls, measure, ran_whole=run_spread is not None)
    if run_spread is not None and (factor := exp(Z80 * run_spread)) > _FAR_APART:
        message = f"the network's own steps vary much: 80 % lie within a factor of {factor:.2f}; "
        yield Diagnostic(code=NOISE, message=message + "measure again while nothing else runs", urgent=True)
    if versions > 1:
        message = f"there are rows of {versions} library versions, each layer's newest are used; profile again"
        yield Diagnostic(code="other_versions", message=message)
    if unselected:
        message = "convolutions that were not measured take the framework's default; "
        yield Diagnostic(code="no_selector", message=message + "`latte train-selector` learns to choose for them")
    if waiting_share > _WORTH_SAYING["host_bound"]:
        message = (
            f"the GPU waits for the host {waiting_share:.0%} of the step, which depends on the host's other load; "
        )
        yield Diagnostic(code="host_bound", message=message + "a larger `--batch-size` or `--cuda-graph` keeps it busy")
    if returned_bytes and not kind.own_memory:
        message = f"glibc gives {returned_bytes / 2**20:.0f} MiB of gradients back after each step and gets them anew, "
        keep = " ".join(f"{name}={value}" for name, value in KEEPING.items())
        yield Diagnostic(code="returned_memory", message=f"{message}which these times leave out; `{keep}` avoids it")
    if memory_share > 1:
        message = f"the step holds {memory_share:.3g} times the device's memory; lower `--batch-size`"
        yield Diagnostic(code="memory", message=message)
    if limits.memory_bytes is not None and needed_bytes > limits.memory_bytes:
        over = needed_bytes / limits.memory_bytes
        message = f"with the algorithms of `{strategy.name}` the step holds {over:.3g} times the memory limit; "
        yield Diagnostic(code="memory_limit", message=message + "compare with `--strategy latte`")
    if strategy.rule_of_gpu and not kind.offers_choice:
        message = f"`{strategy.name}` chooses on GPUs alone: this is its rule on the CPU's algorithms, a stand-in; "
        yield Diagnostic(code="stand_in", message=message + "compare with `--strategy pytorch`")
    elif strategy.rule_of_gpu and alone:
        message = (
            f"{alone} convolution phases were measured with torch's own choice alone, which `{strategy.name}` takes; "
        )
        yield Diagnostic(
            code="no_alternatives", message=message + "`latte profile --suite network FILE` measures the others"
        )
    yield from _unmet(list({id(timing): timing for timing in calls}.values()), strategy.name, limits.workspace_bytes)


def _shares(calls: Sequence[Timing], measure: str, *, ran_whole: bool) -> Iterator[Diagnostic]:
    sources: dict[str, tuple[Callable[[Timing], bool], str, str]] = {
        "predicted_share": (lambda call: call.source is Source.PREDICTED, "predicted, not measured", measure),
        "data_sheet": (lambda call: call.source is Source.DATA_SHEET, "from the device's data sheet", measure),
        "extrapolated": (lambda call: bool(call.extrapolated), "beyond what was measured", measure),
        NOISE: (
            lambda call: _is_noisy(call) and not (ran_whole and call.task.algorithm == FRAMEWORK_DEFAULT),
            "from times that vary much",
            "profile again while nothing else runs",
        ),
    }
    total = sum(call.device_s for call in calls) or 1.0
    for code, (holds, what, action) in sources.items():
        found = [call for call in calls if holds(call)]
        share = sum(call.device_s for call in found) / total
        if share > _WORTH_SAYING[code]:
            longest = max(found, key=lambda call: call.device_s)
            which = longest.extrapolated if code == "extrapolated" else _main_kinds(found)
            if code == NOISE:
                which += f": noise, 80 % of repeats within a factor of {_typical_factor(found):.2f}"
            message = f"{share:.0%} of the step is {what} ({which}); {action}"
            yield Diagnostic(code=code, message=message, urgent=code == NOISE)


def _is_noisy(call: Timing) -> bool:
    """Whether all rows of a measured call are marked, or they lie far apart."""
    return call.source is Source.MEASURED and (call.noisy or _factor(call) > _FAR_APART)


def _factor(call: Timing) -> float:
    """The factor within which 80 % of a call's repeats lie, each way."""
    return sqrt(call.high_80_s / call.low_80_s) if call.low_80_s > 0 else inf


def _typical_factor(calls: Sequence[Timing]) -> float:
    """The median of the factors of `calls`, each weighted by its time."""
    half, passed = sum(call.device_s for call in calls) / 2, 0.0
    for call in sorted(calls, key=_factor):
        passed += call.device_s
        if passed >= half:
            return _factor(call)
    return inf


def _main_kinds(calls: Sequence[Timing]) -> str:
    """The three kinds that take the most time of `calls`, most first."""
    spent: defaultdict[str, float] = defaultdict(float)
    for call in calls:
        spent[call.task.layer.kind] += call.device_s
    kinds = sorted(spent, key=lambda kind: -spent[kind])
    return ", ".join(kinds[:3]) + (", …" if len(kinds) > 3 else "")


def _unmet(timings: Sequence[Timing], strategy: str, workspace_limit_bytes: int | None) -> Iterator[Diagnostic]:
    convolutions = [timing.task for timing in timings if isinstance(timing.task.layer, Convolution)]
    name = fixed_name(strategy)
    if name and (others := sum(task.algorithm.name.upper() != name.upper() for task in convolutions)):
        message = f"{others} of {len(convolutions)} convolution phases cannot run {name} and take the default; "
        yield Diagnostic(code="not_supported", message=message + "compare with `--strategy latte`")
    if over := sum(not fits_workspace(timing, workspace_limit_bytes) for timing in timings):
        message = f"{over} layer phases need more workspace than the limit; raise `--workspace-limit`"
        yield Diagnostic(code="workspace_limit", message=message)
