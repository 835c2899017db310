"""A walk through the graph of an ONNX file: each operator, the shapes and values of its tensors, and the layers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from onnx import ModelProto

from latte_cli.errors import LatteError
from latte_cli.layers import Linear, Other, Shape, Stored, View, wide
from latte_cli.network.graph import Network, Node
from latte_cli.network.onnx import computed, inferred
from latte_cli.network.onnx.control import CONDITIONS, DEEPEST, FLOW, function_called
from latte_cli.network.onnx.dimensions import Dimensions
from latte_cli.network.onnx.folding import folded
from latte_cli.network.onnx.graph import DAMAGED, KEEPS_ORIGIN, Call, Graph, notes_of
from latte_cli.network.onnx.operation import (
    Operation,
    Tensor,
    Undecided,
    Unreadable,
    at_shape,
    checked_shape,
    np_element,
    uniform_axes,
)
from latte_cli.network.onnx.operators import leave_layers
from latte_cli.network.onnx.origins import Part, overlaps
from latte_cli.network.onnx.pointwise import ABSENT
from latte_cli.network.onnx.reads import check_reads, computes_with, left_aside, rearranged
from latte_cli.network.onnx.shapes import MAKING
from latte_cli.network.onnx.unified import Constant, Sizes

_MOVING = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Compress")
"""Operators that compute nothing with the weights that they are given."""

_VECTOR_FOR_EACH = 2
"""How many dimensions over 1 a parameter has that is repeated for each sample: the batch, and its own."""

_MALFORMED = (ValueError, TypeError, IndexError, ArithmeticError)
"""What Python and numpy raise for numbers that do not fit together."""


@dataclass(kw_only=True)
class Walk:
    """A walk through a graph at one batch size: what is known of each tensor, and the nodes so far."""

    graph: Graph
    own_batch: int
    wanted: Mapping[str, Shape]
    dimensions: Dimensions
    allow_unknown: bool
    tensors: dict[str, Tensor] = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unpriced: list[str] = field(default_factory=list)
    held: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    makers: dict[str, Call] = field(default_factory=dict)
    constants: dict[str, dict[int, Constant]] = field(default_factory=dict)
    exported: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    doubtful: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)
    lifts: dict[tuple[str, Shape], str] = field(default_factory=dict)
    joined: dict[tuple[str, ...], str] = field(default_factory=dict)
    replaced: list[tuple[str, Tensor | None]] = field(default_factory=list)
    depth: int = 0
    expanded: int = 0

    def __post_init__(self) -> None:
        given = {
            each.name: Tensor(name=each.name, shape=self.dimensions.shape_of(each), element=each.element)
            for each in self.graph.inputs
        }
        stored = self.graph.constants
        stored = {**stored, **{name: replace(stored[name], parts=()) for name in self.graph.turns}}
        self.tensors = {**{name: self._at_batch(name, one) for name, one in stored.items()}, **given}

    @property
    def given(self) -> Mapping[str, Sizes]:
        """Where the batch is in the inputs."""
        return {each.name: self.dimensions.sizes_of(each) for each in self.graph.inputs}

    def size_of(self, name: str) -> int | None:
        """What the user says that a dimension called `name` is."""
        return self.dimensions.size_of(name)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """What is read meanwhile lies one level deeper, whether or not it can be read."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def steps(self, calls: Sequence[Call], constants: Mapping[str, Tensor]) -> None:
        """Read operators in order, which may use more constants."""
        self.tensors |= constants
        if self.depth:
            self.graph.uses.update(name for call in calls for name in call.reads)
        for call in calls:
            self.step(call)

    def step(self, call: Call) -> None:
        """Read one operator."""
        count, tensors = len(self.nodes), dict(self.tensors) if self.allow_unknown and call.kind in FLOW else {}
        replaced = len(self.replaced)
        try:
            if call.kind != "Add" or not self._bias_folded(call):
                self._enter(call)
        except Unreadable as exc:
            if not self.allow_unknown:
                raise _unreadable(call, exc) from exc
            del self.nodes[count:]
            self.tensors = tensors or self.tensors
            self._put_back(replaced)
            self._let_pass(call)
        except (_Named, Undecided):
            raise
        except LatteError as exc:
            raise _Named(f"{_shown(call)}: {exc.message}", hint=exc.hint or DAMAGED) from exc
        except _MALFORMED as exc:
            raise _Named(f"{_shown(call)} is malformed: {str(exc)[:120]}", hint=DAMAGED) from exc

    def _enter(self, call: Call) -> None:
        blind = [name for name in call.inputs if name and name not in self.tensors]
        if blind:
            raise Unreadable(f"it reads `{blind[0]}`, whose shape is not known")
        function = self.graph.functions.get(call.kind if "." in call.kind else f".{call.kind}")
        if function is not None:
            function_called(self, call, function)
        elif call.kind in FLOW:
            count = len(self.nodes)
            FLOW[call.kind](self, call)
            self._read_besides(call, count)
        else:
            self._read_at_batch(call)

    def _read_at_batch(self, call: Call) -> None:
        """Read an operator; constants that do not fit together at the walk's batch are folded as the export had them.

        What it writes is brought to the batch where it is read with activations.
        """
        try:
            self._read(call, [self.tensors[name] if name else None for name in call.inputs])
        except Undecided:
            raise
        except LatteError:
            known = {name: self.exported.get(name, self.tensors.get(name)) for name in call.inputs if name}
            constant = all(one is not None and one.constant for one in known.values())
            if self.exported.keys().isdisjoint(call.inputs) or not constant:
                raise
            own = [known.get(name) for name in call.inputs]
            self._read(call, own)

    def _read_besides(self, call: Call, count: int) -> None:
        """Let the first of the nodes since `count` read what decides how the operators in `call` run."""
        read = {name for node in self.nodes[count:] for name in node.inputs}
        given = [self.tensors[name] for name in call.inputs[: CONDITIONS[call.kind]] if name]
        missed = [tensor.name for tensor in given if not tensor.constant and tensor.name not in read]
        if missed and len(self.nodes) == count:
            raise Unreadable(f"only the values of `{missed[0]}` decide what it writes")
        if missed:
            self.nodes[count] = replace(self.nodes[count], inputs=(*self.nodes[count].inputs, *missed))

    def _read(self, call: Call, inputs: Sequence[Tensor | None]) -> None:
        op = Operation(
            kind=call.kind,
            name=call.name,
            place=call.place,
            inputs=tuple(self._recognise(call, inputs)),
            outputs=call.outputs,
            attributes=call.attributes,
            opset=self.graph.opset,
            wanted=self.wanted,
            own_batch=self.own_batch,
            open_batch=self.graph.own_batch is None,
            batch=self.dimensions.batch,
            named_sizes=self.dimensions,
            lift=self.lift,
        )
        leave_layers(op)
        inferred.complete(op, self.graph.uses)
        if call.kind not in MAKING and op.folds:
            self._keep_constants(op, call)
            return
        if call.kind in MAKING:
            op.results = {name: self._at_batch(name, one) for name, one in op.results.items()}
        twice = self.tensors.keys() & op.results.keys()
        if twice:
            raise LatteError(f"`{min(twice)}` is written twice")
        check_reads(op)
        self._note_constants(op, call)
        self.tensors |= op.results
        self.nodes += op.nodes
        self.held |= op.held
        self._count_work(op)

    def _recognise(self, call: Call, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The inputs, where constants that code has computed are no parameters, by what they were in the export."""
        exported = [self.exported.get(name, tensor) for name, tensor in zip(call.inputs, inputs, strict=True)]
        found = computed.recognise(call.kind, exported, self.own_batch)
        gone = [before is not None and before is not after for before, after in zip(exported, found, strict=True)]
        for tensor in (tensor for tensor, one in zip(exported, gone, strict=True) if tensor and one):
            self.left[tensor.name] = prod(tensor.shape)
        return [
            replace(tensor, parts=()) if tensor and one else tensor for tensor, one in zip(inputs, gone, strict=True)
        ]

    def _count_work(self, op: Operation) -> None:
        """Name an operator of which no kind of layer says what it computes with its weights, or that it has them."""
        for tensor in left_aside(op):
            self.unpriced.append(
                f"`{tensor.name}` in `{op.kind}` (`{op.name}`) with its {prod(tensor.shape)} parameters"
            )
        if op.nodes and all(isinstance(node.layer, Other) for node in op.nodes) and op.kind not in _MOVING:
            lifted = set(self.lifts.values())
            named = [(index, one) for index, one in enumerate(op.inputs) if one and (one.trained or one.name in lifted)]
            count = sum(prod(tensor.shape) for index, tensor in named if computes_with(op, index))
            if count:
                self.unpriced.append(f"the work of `{op.kind}` (`{op.name}`) with its {count} parameters")

    def lift(self, tensor: Tensor) -> Tensor:
        """A constant as an activation: a node without inputs for a stored one; nodes that compute one that follows."""
        if tensor.made:
            return self._computed_in_each_step(tensor)
        key = (tensor.name, tensor.shape)
        if self.lifts.get(key) not in self.tensors:
            count = sum(name == tensor.name for name, _ in self.lifts)
            output = f"{tensor.name}/value" + (f"#{count + 1}" if count else "")
            tensor = self._once_for_all(tensor, output)
            layer = Stored(shape=tensor.shape, trained=tensor.countable)
            if tensor.countable and computed.is_doubtful(tensor):
                self.doubtful[tensor.name] = prod(tensor.shape)
            if tensor.countable and (again := computed.repeats(tensor)):
                self.again[tensor.name] = again
            own = (tensor.name,) if tensor.countable else ()
            beside = () if own else ((0, tensor.name),)
            self.nodes.append(
                Node(name=output, layer=layer, inputs=(), output=output, parameters=own, constants=beside)
            )
            self.held[tensor.name] = tensor.parts
            self._put(output, Tensor(name=output, shape=tensor.shape, element=tensor.element))
            self.lifts[key] = output
        return self.tensors[self.lifts[key]]

    def _once_for_all(self, tensor: Tensor, output: str) -> Tensor:
        """A constant that an activation `output` represents, at the walk's batch: what a parameter repeats, once.

        A matrix for each sample is one where its numbers are the same for all; else it is none: a first state.
        """
        known, shape = tensor.values is not None, tensor.shape
        matrix = wide(shape) > _VECTOR_FOR_EACH
        alike = uniform_axes(tensor) if known and tensor.countable else ()
        same = len(alike) < len(shape) and any(shape[axis] == self.own_batch for axis in alike)
        trained = tensor.countable and (not matrix or same)
        axes = alike if known and tensor.countable else tuple(range(len(shape)))
        axes = () if trained and wide(shape) < _VECTOR_FOR_EACH else axes
        self.constants[output] = {0: Constant(name=output, shape=shape, axes=axes, trained=trained)}
        wanted = self.wanted.get(output, shape)
        if wanted == shape:
            return tensor
        if tensor.countable and not (known and trained):
            what = "a parameter that is repeated for each sample" if trained else "a constant for each sample"
            self.notes.append(f"`{tensor.name}` is taken for {what} of the export's batch")
        return replace(at_shape(tensor, wanted), parts=tensor.parts if trained else ())

    def _computed_in_each_step(self, tensor: Tensor) -> Tensor:
        call = self.makers[tensor.made]
        if not self.tensors[tensor.made].constant:
            return self.tensors[tensor.made]
        given = [self.tensors[name] if name else None for name in call.inputs]
        with self.deeper():
            if self.depth >= DEEPEST:
                raise Unreadable(f"`{tensor.name}` follows from its weights in more than {DEEPEST} steps")
            given = self._recognise(call, given)
            inputs = [self.lift(one) if one is not None and self._varies(one) else one for one in given]
        for name in filter(None, call.outputs):
            self.replaced.append((name, self.tensors.pop(name)))
        self._read(call, inputs)
        return self.tensors[tensor.made]

    def _varies(self, tensor: Tensor) -> bool:
        """Whether a constant is to be an activation: it is trained, or is one that has the batch."""
        return tensor.trained or (tensor.constant and f"{tensor.name}/value" in self.wanted)

    def _put(self, name: str, tensor: Tensor) -> None:
        self.replaced.append((name, self.tensors.get(name)))
        self.tensors[name] = tensor

    def _put_back(self, count: int) -> None:
        """Forget what was lifted since `count`."""
        for name, before in reversed(self.replaced[count:]):
            if before is None:
                self.tensors.pop(name, None)
            else:
                self.tensors[name] = before
        del self.replaced[count:]

    def _keep_constants(self, op: Operation, call: Call) -> None:
        computed = any(tensor.computed for tensor in op.given)
        evaluated = inferred.computed(op)
        trained = any(tensor.trained for tensor in op.given)
        for name, tensor in [(name, op.results[name]) for name in op.outputs if name in op.results]:
            values = folded(op, tensor.shape) if name == op.outputs[0] else None
            if values is None:
                values = evaluated.get(name)
            origin = op.input().name if op.kind in KEEPS_ORIGIN and op.input().parts else name
            shape = tensor.shape if values is None else values.shape
            turned = op.input().turned ^ (op.kind == "Transpose") if op.kind in KEEPS_ORIGIN else False
            element = tensor.element if values is None else np_element(values)
            parts = rearranged(op, op.outputs.index(name), shape, in_steps=self.graph.roles_known)
            parts = () if any(part.origin in self.graph.whole and part.partial for part in parts) else parts
            made = replace(
                tensor, name=origin, shape=shape, constant=True, values=values, computed=computed, turned=turned,
                element=element, parts=parts,
            )  # fmt: skip
            if parts:
                made = replace(made, name=self._label(parts, name))
            elif trained and made.floating:
                made = replace(made, name=name, turned=False, derived=True)
            if made.trained and (made.derived or self.graph.roles_known):
                made = replace(made, made=name)
                self.makers[name] = call
            self.tensors[name] = self._at_batch(name, made)

    def _at_batch(self, name: str, tensor: Tensor) -> Tensor:
        """A constant at the batch of the walk, where the export made it for its own."""
        wanted = self.wanted.get(name, tensor.shape)
        if not tensor.constant or wanted == tensor.shape:
            return tensor
        self.exported[name] = tensor
        return at_shape(tensor, wanted)

    def _note_constants(self, op: Operation, call: Call) -> None:
        """Remember what the nodes read in addition to activations, which may hold the batch."""
        for node in op.nodes:
            self.constants[node.output] = {
                place: Constant(name=call.inputs[place], shape=one.shape, axes=tuple(range(len(one.shape))))
                for place, _ in node.constants
                if place < len(op.inputs) and (one := op.inputs[place]) is not None and one.constant
            }

    def _label(self, parts: tuple[Part, ...], name: str) -> str:
        """What parts of stored tensors are called: the same parts put together twice are one parameter."""
        labels = tuple(part.label for part in parts)
        return labels[0] if len(labels) == 1 else self.joined.setdefault(labels, name)

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
        node, output, linear = self.nodes[at], call.outputs[0], self.nodes[at].layer
        if not isinstance(linear, Linear) or linear.bias:
            return False
        if not bias.shape or prod(bias.shape) != linear.out_features or bias.shape[-1] != linear.out_features:
            return False
        if len(bias.shape) > len(y.shape):
            return False
        if len(bias.shape) > 1 and computed.is_uniform(bias):
            self.doubtful[bias.name] = prod(bias.shape)
        last = len(self.nodes)
        if node.weights_given or bias.derived:
            given = (*node.inputs, self.lift(bias).name)
            node = replace(node, inputs=given, weights_given=True)
        else:
            self.held[bias.name] = bias.parts
            node = replace(node, parameters=(*node.parameters, bias.name))
        linear_nodes = [replace(node, layer=replace(linear, bias=True)), *self.nodes[at + 1 : last]]
        linear_nodes[-1] = replace(linear_nodes[-1], output=output)
        self.nodes[at:] = [*self.nodes[last:], *linear_nodes]
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
        graph = inferred.infer_shapes(model)
        if graph is None:
            return {}
        values = (*graph.value_info, *graph.output)
        shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
        return {name: checked_shape(shape, f"`{name}`") for name, shape in shapes.items() if shape and min(shape) > 0}

    def _needed(self, outputs: set[str]) -> tuple[Node, ...]:
        """The nodes that an output needs; all of them where operators were let pass, which break the chain."""
        if self.unknown or not outputs:
            return tuple(self.nodes)
        wanted, found = set(outputs), []
        for node in reversed(self.nodes):
            if node.output in wanted:
                found.append(node)
                wanted.update(node.inputs)
        return tuple(reversed(found))

    def network(self, name: str, sha256: str) -> Network:
        """What was read."""
        written = {node.output for node in self.nodes} | {each.name for each in self.graph.inputs}
        tensors = {output: self.tensors[output] for output in self.graph.outputs if output in self.tensors}
        outputs = {output: tensor for output, tensor in tensors.items() if tensor.constant or output in written}
        if not outputs and not self.nodes and self.unknown:
            raise LatteError(
                f"`{name}` has only operators that are not known: {', '.join(self.unknown[:4])}",
                hint="export it with operators of ONNX itself",
            )
        nodes = self._needed({tensor.name for tensor in outputs.values()})
        if not outputs and not self.nodes:
            raise LatteError(f"`{name}` holds no layers that can be read", hint=DAMAGED)
        constants = computed.notes(self.left, {} if self.graph.roles_known else self.doubtful)
        return Network(
            name=name,
            inputs=tuple((each.name, self.tensors[each.name].shape) for each in self.graph.inputs),
            nodes=nodes,
            outputs=tuple(outputs) or tuple(node.output for node in self.nodes[-1:]),
            sha256=sha256,
            unknown=tuple(self.unknown),
            constants=tuple((output, tensor.shape) for output, tensor in outputs.items() if tensor.constant),
            notes=tuple(dict.fromkeys((*self.notes, *constants, *notes_of(self.graph)))),
            unpriced=tuple(dict.fromkeys(self.unpriced)),
            shared=self._shared(nodes),
        )

    @property
    def parted_unevenly(self) -> set[str]:
        """The stored tensors of which layers have separate parts that are not each number once."""
        names = dict.fromkeys(name for node in self.nodes for name in node.parameters)
        parts = [part for name in names for part in self.held.get(name, ())]
        again = {parts[int(at)].origin for at, _ in overlaps((str(at), (part,)) for at, part in enumerate(parts))}
        sizes: Counter[str] = Counter()
        for part in parts:
            sizes[part.origin] += part.size
        uneven = again | {part.origin for part in parts if sizes[part.origin] != prod(part.shape)}
        return uneven & {part.origin for part in parts if part.partial}

    def _shared(self, nodes: Sequence[Node]) -> tuple[tuple[str, int], ...]:
        names = dict.fromkeys(name for node in nodes for name in node.parameters)
        found = dict(overlaps((name, self.held.get(name, ())) for name in names))
        sizes = {
            name: prod(shape)
            for node in nodes
            for name, shape in zip(node.parameters, node.parameter_shapes, strict=False)
        }
        absent = {name: size for name, size in sizes.items() if name.endswith(ABSENT)}
        return tuple(({name: count for name, count in self.again.items() if name in names} | found | absent).items())


class _Named(LatteError):
    """An error that names the operator it is about, the innermost one of functions and loops."""


def _shown(call: Call) -> str:
    return f"`{call.kind[:60]}` node `{call.name[:80]}`"


def _unreadable(call: Call, reason: Unreadable) -> LatteError:
    hint = "`--allow-unknown` reads the rest, and says what is missing"
    if reason.message:
        return _Named(f"{_shown(call)} cannot be read: {reason.message}", hint=hint)
    return _Named(f"operator `{call.kind[:60]}` of node `{call.name[:80]}` is not known", hint=hint)
