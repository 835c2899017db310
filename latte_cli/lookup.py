"""Look-up: a device's rows, combined over passes, found for a layer or between its measured neighbours."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import exp, isnan, log, nan, sqrt
from statistics import fmean, median
from typing import TypeAlias

from latte_cli.algorithms import Algorithm
from latte_cli.errors import LatteError
from latte_cli.layers import Checkpoint, Layer, Phase, Whole
from latte_cli.layers.alike import LayerSizes, frame_of, has_layout, sort
from latte_cli.measure import IN_STEP, Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store
from latte_cli.tasks import Question, Settings, Task

Pair: TypeAlias = tuple[Layer, Phase]

Z95, Z80 = 1.96, 1.2816
"""Half the widths of a 95 % and an 80 % interval in standard deviations."""

_LEAST_SPREAD = 0.03  # the least between passes, see the next line
_SPREAD_OF_ONE = 0.05  # the same layer differs by 3 to 7 % between passes; taken where there is a single one
_NO_DRIFT = (1.0,)  # one for all: a table of a million rows has as many
_LOW_OF_ONE, _HIGH_OF_ONE = (exp(sign * Z95 * sqrt(2 * _SPREAD_OF_ONE**2)) for sign in (-1, 1))
_INTERPOLATION_SPREAD = 0.08  # chosen: the 0.05 of one pass, and more for what lies between
_WIDEST_BRACKET = 8.0  # chosen: over three doublings kernels change, and a line says little


_NO_TIMES = "its rows tell which algorithms won, without a time; another `--device` of `latte store devices` has times"


class Source(StrEnum):
    """Where a layer's time comes from."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    PREDICTED = "predicted"
    DATA_SHEET = "data sheet"


class NotProfiled(LatteError):
    """The device has no rows for what was asked."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one call of `task` takes, in seconds, with its 95 % interval `low_s` to `high_s` and its origin.

    The 80 % interval is `low_80_s` to `high_80_s`; of the same normal shape where only the other is known. `alike` is
    the share of its error's variance that it has in common with predictions of the same kind and phase. `extrapolated`
    names the size that lies beyond what was measured. `host_s` is the least that the host needed to ask for the call,
    `power_w` what the device took around it, where that could be read; `deterministic` whether results repeated bit by
    bit, where that was looked at; `notes` what its library says of the algorithm. `in_step` says that it was timed
    within steps of a network, as in a trace, and not alone.
    """

    task: Task
    device_s: float
    host_s: float
    low_s: float
    high_s: float
    workspace_bytes: int | None = None
    source: Source = Source.MEASURED
    low_80_s: float = nan
    high_80_s: float = nan
    noisy: bool = False
    alike: float = 1.0
    extrapolated: str = ""
    power_w: float | None = None
    drift: tuple[float, ...] = ()
    measured_at: float = 0.0
    deterministic: bool | None = None
    notes: tuple[str, ...] = ()
    in_step: bool = False

    def __post_init__(self) -> None:
        for narrow, wide in (("low_80_s", self.low_s), ("high_80_s", self.high_s)):
            if isnan(getattr(self, narrow)):
                factor = (wide / self.device_s) ** (Z80 / Z95) if self.device_s else 1.0
                object.__setattr__(self, narrow, self.device_s * factor)


def workspace_bytes(timing: Timing) -> int:
    """The workspace of one call; one that is not known counts as none."""
    return timing.workspace_bytes or 0


def fits_workspace(timing: Timing, limit_bytes: int | None) -> bool:
    """Whether one call's workspace is within the limit."""
    return limit_bytes is None or workspace_bytes(timing) <= limit_bytes


def combine_passes(measurements: Iterable[Measurement]) -> list[Timing]:
    """One timing for each task that ran: the median of its passes' medians.

    The interval is that of one call: exp(±1.96 s) times the median, where s² is the variance of the logarithm
    within a pass plus that between passes, and s is at least 3 %.
    """
    passes: defaultdict[Task, list[tuple[Measurement, float]]] = defaultdict(list)
    for row in measurements:
        if isinstance(row.task, Task) and row.outcome is Outcome.OK and (seconds := row.seconds):
            passes[row.task].append((row, seconds))
    return [_timing_of(task, *zip(*each, strict=True)) for task, each in passes.items()]


def _timing_of(task: Task, rows: Sequence[Measurement], medians: Sequence[float]) -> Timing:
    if len(rows) == 1 and not rows[0].device_times_s and not rows[0].host_times_s:
        return _timing_of_summary(task, rows[0])
    device_s = _middle(medians)
    within = _middle([_log_spread(row.device_times_s) for row in rows])
    spread = max(_LEAST_SPREAD, sqrt(within**2 + _log_spread(medians) ** 2))
    workspaces = [row.workspace_bytes for row in rows if row.workspace_bytes is not None]
    return Timing(
        task=task,
        device_s=device_s,
        host_s=_middle([_host_s(row) for row in rows]),
        power_w=_mean([power for row in rows for power in (row.before.power_w, row.after.power_w)]),
        low_s=device_s * exp(-Z95 * spread),
        high_s=device_s * exp(Z95 * spread),
        workspace_bytes=max(workspaces, default=None),
        noisy=all(QualityFlag.NOISY in row.flags or QualityFlag.DISTURBED in row.flags for row in rows),
        drift=tuple(row.drift for row in rows),
        measured_at=max(row.measured_at for row in rows),
        deterministic=min((row.deterministic for row in rows if row.deterministic is not None), default=None),
        notes=next((row.notes for row in rows if row.notes), ()),
        in_step=all(row.cache_state == IN_STEP for row in rows),
    )


def _middle(values: Sequence[float]) -> float:
    """The median; most tasks have one pass, whose value it is."""
    return values[0] if len(values) == 1 else median(values)


def _timing_of_summary(task: Task, row: Measurement) -> Timing:
    """The same for the one row that imported tables have of a task, which may be a million of them."""
    device_s, powers = row.seconds or 0.0, (row.before.power_w, row.after.power_w)
    return Timing(
        task=task,
        device_s=device_s,
        host_s=device_s,
        power_w=None if powers == (None, None) else _mean(powers),
        low_s=device_s * _LOW_OF_ONE,
        high_s=device_s * _HIGH_OF_ONE,
        workspace_bytes=row.workspace_bytes,
        noisy=QualityFlag.NOISY in row.flags or QualityFlag.DISTURBED in row.flags,
        drift=_NO_DRIFT if row.drift == 1.0 else (row.drift,),
        measured_at=row.measured_at,
        deterministic=row.deterministic,
        notes=row.notes,
        in_step=row.cache_state == IN_STEP,
    )


def _host_s(row: Measurement) -> float:
    """The least of a layer, which others can only delay; what a whole network usually takes, delays and all."""
    if not row.host_times_s:
        return row.seconds or 0.0
    return median(row.host_times_s) if isinstance(row.task.layer, Whole) else min(row.host_times_s)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _log_spread(times_s: Sequence[float]) -> float:
    if len(times_s) < 2:
        return _SPREAD_OF_ONE
    logs = [log(time) for time in times_s if time > 0]
    mean = fmean(logs)
    return sqrt(sum((value - mean) ** 2 for value in logs) / max(1, len(logs) - 1))


class _Rows:
    """What rows of a device say under any settings: the timings of its tasks, and the libraries' own rankings."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.timings = tuple(combine_passes(measurements))
        self.rankings = {row.task: row.ranking for row in measurements if isinstance(row.task, Question)}

    @cached_property
    def layers(self) -> tuple[Timing, ...]:
        """The timings, but for those of whole networks and of checkpoints, which no layer is like."""
        return tuple(timing for timing in self.timings if not isinstance(timing.task.layer, Whole | Checkpoint))

    @cached_property
    def algorithms(self) -> Mapping[tuple[Phase, Hashable], frozenset[Algorithm]]:
        """What ran each phase of layers of each sort."""
        found: defaultdict[tuple[Phase, Hashable], set[Algorithm]] = defaultdict(set)
        for task in (timing.task for timing in self.layers):
            found[task.phase, sort(task.layer)].add(task.algorithm)
        return {key: frozenset(algorithms) for key, algorithms in found.items()}


_KEPT = 4  # devices whose rows stay in memory: a large profile takes 8 MB (nvidia-h200-reference, tracemalloc)
_READ: dict[Hashable, _Rows] = {}


def _everything(store: Store, slug: str) -> _Rows:
    """All rows of a device, read once for each set of parts, whichever store reads them."""
    key = (slug, store.located_parts(slug))
    if key in _READ:
        return _READ[key]
    rows = _Rows(store.measurements(slug))
    if not store.skipped_parts:
        for oldest in list(_READ)[: len(_READ) + 1 - _KEPT]:
            _READ.pop(oldest, None)
        _READ[key] = rows
    return rows


class Lookup:
    """The timings of one device under one precision, layout and number of threads (None: whichever has most rows).

    The store is read as late and as little as possible: the requested layers, and all rows only when neighbours are
    wanted or other layers are requested later. `rowless` says that the device has no rows, which is then no error.
    """

    def __init__(
        self,
        store: Store,
        slug: str,
        *,
        precision: Precision,
        layout: Layout,
        threads: int | None = None,
        rowless: bool = False,
    ) -> None:
        self.store, self.slug = store, slug
        self.precision, self.layout, self.threads = precision, layout, threads
        self._timings: dict[Pair, dict[Settings, list[Timing]]] = {}
        self._rankings: Mapping[Question, tuple[str, ...]] = {}
        self._asked: set[Layer] = set()
        self._everything: _Rows | None = _Rows(()) if rowless else None
        self._families: dict[Hashable, list[tuple[LayerSizes, Timing]]] | None = None

    def measured_timings(self, pairs: Iterable[Pair], beside: Iterable[Pair] = ()) -> dict[Pair, tuple[Timing, ...]]:
        """The timings of each measured pair; where it was measured with several library versions, the newest.

        Those of pairs `beside` them come along if they are there. Raises NotProfiled where the device has no row at
        all under these settings.
        """
        pairs, beside = tuple(pairs), tuple(beside)
        self._read({layer for layer, _ in pairs}, {layer for layer, _ in beside})
        found = {}
        for pair in (*pairs, *beside):
            if groups := self._timings.get(pair):
                found[pair] = tuple(_newest(tuple(groups.values())))
        return found

    def interpolate(self, pair: Pair) -> tuple[Timing, ...]:
        """Timings between the two nearest measured layers that differ from the pair's in one size only.

        The size is any that all tensors share, such as the batch or the channels; the logarithm of the time is linear
        in its logarithm. Neighbours further apart than a factor of 8 are not used.
        """
        layer, phase = pair
        frame, sizes = frame_of(layer)
        brackets: dict[Algorithm, list[_Neighbour]] = defaultdict(list)
        for other, timing in self._family((phase, frame)):
            if step := _single_step(sizes, other):
                brackets[timing.task.algorithm].append(_Neighbour(*step, timing))
        timings = (_interpolate(layer, neighbours) for neighbours in brackets.values())
        return tuple(timing for timing in timings if timing)

    def everything(self) -> Sequence[Timing]:
        """Every layer's timings on the device, under any settings."""
        return self._whole().layers

    def of_wholes(self, names: Collection[str]) -> dict[str, tuple[Timing, ...]]:
        """The timings of networks that were run whole under these settings, by name, at any batch.

        Where one was measured with several library versions, they are of the newest. This reads all rows of the device.
        """
        found: defaultdict[str, dict[Settings, list[Timing]]] = defaultdict(dict)
        for timing in self._whole().timings:
            layer, settings = timing.task.layer, timing.task.settings
            if isinstance(layer, Whole) and layer.name in names and self._as_asked(settings):
                found[layer.name].setdefault(settings, []).append(timing)
        return {name: tuple(_newest(tuple(groups.values()))) for name, groups in found.items()}

    def _as_asked(self, settings: Settings) -> bool:
        same = settings.precision is self.precision and settings.layout is self.layout
        return same and self.threads in (None, settings.threads)

    def _whole(self) -> "_Rows":
        if self._everything is None:
            self._everything = _everything(self.store, self.slug)
            self._rankings = self._everything.rankings
            self._index(self._everything.timings)
        return self._everything

    def has_all_rows(self, pairs: Iterable[Pair]) -> bool:
        """Whether all rows of the device are read by now; they are read here where a layer of `pairs` has none.

        Its neighbours will be looked for, so that all are read anyway. Raises NotProfiled as `measured_timings` does.
        """
        layers = {layer for layer, _ in pairs}
        if self._everything is None and not self._asked and layers:
            rows = self.store.measurements(self.slug, layers=sorted(layers, key=repr))
            if layers != {row.task.layer for row in rows} and self._has_one_number_of_threads():
                self._whole()
                self._asked |= layers
                if not self._covers(layers):
                    raise self._not_profiled()
        return self._everything is not None

    def _has_one_number_of_threads(self) -> bool:
        """Whether it does not matter which rows are read first for the number of threads that is looked up."""
        timings = _everything(self.store, self.slug).timings
        return self.threads is not None or len({timing.task.settings.threads for timing in timings}) == 1

    @property
    def has_wholes(self) -> bool:
        """Whether a network was run whole on the device; this reads all its rows."""
        return any(isinstance(timing.task.layer, Whole) for timing in self._whole().timings)

    def rankings(self, pairs: Iterable[Pair]) -> dict[Pair, tuple[str, ...]]:
        """The names of algorithms, engines aside, as the library's own heuristic ranks them for each of `pairs`.

        Where it was not asked, they are in the order of their mean place for layers that were read so far.
        """
        asked = {
            (question.layer, question.phase): names
            for question, names in self._rankings.items()
            if not question.ranker.mode and self.matches(question)
        }
        indices: defaultdict[Phase, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for (_, phase), names in asked.items():
            for index, name in enumerate(names):
                indices[phase][name].append(index)
        usual = {
            phase: tuple(sorted(seen, key=lambda name: (fmean(seen[name]), name))) for phase, seen in indices.items()
        }
        return {pair: asked.get(pair) or usual.get(pair[1], ()) for pair in pairs}

    def engine_lists(self, pairs: Iterable[Pair]) -> dict[Pair, dict[str, tuple[str, ...]]]:
        """What each mode of cuDNN's heuristics lists for those of `pairs` that were put to it, and were read."""
        wanted, found = set(pairs), defaultdict[Pair, dict[str, tuple[str, ...]]](dict)
        for question, names in self._rankings.items():
            pair, mode = (question.layer, question.phase), question.ranker.mode
            if mode and pair in wanted and self.matches(question):
                found[pair][mode] = names
        return dict(found)

    def run_before(self, pair: Pair) -> frozenset[Algorithm]:
        """The algorithms that ran this phase of a layer of the same sort on this device."""
        layer, phase = pair
        return self._whole().algorithms.get((phase, sort(layer)), frozenset())

    def versions(self) -> frozenset[tuple[tuple[str, str], ...]]:
        """The library versions that the rows read so far were measured with."""
        return frozenset(settings.library_versions for groups in self._timings.values() for settings in groups)

    def settings(self) -> Settings:
        """The settings of the newest row read so far."""
        groups = (timing for groups in self._timings.values() for group in groups.values() for timing in group)
        newest = max(groups, key=lambda timing: timing.measured_at, default=None)
        if newest is None:
            return Settings(precision=self.precision, layout=self.layout, threads=self.threads or 0)
        return replace(newest.task.settings, layout=self.layout)

    def _read(self, layers: set[Layer], beside: set[Layer]) -> None:
        fresh = layers - self._asked
        if not fresh or self._everything is not None:
            return
        if self._asked:
            self.everything()
        else:
            rows = _Rows(self.store.measurements(self.slug, layers=sorted(fresh | beside, key=repr)))
            self._rankings = rows.rankings
            self._index(rows.timings)
        self._asked |= layers
        if not self._covers(layers):
            self.everything()
        if not self._covers(layers):
            raise self._not_profiled()

    def _covers(self, layers: Iterable[Layer]) -> bool:
        """Whether there are rows under the settings; in the very layout, if it means anything to the layers."""
        layouts = {settings.layout for groups in self._timings.values() for settings in groups}
        return self.layout in layouts or (bool(layouts) and not any(map(has_layout, layers)))

    def _index(self, timings: Sequence[Timing]) -> None:
        wanted = [timing for timing in timings if self.matches(timing.task)]
        if self.threads is None and wanted:
            counts = Counter(timing.task.settings.threads for timing in wanted)
            self.threads = max(counts, key=lambda threads: (counts[threads], threads))
        self._timings.clear()
        for timing in wanted:
            settings = timing.task.settings
            if settings.threads == self.threads:
                pair = (timing.task.layer, timing.task.phase)
                self._timings.setdefault(pair, {}).setdefault(settings, []).append(timing)

    def matches(self, task: Task | Question) -> bool:
        """Whether a task was measured, or a question asked, under the settings looked up here."""
        settings = task.settings
        same_layout = settings.layout is self.layout or not has_layout(task.layer)
        return settings.precision is self.precision and same_layout and self.threads in (None, settings.threads)

    def _family(self, key: Hashable) -> Sequence[tuple["LayerSizes", Timing]]:
        if self._families is None:
            self.everything()
            self._families = defaultdict(list)
            for (layer, phase), found in self.measured_timings(tuple(self._timings)).items():
                frame, sizes = frame_of(layer)
                self._families[phase, frame] += [(sizes, timing) for timing in found]
        return self._families.get(key, ())

    def _not_profiled(self) -> NotProfiled:
        have = {timing.task.settings for timing in self.everything()}
        said = sorted({f"{s.precision} {s.layout}" + (f" with {s.threads} threads" if s.threads else "") for s in have})
        wish = f"{self.precision} {self.layout}" + (f" with {self.threads} threads" if self.threads else "")
        return NotProfiled(
            f"the profile `{self.slug}` has no rows in {wish}",
            hint=f"it has {', '.join(said)} (`--precision`, `--layout`, `--threads`)" if said else _NO_TIMES,
        )


def _newest(groups: Sequence[Sequence[Timing]]) -> Sequence[Timing]:
    """The group with the timing that was measured last."""
    return groups[0] if len(groups) == 1 else max(groups, key=lambda group: max(each.measured_at for each in group))


# Neighbours: layers that are the same but for one size


@dataclass(frozen=True)
class _Neighbour:
    """A measured layer `factor` times as large in the size at `indices`."""

    indices: tuple[int, ...]
    factor: float
    timing: Timing


def _single_step(wanted: LayerSizes, other: LayerSizes) -> tuple[tuple[int, ...], float] | None:
    """Where two layers' sizes differ and by which factor, if all differences are of one size to one other."""
    indices = tuple(index for index, (a, b) in enumerate(zip(wanted, other, strict=True)) if a != b)
    if len({(wanted[index], other[index]) for index in indices}) != 1:
        return None
    return indices, other[indices[0]] / wanted[indices[0]]


def _interpolate(layer: Layer, neighbours: Sequence[_Neighbour]) -> Timing | None:
    """The timing of `layer` within its narrowest bracket of neighbours along one size, or None without one."""
    best: tuple[float, _Neighbour, _Neighbour] | None = None
    for indices in {neighbour.indices for neighbour in neighbours}:
        along = [neighbour for neighbour in neighbours if neighbour.indices == indices]
        below = max((n for n in along if n.factor < 1), key=lambda n: n.factor, default=None)
        above = min((n for n in along if n.factor > 1), key=lambda n: n.factor, default=None)
        if below and above and (width := above.factor / below.factor) <= _WIDEST_BRACKET:
            best = min(best or (width, below, above), (width, below, above), key=lambda bracket: bracket[0])
    return _weigh(layer, best[1], best[2]) if best else None


def _weigh(layer: Layer, below: _Neighbour, above: _Neighbour) -> Timing:
    low, high = below.timing, above.timing
    weight = -log(below.factor) / (log(above.factor) - log(below.factor))

    def mean(value: Callable[[Timing], float]) -> float:
        return exp((1 - weight) * log(value(low)) + weight * log(value(high)))

    device_s = mean(lambda timing: timing.device_s)
    spread = max(_INTERPOLATION_SPREAD, *(log(timing.high_s / timing.device_s) / Z95 for timing in (low, high)))
    workspaces = [timing.workspace_bytes for timing in (low, high) if timing.workspace_bytes is not None]
    return Timing(
        task=replace(high.task, layer=layer),
        device_s=device_s,
        host_s=mean(lambda timing: max(timing.host_s, 1e-9)),
        low_s=device_s * exp(-Z95 * spread),
        high_s=device_s * exp(Z95 * spread),
        workspace_bytes=max(workspaces, default=None),
        source=Source.INTERPOLATED,
        noisy=low.noisy or high.noisy,
        power_w=_mean([low.power_w, high.power_w]),
        drift=low.drift + high.drift,
        measured_at=min(low.measured_at, high.measured_at),
        in_step=low.in_step and high.in_step,
    )
