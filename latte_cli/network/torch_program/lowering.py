"""A program's graph becomes ONNX nodes, one operator after the other, with the graphs that lie within it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from onnx import GraphProto, helper

from latte_cli.errors import LatteError
from latte_cli.network.graph import DETACHED
from latte_cli.network.torch_program.calls import calls_of
from latte_cli.network.torch_program.checkpointed import Mark, mark_of
from latte_cli.network.torch_program.nodes import aten_of, meta_of, tensors_read
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Region, Rule
from latte_cli.network.torch_program.rules import ARITHMETIC, OPAQUE, RULES
from latte_cli.network.torch_program.views import FUNCTIONAL, Views

_HIGHER = "torch.ops.higher_order."
_SEQUENTIAL = "torch.nn.modules.container.Sequential"

_FUNCTION = re.compile(r"\b([A-Z]\w*)\.apply\(")
"""What the line has where a node lies in an autograd function, whose name is that of a class."""


def lower_graph(low: Lowering, graph: Mapping[str, Any], names: dict[str, str]) -> None:
    """Add the nodes of `graph`; `names` says what its tensors are called, and is kept up with those that change."""
    views = Views(low=low, names=names, lower=lower)
    for node in graph["nodes"]:
        for name in tensors_read(node):
            views.refresh(name)
        op = aten_of(node, names)
        trace = str((node.get("metadata") or {}).get("stack_trace", ""))
        low.functions.update(_FUNCTION.findall(trace))
        if op.mutated and 0 in low.meta(names.get(op.mutated, op.mutated)).sizes:  # a part without numbers
            names.update(dict.fromkeys(op.results, names.get(op.mutated, op.mutated)))
            continue
        before = len(low.nodes)
        lower(low, op)
        _note_place(low, node, before)
        views.note(op)
        for name in [name for name in tensors_read(node) if names.get(name, name) in low.written]:
            views.write(name, low.written.pop(names.get(name, name)), op)
    for each in graph["outputs"]:
        if "as_tensor" in each:
            views.refresh(str(each["as_tensor"]["name"]))


def _note_place(low: Lowering, node: Mapping[str, Any], before: int) -> None:
    """Note where in the module the nodes since `before` lie, which one of the program has become."""
    calls, mark = calls_of(node), mark_of(node)
    low.sequences.update(path.partition("@")[0] for path, kind in calls if kind == _SEQUENTIAL)
    for name in [each.name for each in low.nodes[before:]]:
        low.calls.setdefault(name, tuple(path for path, _ in calls[1:]))
        if mark:
            low.marks.setdefault(name, mark)


def lower(low: Lowering, op: Aten) -> None:
    """Add what one node is in ONNX; what has no rule is named as it is."""
    low.label = op.name
    rule = _rule(op)
    if rule is not None:
        rule(low, op)
    elif op.kind in OPAQUE and "torch.ops.aten." in op.target:
        low.other(op)
    elif op.outputs:
        domain = "aten" if op.target.startswith("torch.ops.aten.") else "torch"
        kind = op.target.removeprefix("torch.ops.").removeprefix("aten.")
        low.emit(kind, op.read, *op.outputs, domain=domain)


def _rule(op: Aten) -> Rule | None:
    if op.target.startswith("_operator."):
        return ARITHMETIC.get(op.target.removeprefix("_operator."))
    if op.target.startswith(_HIGHER):
        return _REGIONS.get(op.target.removeprefix(_HIGHER))
    return RULES.get(op.kind) if op.target.startswith("torch.ops.") else None


def _inside(low: Lowering, op: Aten, region: Region, given: Sequence[Any], label: str) -> list[str]:
    """Add the nodes of a region that reads `given`; the names of what it returns."""
    graph, prefix = region.graph, f"{op.outputs[0] if op.outputs else op.name}/{label}"
    names = {name: f"{prefix}{name}" for name in graph["tensor_values"]}
    names |= {name: value.name for name, value in _formals(graph, given)}
    for name, values in graph["tensor_values"].items():
        low.metas.setdefault(names[name], meta_of(values))
    before = {value.name: name for name, value in _formals(graph, given)}
    lower_graph(low, graph, names)
    low.written |= {outer: names[name] for outer, name in before.items() if names[name] != outer}
    low.label = op.name
    return [names[str(each["as_tensor"]["name"])] for each in graph["outputs"] if "as_tensor" in each]


def _formals(graph: Mapping[str, Any], given: Sequence[Any]) -> Iterator[tuple[str, Ref]]:
    """The tensors that a region is given, by its own names for them."""
    for formal, value in zip(graph["inputs"], given, strict=True):
        if "as_tensor" in formal and isinstance(value, Ref):
            yield str(formal["as_tensor"]["name"]), value


def _inlined(low: Lowering, op: Aten, *, detached: bool = False, again: bool = False) -> object:
    """A region that runs as if it stood in the graph; what it returns may be cut off from the gradient."""
    at = next(at for at, value in enumerate(op.values) if isinstance(value, Region))
    before, region = len(low.nodes), op.values[at]
    results = _inside(low, op, region, _operands(op.values[at + 1 :]), "")
    if again:
        low.regions |= {node.name: Mark(part=op.outputs[0] if op.outputs else op.name) for node in low.nodes[before:]}
    attributes = {DETACHED: 1} if detached else {}
    if detached:
        low.written = {name: _detached(low, tensor) for name, tensor in low.written.items()}
    for inner, outer in zip(results, op.outputs, strict=True):
        low.emit("Identity", [inner], outer, **attributes)
    return None


def _detached(low: Lowering, tensor: str) -> str:
    """The tensor without its gradient."""
    plain = low.emit("Identity", [tensor], **{DETACHED: 1})
    low.metas[plain] = low.meta(tensor)
    return plain


def _operands(values: Sequence[Any]) -> list[Any]:
    """The operands of a region, given one by one or in a list."""
    tensors = [value for value in values if isinstance(value, Ref)]
    return tensors or [one for value in values if isinstance(value, tuple) for one in value]


def _gradient_switched(low: Lowering, op: Aten) -> object:
    return _inlined(low, op, detached=not op.values[0])


def _checkpointed(low: Lowering, op: Aten) -> object:
    return _inlined(low, op, again=True)


def _branched(low: Lowering, op: Aten) -> object:
    """Both branches of a condition: an If."""
    condition, *regions, operands = op.values
    if not isinstance(condition, Ref):
        chosen = regions[0 if condition else 1]
        for inner, outer in zip(_inside(low, op, chosen, operands, ""), op.outputs, strict=True):
            low.emit("Identity", [inner], outer)
        return None
    then, otherwise = (_branch(low, op, region, operands, label) for region, label in zip(regions, "01", strict=True))
    return low.emit("If", [condition.name], *op.outputs, then_branch=then, else_branch=otherwise)


def _branch(low: Lowering, op: Aten, region: Region, operands: Sequence[Any], label: str) -> GraphProto:
    outside, low.nodes = low.nodes, []
    results = _inside(low, op, region, operands, f"{label}/")
    ends = [low.emit("Identity", [result]) for result in results]
    inside, low.nodes = low.nodes, outside
    if low.written:
        raise LatteError(f"`{op.name}` changes a tensor in place in one of its branches", hint=FUNCTIONAL)
    values = [helper.make_tensor_value_info(end, low.meta(result).element, None)
              for end, result in zip(ends, results, strict=True)]  # fmt: skip
    return helper.make_graph(inside, f"branch{label}", [], values)


_REGIONS: Mapping[str, Callable[[Lowering, Aten], object]] = {
    "cond": _branched,
    "wrap_with_set_grad_enabled": _gradient_switched,
    **dict.fromkeys(("wrap_with_autocast", "wrap", "invoke_subgraph", "hints_wrapper"), _inlined),
    **dict.fromkeys(("tag_activation_checkpoint", "wrap_activation_checkpoint"), _checkpointed),
}
"""Operators that run a graph within the program, by name."""
