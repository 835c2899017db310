"""Physics: the seconds of calls on a device from its figures, by parameters that many devices share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latte_cli.layers import Layer, Phase
from latte_cli.sheet_model import terms
from latte_cli.sheet_model.figures import SheetFigures

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

Call = tuple[Layer, Phase]

_SPLIT_DEPTH = 512.0  # chosen: sums of more numbers than this are split among units, as weights' gradients are
_TINY = 1e-12  # seconds: keeps logarithms finite


class Names:
    """Numbers for names of parameters, in the order in which they were first asked for."""

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
    """Calls as arrays: logarithms of what they compute and move, and the numbers of their parameters."""

    ideal_s: Array
    moved_s: Array
    outputs: Array
    columns: Array
    depth: Array
    calls: Array
    strain: Array
    is_product: npt.NDArray[np.bool_]
    efficiency: Indices
    bandwidth: Indices
    gap: Indices
    host: Indices
    saturation: Indices
    sharpness: int
    power: int


_WIDTHS = {"efficiency": 6, "bandwidth": 3, "gap": 2, "host": 1}


def terms_of(
    calls: Sequence[Call], figures: SheetFigures, names: Names, *, library: str = "", vector_only: bool = False
) -> Terms:
    """The arrays of `calls` on a device with these `figures`.

    `library` names an old library whose convolutions are slower; `vector_only` says that nothing runs on matrix units.
    """
    rows = [_row(layer, phase, figures, names, library, vector_only) for layer, phase in calls]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 12
    numbers = [np.array(column, dtype=np.float64) for column in columns[:6]]
    products = np.array(columns[6], dtype=bool)
    return Terms(
        ideal_s=numbers[0],
        moved_s=numbers[1],
        outputs=numbers[2],
        columns=numbers[3],
        depth=numbers[4],
        calls=numbers[5],
        strain=np.where(products, figures.strain, 0.0),
        is_product=products,
        efficiency=np.array(columns[7], dtype=np.int64).reshape(len(rows), -1),
        bandwidth=np.array(columns[8], dtype=np.int64).reshape(len(rows), -1),
        gap=np.array(columns[9], dtype=np.int64).reshape(len(rows), -1),
        host=np.array(columns[10], dtype=np.int64).reshape(len(rows), -1),
        saturation=np.array(columns[11], dtype=np.int64).reshape(len(rows), -1),
        sharpness=names.of(("sharpness",), 1)[0],
        power=names.of(("power",), 1)[0],
    )


def _row(
    layer: Layer, phase: Phase, figures: SheetFigures, names: Names, library: str, vector_only: bool
) -> tuple[object, ...]:
    name, product = terms.operation_class(layer), terms.is_product(layer)
    sizes = terms.sizes_of_call(layer, phase)
    on_matrix = product and figures.matrix is not None and name != "depthwise" and not vector_only
    mode = "matrix" if on_matrix else "vector" if figures.queued else "cpu"
    peak = figures.matrix if on_matrix and figures.matrix else figures.vector
    own = list(terms.efficiency_terms(mode, name, phase, figures.family, figures.arithmetic)) if product else []
    if library and product:
        own.append(f"library {library}")
    saturation = [f"{mode} outputs", f"{mode} columns", f"{mode} depth"] if product else []
    return (
        sizes.flops / peak if product else 0.0,
        sizes.elements * figures.element_bytes / figures.bandwidth,
        sizes.rows * sizes.columns * sizes.products * max(1.0, sizes.depth / _SPLIT_DEPTH) / figures.units,
        min(sizes.rows, sizes.columns),
        sizes.depth,
        sizes.calls,
        product,
        names.of(own, _WIDTHS["efficiency"]),
        names.of(terms.bandwidth_terms(name, phase, product, figures.family), _WIDTHS["bandwidth"]),
        names.of(terms.gap_terms(product, figures.family), _WIDTHS["gap"]),
        names.of(terms.host_terms(name, phase, product), _WIDTHS["host"]),
        names.of(saturation, 3),
    )


def device_seconds(found: Terms, values: Array) -> Array:
    """The seconds of each call on the device.

    A product takes FLOPs / (peak · efficiency · saturation), where saturation is a product of x / (x + x₀) for its
    results by unit, its columns and its depth; any call takes bytes / (bandwidth · share). The larger counts, smoothly:
    (a^p + b^p)^(1/p), with a gap for each kernel.
    """
    halves = np.exp(values[found.saturation])
    saturation = (
        found.outputs
        / (found.outputs + halves[:, 0])
        * found.columns
        / (found.columns + halves[:, 1])
        * found.depth
        / (found.depth + halves[:, 2])
    )
    efficiency = np.exp(values[found.efficiency].sum(axis=1) + found.strain * values[found.power])
    compute_s = found.ideal_s / efficiency / np.where(found.is_product, saturation, 1)
    memory_s = found.moved_s / np.exp(values[found.bandwidth].sum(axis=1))
    power = np.exp(values[found.sharpness])
    larger, smaller = np.maximum(compute_s, memory_s) + _TINY, np.minimum(compute_s, memory_s)
    both_s = larger * (1 + (smaller / larger) ** power) ** (1 / power)
    result: Array = both_s + found.calls * np.exp(values[found.gap].sum(axis=1))
    return result


def host_seconds(found: Terms, values: Array) -> Array:
    """The seconds that the host needs to ask for each call."""
    result: Array = found.calls * np.exp(values[found.host].sum(axis=1))
    return result
