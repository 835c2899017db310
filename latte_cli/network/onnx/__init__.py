"""Reading ONNX files: a graph of operators becomes a Network of layers, with every shape worked out here."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Linear, Other, Shape, Stored, View
from latte_cli.network.graph import Network, Node
from latte_cli.network.onnx import (
    attention,
    deformable,
    equations,
    inferred,
    pointwise,
    products,
    recurrent,
    shapes,
    windows,
)
from latte_cli.network.onnx import stripped as stripped
from latte_cli.network.onnx.batches import BATCH, GUESSES, Guess, Sizes, followed, plain, sizes_at
from latte_cli.network.onnx.control import CONDITIONS, DEEPEST, FLOW, function_called
from latte_cli.network.onnx.graph import DAMAGED, KEEPS_ORIGIN, Call, Graph, Input, notes_of, parsed
from latte_cli.network.onnx.operation import (
    NotConstant,
    Operation,
    Tensor,
    Undecided,
    Unreadable,
    checked_shape,
    np_element,
)
from latte_cli.network.onnx.origins import Part, overlaps
from latte_cli.network.onnx.reads import check_reads, computes_with, left_aside, rearranged
from latte_cli.network.onnx.shapes import MAKING, folded

OPERATORS = (
    windows.READERS
    | products.READERS
    | equations.READERS
    | deformable.READERS
    | pointwise.READERS
    | shapes.READERS
    | recurrent.READERS
    | attention.READERS
    | MAKING
)
"""Every operator that can be read, by name."""

_MOVING = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Compress")
"""Operators that compute nothing with the weights that they are given."""

_MALFORMED = (ValueError, TypeError, IndexError, ArithmeticError)
"""What Python and numpy raise for numbers that do not fit together."""


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
    given = dict(sizes or {})
    own = graph.batch if isinstance(graph.batch, int) else None
    batch = _batch(graph, batch_size, given) if batch_size is not None or own is None else own
    if batch < 1 and batch != own:
        raise LatteError(f"the batch size cannot be {batch}", hint="it counts samples: 1 or more")

    def walked(batch: int, wanted: Mapping[str, Shape] | None = None, own: int | None = None) -> _Walk:
        return _walked(graph, batch, given, allow_unknown, wanted or {}, own)

    walk = walked(batch) if (own in (None, batch) and batch == 1) or own == batch else _at_another(graph, walked, batch)
    walk.check_sizes()
    return walk.network(name, sha256)


def _at_another(graph: Graph, walked: "Callable[..., _Walk]", batch: int) -> "_Walk":
    """The graph at a batch size that its export did not have; raises LatteError that says so where it cannot be."""
    own = graph.batch if isinstance(graph.batch, int) else None
    first = walked(own) if own is not None else None
    try:
        return _scaled(graph, first, walked, batch) if first is not None else walked(batch)
    except Undecided:
        raise
    except LatteError as exc:
        return _of_a_small_export(graph, walked, batch, exc)


def _of_a_small_export(graph: Graph, walked: "Callable[..., _Walk]", batch: int, error: LatteError) -> "_Walk":
    """The graph read as one that was exported at a batch of 1 or 2, which its numbers may say though it is open."""
    for own in _EXPORTED_AT if not isinstance(graph.batch, int) else ():
        try:
            return _scaled(graph, walked(own), walked, batch)
        except Undecided:
            raise
        except LatteError:
            continue
    if not isinstance(graph.batch, int) and not any(_readable(walked, own) for own in _EXPORTED_AT):
        raise error
    raise LatteError(f"it cannot be read at a batch of {batch}: {error.message}", hint=_REBATCH) from error


def _readable(walked: "Callable[..., _Walk]", batch: int) -> bool:
    try:
        walked(batch)
    except LatteError:
        return False
    return True


_EXPORTED_AT = (1, 2)
"""The batch sizes of most exports: 1, and what torch's exporter asks for of a dimension that is to be open."""

_REBATCH = (
    "`--batch-size` asks for it; export the model with an open batch (`dynamic_shapes`, or `dynamic_axes` of the older "
    "exporter), or say which dimension of the inputs it is (`--batch-axis`)"
)


def _scaled(graph: Graph, first: "_Walk", walked: "Callable[..., _Walk]", batch: int) -> "_Walk":
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


def _guessed(graph: Graph, first: "_Walk", walked: "Callable[..., _Walk]", batch: int, guess: Guess) -> "_Walk":
    given = {each.name: first.sizes_of(each) for each in graph.inputs}
    sizes = followed(given, first.nodes, first.batch, guess)
    wanted = {name: sizes_at(one, batch) for name, one in sizes.items()}
    walk: _Walk = walked(batch, wanted, first.batch)
    for name, shape in wanted.items():
        found = walk.tensors.get(name)
        if found is not None and found.shape != shape:
            raise LatteError(f"`{name}` would have the shape {found.shape} where {shape} is expected")
    return walk


def _batch(graph: Graph, batch_size: int | None, sizes: Mapping[str, int]) -> int:
    """The batch size wanted, which may also be given by its symbol."""
    named = sizes.get(graph.batch) if isinstance(graph.batch, str) else None
    if named is not None and batch_size not in (None, named):
        raise LatteError(
            f"the batch size cannot be {batch_size} and `{graph.batch}` {named}", hint="give one of the two"
        )
    return next((size for size in (named, batch_size) if size is not None), 1)


def _walked(
    graph: Graph,
    batch: int,
    sizes: Mapping[str, int],
    allow_unknown: bool,
    wanted: Mapping[str, Shape],
    own: int | None,
) -> "_Walk":
    own_batch = own if own is not None else graph.batch if isinstance(graph.batch, int) else batch
    walk = _Walk(graph=graph, batch=batch, own_batch=own_batch, wanted=wanted, sizes=sizes, allow_unknown=allow_unknown)
    walk.steps(graph.calls, {})
    return walk


@dataclass(kw_only=True)
class _Walk:
    """A walk through a graph at one batch size: what is known of each tensor, and the nodes so far."""

    graph: Graph
    batch: int
    own_batch: int
    wanted: Mapping[str, Shape]
    sizes: Mapping[str, int]
    allow_unknown: bool
    tensors: dict[str, Tensor] = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    unpriced: list[str] = field(default_factory=list)
    held: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    makers: dict[str, Call] = field(default_factory=dict)
    lifts: dict[tuple[str, Shape], str] = field(default_factory=dict)
    joined: dict[tuple[str, ...], str] = field(default_factory=dict)
    replaced: list[tuple[str, Tensor | None]] = field(default_factory=list)
    depth: int = 0
    expanded: int = 0

    def __post_init__(self) -> None:
        open_ = [name for each in self.graph.inputs for name in self._open(each)]
        missing = list(dict.fromkeys(name for name in open_ if self.size_of(name) is None))
        if missing:
            raise LatteError(
                f"the model leaves the size of {', '.join(f'`{name}`' for name in missing)} open",
                hint="give it: " + " ".join(f"--shape {_quoted(name)}=SIZE" for name in missing),
            )
        self.tensors = {**self.graph.constants, **{each.name: self._given(each) for each in self.graph.inputs}}

    def _is_batch(self, axis: int, size: int | str | None) -> bool:
        own = self.graph.batch
        if isinstance(size, str):
            return size == own
        return axis == self.graph.batch_axis and (not size or size == own)

    def sizes_of(self, each: Input) -> Sizes:
        """The sizes of an input, with the batch where it is."""
        own = plain(self.tensors[each.name].shape)
        return tuple(
            BATCH if self._is_batch(axis, size) and f"{each.name}[{axis}]" not in self.sizes else known
            for axis, (size, known) in enumerate(zip(each.sizes, own, strict=True))
        )

    def _open(self, each: Input) -> list[str]:
        """The names of an input's dimensions that are neither known nor the batch."""
        return [
            size or f"{each.name}[{axis}]"
            for axis, size in enumerate(each.sizes)
            if not isinstance(size, int) and not self._is_batch(axis, size) and self._placed(each, axis) is None
        ]

    def _placed(self, each: Input, axis: int) -> int | None:
        """The size of an input's dimension that is given by its place, where the file leaves it open."""
        place = f"{each.name}[{axis}]"
        if isinstance(each.sizes[axis], int):
            return None
        self.asked.add(place)
        return self.sizes.get(place)

    def size_of(self, name: str) -> int | None:
        """What the user says that a dimension called `name` is; expressions follow from what they are made of."""
        self.asked.add(name)
        found = self.sizes.get(name)
        return found if found is not None else self._computed_size(name)

    def _computed_size(self, name: str) -> int | None:
        """The value of a symbol such as `2*seq + 1`, where its parts are known."""
        if not re.fullmatch(r"[\w\s+*/()-]{1,80}", name) or not re.search(r"[+*/-]", name):
            return None
        own = {self.graph.batch: self.batch} if isinstance(self.graph.batch, str) else {}
        known = {**own, **self.sizes}
        self.asked.update(known.keys() & set(re.findall(r"\w+", name)))
        return evaluated(name, known)

    def check_sizes(self) -> None:
        """Raise LatteError for a size that the user gives and that nothing in the model asks for."""
        symbols = {size for each in self.graph.inputs for size in each.sizes if isinstance(size, str)}
        for name in self.sizes:
            if name not in self.asked | symbols:
                raise unknown("dimension", name, sorted(self.asked | symbols))

    def _given(self, each: Input) -> Tensor:
        sizes: list[int] = []
        for axis, size in enumerate(each.sizes):
            placed = self._placed(each, axis)
            if placed is not None:
                sizes.append(placed)
            elif self._is_batch(axis, size):
                sizes.append(self.batch)
            elif isinstance(size, int):
                sizes.append(size)
            else:
                sizes.append(self.size_of(size or f"{each.name}[{axis}]") or 0)
        return Tensor(name=each.name, shape=checked_shape(tuple(sizes), f"input `{each.name}`"), element=each.element)

    def steps(self, calls: Sequence[Call], constants: Mapping[str, Tensor]) -> None:
        """Read operators in order, which may use more constants."""
        self.tensors |= constants
        if self.depth:
            self.graph.uses.update(name for call in calls for name in call.reads)
        for call in calls:
            self.step(call)

    def step(self, call: Call) -> None:
        """Read one operator."""
        if call.kind == "Add" and self._bias_folded(call):
            return
        count, tensors = len(self.nodes), dict(self.tensors) if self.allow_unknown and call.kind in FLOW else {}
        replaced = len(self.replaced)
        try:
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
            self._read(call, [self.tensors[name] if name else None for name in call.inputs])

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
            inputs=tuple(inputs),
            outputs=call.outputs,
            attributes=call.attributes,
            opset=self.graph.opset,
            wanted=self.wanted,
            own_batch=self.own_batch,
            batch=self.batch,
            named_sizes=_Asked(self),
            lift=self.lift,
        )
        _leave_layers(op)
        inferred.complete(op, self.graph.uses)
        if call.kind not in MAKING and op.folds:
            self._keep_constants(op, call)
            return
        twice = self.tensors.keys() & op.results.keys()
        if twice:
            raise LatteError(f"`{min(twice)}` is written twice")
        check_reads(op)
        self.tensors |= op.results
        self.nodes += op.nodes
        self.held |= op.held
        self._count_work(op)

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
        if tensor.derived:
            return self._computed_in_each_step(tensor)
        key = (tensor.name, tensor.shape)
        if self.lifts.get(key) not in self.tensors:
            count = sum(name == tensor.name for name, _ in self.lifts)
            output = f"{tensor.name}/value" + (f"#{count + 1}" if count else "")
            layer = Stored(shape=tensor.shape, trained=tensor.countable)
            own = (tensor.name,) if tensor.countable else ()
            beside = () if own else ((0, tensor.name),)
            self.nodes.append(
                Node(name=output, layer=layer, inputs=(), output=output, parameters=own, constants=beside)
            )
            self.held[tensor.name] = tensor.parts
            self._put(output, Tensor(name=output, shape=tensor.shape, element=tensor.element))
            self.lifts[key] = output
        return self.tensors[self.lifts[key]]

    def _computed_in_each_step(self, tensor: Tensor) -> Tensor:
        call = self.makers[tensor.name]
        if not self.tensors[tensor.name].constant:
            return self.tensors[tensor.name]
        self.depth += 1
        if self.depth >= DEEPEST:
            raise Unreadable(f"`{tensor.name}` follows from its weights in more than {DEEPEST} steps")
        given = [self.tensors[name] if name else None for name in call.inputs]
        inputs = [self.lift(one) if one is not None and one.trained else one for one in given]
        self.depth -= 1
        for name in filter(None, call.outputs):
            self.replaced.append((name, self.tensors.pop(name)))
        self._read(call, inputs)
        return self.tensors[tensor.name]

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
        for name, tensor in op.results.items():
            values = folded(op, tensor.shape) if name == op.outputs[0] else None
            if values is None:
                values = evaluated.get(name)
            origin = op.input().name if op.kind in KEEPS_ORIGIN else name
            shape = tensor.shape if values is None else values.shape
            turned = op.input().turned ^ (op.kind == "Transpose") if op.kind in KEEPS_ORIGIN else False
            element = tensor.element if values is None else np_element(values)
            parts = rearranged(op, op.outputs.index(name), shape)
            made = replace(
                tensor, name=origin, shape=shape, constant=True, values=values, computed=computed, turned=turned,
                element=element, parts=parts,
            )  # fmt: skip
            if parts:
                made = replace(made, name=self._label(parts, name))
            elif trained and made.floating:
                made = replace(made, name=name, turned=False, derived=True)
                self.makers[name] = call
            self.tensors[name] = made

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
        if not isinstance(linear, Linear) or linear.bias or node.weights_given or bias.derived:
            return False
        if not bias.shape or prod(bias.shape) != linear.out_features or bias.shape[-1] != linear.out_features:
            return False
        if len(bias.shape) > len(y.shape):
            return False
        self.held[bias.name] = bias.parts
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
        return Network(
            name=name,
            inputs=tuple((each.name, self.tensors[each.name].shape) for each in self.graph.inputs),
            nodes=nodes,
            outputs=tuple(outputs) or tuple(node.output for node in self.nodes[-1:]),
            sha256=sha256,
            unknown=tuple(self.unknown),
            constants=tuple((output, tensor.shape) for output, tensor in outputs.items() if tensor.constant),
            notes=tuple(dict.fromkeys((*self.notes, *notes_of(self.graph)))),
            unpriced=tuple(dict.fromkeys(self.unpriced)),
            shared=self._shared(nodes),
        )

    def _shared(self, nodes: Sequence[Node]) -> tuple[tuple[str, int], ...]:
        names = dict.fromkeys(name for node in nodes for name in node.parameters)
        return tuple(overlaps((name, self.held.get(name, ())) for name in names))


class _Named(LatteError):
    """An error that names the operator it is about, the innermost one of functions and loops."""


class _Asked(Mapping[str, int]):
    """The sizes that the user gives, which remember what was asked for."""

    def __init__(self, walk: _Walk) -> None:
        self._walk = walk

    def __getitem__(self, name: str) -> int:
        found = self._walk.size_of(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._walk.sizes)

    def __len__(self) -> int:
        return len(self._walk.sizes)


def _leave_layers(op: Operation) -> None:
    """Let the operator's reader, or ONNX's inference where there is none or values are missing, leave its layers."""
    reader = OPERATORS.get(op.kind)
    empty = any(0 in tensor.shape for tensor in op.given if not tensor.constant)
    try:
        if reader is not None and not empty:
            reader(op)
            return
    except NotConstant:
        op.nodes.clear()
        op.results.clear()
    inferred.read(op)


def evaluated(text: str, known: Mapping[str, int]) -> int | None:
    """The value of a sum or product of names and numbers (+ - * //); None where it is another, or a name not known."""
    try:
        tree = ast.parse(text.replace("//", "/").replace("/", "//"), mode="eval")
        return _term(tree.body, known)
    except (SyntaxError, ValueError, KeyError, ArithmeticError, RecursionError):
        return None


def _term(node: ast.expr, known: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Name(id=name):
            return known[name]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _ARITHMETIC[type(operator)](_term(left, known), _term(right, known))
    raise ValueError("no simple expression")


_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"


def _shown(call: Call) -> str:
    return f"`{call.kind[:60]}` node `{call.name[:80]}`"


def _unreadable(call: Call, reason: Unreadable) -> LatteError:
    hint = "`--allow-unknown` reads the rest, and says what is missing"
    if reason.message:
        return _Named(f"{_shown(call)} cannot be read: {reason.message}", hint=hint)
    return _Named(f"operator `{call.kind[:60]}` of node `{call.name[:80]}` is not known", hint=hint)
