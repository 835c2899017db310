"""Numbers of a file that the code of a network computed before its export: positions, masks, turns; no parameters."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import isqrt, prod

import numpy as np

from latte_cli.layers import Shape, wide
from latte_cli.network.onnx.operation import Array, Tensor
from latte_cli.printable import few

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Where")
_JOINING = ("Concat", "ScatterElements", "ScatterND")
_NORMS = ("InstanceNormalization", "LayerNormalization", "RMSNormalization")
_OF_EXPORTER = re.compile(r"^val_\d+$")
"""What torch's exporter calls what it computes itself, and the numbers that an operator of ONNX wants beside."""

_FOLDED = (
    "val add arange cat clone cos cumsum div embedding exp expand full index mul neg ones permute pow repeat reshape "
    "select sin slice softmax split sqrt squeeze stack sub sum tile to transpose tril triu unsqueeze view where zeros"
)
_UNNAMED = re.compile(rf"^onnx::|^({'|'.join(_FOLDED.split())})(_\w+)?$")
"""What torch's exporters call constants that they have folded: as the operator that computed them."""

_STEPS = 4  # three equal steps in a row are no coincidence of trained numbers
_CLOSE = 1e-6  # what single precision loses in a few operations
_LARGEST_SQUARE = 4096  # the roots of larger numbers lie so close that a trained number may be one


def recognise(kind: str, inputs: Sequence[Tensor | None], batch: int) -> list[Tensor | None]:
    """The inputs of an operator; what is no parameter by its numbers is a constant next to it.

    `batch` is that of the export.
    """
    given = [tensor for tensor in inputs if tensor is not None]
    if kind in _NORMS and all(_of_exporter(tensor) for tensor in given[1:]):
        return [inputs[0], *(replace(tensor, parts=()) for tensor in given[1:])]
    rank = max((len(tensor.shape) for tensor in given), default=0)
    return [
        replace(tensor, parts=()) if tensor is not None and _is_computed(kind, tensor, rank, batch) else tensor
        for tensor in inputs
    ]


def _of_exporter(tensor: Tensor) -> bool:
    return tensor.constant and is_uniform(tensor) and bool(_OF_EXPORTER.match(tensor.name))


def _is_computed(kind: str, tensor: Tensor, rank: int, batch: int) -> bool:
    if tensor.values is None or not tensor.constant or not tensor.countable:
        return False
    if kind in _JOINING:
        return is_uniform(tensor) and wide(tensor.shape) > _VECTORS and _for_each(tensor.shape, rank, batch)
    if kind not in _ELEMENTWISE:
        return False
    if tensor.values.size == 1:
        return _is_root(float(tensor.values.flat[0]))
    if is_uniform(tensor):
        matrix = wide(tensor.shape) >= _VECTORS and bool(_OF_EXPORTER.match(tensor.name))
        return matrix or _for_each(tensor.shape, rank, batch)
    switches = wide(tensor.shape) >= _VECTORS and _switches(tensor.values)
    return switches or _is_progression(tensor.values) or _is_geometric(tensor.values)


_VECTORS = 2  # dimensions over 1 of a vector for each sample


def _for_each(shape: Shape, rank: int, batch: int) -> bool:
    """Whether a constant has several numbers for each sample of the export's batch."""
    return batch > 1 and len(shape) == rank and shape[0] == batch and prod(shape[1:]) > 1


def is_uniform(tensor: Tensor) -> bool:
    """Whether a constant is known to hold one number throughout."""
    values = tensor.values
    return values is not None and values.size > 0 and bool((values == values.flat[0]).all())


def _switches(values: Array) -> bool:
    """Whether there are zeros and one other number, as in masks."""
    return bool(((values == 0) | (values == values.flat[int(np.abs(values).argmax())])).all())


def _is_progression(values: Array) -> bool:
    """Whether numbers grow by equal steps along a dimension, as positions do and what slopes make of them."""
    least = _CLOSE * float(np.abs(values).max())
    for axis in (axis for axis, size in enumerate(values.shape) if size >= _STEPS):
        steps = np.diff(values.astype(np.float64), axis=axis)
        first = steps.take([0], axis)
        if np.abs(first).max() > least and (np.abs(steps - first) <= least).all():
            return True
    return False


def _is_geometric(values: Array) -> bool:
    """Whether numbers fall or grow by equal ratios, as the frequencies of times and of turns do."""
    if values.min() <= 0:
        return False
    return _is_progression(np.log(values.astype(np.float64)))


def _is_root(value: float) -> bool:
    """Whether a number is the root of a whole one, or one divided by it, as the scales of embeddings and scores are."""
    if value <= 0:
        return False
    square = value**2 if value > 1 else value**-2
    whole = round(square) if square <= _LARGEST_SQUARE else 0
    return whole > 1 and abs(square - whole) <= _CLOSE * whole and isqrt(whole) ** 2 != whole


def turns(constants: Mapping[str, Tensor]) -> Iterator[str]:
    """The names of tables that hold the cosines and the sines of the same angles, whose squares add up alike."""
    tables: dict[Shape, list[Tensor]] = defaultdict(list)
    for tensor in constants.values():
        if tensor.values is not None and tensor.countable and tensor.floating and not is_uniform(tensor):
            tables[tensor.shape].append(tensor)
    for same in tables.values():
        for one, other in combinations(same, 2) if wide(same[0].shape) >= _VECTORS else ():
            if _is_circle(one.values, other.values):
                yield from (one.name, other.name)


def _is_circle(one: Array | None, other: Array | None) -> bool:
    """Whether the squares add up to one number everywhere; first at one place, since there are many pairs."""
    if one is None or other is None:
        return False
    first, last = (float(one.flat[at]) ** 2 + float(other.flat[at]) ** 2 for at in (0, -1))
    if abs(first - last) > _TURN_CLOSE * first:
        return False
    if (np.abs(one) == np.abs(one.flat[0])).all():  # signs alone
        return False
    squares = one.astype(np.float64) ** 2 + other.astype(np.float64) ** 2
    return bool(first > 0 and (np.abs(squares - first) <= _TURN_CLOSE * first).all())


_TURN_CLOSE = 4e-3  # what half precision loses of a sum of two squares


def repeats(tensor: Tensor) -> int:
    """How many numbers of a constant are there again: of vectors that the exporter looked up in a table, or expanded.

    Vectors run along one dimension; what repeats less than once on average, zeros left aside, is no table.
    """
    values = tensor.values
    if values is None or is_uniform(tensor) or wide(tensor.shape) < _VECTORS:
        return 0
    return max(_again(values, axis) for axis, size in enumerate(values.shape) if size > 1)


def _again(values: Array, axis: int) -> int:
    vectors = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    vectors = vectors[(vectors != 0).any(axis=1)]
    table = np.unique(vectors, axis=0)
    again, drawn = len(vectors) - len(table), 2 * len(np.unique(table)) >= table.size  # weights of few bits are not
    return again * values.shape[axis] if drawn and 2 * again >= len(vectors) else 0


def is_doubtful(tensor: Tensor) -> bool:
    """Whether a constant that counts as a parameter may be one of the code, which numbers alone cannot show."""
    if tensor.values is None:
        return prod(tensor.shape) > 1 and bool(_UNNAMED.match(tensor.name))
    return tensor.values.size > 1 and (is_uniform(tensor) or _turns_within(tensor.values))


def _turns_within(values: Array) -> bool:
    """Whether a table holds sines and cosines, as fixed places do, which a module may hold as a parameter or not."""
    width = values.shape[-1] if values.ndim else 0
    if wide(values.shape) < _VECTORS or width % 2:
        return False
    quarters = np.split(values, 4, -1) if width % 4 == 0 else ()
    if quarters and _is_circle(*quarters[:2]) and _is_circle(*quarters[2:]):  # places in two directions
        return True
    halves = (values[..., : width // 2], values[..., width // 2 :])
    return any(_is_circle(one, other) for one, other in (halves, (values[..., ::2], values[..., 1::2])))


def notes(left: Mapping[str, int], doubtful: Mapping[str, int]) -> Iterator[str]:
    """What is said of constants that were left out, and of those that were counted all the same."""
    if left:
        why = "code computes such numbers: one throughout, zeros and one other, equal steps or ratios, a root"
        yield f"{_listed(left)}: constants, and no parameters ({why})"
    if doubtful:
        why = "one number throughout, sines and cosines, or not read, as `--compare-weights` does"
        yield f"{_listed(doubtful)}: counted as parameters, but may be constants of code ({why})"


def _listed(sizes: Mapping[str, int]) -> str:
    return few([f"`{name}` with {size} numbers" for name, size in sizes.items()])
