"""Moved: a data sheet's model, moved to where the rows of a profiled device say that it is."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log, sqrt
from statistics import fmean, pvariance

from latte_cli.datasheets import Sheet
from latte_cli.devices import Device
from latte_cli.layers import Transfer
from latte_cli.lookup import Pair, Source, Timing
from latte_cli.sheet_model.machine import UNKNOWN, Measured, fit_machine
from latte_cli.sheet_model.model import SheetModel, shipped_fit

_OF_EACH = 24  # chosen: rows of a kind and phase; more tell little of its mean, and each takes 0.1 ms to price
_CPU_SPREAD = 0.5  # chosen: sheets of CPUs rest on priors, and virtual machines get a share of a CPU
_LEAST_S = 1e-9  # a host's time that a row does not tell


def moved_model(sheet: Sheet, device: Device, timings: Sequence[Timing]) -> SheetModel:
    """The model of `sheet` on the machine that the `timings` tell of, with the doubt that they leave.

    Each kind and phase counts once: its mean of log(measured / expected) is off by sqrt(b² + w²/n), where b is how far
    kinds and phases are apart, and w how far calls of one are, both at least as the sheet's model says of other
    devices. A prediction of a kind without rows is off by both, and by what is left of the factor of the machine.
    """
    fitted, rows = shipped_fit(), list(_few_of_each(timings))
    ratios = _ratios(SheetModel(sheet), device, rows)
    device_spreads = _Spreads.of([each.device for each in ratios])
    host_spreads = _Spreads.of([each.host for each in ratios])
    measured: list[Measured] = [(lambda machine: machine.device_factor, exp(fmean(each.device))) for each in ratios]
    spreads = [device_spreads.of_mean(len(each.device)) for each in ratios]
    if device.kind.queued:
        measured += [(lambda machine: machine.host_factor, exp(fmean(each.host))) for each in ratios]
        spreads += [host_spreads.of_mean(len(each.host)) for each in ratios]
    known = replace(UNKNOWN, device_spread=_CPU_SPREAD) if device.kind.threaded else UNKNOWN
    machine = fit_machine(measured, known=known, spread=spreads)
    common = hypot(device_spreads.between, machine.device_spread)
    spread = hypot(common, device_spreads.within)
    return SheetModel(sheet, machine=machine, fitted=replace(fitted, layer_spread=spread, alike=(common / spread) ** 2))


def measured_peaks_model(device: Device, threads: int, timings: Sequence[Timing]) -> SheetModel | None:
    """The model of a device without a data sheet by its measured peak and bandwidth; None where these are not known.

    Its predictions are marked as predicted: no document states these figures.
    """
    peak, bandwidth = device.peak_flop_per_s, device.bandwidth_bytes_per_s
    if not peak or not bandwidth:
        return None
    sheet = Sheet(
        slug=device.slug,
        name=device.name,
        kind=device.kind,
        generation="",
        year=0,
        units=threads or device.multiprocessors,
        lanes=None,
        clock_hz=device.sm_clock_hz,
        peaks_flop_per_s=(("fp32", peak),),
        memory_bytes=device.memory_bytes,
        bandwidth_bytes_per_s=bandwidth,
        cache_bytes=device.cache_bytes,
        power_w=None,
        documents=(),
    )
    found = moved_model(sheet, device, timings)
    return SheetModel(sheet, machine=found.machine, fitted=found.fitted, source=Source.PREDICTED)


def _few_of_each(timings: Iterable[Timing]) -> Iterable[Timing]:
    """Some calls of each kind and phase, spread over all that there are, each with its quickest algorithm."""
    best: dict[Pair, Timing] = {}
    for timing in timings:
        pair = timing.task.layer, timing.task.phase
        priced = timing.device_s > 0 and not (timing.task.layer.free or isinstance(timing.task.layer, Transfer))
        if priced and (pair not in best or timing.device_s < best[pair].device_s):
            best[pair] = timing
    groups: defaultdict[tuple[str, str], list[Timing]] = defaultdict(list)
    for (layer, phase), timing in best.items():
        groups[layer.kind, phase].append(timing)
    for found in groups.values():
        yield from found[:: max(1, len(found) // _OF_EACH)][:_OF_EACH]


@dataclass(frozen=True, kw_only=True)
class _Ratios:
    """log(measured / expected) of the calls of a kind and phase, on the device and on the host."""

    device: list[float]
    host: list[float]


def _ratios(model: SheetModel, device: Device, rows: Sequence[Timing]) -> list[_Ratios]:
    expected = model.predict([row.task for row in rows], device)
    groups: defaultdict[tuple[str, str], _Ratios] = defaultdict(lambda: _Ratios(device=[], host=[]))
    for row in rows:
        said, group = expected[row.task], groups[row.task.layer.kind, row.task.phase]
        group.device.append(log(row.device_s / said.device_s))
        group.host.append(log(max(_LEAST_S, row.host_s) / max(_LEAST_S, said.host_s)))
    return list(groups.values())


@dataclass(frozen=True, kw_only=True)
class _Spreads:
    """How far kinds and phases are apart, and how far calls of one are, as deviations of logarithms."""

    between: float
    within: float

    @staticmethod
    def of(groups: Sequence[Sequence[float]]) -> "_Spreads":
        fitted = shipped_fit()
        least_between = sqrt(fitted.alike) * fitted.layer_spread
        least_within = sqrt(1 - fitted.alike) * fitted.layer_spread
        if not groups:
            return _Spreads(between=least_between, within=least_within)
        squares = sum(len(each) * pvariance(each) for each in groups)
        within = sqrt(squares / max(1, sum(len(each) - 1 for each in groups)))
        between = sqrt(pvariance([fmean(each) for each in groups]))
        return _Spreads(between=max(least_between, between), within=max(least_within, within))

    def of_mean(self, count: int) -> float:
        """How far the mean of so many calls of a kind and phase is off."""
        return hypot(self.between, self.within / sqrt(count))
