"""Decisions: the choices between algorithms that a store's rows hold, with what each would cost."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from latte_cli.algorithms import Algorithm
from latte_cli.backends import Device
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.lookup import Timing, combined
from latte_cli.measure import Evidence, Measurement
from latte_cli.tasks import Settings


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One convolution's phase under some settings on a device: the algorithms that ran there, and those refused."""

    device: Device
    settings: Settings
    layer: Convolution
    phase: Phase
    timings: tuple[Timing, ...]
    refused: tuple[Algorithm, ...] = ()

    @cached_property
    def times_s(self) -> dict[Algorithm, float]:
        """Seconds of each algorithm that ran."""
        return {timing.task.algorithm: timing.device_s for timing in self.timings}

    @property
    def tried(self) -> tuple[Algorithm, ...]:
        """Every algorithm with a row, whatever became of it."""
        return (*self.times_s, *self.refused)

    @cached_property
    def best(self) -> Algorithm:
        """The fastest algorithm."""
        return min(self.times_s, key=lambda algorithm: (self.times_s[algorithm], algorithm.name))

    @property
    def shape(self) -> Layer:
        """The layer up to its batch and bias: decisions of equal shape tell too much about each other."""
        return replace(self.layer, batch=1, bias=False)


def decisions(measurements: Iterable[Measurement]) -> list[Decision]:
    """The choices there are: convolutions of which at least two algorithms ran, their passes combined."""
    devices: dict[str, Device] = {}
    rows: defaultdict[tuple[str, Settings, Convolution, Phase], list[Measurement]] = defaultdict(list)
    for row in measurements:
        task = row.task
        if isinstance(task.layer, Convolution) and row.evidence is not Evidence.LABEL:
            devices[row.device.slug] = row.device
            rows[row.device.slug, task.settings, task.layer, task.phase].append(row)
    found = []
    for (slug, settings, layer, phase), each in rows.items():
        timings = tuple(combined(each))
        refused = {row.task.algorithm for row in each} - {timing.task.algorithm for timing in timings}
        decision = Decision(
            device=devices[slug],
            settings=settings,
            layer=layer,
            phase=phase,
            timings=timings,
            refused=tuple(sorted(refused, key=str)),
        )
        found.append(decision)
    return [decision for decision in found if len(decision.timings) > 1]
