"""Physics: the seconds of calls on a device from its figures, by parameters that many devices share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli.layers import Layer, Phase
from latte_cli.sheet_model import terms
from latte_cli.sheet_model.figures import SheetFigures

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

Call = tuple[Layer, Phase]

_SPLIT_DEPTH = 512.0  # chosen: sums of more numbers than this are split among units, as weights' gradients are
LEAST = 8.0
"""The exponent by which the least of several times is taken; chosen: two alike are 8 % quicker than one."""

_TINY = 1e-12  # seconds: keeps logarithms finite


class Names:
    """Numbers for names of parameters, in the order in which they were first read."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {"": 0}

    def of(self, names: Sequence[str], width: int) -> list[int]:
        """The numbers of `names`, filled up to `width` with that of the empty one, which is always zero."""
        found = [self.index.setdefault(name, len(self.index)) for name in names]
        return found + [0] * (width - len(found))

    def values(self, known: Mapping[str, float]) -> Array:
        """The value of each parameter: the known one, or its prior's mean."""
        return np.array([0.0 if not name else known.get(name, terms.prior(name)[0]) for name in self.index])


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Calls as arrays: what they compute and move, and the numbers of their parameters.

    A call may be computed in several ways, each of which has an entry in all arrays but `calls`, `host`: `owner` is the
    number of its call.
    """

    owner: Indices
    ideal_s: Array
    moved_s: Array
    outputs: Array
    columns: Array
    depth: Array
    kernels: Array
    strain: Array
    headroom: Array
    is_product: npt.NDArray[np.bool_]
    efficiency: Indices
    bandwidth: Indices
    gap: Indices
    saturation: Indices
    calls: Array
    host: Indices
    sharpness: int
    power: int
    clock: int


_WIDTHS = {"efficiency": 9, "bandwidth": 4, "gap": 2, "host": 1, "saturation": 3}
_NUMBERS = ("owner", "ideal_s", "moved_s", "outputs", "columns", "depth", "kernels", "strain", "headroom", "is_product")


def terms_of(calls: Sequence[Call], figures: SheetFigures, names: Names, *, library: str = "") -> Terms:
    """The arrays of `calls` on a device with these `figures`; `library` names an old library of convolutions."""
    rows = [row for owner, call in enumerate(calls) for row in _ways_of(owner, call, figures, names, library=library)]
    hosts, counts = [], []
    for layer, phase in calls:
        hosts.append(names.of(terms.host_terms(terms.operation_class(layer), phase, terms.is_product(layer)), 1))
        counts.append(terms.sizes_of_call(layer, phase).calls)
    types: dict[str, Any] = {"owner": np.int64, "is_product": np.bool_}
    numbers: dict[str, Any] = {
        name: np.array([row[name] for row in rows], dtype=types.get(name, np.float64)) for name in _NUMBERS
    }
    indices: dict[str, Any] = {
        name: np.array([row[name] for row in rows], dtype=np.int64).reshape(len(rows), _WIDTHS[name])
        for name in ("efficiency", "bandwidth", "gap", "saturation")
    }
    return Terms(
        **numbers,
        **indices,
        calls=np.array(counts, dtype=np.float64),
        host=np.array(hosts, dtype=np.int64).reshape(len(calls), 1),
        sharpness=names.of(("sharpness",), 1)[0],
        power=names.of(("power",), 1)[0],
        clock=names.of(("clock",), 1)[0],
    )


def _ways_of(owner: int, call: Call, figures: SheetFigures, names: Names, *, library: str) -> Iterator[dict[str, Any]]:
    """The entries of a call, one for each way to compute it."""
    layer, phase = call
    name, product, sizes = terms.operation_class(layer), terms.is_product(layer), terms.sizes_of_call(layer, phase)
    on_matrix = product and figures.matrix is not None and name != "depthwise"
    mode = "matrix" if on_matrix else "vector" if figures.queued else "cpu"
    peak = figures.matrix if on_matrix and figures.matrix else figures.vector
    own = list(terms.efficiency_terms(mode, name, phase, figures.family, figures.arithmetic)) if product else []
    if library and product:
        own.append(f"library {library}")
    shared = {
        "owner": owner,
        "outputs": sizes.rows * sizes.columns * sizes.products * max(1.0, sizes.depth / _SPLIT_DEPTH) / figures.units,
        "columns": min(sizes.rows, sizes.columns),
        "strain": figures.strain if product else 0.0,
        "headroom": figures.headroom if product else 0.0,
        "is_product": product,
        "bandwidth": names.of(terms.bandwidth_terms(name, phase, product, figures.family), _WIDTHS["bandwidth"]),
        "gap": names.of(terms.gap_terms(product, figures.family), _WIDTHS["gap"]),
        "saturation": names.of([f"{mode} {each}" for each in _HALVES] if product else [], _WIDTHS["saturation"]),
    }
    for way in terms.ways(layer, mode, figures.family):
        more = [way.name, way.name.split(" on ")[0]] if way.name else []
        yield shared | {
            "ideal_s": way.operations * sizes.flops / peak if product else 0.0,
            "moved_s": (sizes.elements + way.moved) * figures.element_bytes / figures.bandwidth,
            "depth": sizes.depth * way.depth,
            "kernels": sizes.calls * way.kernels,
            "efficiency": names.of([*own, *more], _WIDTHS["efficiency"]),
        }


_HALVES = ("outputs", "columns", "depth")


@dataclass(frozen=True, kw_only=True)
class WayTimes:
    """The seconds of each way, and the parts that they are made of.

    Rooms are slopes of the bounded shares by what bounds them, both as logarithms: 1 far below the peak, 0 at it.
    """

    compute_s: Array
    memory_s: Array
    gap_s: Array
    compute_room: Array
    memory_room: Array
    power: float
    halves: Array
    sizes: Array

    @property
    def both_s(self) -> Array:
        """Computing and moving, the larger of which counts, smoothly: (a^p + b^p)^(1/p)."""
        larger, smaller = np.maximum(self.compute_s, self.memory_s), np.minimum(self.compute_s, self.memory_s)
        result: Array = larger * (1 + (smaller / larger) ** self.power) ** (1 / self.power)
        return result

    @property
    def total_s(self) -> Array:
        """With the gap between kernels."""
        return self.both_s + self.gap_s


def way_times(found: Terms, values: Array) -> WayTimes:
    """The parts of each way's time.

    A product takes FLOPs / (peak · efficiency · saturation), where saturation is a product of x / (x + x₀) for its
    results by unit, its columns and its depth; any call takes bytes / (bandwidth · share).
    """
    halves = np.exp(values[found.saturation])
    sizes = np.stack([found.outputs, found.columns, found.depth], axis=1)
    saturation = np.where(found.is_product, (sizes / (sizes + halves)).prod(axis=1), 1.0)
    clocks = found.strain * values[found.power] + found.headroom * values[found.clock]
    efficiency = np.exp(values[found.efficiency].sum(axis=1) + clocks)
    reached, compute_room = _within_bounds(efficiency * saturation)
    moved, memory_room = _within_bounds(np.exp(values[found.bandwidth].sum(axis=1)))
    return WayTimes(
        compute_s=found.ideal_s / reached + _TINY,
        memory_s=found.moved_s / moved + _TINY,
        compute_room=compute_room,
        memory_room=memory_room,
        gap_s=found.kernels * np.exp(values[found.gap].sum(axis=1)),
        power=float(np.exp(values[found.sharpness])),
        halves=halves,
        sizes=sizes,
    )


def _within_bounds(share: Array) -> tuple[Array, Array]:
    """Shares of a peak that no device exceeds: x / (1 + x⁴)^(1/4), and the slope of its logarithm by that of x."""
    raised = np.minimum(share, 1e6) ** 4
    return share / (1 + raised) ** 0.25, 1 / (1 + raised)


def device_seconds(found: Terms, values: Array) -> Array:
    """The seconds of each call on the device: of its ways the least, smoothly."""
    total_s = way_times(found, values).total_s
    sums = np.bincount(found.owner, total_s**-LEAST, minlength=len(found.calls))
    return np.asarray(sums ** (-1 / LEAST), dtype=np.float64)


def host_seconds(found: Terms, values: Array) -> Array:
    """The seconds that the host needs to ask for each call."""
    result: Array = found.calls * np.exp(values[found.host].sum(axis=1))
    return result
