"""An ONNX file as a graph: its operators in an order in which they can run, its inputs, its constants."""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from latte_cli.errors import LatteError
from latte_cli.network.onnx import computed
from latte_cli.network.onnx.operation import Tensor, checked_shape, stored
from latte_cli.network.onnx.origins import whole

DAMAGED = "is the file complete? export it again, or try `latte zoo export resnet18 resnet18.onnx`"
KEEPS_ORIGIN = (
    *("Identity", "Cast", "CastLike", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Flatten"),
    *("DequantizeLinear", "QuantizeLinear"),
)
"""Operators that leave a parameter what it is, in another shape."""

_BATCH = re.compile(r"(n|b|bs|nb|batch\w*|\w*_batch|\w*batch_?size)$", re.IGNORECASE)
"""What exporters and people call the batch."""

_KNOWN_OPSETS = (7, 28)  # since 7 operators broadcast as they do today; 28 is the latest that was read here
_QUANTISING = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)

_OWN_DOMAINS = ("", "ai.onnx")
_MOST_NODES = 50_000
_MOST_WEIGHTS = 100_000
_TRAINED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "LSTM", "GRU", "RNN"),
    *("BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
)
"""Operators that take an activation first and parameters from there on."""

_CALLED = re.compile(r"^(?!onnx::).*(?:\.|weight|bias|kernel|gamma|beta|running_|moving_)")
"""What the names of parameters have that an export leaves without values; other inputs are inputs, as are those that
torch's older exporter calls after the operator that reads them."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """An operator as the file has it; `scope` says what the names in its subgraphs are called outside of them.

    `place` is where the file has it: the same for all trips of a loop and all calls of a function; "" where what it
    does differs between them.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    scope: Mapping[str, str] = field(default_factory=dict)
    place: str = ""

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Everything it reads: its inputs, and what its subgraphs take from outside."""
        graphs = [found.g for found in self.attributes.values() if found.type == AttributeProto.GRAPH]
        if not graphs:
            return self.inputs
        outer = dict.fromkeys(name for graph in graphs for name in _outer(graph))
        return (*self.inputs, *(self.scope.get(name, name) for name in outer))


@dataclass(frozen=True, kw_only=True)
class Input:
    """A graph input; None means a dimension that is left open, a name for one with a symbol."""

    name: str
    sizes: tuple[int | str | None, ...]
    element: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph with its operators in an order in which they can run, without those that no output needs.

    `whole` are the stored tensors that no layer has a part of as its own: parts are taken in each step.
    """

    model: ModelProto
    opset: int
    inputs: tuple[Input, ...]
    constants: Mapping[str, Tensor]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    functions: Mapping[str, FunctionProto] = field(default_factory=dict)
    given_axis: int | None = None
    whole: frozenset[str] = frozenset()

    @property
    def roles_known(self) -> bool:
        """Whether it was a program of torch, whose signature says what is a parameter."""
        return any(entry.domain == "latte" for entry in self.model.opset_import)

    def places_of(self, symbol: str) -> list[str]:
        """Where the inputs have a dimension called `symbol`: `x[2]`."""
        return [
            f"{each.name}[{axis}]" for each in self.inputs for axis, size in enumerate(each.sizes) if size == symbol
        ]

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each tensor is read."""
        return Counter(self.outputs) + Counter(name for call in self.calls for name in call.reads)

    @cached_property
    def turns(self) -> frozenset[str]:
        """The constants that are tables of cosines and sines."""
        return frozenset(computed.turns(self.constants))

    @property
    def batch_axis(self) -> int:
        """The dimension of the inputs that is the batch, where no symbol says it."""
        return self.given_axis or 0

    @property
    def own_batch(self) -> int | None:
        """The batch size of the export, None where it is open."""
        return self.batch if isinstance(self.batch, int) else None

    @cached_property
    def batch(self) -> int | str | None:
        """The batch: the dimension that the user says, else one that is called so, else the first of the first input.

        Raises LatteError where the first input has no such dimension.
        """
        named = [size for each in self.inputs for size in each.sizes if isinstance(size, str) and _BATCH.match(size)]
        if self.given_axis is None and named:
            return named[0]
        sizes = self.inputs[0].sizes if self.inputs else ()
        if self.given_axis is not None and not 0 <= self.given_axis < len(sizes):
            shown = f"the first input has {len(sizes)} dimensions"
            raise LatteError(f"there is no batch axis {self.given_axis}: {shown}", hint="axes count from 0")
        return (sizes[self.batch_axis] or None) if sizes else None


def parsed(content: bytes | ModelProto, name: str, batch_axis: int | None = None) -> Graph:
    """The graph in an ONNX file's `content`; raises LatteError where it holds none that could run."""
    model = content if isinstance(content, ModelProto) else _model(content, name)
    graph = model.graph
    if not graph.node:
        raise LatteError(f"`{name}` is not an ONNX model with any layers", hint=DAMAGED)
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise LatteError(f"`{name}` names no outputs", hint=DAMAGED)
    for what, count, most in (
        ("nodes", len(graph.node), _MOST_NODES),
        ("nodes in subgraphs", sum(1 for _ in islice(_nested(graph), _MOST_NODES + 1)), _MOST_NODES),
        ("weights", len(graph.initializer) + len(graph.input), _MOST_WEIGHTS),
    ):
        if count > most:
            raise LatteError(f"`{name}` has more than {most} {what}, which are not read", hint="is the file damaged?")
    functions = {f"{function.domain}.{function.name}": function for function in model.functions}
    stored = _stored(graph)
    given = {*stored, *(value.name for value in graph.input)}
    calls = ordered(calls_of(graph.node), given, outputs)
    used = {*outputs, *(name for call in calls for name in call.reads)}
    constants = {name: _constant(tensor) for name, tensor in stored.items() if name in used}
    opset = max((entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS), default=1)
    inputs, parameters = _inputs(graph, stored, calls, outputs)
    return Graph(
        model=model,
        opset=opset,
        inputs=inputs,
        constants=constants | parameters,
        calls=calls,
        outputs=outputs,
        functions=functions,
        given_axis=batch_axis,
    )


def notes_of(graph: Graph) -> Iterator[str]:
    """What is assumed of a whole file."""
    first, last = _KNOWN_OPSETS
    if not first <= graph.opset <= last:
        yield f"the model is of opset {graph.opset}; its operators are read as those of {first} to {last} are"
    if any(call.kind in _QUANTISING for call in graph.calls):
        yield "the model is quantised; its products and convolutions are priced in floating point"


def _model(content: bytes, name: str) -> ModelProto:
    try:
        return ModelProto.FromString(content)
    except DecodeError as exc:
        raise LatteError(f"`{name}` is not an ONNX model, or it is damaged", hint=DAMAGED) from exc


def _stored(graph: GraphProto) -> dict[str, TensorProto | Tensor]:
    """The initializers by name; of a sparse one only the shape is known."""
    found: dict[str, TensorProto | Tensor] = {tensor.name: tensor for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        name, shape = sparse.values.name, checked_shape(tuple(sparse.dims), f"`{sparse.values.name}`")
        found[name] = Tensor(name=name, shape=shape, constant=True, parts=(whole(name, shape),))
    return found


def _constant(tensor: TensorProto | Tensor, place: str = "") -> Tensor:
    return tensor if isinstance(tensor, Tensor) else stored(tensor, f"{place}{tensor.name}")


def constants_of(graph: GraphProto, scope: Mapping[str, str], place: str) -> dict[str, Tensor]:
    """The initializers of a subgraph that stands at `place` in the file, by the names they have outside of it."""
    return {scope.get(name, name): _constant(tensor, place) for name, tensor in _stored(graph).items()}


def calls_of(
    nodes: Iterable[NodeProto],
    scope: Mapping[str, str] | None = None,
    prefix: str = "",
    bound: Mapping[str, AttributeProto] | None = None,
    place: str = "",
) -> list[Call]:
    """The operators of a graph, of a subgraph or of a function's body at `place` in the file.

    `scope` renames what they read and write, `prefix` stands before their names, and `bound` are the attributes that
    a function's body refers to.
    """
    names: Counter[str] = Counter()
    scope, calls = scope or {}, []
    for node in nodes:
        name = f"{prefix}{node.name or next(filter(None, node.output), node.op_type)}"
        names[name] += 1
        calls.append(
            Call(
                kind=node.op_type if node.domain in _OWN_DOMAINS else f"{node.domain}.{node.op_type}",
                name=name if names[name] == 1 else f"{name}#{names[name]}",
                inputs=tuple(scope.get(each, each) for each in node.input) if scope else tuple(node.input),
                outputs=tuple(scope.get(each, each) for each in node.output) if scope else tuple(node.output),
                attributes={one.name: one for one in _bound(node.attribute, bound)},
                scope=scope,
                place=""
                if any(one.ref_attr_name for one in node.attribute)
                else f"{place}{next(iter(node.output), '')}",
            )
        )
    return calls


def _bound(
    attributes: Iterable[AttributeProto], bound: Mapping[str, AttributeProto] | None
) -> Iterator[AttributeProto]:
    """The attributes, with what they refer to in place of references; a reference to nothing is left out."""
    for attribute in attributes:
        if not attribute.ref_attr_name:
            yield attribute
        elif bound and attribute.ref_attr_name in bound:
            found = AttributeProto()
            found.CopyFrom(bound[attribute.ref_attr_name])
            found.name = attribute.name
            yield found


def _nested(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes inside of a graph's subgraphs."""
    for node in graph.node[: _MOST_NODES + 1]:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from attribute.g.node
                yield from _nested(attribute.g)


def _outer(graph: GraphProto) -> Iterator[str]:
    """What a subgraph reads from outside."""
    own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    own.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        yield from (name for name in node.input if name and name not in own)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from (name for name in _outer(attribute.g) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def ordered(calls: Sequence[Call], given: set[str], outputs: Iterable[str]) -> tuple[Call, ...]:
    """The calls that `outputs` need, each after those it reads from, otherwise in the order of the file."""
    makers: dict[str, int] = {}
    for index, call in enumerate(calls):
        for output in filter(None, call.outputs):
            if output in makers or output in given:
                raise LatteError(f"`{output}` is written twice, by `{call.name}` too", hint=DAMAGED)
            makers[output] = index
    needed = _needed(calls, makers, given, outputs)
    return tuple(calls[index] for index in _sorted(calls, makers, needed))


def _sorted(calls: Sequence[Call], makers: Mapping[str, int], needed: Iterable[int]) -> list[int]:
    """The indices in `needed`, always taking the first in the file whose inputs are there (Kahn's algorithm)."""
    waiting = {index: {makers[name] for name in calls[index].reads if name in makers} for index in needed}
    readers: dict[int, list[int]] = {}
    for index, sources in waiting.items():
        for source in sources:
            readers.setdefault(source, []).append(index)
    ready = [index for index, sources in waiting.items() if not sources]
    heapq.heapify(ready)
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(index)
        for reader in readers.get(index, ()):
            waiting[reader].discard(index)
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(waiting):
        stuck = next(calls[index].name for index, sources in waiting.items() if sources)
        raise LatteError(f"the graph runs in a circle through `{stuck}`", hint=DAMAGED)
    return ordered


def _needed(calls: Sequence[Call], makers: Mapping[str, int], given: set[str], outputs: Iterable[str]) -> set[int]:
    needed: set[int] = set()
    wanted = [(name, "the graph") for name in outputs]
    while wanted:
        name, reader = wanted.pop()
        index = makers.get(name)
        if index is None:
            if name and name not in given:
                raise LatteError(f"nothing writes `{name}`, which {reader} reads", hint=DAMAGED)
        elif index not in needed:
            needed.add(index)
            wanted += [(source, f"`{calls[index].name}`") for source in calls[index].reads]
    return needed


def _inputs(
    graph: GraphProto, constants: Mapping[str, object], calls: tuple[Call, ...], outputs: tuple[str, ...]
) -> tuple[tuple[Input, ...], dict[str, Tensor]]:
    """The graph inputs that are used: activations, and those that stand only where parameters do."""
    values = {value.name: value for value in graph.input if value.name not in constants}
    used = {name for call in calls for name in call.reads} | set(outputs)
    found = [_input(value) for name, value in values.items() if name in used and value.type.HasField("tensor_type")]
    trained = _parameter_names(found, calls, outputs)
    parameters = {each.name: _parameter(each) for each in found if each.name in trained}
    return tuple(each for each in found if each.name not in trained), parameters


def _input(value: ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        raise LatteError(f"input `{value.name}` is not a tensor with a shape", hint="export it with example inputs")
    sizes = tuple(
        dimension.dim_value
        if dimension.HasField("dim_value") and dimension.dim_value != -1
        else dimension.dim_param or None
        for dimension in kind.shape.dim
    )
    checked_shape(tuple(size for size in sizes if isinstance(size, int)), f"input `{value.name}`")
    return Input(name=value.name, sizes=sizes, element=kind.elem_type)


def _parameter_names(found: list[Input], calls: tuple[Call, ...], outputs: tuple[str, ...]) -> set[str]:
    """Inputs that are read only as parameters and are called as such, as a file without weights has them."""
    ranks = {each.name: len(each.sizes) for each in found}
    varying = set(outputs)
    for call in reversed(calls):
        if call.kind in KEEPS_ORIGIN and not varying.intersection(call.outputs):
            continue
        varying.update(call.reads[len(call.inputs) :])
        for index, name in enumerate(call.inputs):
            trained = index > 0 and call.kind in _TRAINED and (call.kind != "MatMul" or ranks.get(name, 0) <= 2)
            bias = call.kind in ("Add", "Mul") and ranks.get(name, 2) <= 1
            if not trained and not bias:
                varying.add(name)
    return {name for name in ranks.keys() - varying if _CALLED.search(name)}


def _parameter(each: Input) -> Tensor:
    shape = tuple(size for size in each.sizes if isinstance(size, int))
    if len(shape) < len(each.sizes):
        raise LatteError(f"parameter `{each.name}` has an open dimension", hint="export it with example inputs")
    return Tensor(name=each.name, shape=shape, constant=True, element=each.element)
