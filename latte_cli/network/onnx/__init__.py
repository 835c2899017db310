"""Reading ONNX files: a graph of operators becomes a Network of layers, with every shape worked out here."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from onnx import ModelProto

from latte_cli.errors import LatteError
from latte_cli.layers import Shape
from latte_cli.network.graph import Network
from latte_cli.network.onnx import stripped as stripped
from latte_cli.network.onnx.batches import GUESSES, Guess, followed, sizes_at
from latte_cli.network.onnx.dimensions import Dimensions
from latte_cli.network.onnx.graph import DAMAGED, Graph, parsed
from latte_cli.network.onnx.operation import OPEN_BATCH, Undecided
from latte_cli.network.onnx.unified import Unifier, shapes_at
from latte_cli.network.onnx.walk import Walk


def read(
    content: bytes | ModelProto,
    *,
    name: str,
    sha256: str,
    batch_size: int | None,
    allow_unknown: bool,
    sizes: Mapping[str, int] | None = None,
    batch_axis: int | None = None,
) -> Network:
    """The network in an ONNX file's `content`, at `batch_size` (default: the file's own, or 1 where it is open).

    `sizes` are those of dimensions that the file leaves open, by their symbols, as `x[2]` for an input's without one,
    or as `y[0]` where only values decide. `batch_axis` is the batch's dimension in the inputs (default: the one that is
    called so, else the first). Shapes are worked out from the inputs; weights are never allocated, and external data
    are never opened. Raises LatteError for whatever cannot be read, unless it is an operator that `allow_unknown` lets
    pass.
    """
    try:
        graph = parsed(content, name, batch_axis)
    except UnicodeDecodeError as exc:
        raise LatteError(f"`{name}` is damaged: it holds text that is not UTF-8", hint=DAMAGED) from exc
    _check_sample(graph)
    given = dict(sizes or {})
    walk = _walk(graph, batch_size, given, allow_unknown)
    if graph.roles_known and (uneven := walk.parted_unevenly):
        walk = _walk(replace(graph, whole=frozenset(uneven)), batch_size, given, allow_unknown)
    walk.dimensions.check()
    return walk.network(name, sha256)


def _check_sample(graph: Graph) -> None:
    """Raise LatteError for a program that was exported without a sample, whose other sizes may come of that."""
    for each in graph.inputs[:1] if graph.roles_known else ():
        if each.sizes[graph.batch_axis : graph.batch_axis + 1] == (0,):
            message = f"`{each.name}` has no sample: its shape is {each.sizes}"
            raise LatteError(message, hint="the batch size counts samples: 1 or more in the example")


def _walk(graph: Graph, batch_size: int | None, given: Mapping[str, int], allow_unknown: bool) -> Walk:
    """The walk through a graph at the batch size wanted."""
    own = graph.own_batch
    batch = _batch(graph, batch_size, given) if batch_size is not None or own is None else own
    if batch < 1 and batch != own:
        raise LatteError(f"the batch size cannot be {batch}", hint="it counts samples: 1 or more")

    def walked(batch: int, wanted: Mapping[str, Shape] | None = None, own: int | None = None) -> Walk:
        return _walked(graph, batch, given, allow_unknown, wanted or {}, own)

    as_exported = own == batch or (own is None and batch == 1)
    return _once(walked, walked(batch)) if as_exported else _at_another(graph, walked, batch)


def _once(walked: Callable[..., Walk], walk: Walk) -> Walk:
    """The walk as it is, or again with what the export repeated of a parameter for each sample there once."""
    read = {each.name: each for beside in walk.constants.values() for each in beside.values() if each.repeated}
    if not read:
        return walk
    unifier = Unifier(batch=walk.dimensions.batch)
    try:
        followed(walk.given, walk.nodes, unifier, GUESSES[0], walk.constants)
        bound = {place: size for place, size in unifier.bound.items() if place[0] in read}
        return walked(walk.dimensions.batch, shapes_at(read, bound, walk.dimensions.batch)) if bound else walk
    except LatteError:
        return walk


def _at_another(graph: Graph, walked: Callable[..., Walk], batch: int) -> Walk:
    """The graph at a batch size that its export did not have; raises LatteError that says so where it cannot be."""
    own = graph.own_batch
    first = walked(own) if own is not None else None
    try:
        return _scaled(graph, first, walked, batch) if first is not None else walked(batch)
    except Undecided:
        raise
    except LatteError as exc:
        return _of_a_small_export(graph, walked, batch, exc)


def _of_a_small_export(graph: Graph, walked: Callable[..., Walk], batch: int, error: LatteError) -> Walk:
    """The graph read as one that was exported at a batch of 1 or 2, which its numbers may say though it is open."""
    for own in _EXPORTED_AT if graph.own_batch is None else ():
        try:
            return _scaled(graph, walked(own), walked, batch)
        except Undecided:
            raise
        except LatteError:
            continue
    if graph.own_batch is None and not any(_readable(walked, own) for own in _EXPORTED_AT):
        raise error
    raise LatteError(f"it cannot be read at a batch of {batch}: {error.message}", hint=_REBATCH) from error


def _readable(walked: Callable[..., Walk], batch: int) -> bool:
    try:
        walked(batch)
    except LatteError:
        return False
    return True


_EXPORTED_AT = (1, 2)
"""The batch sizes of most exports: 1, and what torch's exporter asks for of a dimension that is to be open."""

_REBATCH = f"`--batch-size` asks for it; {OPEN_BATCH}; or say which dimension of the inputs it is (`--batch-axis`)"


def _scaled(graph: Graph, first: Walk, walked: Callable[..., Walk], batch: int) -> Walk:
    """The graph at `batch`, where its own numbers are those of the `first` walk's."""
    errors = []
    for guess in GUESSES:
        try:
            return _guessed(graph, first, walked, batch, guess)
        except Undecided:
            raise
        except LatteError as exc:
            errors.append(exc)
    raise errors[0]


def _guessed(graph: Graph, first: Walk, walked: Callable[..., Walk], batch: int, guess: Guess) -> Walk:
    unifier = Unifier(batch=first.dimensions.batch)
    sizes = followed(first.given, first.nodes, unifier, guess, first.constants)
    wanted = {name: sizes_at(one, batch) for name, one in sizes.items()}
    read = {each.name: each for beside in first.constants.values() for each in beside.values()}
    wanted |= shapes_at(read, unifier.bound, batch)
    walk: Walk = walked(batch, wanted, first.dimensions.batch)
    for name, shape in wanted.items():
        found = walk.tensors.get(name)
        if found is not None and found.shape != shape:
            raise LatteError(f"`{name}` would have the shape {found.shape} where {shape} is expected")
    return walk


def _batch(graph: Graph, batch_size: int | None, sizes: Mapping[str, int]) -> int:
    """The batch size wanted, which may also be given by its symbol, or in a program of torch by a place that has it."""
    own = graph.batch if isinstance(graph.batch, str) else None
    names = (own, *(graph.places_of(own) if graph.roles_known else ())) if own else ()
    name = next((name for name in names if name in sizes), "")
    named = sizes.get(name)
    if named is not None and batch_size not in (None, named):
        raise LatteError(f"the batch size cannot be {batch_size} and `{name}` {named}", hint="give one of the two")
    return next((size for size in (named, batch_size) if size is not None), 1)


def _walked(
    graph: Graph,
    batch: int,
    sizes: Mapping[str, int],
    allow_unknown: bool,
    wanted: Mapping[str, Shape],
    own: int | None,
) -> Walk:
    own_batch = next(size for size in (own, graph.own_batch, batch) if size is not None)
    dimensions = Dimensions(graph=graph, batch=batch, sizes=sizes)
    shapes = {each.name: dimensions.shape_of(each) for each in graph.inputs}
    if shapes and all(0 in shape for shape in shapes.values()):
        name, shape = next(iter(shapes.items()))
        raise LatteError(f"the inputs are empty: `{name}` has the shape {shape}", hint="give sizes of 1 or more")
    walk = Walk(
        graph=graph,
        dimensions=dimensions,
        own_batch=own_batch,
        wanted=wanted,
        allow_unknown=allow_unknown,
    )
    walk.steps(graph.calls, {})
    return walk
