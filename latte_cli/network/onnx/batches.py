"""Where the batch is in each activation of a network, so that a file of one batch size can be read at another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Embedding,
    Linear,
    MatMul,
    Norm,
    Other,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    Stored,
    View,
)
from latte_cli.network.graph import Node
from latte_cli.network.onnx.opaque import ALIKE
from latte_cli.network.onnx.products import GROUPS
from latte_cli.network.onnx.unified import (
    BATCH,
    Constant,
    Loose,
    Lost,
    Size,
    Sizes,
    Unifier,
    follows,
    has_batch,
    product_of,
)


class Mixed(LatteError):
    """A layer that computes across what was taken for the batch."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Where the batch is, where the numbers of a file do not say it.

    What is repeated as often as the batch is large is repeated for each sample along the first dimension, or
    `anywhere`. Of a batch of 1 between two dimensions that a reshape keeps, the `outer` one takes it.
    """

    anywhere: bool = False
    outer: bool = True


GUESSES = tuple(Guess(anywhere=anywhere, outer=outer) for anywhere in (False, True) for outer in (True, False))
"""All of them, the likeliest first; each is checked by the shapes that follow from it."""


def sizes_at(sizes: Sizes, batch: int) -> Shape:
    """The shape at a batch size."""
    return tuple(prod(batch if factor is None else factor for factor in size) for size in sizes)


def plain(shape: Shape) -> Sizes:
    """A shape that the batch has no part in."""
    return tuple(product_of([size]) for size in shape)


def followed(
    inputs: Mapping[str, Sizes],
    nodes: Sequence[Node],
    unifier: Unifier,
    guess: Guess,
    constants: Mapping[str, Mapping[int, Constant]],
) -> dict[str, Sizes]:
    """The sizes of each activation that the batch can be followed to, in a network that was read at a batch.

    Where the numbers leave it open where the batch is, it is where `guess` says. `constants` are those that nodes read,
    by the nodes' outputs and their places; the `unifier` learns which of them holds the batch. Raises Mixed where a
    layer computes across the batch, which it then is not.
    """
    while True:
        count = len(unifier.bound)
        known = dict(inputs)
        for node in nodes:
            if not all(name in known for name in node.read):
                continue
            beside = constants.get(node.output, {})
            try:
                known[node.output] = _outgoing(node, [known[name] for name in node.read], unifier, guess, beside)
            except Lost:
                continue
        if len(unifier.bound) == count:
            return known


def _check(node: Node, sizes: Iterable[Size], what: str) -> None:
    if any(map(has_batch, sizes)):
        raise Mixed(f"`{node.name}` ({node.layer.kind}) takes what should be its batch for {what}")


def _outgoing(
    node: Node, ins: Sequence[Sizes], unifier: Unifier, guess: Guess, constants: Mapping[int, Constant]
) -> Sizes:
    layer, out, batch = node.layer, node.layer.output_shape, unifier.batch
    beside = {place: unifier.sizes_of(constant) for place, constant in constants.items()}
    if not any(map(follows, (*ins, *beside.values()))):
        if isinstance(layer, Copy) and layer.operation in ("expand", "tile"):
            return _expanded(layer, ins[0], batch, guess)
        return plain(out)
    match layer:
        case Stored():
            return beside[0]
        case Elementwise() | Activation() if beside:
            return _together([*ins, *beside.values()], unifier)
        case Copy(operation="concat_constants"):
            return _between_constants(node, layer, ins[0], beside, unifier)
        case Copy(operation="expand") if beside and "beside" in dict(node.attributes):
            return _together([*ins, *beside.values()], unifier)
        case Other(operation="gather_nd") if 1 in beside and len(ins) == 1:
            return _rows_looked_up(node, ins[0], beside[1], unifier)
        case Other(operation=operation) if operation in ALIKE:
            return ins[0]
        case Other(operation="gather") if len(ins) == 2 and ins[0]:
            axis = int(str(dict(node.attributes).get("axis", 0))) % len(ins[0])
            return (*ins[0][:axis], *ins[1], *ins[0][axis + 1 :])
        case Other(operation="index_put") if len(ins) == len(out) == 1 and 0 in beside:
            return _together([*ins, *beside.values()], unifier)
        case Other(operation="histc"):
            return plain(out)
        case Other(operation="top_k"):
            axis = int(str(dict(node.attributes).get("axis", -1))) % len(out)
            _check(node, [ins[0][axis]], "what it chooses from")
            return (*ins[0][:axis], product_of([out[axis]]), *ins[0][axis + 1 :])
        case Copy(operation="gather") if 1 in beside:
            return _looked_up(node, layer, ins[0], beside[1], unifier)
        case View():
            return _seen(node, ins[0], out, batch, guess)
        case Copy():
            return _copied(node, layer, ins[0], batch, guess)
        case Concat():
            return _joined(layer, ins, unifier)
        case Elementwise():
            return _together(ins, unifier)
        case Activation() | Dropout():
            return ins[0]
        case Softmax():
            _check(node, [ins[0][layer.axis]], "what it normalises")
            return ins[0]
        case Norm():
            _check(node, ins[0][-layer.span :] if layer.function in ("layer", "rms") else ins[0][1:2], "channels")
            return ins[0]
        case Convolution() | Pool():
            _check(node, ins[0][1:], "an image's sides or channels")
            return (ins[0][0], *plain(out[1:]))
        case Linear():
            _check(node, ins[0][1:], "features")
            return (ins[0][0], *plain(out[1:]))
        case MatMul():
            return _multiplied(node, ins, unifier)
        case Embedding():
            return (ins[0][0], *plain(out[1:]))
        case Reduce():
            axes = {axis % len(layer.shape) for axis in layer.axes}
            kept = [() if axis in axes else size for axis, size in enumerate(ins[0])]
            return tuple(size for axis, size in enumerate(kept) if layer.keep or axis not in axes)
        case Recurrent():
            _check(node, (ins[0][0], ins[0][2]), "steps of a sequence")
            return (*plain(out[:2]), ins[0][1], *plain(out[3:]))
        case Attention():
            _check(node, [size for sizes in ins[:3] for size in sizes[1:]], "heads or steps")
            masks = [sizes for sizes in (*ins[3:], *beside.values()) if len(sizes) == len(ins[0])]
            return (unifier.same(sizes[0] for sizes in (*ins[:3], *masks)), *plain(out[1:]))
    return _of_another(ins, out, batch)


def _of_another(ins: Sequence[Sizes], out: Shape, batch: int) -> Sizes:
    """An operator that no other kind describes: the batch stays first, where it is first and nowhere else."""
    first = all(sizes[:1] in ((BATCH,), ()) or not any(map(has_batch, sizes)) for sizes in ins)
    alone = not any(has_batch(size) for sizes in ins for size in sizes[1:])
    if not first or not alone or out[:1] != (batch,):
        raise Lost
    return (BATCH, *plain(out[1:]))


def _multiplied(node: Node, ins: Sequence[Sizes], unifier: Unifier) -> Sizes:
    (left, rows, inner), (right, other, columns) = ins
    _check(node, (inner, other), "what it sums over")
    return unifier.same((left, right)), rows, columns


def _together(ins: Sequence[Sizes], unifier: Unifier) -> Sizes:
    """Sizes broadcast against each other."""
    columns = zip_longest(*(sizes[::-1] for sizes in ins), fillvalue=())
    return tuple(unifier.same(column) for column in columns)[::-1]


def _between_constants(node: Node, layer: Copy, sizes: Sizes, beside: Mapping[int, Sizes], unifier: Unifier) -> Sizes:
    """The sizes of what varies, with constants laid end to end next to it."""
    axis = int(str(dict(node.attributes)["axis"]))
    if has_batch(sizes[axis]):
        raise Lost
    others = _together([(*each[:axis], (), *each[axis + 1 :]) for each in (sizes, *beside.values())], unifier)
    return (*others[:axis], product_of([layer.output[axis]]), *others[axis + 1 :])


def _looked_up(node: Node, layer: Copy, sizes: Sizes, indices: Sizes, unifier: Unifier) -> Sizes:
    """The sizes of what is taken at indices that are a constant."""
    axis = int(str(dict(node.attributes).get("axis", 0)))
    if has_batch(sizes[axis]) and indices:
        return (*sizes[:axis], _each_sample(sizes[axis], indices, unifier), *sizes[axis + 1 :])
    return (*sizes[:axis], product_of(factor for size in indices for factor in size), *sizes[axis + 1 :])


def _each_sample(size: Size, indices: Sizes, unifier: Unifier) -> Size:
    """The batch, where constant indices take as many samples as it has; raises Lost where they do not."""
    if size != BATCH or len(indices) != 1 or sizes_at(indices, unifier.batch) != (unifier.batch,):
        raise Lost
    return unifier.same((indices[0], BATCH))


def _rows_looked_up(node: Node, sizes: Sizes, indices: Sizes, unifier: Unifier) -> Sizes:
    """The sizes of what is taken at indices of several dimensions, the last of which has one index for each."""
    first = int(str(dict(node.attributes).get("batch_dims", 0)))
    after = first + sizes_at(indices[-1:], unifier.batch)[0]
    taken = [size for size in sizes[first:after] if has_batch(size)]
    if taken:
        return (*sizes[:first], _each_sample(taken[0], indices[first:-1], unifier), *sizes[after:])
    return (*sizes[:first], *indices[first:-1], *sizes[after:])


def _joined(layer: Concat, ins: Sequence[Sizes], unifier: Unifier) -> Sizes:
    axis = layer.axis % len(ins[0])
    if not any(has_batch(sizes[axis]) for sizes in ins):
        whole: Size = product_of([sum(shape[axis] for shape in layer.shapes)])
    else:
        blocks = [_blocks(sizes[axis]) for sizes in ins]
        if len({block for _, block in blocks}) > 1:
            raise Lost
        whole = product_of([sum(count for count, _ in blocks), *blocks[0][1]])
    others = _together([(*sizes[:axis], (), *sizes[axis + 1 :]) for sizes in ins], unifier)
    return (*others[:axis], whole, *others[axis + 1 :])


def _blocks(size: Size) -> tuple[int, Size]:
    """A dimension as so many of a block that begins with the batch."""
    if size and size[0] is not None:
        return size[0], size[1:]
    return 1, size


def _copied(node: Node, layer: Copy, sizes: Sizes, batch: int, guess: Guess) -> Sizes:
    if layer.operation == "transpose":
        return tuple(sizes[axis] for axis in layer.order)
    if layer.operation == "expand":
        return _expanded(layer, sizes, batch, guess)
    if len(layer.shape) != len(layer.output):
        raise Lost
    starts = _starts(node, layer)
    return tuple(
        size if before == after else _part(node, size, before, after, starts[axis], batch)
        for axis, (size, before, after) in enumerate(zip(sizes, layer.shape, layer.output, strict=True))
    )


def _starts(node: Node, layer: Copy) -> list[int | None]:
    """Where a slice or a split begins along each dimension; None where that is not known."""
    found: list[int | None] = [None] * len(layer.shape)
    values = dict(node.attributes)
    starts, steps, axis = values.get("starts"), values.get("steps"), values.get("axis")
    if layer.operation == "slice" and isinstance(starts, tuple) and isinstance(steps, tuple):
        found = [int(start) if step == 1 else None for start, step in zip(starts, steps, strict=True)]
    elif layer.operation == "split" and isinstance(axis, int | float):
        found[int(axis)] = int(str(values.get("start", 0)))
    return found


def _part(node: Node, size: Size, before: int, after: int, start: int | None, batch: int) -> Size:
    """A dimension of which a part is taken, or that is repeated."""
    operation = node.layer.variant
    if not has_batch(size):
        return product_of([after])
    if operation == "tile" and before and after % before == 0:
        return product_of([after // before, *size])
    _, block = _blocks(size)
    length = prod(batch if factor is None else factor for factor in block)
    if start is None or not length or start % length or after % length or not after:
        raise Mixed(f"`{node.name}` ({operation}) takes a part of its batch")
    return product_of([after // length, *block])


def _expanded(layer: Copy, sizes: Sizes, batch: int, guess: Guess) -> Sizes:
    rank = len(layer.output)
    before = (*((),) * (rank - len(sizes)), *sizes)
    wide = (*(1,) * (rank - len(layer.shape)), *layer.shape)
    found = []
    for axis, (size, old, new) in enumerate(zip(before, wide, layer.output, strict=True)):
        alike = new == batch and (axis == 0 or guess.anywhere) and not any(map(has_batch, before))
        repeated = BATCH if alike else product_of([new])
        found.append(size if old == new else repeated)
    return tuple(found)


def _seen(node: Node, sizes: Sizes, output: Shape, batch: int, guess: Guess) -> Sizes:
    """The sizes behind a view, which may be a transpose or a squeeze that moves no data."""
    values = dict(node.attributes)
    order, gone, new = (values.get(name) for name in ("perm", "squeezed", "unsqueezed"))
    if GROUPS in values:
        return _group_sizes(sizes, int(str(values[GROUPS])))
    if isinstance(order, tuple) and len(order) == len(sizes) == len(output):
        return tuple(sizes[int(axis)] for axis in order)
    if isinstance(gone, tuple):
        if any(has_batch(sizes[int(axis)]) for axis in gone):
            raise Lost
        return tuple(size for axis, size in enumerate(sizes) if axis not in gone)
    if isinstance(new, tuple):
        left = iter(sizes)
        return tuple(() if axis in new else next(left) for axis in range(len(output)))
    return _reshaped(sizes, output, batch, guess)


def _group_sizes(sizes: Sizes, groups: int) -> Sizes:
    """The sizes of rows in as many groups, each with rows of every sample, or of such groups as rows again."""
    if len(sizes) > 2:
        return product_of([*sizes[1], groups]), sizes[2]
    rows = list(sizes[0])
    at = next((at for at, one in enumerate(rows) if one and not isinstance(one, Loose) and one % groups == 0), None)
    if at is None:
        raise Lost
    return product_of([groups]), product_of([*rows[:at], (rows[at] or 0) // groups, *rows[at + 1 :]]), sizes[1]


def _reshaped(sizes: Sizes, output: Shape, batch: int, guess: Guess) -> Sizes:
    """The sizes behind a reshape: factors are taken in order, and the batch is never split."""
    left = [factor for size in sizes for factor in (size or (1,)) if factor != 1]
    found: list[list[int | None]] = []
    for at, wanted in enumerate(output):
        own: list[int | None] = []
        while left and left[0] is None and batch == 1:
            if at and wanted != 1 and guess.outer and _whole(left[1:], wanted) and found[at - 1] != [None]:
                found[at - 1].append(None)
            else:
                own.append(None)
            left.pop(0)
            if wanted == 1:
                break
        while wanted > 1:
            if not left:
                raise Lost
            factor = left.pop(0)
            value = batch if factor is None else factor
            if not value:
                raise Lost  # nothing says where a batch is among no samples
            if wanted % value == 0:
                own.append(factor)
                wanted //= value
            elif factor is not None and factor % wanted == 0:
                own.append(wanted)
                left.insert(0, factor // wanted)
                wanted = 1
            else:
                raise Lost
        found.append(own)
    if any(factor is not None for factor in left) or (left and not found):
        raise Lost
    if left:
        found[-1] += left
    return tuple(product_of(own) for own in found)


def _whole(factors: Sequence[int | None], wanted: int) -> bool:
    """Whether the first of `factors` make a dimension of `wanted` without being split."""
    for factor in factors:
        if wanted == 1 or not factor or wanted % factor:
            break
        wanted //= factor
    return wanted == 1
