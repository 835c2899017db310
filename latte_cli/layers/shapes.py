"""Shapes: how they broadcast, and how a reshape follows its input."""

from math import prod
from typing import TypeAlias

from latte_cli.errors import LatteError

Shape: TypeAlias = tuple[int, ...]


def broadcast(*shapes: Shape) -> Shape:
    """The common shape by numpy's rules; raises LatteError where there is none."""
    rank = max(len(shape) for shape in shapes)
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = []
    for column in columns:
        wide = set(column) - {1}
        if len(wide) > 1:
            raise LatteError(f"shapes {', '.join(map(str, shapes))} do not broadcast")
        sizes.append(wide.pop() if wide else 1)
    return tuple(sizes)


def wide(shape: Shape) -> int:
    """How many dimensions are larger than 1."""
    return sum(size > 1 for size in shape)


def reshape_runs(shape: Shape, output: Shape) -> tuple[tuple[slice, slice], ...]:
    """The shortest runs of dimensions of `shape` and of `output`, a reshape of it, that hold the same elements.

    Raises LatteError where there are none.
    """
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(shape) or j < len(output):
        first_in, first_out = i, j
        a = shape[i] if i < len(shape) else 1
        b = output[j] if j < len(output) else 1
        i, j = min(i + 1, len(shape)), min(j + 1, len(output))
        while a != b:
            if a < b and i < len(shape):
                a, i = a * shape[i], i + 1
            elif b < a and j < len(output):
                b, j = b * output[j], j + 1
            else:
                raise LatteError(f"cannot resize a reshape of {shape} to {output}")
        runs.append((slice(first_in, i), slice(first_out, j)))
    return tuple(runs)


def scaled_reshape(shape: Shape, output: Shape, scaled: Shape) -> Shape:
    """What `output`, a reshape of `shape`, becomes for an input of another size `scaled`.

    Within a run (see `reshape_runs`) the first output dimension that can takes the change. Raises LatteError where
    none can.
    """
    result: list[int] = []
    for ins, outs in reshape_runs(shape, output):
        result += _scaled_run(output[outs], prod(shape[ins]), prod(scaled[ins]))
    return tuple(result)


def _scaled_run(sizes: Shape, before: int, after: int) -> list[int]:
    if before == after:
        return list(sizes)
    for at in sorted(range(len(sizes)), key=lambda index: sizes[index] == 1):
        if sizes[at] * after % before == 0 and sizes[at] * after // before > 0:
            return [*sizes[:at], sizes[at] * after // before, *sizes[at + 1 :]]
    raise LatteError(f"cannot resize a reshape that splits {before} into {sizes} to {after}")
