"""Functions and control flow: calls of functions, branches and loops become the operators that they run."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Protocol

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, TensorProto

from latte_cli.errors import LatteError
from latte_cli.layers import Concat, Copy, Other, View
from latte_cli.network.graph import Node
from latte_cli.network.onnx.graph import DAMAGED, Call, calls_of, constants_of, ordered
from latte_cli.network.onnx.operation import FOLDED_ELEMENTS, Array, Tensor, Undecided, Unreadable

MOST_CALLS = 20_000
"""Operators that functions and loops may become, all in all."""

DEEPEST = 60
"""So deep functions, branches and loops may lie in each other."""


class Walk(Protocol):
    """What of a walk through a graph is needed to go on with the operators inside of one of its nodes."""

    tensors: dict[str, Tensor]
    nodes: list[Node]
    notes: list[str]
    depth: int
    expanded: int

    def deeper(self) -> AbstractContextManager[None]:
        """What is read meanwhile lies one level deeper."""

    def steps(self, calls: Sequence[Call], constants: Mapping[str, Tensor]) -> None:
        """Read more operators, which may use more constants."""

    def lift(self, tensor: Tensor) -> Tensor:
        """A constant as an activation."""

    def size_of(self, name: str) -> int | None:
        """What the user says that a dimension or a number of trips called `name` is."""


def function_called(walk: Walk, call: Call, function: FunctionProto) -> None:
    """Read the operators of `function` in place of `call`, which may leave inputs and attributes out."""
    if len(call.inputs) > len(function.input) or len(call.outputs) > len(function.output):
        raise LatteError(f"{len(call.inputs)} inputs do not fit the function `{function.name[:60]}`")
    bound = {one.name: one for one in function.attribute_proto} | dict(call.attributes)
    scope = dict.fromkeys(function.input, "") | dict(zip(function.input, call.inputs, strict=False))
    scope |= _inside(call.name, function.node, scope)
    results = [(scope.get(inner, inner), outer) for inner, outer in zip(function.output, call.outputs, strict=False)]
    calls = calls_of(function.node, scope, f"{call.name}/", bound, place=f"{function.domain}.{function.name}/")
    _run(walk, calls, {}, [inner for inner, outer in results if outer])
    _named(walk, call, results)


def branched(walk: Walk, call: Call) -> None:
    """Read the branch of an If that is taken; where only values decide, the one that costs more, which a note says."""
    condition = walk.tensors.get(call.inputs[0]) if call.inputs else None
    graphs = [_graph(call, name) for name in ("then_branch", "else_branch")]
    if condition is not None and condition.values is not None and condition.values.size == 1:
        _named(walk, call, _branch(walk, call, graphs, 0 if condition.values.ravel()[0] else 1, ""))
        return
    costlier, (shapes, other) = _compared(walk, call, graphs)
    if shapes != other:
        raise Unreadable(f"its branches write {shapes[:3]} and {other[:3]}, and only values decide between them")
    walk.notes.append(f"`{call.name}` is taken to run its {('then', 'else')[costlier]} branch, which costs more")
    count, results = len(walk.nodes), _branch(walk, call, graphs, costlier, "")
    if condition is not None and len(walk.nodes) == count:
        _chosen(walk, call, condition, results)
    else:
        _named(walk, call, results)


def _chosen(walk: Walk, call: Call, condition: Tensor, results: Sequence[tuple[str, str]]) -> None:
    """Let a choice between what is there already read what decides it, and all that it may choose."""
    for inner, outer in results:
        known = walk.tensors.get(inner)
        if known is None:
            raise Unreadable(f"nothing inside of it writes `{inner}`")
        chosen = walk.lift(known) if known.constant and known.trained else known
        read = (condition,) if chosen.constant else (condition, chosen)
        layer = Other(operation="choice", shapes=tuple(one.shape for one in read), output=known.shape)
        inputs = tuple(one.name for one in read)
        walk.nodes.append(Node(name=f"{call.name}:{outer}", layer=layer, inputs=inputs, output=outer))
        walk.tensors[outer] = Tensor(name=outer, shape=known.shape, element=known.element)


def _compared(walk: Walk, call: Call, graphs: Sequence[GraphProto]) -> tuple[int, list[list[tuple[int, ...]]]]:
    """Which branch costs more, and the shapes that each writes."""
    costs: list[tuple[int, int]] = []
    shapes = []
    for at in range(len(graphs)):
        tensors, count, notes = dict(walk.tensors), len(walk.nodes), len(walk.notes)
        results = _branch(walk, call, graphs, at, f"try{at}/")
        shapes.append([walk.tensors[inner].shape for inner, _ in results if inner in walk.tensors])
        phases = [(node.layer, node.layer.phases[0]) for node in walk.nodes[count:]]
        costs.append((sum(layer.flops(p) for layer, p in phases), sum(layer.elements_moved(p) for layer, p in phases)))
        walk.tensors.clear()
        walk.tensors.update(tensors)
        del walk.nodes[count:], walk.notes[notes:]
    return (0 if costs[0] >= costs[1] else 1), shapes


def _branch(walk: Walk, call: Call, graphs: Sequence[GraphProto], at: int, label: str) -> list[tuple[str, str]]:
    """Read one of two branches; the pairs of what it writes and of the outputs that represent it."""
    graph = graphs[at]
    scope = dict(call.scope) | _inside(f"{call.name}/{label}", graph.node, {}) | _weights(call, graph, label)
    place = f"{call.place or call.name}/{('then', 'else')[at]}/"
    calls = calls_of(graph.node, scope, f"{call.name}/{label}", place=place)
    inner = [scope.get(value.name, value.name) for value in graph.output]
    if len(inner) < len(call.outputs):
        raise LatteError(f"its branch writes {len(inner)} of {len(call.outputs)} outputs")
    _run(walk, calls, constants_of(graph, scope, place), inner)
    return list(zip(inner, call.outputs, strict=False))


def looped(walk: Walk, call: Call) -> None:
    """Read the body of a Loop once for each trip."""
    body = _graph(call, "body")
    state, collected = list(call.inputs[2:]), len(body.output) - 1 - len(call.inputs[2:])
    if len(body.input) != len(state) + 2 or collected < 0:
        raise LatteError(f"its body takes {len(body.input)} inputs where {len(state) + 2} are given")
    going: str = call.inputs[1] if len(call.inputs) > 1 else ""
    gathered: list[list[str]] = [[] for _ in range(collected)]
    trips = _trips(walk, call)
    trip = 0
    while (trips is None or trip < trips) and _goes_on(walk, call, going, counted=trips is not None):
        number = f"{call.name}/{trip}/trip"
        walk.tensors[number] = _value(number, np.asarray(trip))
        given = [number, going or _true(walk, call), *state]
        going, *results = _trip(walk, call, body, trip, given)
        state, parts = results[: len(state)], results[len(state) :]
        for found, part in zip(gathered, parts, strict=True):
            found.append(part)
        trip += 1
    _named(walk, call, list(zip(state, call.outputs, strict=False)))
    _stacked(walk, call, gathered, call.outputs[len(state) :], axes=[0] * collected)


def _trips(walk: Walk, call: Call) -> int | None:
    """How often a Loop runs at most; None where nothing but its condition ends it."""
    name = call.inputs[0] if call.inputs else ""
    tensor = walk.tensors.get(name) if name else None
    if tensor is None:
        return None
    if tensor.values is not None and tensor.values.size == 1:
        count = int(tensor.values.ravel()[0])
    else:
        wanted = f"{call.name}.trips"
        found = walk.size_of(wanted)
        if found is None:
            raise Undecided(
                f"only the values of the model's inputs decide how often `{call.name}` runs",
                hint=f"give it: --shape '{wanted}=NUMBER'",
            )
        count = found
    if count > MOST_CALLS:
        raise Unreadable(f"{count} trips are too many to be read one by one")
    return count


def _goes_on(walk: Walk, call: Call, going: str, *, counted: bool) -> bool:
    """Whether another trip follows, by the condition's value; one that is not known goes on where trips are counted."""
    tensor = walk.tensors.get(going) if going else None
    if tensor is not None and tensor.values is not None and tensor.values.size == 1:
        return bool(tensor.values.ravel()[0])
    if tensor is not None and not counted:
        raise Unreadable("only values decide when it ends")
    if tensor is not None:
        note = f"`{call.name}` is taken to run all its trips"
        walk.notes += [note] * (note not in walk.notes)
    return True


def _trip(walk: Walk, call: Call, body: GraphProto, trip: int, given: Sequence[str]) -> list[str]:
    """Read a body once; the names of what it writes."""
    prefix = f"{call.name}/{trip}/"
    formal = dict(zip((value.name for value in body.input), given, strict=True))
    scope = dict(call.scope) | _inside(prefix, body.node, {}) | _weights(call, body, f"{trip}/") | formal
    inner = [scope.get(value.name, value.name) for value in body.output]
    place = f"{call.place or call.name}/"
    _run(walk, calls_of(body.node, scope, prefix, place=place), constants_of(body, scope, place), inner)
    return inner


def scanned(walk: Walk, call: Call) -> None:
    """Read the body of a Scan once for each slice of what it goes over."""
    body, count = _graph(call, "body"), _integer(call, "num_scan_inputs")
    held = len(call.inputs) - count
    collected = len(body.output) - held
    if not 0 < count <= len(call.inputs) or len(body.input) != len(call.inputs) or collected < 0:
        raise LatteError(f"it goes over {count} of {len(call.inputs)} inputs")
    over = [walk.tensors[name] for name in call.inputs[held:]]
    axes = _integers(call, "scan_input_axes") or [0] * count
    axes = [axis % max(1, len(tensor.shape)) for axis, tensor in zip(axes, over, strict=True)]
    lengths = {tensor.shape[axis] for axis, tensor in zip(axes, over, strict=True) if tensor.shape}
    if len(lengths) != 1:
        raise LatteError(f"it goes over sizes {sorted(lengths)[:4]}")
    state, gathered = list(call.inputs[:held]), [list[str]() for _ in range(collected)]
    for trip in range(_bounded(lengths.pop())):
        parts = [_part(walk, call, one, axis, trip, at) for at, (one, axis) in enumerate(zip(over, axes, strict=True))]
        results = _trip(walk, call, body, trip, [*state, *parts])
        state = results[:held]
        for found, part in zip(gathered, results[held:], strict=True):
            found.append(part)
    _named(walk, call, list(zip(state, call.outputs, strict=False)))
    out_axes = _integers(call, "scan_output_axes") or [0] * collected
    _stacked(walk, call, gathered, call.outputs[held:], axes=out_axes)


def _bounded(trips: int) -> int:
    if trips > MOST_CALLS:
        raise Unreadable(f"{trips} trips are too many to be read one by one")
    return trips


def _part(walk: Walk, call: Call, tensor: Tensor, axis: int, trip: int, at: int) -> str:
    """What one trip gets of an input: its slice, without the axis."""
    name, shape = f"{call.name}/{trip}/scan{at}", tensor.shape
    thin, flat = (*shape[:axis], 1, *shape[axis + 1 :]), (*shape[:axis], *shape[axis + 1 :])
    if tensor.constant:
        values = None if tensor.values is None else np.take(tensor.values, trip, axis)
        walk.tensors[name] = Tensor(name=name, shape=flat, constant=True, values=values, element=tensor.element)
        return name
    slice_of = Copy(operation="slice", shape=shape, output=thin)
    attributes = (("starts", (trip,)), ("ends", (trip + 1,)), ("axes", (axis,)))
    walk.nodes += [
        Node(
            name=f"{name}.slice", layer=slice_of, inputs=(tensor.name,), output=f"{name}.slice", attributes=attributes
        ),
        Node(name=name, layer=View(shape=thin, output=flat), inputs=(f"{name}.slice",), output=name),
    ]
    walk.tensors[name] = Tensor(name=name, shape=flat, element=tensor.element)
    return name


def _stacked(
    walk: Walk, call: Call, gathered: Sequence[Sequence[str]], outputs: Sequence[str], *, axes: Sequence[int]
) -> None:
    """What each trip wrote, laid side by side along a new axis."""
    for names, output, axis in zip(gathered, outputs, axes, strict=False):
        if not output:
            continue
        tensors = [walk.tensors[name] for name in names if name in walk.tensors]
        if len(tensors) < len(names):
            raise Unreadable("it gathers what an operator that is not known writes")
        if not tensors:
            raise Unreadable("it runs no trip, so that the shape of what it gathers is not known")
        first = tensors[0]
        if any(tensor.shape != first.shape for tensor in tensors):
            raise Unreadable("its trips write different shapes")
        at = axis % (len(first.shape) + 1)
        thin = (*first.shape[:at], 1, *first.shape[at:])
        whole = (*first.shape[:at], len(tensors), *first.shape[at:])
        if all(tensor.constant for tensor in tensors):
            values = _side_by_side(tensors, at, whole)
            walk.tensors[output] = Tensor(name=output, shape=whole, constant=True, values=values, element=first.element)
            continue
        varying = [tensor for tensor in tensors if not tensor.constant]
        parts = [f"{output}/{trip}" for trip in range(len(varying))]
        walk.nodes += [
            Node(name=part, layer=View(shape=first.shape, output=thin), inputs=(tensor.name,), output=part)
            for part, tensor in zip(parts, varying, strict=True)
        ]
        layer = Concat(shapes=(thin,) * len(varying), axis=at)
        if len(varying) < len(tensors):
            raise Unreadable("it gathers constants beside what varies")
        walk.nodes.append(Node(name=f"{call.name}:{output}", layer=layer, inputs=tuple(parts), output=output))
        walk.tensors[output] = Tensor(name=output, shape=whole, element=first.element)


def _side_by_side(tensors: Sequence[Tensor], axis: int, whole: tuple[int, ...]) -> Array | None:
    arrays = [tensor.values for tensor in tensors if tensor.values is not None]
    return np.stack(arrays, axis) if len(arrays) == len(tensors) and prod(whole) <= FOLDED_ELEMENTS else None


def _run(walk: Walk, calls: Sequence[Call], constants: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
    """Read `calls` in order, bounded in number and depth."""
    walk.expanded += max(1, len(calls))
    if walk.expanded > MOST_CALLS or walk.depth >= DEEPEST:
        raise LatteError(
            f"its functions and loops become more than {MOST_CALLS} operators, or lie {DEEPEST} deep",
            hint="export a model with fewer trips",
        )
    outside = {name for call in calls for name in call.reads} | {*constants, *outputs}
    made = {name for call in calls for name in call.outputs}
    with walk.deeper():
        walk.steps(ordered(calls, outside - made, outputs), constants)


def _inside(prefix: str, nodes: Sequence[object], formal: Mapping[str, str]) -> dict[str, str]:
    """New names for what `nodes` write."""
    written = {name for node in nodes for name in node.output if name}  # type: ignore[attr-defined]
    return {name: f"{prefix}/{name}" for name in written if name not in formal}


def _weights(call: Call, graph: GraphProto, label: str) -> dict[str, str]:
    """New names for the initializers of a subgraph, which trips and branches may have alike."""
    return {tensor.name: f"{call.name}/{label}{tensor.name}" for tensor in graph.initializer}


def _named(walk: Walk, call: Call, results: Sequence[tuple[str, str]]) -> None:
    """Let what was computed inside stand under the names of the outputs outside."""
    for inner, outer in results:
        if not outer:
            continue
        tensor = walk.tensors.get(inner)
        if tensor is None:
            raise Unreadable(f"nothing inside of it writes `{inner}`")
        if outer in walk.tensors:
            raise LatteError(f"`{outer}` is written twice", hint=DAMAGED)
        if tensor.constant:
            walk.tensors[outer] = tensor
            continue
        layer = View(shape=tensor.shape, output=tensor.shape)
        walk.nodes.append(Node(name=f"{call.name}:{outer}", layer=layer, inputs=(tensor.name,), output=outer))
        walk.tensors[outer] = Tensor(name=outer, shape=tensor.shape, element=tensor.element)


def _true(walk: Walk, call: Call) -> str:
    name = f"{call.name}/true"
    walk.tensors.setdefault(name, _value(name, np.asarray(True)))
    return name


def _value(name: str, value: Array) -> Tensor:
    element = TensorProto.BOOL if value.dtype == bool else TensorProto.INT64
    return Tensor(name=name, shape=value.shape, constant=True, values=value, element=element)


def _graph(call: Call, name: str) -> GraphProto:
    found = call.attributes.get(name)
    if found is None or found.type != AttributeProto.GRAPH:
        raise LatteError(f"it has no `{name}`")
    return found.g


def _integer(call: Call, name: str) -> int:
    found = call.attributes.get(name)
    return int(found.i) if found is not None and found.type == AttributeProto.INT else 0


def _integers(call: Call, name: str) -> list[int]:
    found = call.attributes.get(name)
    return list(found.ints) if found is not None and found.type == AttributeProto.INTS else []


FLOW = {"If": branched, "Loop": looped, "Scan": scanned}
"""Operators that run others, each with what reads it."""

CONDITIONS = {"If": 1, "Loop": 2, "Scan": 0}
"""How many inputs, the first ones, say which others they run or how often."""
