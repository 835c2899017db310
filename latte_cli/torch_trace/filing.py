"""Filing: a trace's steps become rows of the device that ran them."""

import gzip
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import IO, TypeAlias

from latte_cli import files
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends import host
from latte_cli.devices import Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Layer, Phase
from latte_cli.measure import IN_STEP, Measurement, QualityFlag, spread
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store
from latte_cli.tasks import Settings, Task
from latte_cli.torch_trace.events import Category, ProfilerTrace, read_trace
from latte_cli.torch_trace.matching import LOSS_SLOT, Cost, Matched, Matcher
from latte_cli.torch_trace.origins import layout_of, precision_of, traced_device
from latte_cli.torch_trace.overhead import profiler_overhead_s
from latte_cli.torch_trace.steps import Role, TracedStep, traced_steps
from latte_cli.torch_trace.updates import optimizer_of

LoadNetwork: TypeAlias = Callable[[int | None], Network]
"""Reads the model at a batch size; None for the model's own."""

_Pair: TypeAlias = tuple[Layer, Phase]

_COMPILED = ("Torch-Compiled Region", "CompiledFunction")  # what torch.compile calls what it runs (torch 2.13)
_LEAST_FOUND = 0.5  # chosen: a model of other layers shares few shapes; one with some unknown layers many
_MOST_BATCHES = 6  # chosen: the batch is the first size of most calls
_MOST_SLOWED = 4  # chosen: the least layers take twice as long when they are traced
_FEW_STEPS = 3  # chosen: fewer have no median that one odd step leaves alone


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """How a trace is read: `device` names its device (a CPU's trace does not), or means this machine's CPU.

    `step_s` is what a step takes without the profiler; by None its own time is estimated from the trace.
    """

    device: str | None = None
    threads: int | None = None
    precision: Precision | None = None
    layout: Layout | None = None
    optimizer: str | None = None
    step_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class TraceImport:
    """What became of a trace.

    Of `layers` of the network `missing` name those that no call computes, `strangers` are calls that compute none, with
    their seconds in a step. `step_s` is what the rows add up to, `traced_s` the same calls with the profiler's own
    time, of which `overhead_s` an event was subtracted. `beside_s` is the time before the step's first call and after
    its last, and that of loading data.
    """

    path: Path
    device: Device
    settings: Settings
    batch: int
    rows: int
    steps: int
    layers: int
    missing: tuple[str, ...]
    strangers: tuple[tuple[str, float], ...]
    step_s: float
    traced_s: float
    overhead_s: float
    beside_s: float
    optimizer: str | None
    unreadable: int = 0
    doubts: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A trace that was read: its steps, and what each is of the network."""

    path: Path
    trace: ProfilerTrace
    steps: Sequence[TracedStep]
    network: Network
    matcher: Matcher
    matched: Sequence[Matched]

    def name(self, place: int) -> str:
        """A slot as people know it."""
        slot = self.matcher.slots[place]
        return f"{slot.name} ({slot.layer.kind})"


def import_trace(path: Path, load: LoadNetwork, store: Store, request: TraceRequest) -> TraceImport:
    """Read a trace of training steps of a network into `store`; reading it again adds nothing.

    Raises LatteError for a file that is no whole trace, one without shapes, one of another model, and one whose device
    is not known.
    """
    trace = _read(path)
    steps = [step for step in traced_steps(trace) if any(call.role is Role.OPERATOR for call in step.calls)]
    _check_steps(path, trace, steps)
    device = traced_device(trace, request.device, request.threads, store)
    network, matcher = _matcher(path, load, steps)
    matched = [matcher.match(step) for step in steps]
    reading = _Reading(path=path, trace=trace, steps=steps, network=network, matcher=matcher, matched=matched)
    per_event_s = profiler_overhead_s(steps) if request.step_s is None else _overhead_of(request.step_s, matched)
    optimizer = request.optimizer or optimizer_of(
        matched[0].updates, tensors=len(network.trained_sizes), on_gpu=device.kind.own_memory
    )
    settings = Settings(
        precision=request.precision or precision_of(trace, steps),
        layout=request.layout or layout_of(steps),
        threads=(request.threads or _threads(device)) if device.kind.threaded else 0,
    )
    rows = list(_rows(_samples(reading, optimizer), device, settings, per_event_s, path))
    with store.writer(device) as writer:
        writer.extend(rows)
    return _summary(reading, device, settings, rows=len(rows), per_event_s=per_event_s, optimizer=optimizer)


def _overhead_of(step_s: float, matched: Sequence[Matched]) -> float:
    """Seconds for each of the profiler's events, of steps that take `step_s` without it; 0 where they took no more."""
    traced_s = median(step.total.host_s for step in matched)
    recorded = median(step.total.recorded for step in matched)
    if step_s * _MOST_SLOWED < traced_s:
        raise LatteError(
            f"a step takes {traced_s:.3g} s in the trace, over {_MOST_SLOWED} times the {step_s:.3g} s without it",
            hint="is `--step-time` that of this model and batch?",
            exit_code=ExitCode.USAGE,
        )
    return max(0.0, traced_s - step_s) / max(1.0, recorded)


def _read(path: Path) -> ProfilerTrace:
    what = "a trace of torch.profiler, .json or .json.gz"
    files.check_regular(path, what)
    try:
        with _open(path) as text:
            return read_trace(text)
    except LatteError as exc:
        raise LatteError(f"`{path}`: {exc.message}", hint=exc.hint) from exc
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise LatteError(f"cannot read `{path}`: {reason}", hint=what) from exc


def _open(path: Path) -> IO[str]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    text: IO[str] = (gzip.open if packed else open)(path, "rt", encoding="utf-8")
    return text


def _check_steps(path: Path, trace: ProfilerTrace, steps: Sequence[TracedStep]) -> None:
    operators = [event for event in trace.events if event.category is Category.OPERATOR]
    if not operators or not steps:
        raise LatteError(
            f"`{path}` has no operators of a training step",
            hint="`profile(activities=[ProfilerActivity.CPU, ...], record_shapes=True)` records them",
        )
    if any(event.name.startswith(_COMPILED) for event in operators):
        raise LatteError(f"`{path}` is of a compiled step, which has no layers", hint="trace the model as it is")
    if not any(event.dims for event in operators):
        raise LatteError(f"`{path}` has no shapes", hint="make it with `profile(..., record_shapes=True)`")


def _matcher(path: Path, load: LoadNetwork, steps: Sequence[TracedStep]) -> tuple[Network, Matcher]:
    """The network at the batch of the trace, which is the first size of many calls."""
    found: list[tuple[float, Network, Matcher]] = []
    problem: LatteError | None = None
    for batch in (None, *_batches(steps[-1])):
        if any(batch == network.batch_size for _, network, _ in found):
            continue
        try:
            network = load(batch)
        except LatteError as exc:
            if batch is None:
                raise
            problem = problem or exc
            continue
        matcher = Matcher(network)
        missing = matcher.match(steps[-1]).missing
        share = 1 - len(missing) / max(1, len(matcher.slots))
        found.append((share, network, matcher))
        if not missing:
            break
    share, network, matcher = max(found, key=lambda each: each[0])
    if share < _LEAST_FOUND:
        lost = [matcher.slots[place] for place in matcher.match(steps[-1]).missing]
        message = (
            f"`{path}` is a trace of another model: of {len(matcher.slots)} layers of `{network.name}` it has "
            f"{len(matcher.slots) - len(lost)} (`{lost[0].name}`, a {lost[0].layer.kind}, is not there)"
        )
        raise LatteError(message, hint="name the model that was traced, or its batch with `--batch-size`")
    return network, matcher


def _batches(step: TracedStep) -> list[int]:
    """What may be the batch, the most frequent first."""
    counts: defaultdict[int, int] = defaultdict(int)
    for call in step.calls:
        for shape in call.event.dims or ():
            if call.role is Role.OPERATOR and len(shape) > 1:
                counts[shape[0]] += 1
    return sorted((size for size in counts if size), key=lambda size: -counts[size])[:_MOST_BATCHES]


def _samples(reading: _Reading, optimizer: str | None) -> dict[_Pair, list[Cost]]:
    """For each layer and phase the cost of one call in each step that has it: the mean of the calls that are alike."""
    network, slots = reading.network, reading.matcher.slots
    samples: defaultdict[_Pair, list[Cost]] = defaultdict(list)
    for step in reading.matched:
        own: defaultdict[_Pair, list[Cost]] = defaultdict(list)
        for place, phase in list(step.costs):
            own[slots[place].layer.measured_as(phase)].append(step.call_cost(place, phase))
        if optimizer and step.updates:
            own[network.optimizer(optimizer), Phase.UPDATE].append(step.update)
        for function, cost in step.operations.items():
            if layer := network.operation(function):
                own[layer, Phase.UPDATE].append(cost)
        for pair, costs in own.items():
            mean = Cost()
            for cost in costs:
                mean.add(cost, 1 / len(costs))
            samples[pair].append(mean)
    return dict(samples)


def _rows(
    samples: Mapping[_Pair, Sequence[Cost]], device: Device, settings: Settings, per_event_s: float, path: Path
) -> Iterator[Measurement]:
    """A row for each layer and phase, with a sample for each step.

    Each trace is a separate pass, whose number comes from the file: reading it again makes the same rows.
    """
    digest = _digest(path)
    row = Measurement(
        task=Task(layer=next(iter(samples))[0], phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=settings),
        device=device,
        sweep_pass=int(digest[:7], 16) + 1_000,  # beyond the passes of any sweep, within 32 bits
        cache_state=IN_STEP,
        origin=f"torch-trace {path.name} sha256:{digest[:12]}",
        measured_at=path.stat().st_mtime,
    )
    for (layer, phase), costs in samples.items():
        if layer.free:
            continue
        host_times = tuple(max(_LEAST_S, cost.host_s - per_event_s * cost.recorded) for cost in costs)
        device_times = tuple(max(_LEAST_S, cost.device_s) for cost in costs) if device.kind.queued else host_times
        noisy = spread(device_times) > device.kind.sampling.noisy
        yield replace(
            row,
            task=replace(row.task, layer=layer, phase=phase),
            device_times_s=device_times,
            host_times_s=host_times,
            flags=(QualityFlag.NOISY,) if noisy else (),
            kernels=tuple(dict.fromkeys(name for cost in costs for name in cost.kernels))[:_MOST_KERNELS],
        )


_LEAST_S = 1e-8  # chosen: below what any call takes, and not nothing
_MOST_KERNELS = 16  # chosen: of one call; a call of some hundred kernels is told by the first


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _threads(device: Device) -> int:
    """The threads of this machine's CPU, all cores; those of another are not known."""
    return host.cores() if device.slug == host.cpu_slug() else 0


def _summary(
    reading: _Reading, device: Device, settings: Settings, *, rows: int, per_event_s: float, optimizer: str | None
) -> TraceImport:
    matched, last = reading.matched, reading.matched[-1]
    traced_s = median(step.total.host_s for step in matched)
    recorded = median(step.total.recorded for step in matched)
    outside_s = median(max(0.0, step.lasting_s - step.whole_s) for step in reading.steps)
    strangers = [(name, cost.host_s) for name, cost in last.strangers.items()]
    return TraceImport(
        path=reading.path,
        device=device,
        settings=settings,
        batch=reading.network.batch_size,
        rows=rows,
        steps=len(reading.steps),
        layers=len(reading.matcher.slots),
        missing=tuple(map(reading.name, last.missing)),
        strangers=tuple(sorted(strangers, key=lambda each: -each[1])),
        step_s=max(0.0, traced_s - per_event_s * recorded),
        traced_s=traced_s,
        overhead_s=per_event_s,
        beside_s=outside_s + median(step.beside.host_s for step in matched),
        optimizer=optimizer,
        unreadable=reading.trace.unreadable,
        doubts=tuple(_doubts(reading, device, optimizer)),
    )


def _doubts(reading: _Reading, device: Device, optimizer: str | None) -> Iterator[str]:
    """What there is to say of how far the rows can be trusted."""
    count, last = len(reading.matched), reading.matched[-1]
    if count < _FEW_STEPS:
        yield f"its steps are {count}; trace at least {_FEW_STEPS}: `schedule(wait=1, warmup=1, active=3)`"
    if reading.trace.stacks:
        yield "Python's own calls were traced too, which slows the host; leave out `with_stack=True`"
    if any(reading.matcher.slots[place].name == LOSS_SLOT for place in last.missing):
        yield "its loss is no cross-entropy; `latte estimate --loss none` prices the step without one"
    if not last.updates:
        yield "it has no optimizer's step; `latte estimate --optimizer none` prices the step without one"
    elif optimizer is None:
        yield "its optimizer is not known; name the one that is most like it with `--optimizer`"
    if last.passes > 1:
        yield f"a step goes {last.passes} times through the model; `latte estimate --accumulate {last.passes}`"
    if reading.trace.unreadable:
        yield f"{reading.trace.unreadable} events have no valid form and were left out; write the trace again"
    if device.kind.threaded and not device.memory_bytes:
        yield "the CPU's memory is not known, so whether a step fits is not told; `--device cpu` on that machine knows"
