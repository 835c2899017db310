"""Reading ONNX files: a graph of operators becomes a Network of layers, with every shape worked out here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from latte_cli.errors import LatteError
from latte_cli.layers import Linear, Shape, View
from latte_cli.network import Network, Node
from latte_cli.network.onnx import pointwise, products, shapes, windows
from latte_cli.network.onnx.graph import DAMAGED, KEEPS_ORIGIN, Call, Graph, Input, parsed
from latte_cli.network.onnx.operation import Operation, Tensor, Unreadable, checked_shape
from latte_cli.network.onnx.shapes import MAKING, folded

OPERATORS = windows.READERS | products.READERS | pointwise.READERS | shapes.READERS | MAKING
"""Every operator that can be read, by name."""

_MALFORMED = (ValueError, TypeError, IndexError, ArithmeticError)
"""What Python and numpy raise for numbers that do not fit together."""


def read(content: bytes, *, name: str, sha256: str, batch_size: int | None, allow_unknown: bool) -> Network:
    """The network in an ONNX file's `content`, at `batch_size` (default: the file's own, or 1 where it is open).

    Shapes are worked out from the inputs; weights are never allocated, and external data are never opened. Raises
    LatteError for whatever cannot be read, unless it is an operator that `allow_unknown` lets pass.
    """
    try:
        graph = parsed(content, name)
    except UnicodeDecodeError as exc:
        raise LatteError(f"`{name}` is damaged: it holds text that is not UTF-8", hint=DAMAGED) from exc
    own = graph.batch if isinstance(graph.batch, int) else None
    batch = batch_size if batch_size is not None else own or 1
    if batch < 1:
        raise LatteError(f"the batch size cannot be {batch}", hint="it counts samples: 1 or more")
    own_shapes: Mapping[str, tuple[Shape, Shape]] = {}
    if own is not None and own != batch:
        own_shapes = _walked(graph, own, {}, allow_unknown).reshaped
    walk = _walked(graph, batch, own_shapes, allow_unknown)
    return walk.network(name, sha256)


def _walked(graph: Graph, batch: int, own_shapes: Mapping[str, tuple[Shape, Shape]], allow_unknown: bool) -> "_Walk":
    walk = _Walk(graph=graph, batch=batch, own_shapes=own_shapes, allow_unknown=allow_unknown)
    for call in graph.calls:
        walk.step(call)
    return walk


@dataclass(kw_only=True)
class _Walk:
    """A walk through a graph at one batch size: what is known of each tensor, and the nodes so far."""

    graph: Graph
    batch: int
    own_shapes: Mapping[str, tuple[Shape, Shape]]
    allow_unknown: bool
    tensors: dict[str, Tensor] = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors = {**self.graph.constants, **{each.name: self._given(each) for each in self.graph.inputs}}

    def _given(self, each: Input) -> Tensor:
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

    def step(self, call: Call) -> None:
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
            raise LatteError(f"{_shown(call)}: {exc.message}", hint=exc.hint or DAMAGED) from exc
        except _MALFORMED as exc:
            raise LatteError(f"{_shown(call)} is malformed: {str(exc)[:120]}", hint=DAMAGED) from exc

    def _read(self, call: Call) -> None:
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
            own_batch=self.graph.batch if isinstance(self.graph.batch, int) else self.batch,
            batch=self.batch,
        )
        reader(op)
        if call.kind in ("Reshape", "Expand"):
            self.reshaped[call.outputs[0]] = (op.input().shape, op.results[call.outputs[0]].shape)
        if call.kind not in MAKING and op.folds:
            self._keep_constants(op)
            return
        constants = {tensor.name for tensor in op.given if tensor.constant}
        if any(not constants.isdisjoint(node.inputs) for node in op.nodes):
            raise Unreadable("it takes a constant where an activation is known")
        twice = self.tensors.keys() & op.results.keys()
        if twice:
            raise LatteError(f"`{min(twice)}` is written twice")
        self.tensors |= op.results
        self.nodes += op.nodes

    def _keep_constants(self, op: Operation) -> None:
        computed = any(tensor.computed for tensor in op.given)
        for name, tensor in op.results.items():
            values = folded(op, tensor.shape) if name == op.outputs[0] else None
            origin = op.input().name if op.kind in KEEPS_ORIGIN else name
            self.tensors[name] = replace(tensor, name=origin, constant=True, values=values, computed=computed)

    def _bias_folded(self, call: Call) -> bool:
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

    def _let_pass(self, call: Call) -> None:
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
        given = {each.name: self.tensors[each.name].shape for each in self.graph.inputs}
        for value in model.graph.input:
            for dimension, size in zip(value.type.tensor_type.shape.dim, given.get(value.name, ()), strict=False):
                dimension.dim_value = size
        try:
            inferred = onnx.shape_inference.infer_shapes(model)
        except (ValueError, EncodeError, onnx.shape_inference.InferenceError):
            return {}
        values = (*inferred.graph.value_info, *inferred.graph.output)
        shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
        return {name: checked_shape(shape, f"`{name}`") for name, shape in shapes.items() if shape and min(shape) > 0}

    def network(self, name: str, sha256: str) -> Network:
        """What was read; raises LatteError where no layers were found."""
        if not self.nodes:
            raise LatteError(f"`{name}` holds no layers that depend on its inputs", hint=DAMAGED)
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


def _shown(call: Call) -> str:
    return f"`{call.kind[:60]}` node `{call.name[:80]}`"


def _unreadable(call: Call, reason: Unreadable) -> LatteError:
    hint = "`--allow-unknown` reads the rest, and says what is missing"
    if reason.message:
        return LatteError(f"{_shown(call)} cannot be read: {reason.message}", hint=hint)
    return LatteError(f"operator `{call.kind[:60]}` of node `{call.name[:80]}` is not known", hint=hint)
