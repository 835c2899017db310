"""Reading ONNX files: a graph of operators becomes a Network of layers, with every shape worked out here."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from latte_cli.errors import LatteError
from latte_cli.layers import Linear, Shape, View
from latte_cli.network import Network, Node
from latte_cli.network.onnx_operation import Operation, Tensor, Unreadable, checked_shape
from latte_cli.network.onnx_operators import COMPUTING
from latte_cli.network.onnx_shapes import MAKING, REARRANGING, folded, tensor_values

OPERATORS = COMPUTING | REARRANGING | MAKING
"""Every operator that can be read, by name."""

_OWN_DOMAINS = ("", "ai.onnx")
_FIRST_PARAMETER = {"PRelu": 1, "MatMul": 1} | dict.fromkeys(
    (
        *("Conv", "ConvTranspose", "Gemm", "BatchNormalization", "LayerNormalization", "RMSNormalization"),
        *("GroupNormalization", "InstanceNormalization"),
    ),
    1,
)
"""From which input on an operator reads parameters."""
_KEEPS_ORIGIN = ("Identity", "Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Flatten")
_DAMAGED = "is the file complete? export it again, or try `latte zoo export resnet18 resnet18.onnx`"
_MALFORMED = (ValueError, TypeError, IndexError, ArithmeticError)
"""What Python and numpy raise for numbers that do not fit together."""


@dataclass(frozen=True, kw_only=True)
class _Call:
    """An operator as the file has it."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]


@dataclass(frozen=True, kw_only=True)
class _Input:
    """A graph input; None stands for a dimension that is left open, a name for one with a symbol."""

    name: str
    sizes: tuple[int | str | None, ...]
    element: int


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """A graph with its operators in an order in which they can run, without those that no output needs."""

    model: ModelProto
    opset: int
    inputs: tuple[_Input, ...]
    constants: Mapping[str, Tensor]
    calls: tuple[_Call, ...]
    outputs: tuple[str, ...]

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each tensor is read."""
        return Counter(self.outputs) + Counter(name for call in self.calls for name in call.inputs)

    @property
    def batch(self) -> int | str | None:
        """The first dimension of the first input."""
        return self.inputs[0].sizes[0] if self.inputs and self.inputs[0].sizes else None


def read(content: bytes, *, name: str, sha256: str, batch_size: int | None, allow_unknown: bool) -> Network:
    """The network in an ONNX file's `content`, at `batch_size` (default: the file's own, or 1 where it is open).

    Shapes are worked out from the inputs; weights are never allocated, and external data are never opened. Raises
    LatteError for whatever cannot be read, unless it is an operator that `allow_unknown` lets pass.
    """
    try:
        graph = _parsed(content, name)
    except UnicodeDecodeError as exc:
        raise LatteError(f"`{name}` is damaged: it holds text that is not UTF-8", hint=_DAMAGED) from exc
    own = graph.batch if isinstance(graph.batch, int) else None
    batch = own or 1 if batch_size is None else batch_size
    if batch < 1:
        raise LatteError(f"the batch size cannot be {batch}", hint="it counts samples: 1 or more")
    own_shapes: Mapping[str, tuple[Shape, Shape]] = {}
    if own is not None and own != batch:
        own_shapes = _walked(graph, own, {}, allow_unknown).reshaped
    walk = _walked(graph, batch, own_shapes, allow_unknown)
    return walk.network(name, sha256)


def _walked(graph: _Graph, batch: int, own_shapes: Mapping[str, tuple[Shape, Shape]], allow_unknown: bool) -> "_Walk":
    walk = _Walk(graph=graph, batch=batch, own_shapes=own_shapes, allow_unknown=allow_unknown)
    for call in graph.calls:
        walk.step(call)
    return walk


def _parsed(content: bytes, name: str) -> _Graph:
    try:
        model = ModelProto.FromString(content)
    except DecodeError as exc:
        raise LatteError(f"`{name}` is not an ONNX model, or it is damaged", hint=_DAMAGED) from exc
    graph = model.graph
    if not graph.node:
        raise LatteError(f"`{name}` is not an ONNX model with any layers", hint=_DAMAGED)
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise LatteError(f"`{name}` names no outputs", hint=_DAMAGED)
    constants = _constants(graph)
    calls = _ordered(_calls(graph), {*constants, *(value.name for value in graph.input)}, outputs)
    opset = max((entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS), default=1)
    inputs, parameters = _inputs(graph, constants, calls, outputs)
    return _Graph(
        model=model, opset=opset, inputs=inputs, constants=constants | parameters, calls=calls, outputs=outputs
    )


def _constants(graph: GraphProto) -> dict[str, Tensor]:
    found = {tensor.name: _stored(tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        shape = checked_shape(tuple(sparse.dims), f"`{sparse.values.name}`")
        found[sparse.values.name] = Tensor(name=sparse.values.name, shape=shape, constant=True)
    return found


def _stored(tensor: TensorProto) -> Tensor:
    return Tensor(
        name=tensor.name,
        shape=checked_shape(tuple(tensor.dims), f"`{tensor.name}`"),
        constant=True,
        values=tensor_values(tensor),
        element=tensor.data_type,
    )


def _calls(graph: GraphProto) -> list[_Call]:
    names: Counter[str] = Counter()
    calls = []
    for node in graph.node:
        domain = "" if node.domain in _OWN_DOMAINS else f"{node.domain}."
        name = node.name or next(filter(None, node.output), node.op_type)
        names[name] += 1
        calls.append(
            _Call(
                kind=f"{domain}{node.op_type}",
                name=name if names[name] == 1 else f"{name}#{names[name]}",
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                attributes={attribute.name: attribute for attribute in node.attribute},
            )
        )
    return calls


def _ordered(calls: list[_Call], given: set[str], outputs: Iterable[str]) -> tuple[_Call, ...]:
    """The calls that `outputs` need, each after those it reads from, otherwise in the order of the file."""
    makers: dict[str, int] = {}
    for index, call in enumerate(calls):
        for output in filter(None, call.outputs):
            if output in makers or output in given:
                raise LatteError(f"`{output}` is written twice, by `{call.name}` too", hint=_DAMAGED)
            makers[output] = index
    needed = _needed(calls, makers, given, outputs)
    waiting = {index: {makers[name] for name in calls[index].inputs if name in makers} for index in needed}
    readers: dict[int, list[int]] = {}
    for index, sources in waiting.items():
        for source in sources:
            readers.setdefault(source, []).append(index)
    ready = [index for index, sources in waiting.items() if not sources]
    heapq.heapify(ready)
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(calls[index])
        for reader in readers.get(index, ()):
            waiting[reader].discard(index)
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(needed):
        stuck = next(calls[index].name for index, sources in waiting.items() if sources)
        raise LatteError(f"the graph runs in a circle through `{stuck}`", hint=_DAMAGED)
    return tuple(ordered)


def _needed(calls: list[_Call], makers: Mapping[str, int], given: set[str], outputs: Iterable[str]) -> set[int]:
    needed: set[int] = set()
    wanted = [(name, "the graph") for name in outputs]
    while wanted:
        name, reader = wanted.pop()
        index = makers.get(name)
        if index is None:
            if name and name not in given:
                raise LatteError(f"nothing writes `{name}`, which {reader} reads", hint=_DAMAGED)
        elif index not in needed:
            needed.add(index)
            wanted += [(source, f"`{calls[index].name}`") for source in calls[index].inputs]
    return needed


def _inputs(
    graph: GraphProto, constants: Mapping[str, Tensor], calls: tuple[_Call, ...], outputs: tuple[str, ...]
) -> tuple[tuple[_Input, ...], dict[str, Tensor]]:
    """The graph inputs that are used: activations, and those that stand only where parameters do."""
    values = {value.name: value for value in graph.input if value.name not in constants}
    used = {name for call in calls for name in call.inputs} | set(outputs)
    found = [_input(value) for name, value in values.items() if name in used]
    trained = _parameter_names(found, calls, outputs)
    parameters = {each.name: _parameter(each) for each in found if each.name in trained}
    return tuple(each for each in found if each.name not in trained), parameters


def _input(value: ValueInfoProto) -> _Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise LatteError(f"input `{value.name}` is not a tensor with a shape", hint="export it with example inputs")
    sizes = tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or None
        for dimension in kind.shape.dim
    )
    checked_shape(tuple(size for size in sizes if isinstance(size, int)), f"input `{value.name}`")
    if 0 in sizes:
        raise LatteError(f"input `{value.name}` has the empty shape {sizes}", hint="export it with example inputs")
    return _Input(name=value.name, sizes=sizes, element=kind.elem_type)


def _parameter_names(found: list[_Input], calls: tuple[_Call, ...], outputs: tuple[str, ...]) -> set[str]:
    """Inputs that are read only as parameters, as a file without weights has them."""
    vectors = {each.name for each in found if len(each.sizes) <= 1}
    otherwise = set(outputs)
    for call in reversed(calls):
        first = _FIRST_PARAMETER.get(call.kind, len(call.inputs))
        keeps = call.kind in _KEEPS_ORIGIN and not otherwise.intersection(call.outputs)
        for index, name in enumerate(call.inputs):
            bias = call.kind in ("Add", "Mul") and name in vectors
            if index < first and not keeps and not bias:
                otherwise.add(name)
    return {each.name for each in found} - otherwise


def _parameter(each: _Input) -> Tensor:
    shape = tuple(size for size in each.sizes if isinstance(size, int))
    if len(shape) < len(each.sizes):
        raise LatteError(f"parameter `{each.name}` has an open dimension", hint="export it with example inputs")
    return Tensor(name=each.name, shape=shape, constant=True, element=each.element)


@dataclass(kw_only=True)
class _Walk:
    """A walk through a graph at one batch size: what is known of each tensor, and the nodes so far."""

    graph: _Graph
    batch: int
    own_shapes: Mapping[str, tuple[Shape, Shape]]
    allow_unknown: bool
    tensors: dict[str, Tensor] = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors = {**self.graph.constants, **{each.name: self._given(each) for each in self.graph.inputs}}

    def _given(self, each: _Input) -> Tensor:
        own = self.graph.batch
        sizes: list[int] = []
        for axis, size in enumerate(each.sizes):
            is_batch = size == own if isinstance(size, str) else axis == 0 and size in (own, None)
            if is_batch or (axis == 0 and not isinstance(size, int)):
                sizes.append(self.batch)
            elif isinstance(size, int):
                sizes.append(size)
            else:
                raise LatteError(
                    f"input `{each.name}` leaves its dimension {axis} open ({size or 'no name'})",
                    hint="only the batch size may be open: export it with example inputs of the size wanted",
                )
        return Tensor(name=each.name, shape=checked_shape(tuple(sizes), f"input `{each.name}`"), element=each.element)

    def step(self, call: _Call) -> None:
        """Read one operator."""
        if call.kind == "Add" and self._bias_folded(call):
            return
        blind = [name for name in call.inputs if name and name not in self.tensors]
        try:
            if blind:
                raise Unreadable(f"it reads `{blind[0]}`, whose shape is not known")
            self._read(call)
        except Unreadable as exc:
            if not self.allow_unknown:
                raise _unreadable(call, exc) from exc
            self._let_pass(call)
        except LatteError as exc:
            raise LatteError(f"{_shown(call)}: {exc.message}", hint=exc.hint or _DAMAGED) from exc
        except _MALFORMED as exc:
            raise LatteError(f"{_shown(call)} is malformed: {str(exc)[:120]}", hint=_DAMAGED) from exc

    def _read(self, call: _Call) -> None:
        reader = OPERATORS.get(call.kind)
        if reader is None:
            raise Unreadable("")
        op = Operation(
            kind=call.kind,
            name=call.name,
            inputs=tuple(self.tensors[name] if name else None for name in call.inputs),
            outputs=call.outputs,
            attributes=call.attributes,
            opset=self.graph.opset,
            own=self.own_shapes.get(call.outputs[0]),
            batch=self.batch,
        )
        reader(op)
        if call.kind not in MAKING and op.folds:
            self._keep_constants(op)
            return
        if call.kind in ("Reshape", "Expand"):
            self.reshaped[call.outputs[0]] = (op.input().shape, op.results[call.outputs[0]].shape)
        self._keep(op)

    def _keep(self, op: Operation) -> None:
        for name, tensor in op.results.items():
            if name in self.tensors:
                raise LatteError(f"`{name}` is written twice")
            self.tensors[name] = tensor
        self.nodes += op.nodes

    def _keep_constants(self, op: Operation) -> None:
        computed = any(tensor.computed for tensor in op.given)
        for name, tensor in op.results.items():
            values = folded(op, tensor.shape) if name == op.outputs[0] else None
            origin = op.input().name if op.kind in _KEEPS_ORIGIN else name
            self.tensors[name] = replace(tensor, name=origin, constant=True, values=values, computed=computed)

    def _bias_folded(self, call: _Call) -> bool:
        """Whether this addition of a vector is the bias of the linear layer before it, which then takes it over."""
        pair = [self.tensors.get(name) for name in call.inputs]
        if len(pair) != 2 or None in pair or not self.nodes:
            return False
        y, bias = sorted((tensor for tensor in pair if tensor), key=lambda tensor: tensor.constant)
        at = len(self.nodes) - 1
        if self.nodes[at].output != y.name or not bias.constant or y.constant or self.graph.uses[y.name] > 1:
            return False
        if isinstance(self.nodes[at].layer, View) and at > 0 and self.nodes[at].inputs == (self.nodes[at - 1].output,):
            at -= 1
        linear = self.nodes[at].layer
        if not isinstance(linear, Linear) or linear.bias or bias.shape != (linear.out_features,):
            return False
        node, output = self.nodes[at], call.outputs[0]
        self.nodes[at] = replace(node, layer=replace(linear, bias=True), parameters=(*node.parameters, bias.name))
        self.nodes[-1] = replace(self.nodes[-1], output=output)
        self.tensors[output] = replace(y, name=output)
        return True

    def _let_pass(self, call: _Call) -> None:
        self.unknown.append(f"{call.kind} ({call.name})")
        for output in filter(None, call.outputs):
            shape = self._inferred.get(output)
            if shape is not None:
                self.tensors[output] = Tensor(name=output, shape=shape)

    @cached_property
    def _inferred(self) -> Mapping[str, Shape]:
        """Shapes that ONNX's own inference finds; nothing where it fails."""
        model = ModelProto()
        model.CopyFrom(self.graph.model)
        for value in model.graph.input:
            dimensions = value.type.tensor_type.shape.dim
            for dimension, size in zip(dimensions, self.tensors[value.name].shape, strict=False):
                dimension.dim_value = size
        try:
            inferred = onnx.shape_inference.infer_shapes(model)
        except (ValueError, RuntimeError, EncodeError):
            return {}
        values = (*inferred.graph.value_info, *inferred.graph.output)
        shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
        return {name: checked_shape(shape, f"`{name}`") for name, shape in shapes.items() if shape and min(shape) > 0}

    def network(self, name: str, sha256: str) -> Network:
        """What was read; raises LatteError where no layers were found."""
        if not self.nodes:
            raise LatteError(f"`{name}` holds no layers that depend on its inputs", hint=_DAMAGED)
        written = {node.output for node in self.nodes}
        outputs = tuple(output for output in self.graph.outputs if output in written)
        return Network(
            name=name,
            inputs=tuple((each.name, self.tensors[each.name].shape) for each in self.graph.inputs),
            nodes=tuple(self.nodes),
            outputs=outputs or (self.nodes[-1].output,),
            sha256=sha256,
            unknown=tuple(self.unknown),
        )


def _shown(call: _Call) -> str:
    return f"`{call.kind[:60]}` node `{call.name[:80]}`"


def _unreadable(call: _Call, reason: Unreadable) -> LatteError:
    hint = "`--allow-unknown` reads the rest, and says what is missing"
    if reason.message:
        return LatteError(f"{_shown(call)} cannot be read: {reason.message}", hint=hint)
    return LatteError(f"operator `{call.kind[:60]}` of node `{call.name[:80]}` is not known", hint=hint)
