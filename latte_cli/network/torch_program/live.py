"""Live torch modules: what they are called with, and the program that `torch.export` makes of them."""

import inspect
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.checkpointed import CHECKPOINT, Observed
from latte_cli.network.torch_program.nodes import out_of_place
from latte_cli.network.torch_program.rules import OPAQUE, RULES
from latte_cli.network.torch_program.views import FOLLOWED

EXAMPLE = (
    "give what it is called with: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a tuple "
    "that ends in such a dict"
)

_REQUESTED = (
    "its code asks for the gradient of an activation (`requires_grad`), which a program does not show; the work of the "
    "backward pass for it is not priced"
)
_CHECKPOINTED = (
    "its code checkpoints regions; that those run again in the backward pass, and hold less until then, is not priced"
)
_BETWEEN = ("torch", "contextlib", "functools")

_Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
_ROUNDS = 3


_CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl")
"""The names of what runs a module as a whole."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """A program of a live module: its file's content, its tensors that are others by another name, what it lacks.

    `observed` is what the module was seen to checkpoint; None where it did not run here.
    """

    content: bytes
    tied: Mapping[str, str]
    notes: tuple[str, ...] = ()
    observed: Observed | None = None


@dataclass(frozen=True, kw_only=True)
class _Checkpointing:
    """A call of torch's checkpoint: the module that it runs, None where it runs other code, or in another way.

    Of other code `parts` are the modules that each of its operators was seen in, or None for one outside of modules.
    """

    part: Any
    parts: list[Any] | None = None

    @property
    def runs(self) -> Any:
        """The one module that it runs, all in all; None where there is more to it."""
        if self.parts:
            return self.parts[0] if all(each is self.parts[0] for each in self.parts) else None
        return self.part


def exported(module: Any, example: Any, batch_size: int | None = None) -> bytes:
    """A live torch module as the content of a `.pt2` file, exported with what it is called with.

    With `batch_size` every tensor of the `example` that has the first one's batch is made as large. Raises LatteError
    where torch cannot export it.
    """
    return _content(_program(module, example, batch_size), type(module).__name__)


def live(module: Any, example: Any = None, batch_size: int | None = None, batch_axis: int = 0) -> Live:
    """The program of a live module, or of an `ExportedProgram`, which needs no example; weights stay where they are.

    Raises LatteError as `exported` does, and for what is no module.
    """
    with _seen_meanwhile() as (seen, checkpointed):
        program, name = _program(module, example, batch_size, batch_axis), type(module).__name__
    observed = None if isinstance(module, type(program)) else _observed(module, program, checkpointed)
    marked = any(CHECKPOINT.search(node.meta.get("stack_trace") or "") for node in _nodes(program))
    if observed and observed.others and not marked:
        seen.add(_CHECKPOINTED)  # else the layers are named
    with _without_weights(program) as tied:
        return Live(content=_content(program, name), tied=tied, notes=tuple(sorted(seen)), observed=observed)


def _observed(module: Any, program: Any, calls: Sequence[_Checkpointing]) -> Observed:
    """What of `module` the `calls` of torch's checkpoint were for."""
    paths = {id(vars(part)): path for path, part in module.named_modules()}
    runs = (each.runs for each in calls)
    counts = Counter("" if part is None else paths.get(id(vars(part)), "") for part in runs)
    made: dict[str, set[str]] = {}
    for node in _nodes(program):
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            made.setdefault(path, set()).add(key)
    parts = {path for path, count in counts.items() if path and count == len(made.get(path, ()))}
    return Observed(parts=frozenset(parts), others=any(path not in parts for path in counts))


def _program(module: Any, example: Any, batch_size: int | None, batch_axis: int = 0) -> Any:
    """The program, with what has no rule taken apart."""
    import torch

    name = type(module).__name__
    if isinstance(module, torch.export.ExportedProgram):
        return _readable(module, name)
    if not isinstance(module, torch.nn.Module):
        raise LatteError(
            f"a `{name}` is no model",
            hint="give the path or the bytes of an ONNX or `.pt2` file, a `ModelProto`, an `ExportedProgram`, or a "
            "`torch.nn.Module` with an example",
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise LatteError(f"`{name}` is a TorchScript module", hint="give the `torch.nn.Module` that it was made of")
    if example is None:
        raise LatteError(f"`{name}` is a live module without an example", hint=EXAMPLE)
    arguments, keywords = _call(module, example)
    if batch_size is not None:
        arguments, keywords = _at_batch((arguments, keywords), batch_size, batch_axis)
    with _exporting(name), _plain_outputs(module):
        program = torch.export.export(module, arguments, keywords)
    return _readable(program, name)


def _checkpointing(frame: FrameType) -> _Checkpointing:
    """What the call of torch's checkpoint in a frame runs."""
    given = frame.f_locals
    function: Any = given.get("function")
    arguments: tuple[Any, ...] = given.get("args", ())
    while isinstance(function, partial):
        function, arguments = function.func, (*function.args, *arguments)
    if getattr(function, "__name__", "") in _CALLS:
        function = getattr(function, "__self__", arguments[0] if arguments else None)
    plain = given.get("use_reentrant") is False and given.get("early_stop", True)
    if plain and not hasattr(function, "named_modules"):
        return _Checkpointing(part=None, parts=[])
    return _Checkpointing(part=function if plain else None)


@contextmanager
def _seen_meanwhile() -> Iterator[tuple[set[str], list[_Checkpointing]]]:
    """Notes of what the code that runs meanwhile does and a program does not show, and what it checkpoints."""
    import torch.utils.checkpoint
    from torch.overrides import TorchFunctionMode

    found: set[str] = set()
    frames: dict[FrameType, _Checkpointing] = {}

    class Listening(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            set_to = name == "__set__" and getattr(func.__self__, "__name__", "") == "requires_grad"
            if (set_to or name == "requires_grad_") and args[-1] is not False:
                found.update((_REQUESTED,) if not _caller().startswith("latte_cli.") else ())
            inside = () if torch.compiler.is_dynamo_compiling() else _frames_in(torch.utils.checkpoint.__file__)
            for frame in inside:
                nested = len(inside) > 1
                call = frames.setdefault(frame, _Checkpointing(part=None) if nested else _checkpointing(frame))
                if call.parts is not None:
                    call.parts.append(_part_in(frame))
            return func(*args, **(kwargs or {}))

    checkpointed: list[_Checkpointing] = []
    with Listening():
        yield found, checkpointed
    checkpointed += frames.values()


def _frames_in(path: str) -> list[FrameType]:
    """The calls of checkpoint in the file at `path` that are running."""
    found = []
    frame: FrameType | None = sys._getframe(2)  # past this function and the one that listens
    while frame:
        if frame.f_code.co_filename == path and frame.f_code.co_name == "checkpoint":
            found.append(frame)
        frame = frame.f_back
    return found


def _part_in(call: FrameType) -> Any:
    """The outermost module that is called within a call of checkpoint and running; None outside of modules."""
    part, frame = None, sys._getframe(2)  # past this function and the one that listens
    while frame is not call and frame.f_back:
        if frame.f_code.co_name == "_wrapped_call_impl":
            part = frame.f_locals.get("self")
        frame = frame.f_back
    return part


def _caller() -> str:
    """The Python module of the innermost code that is not torch's; code that torch has made has no name."""
    frame = sys._getframe(2)  # past this function and the one that listens
    while frame.f_back and str(frame.f_globals.get("__name__", "torch")).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it does with a module's own lists of weights
            yield
    except LatteError:
        raise
    except Exception as exc:  # torch raises errors of many kinds
        line = (" ".join(str(exc).split()) or type(exc).__name__)[:160]
        raise LatteError(
            f"torch cannot export `{name}`: {line}",
            hint="export it as ONNX, or see https://pytorch.org/docs/stable/export.html",
        ) from exc


def _call(module: Any, example: Any) -> _Call:
    """The positional and the keyword arguments that `example` means."""
    if isinstance(example, Mapping) and _are_keywords(module, example):
        return (), dict(example)
    if not isinstance(example, tuple):
        return (example,), {}
    if example and isinstance(example[-1], Mapping) and _are_keywords(module, example[-1]):
        return example[:-1], dict(example[-1])
    return example, {}


def _are_keywords(module: Any, given: Mapping[Any, Any]) -> bool:
    known = inspect.signature(module.forward).parameters.values()
    if not all(isinstance(name, str) for name in given):
        return False
    if any(each.kind is each.VAR_KEYWORD for each in known):
        return True
    return {str(name) for name in given} <= {each.name for each in known}


def _at_batch(call: _Call, batch: int, axis: int) -> _Call:
    """The arguments with `batch` samples along `axis`: those that are there, again and again."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, spec = pytree.tree_flatten(call)
    sizes = [leaf.shape[axis] if isinstance(leaf, torch.Tensor) and leaf.dim() > axis else None for leaf in leaves]
    own = next((size for size in sizes if size is not None), None)
    if own is None or own == batch or own == 0:
        return call
    rows = torch.arange(batch) % own
    made: _Call = pytree.tree_unflatten(
        [
            leaf.detach().index_select(axis, rows.to(leaf.device)).requires_grad_(leaf.requires_grad)
            if size == own
            else leaf
            for leaf, size in zip(leaves, sizes, strict=True)
        ],
        spec,
    )
    return made


@contextmanager
def _plain_outputs(module: Any) -> Iterator[None]:
    """While `module` is exported it returns mappings, tuples and tensors, whatever records it returns by itself."""
    hook = module.register_forward_hook(lambda module, arguments, result: _plain(result))
    try:
        yield
    finally:
        hook.remove()


def _plain(result: Any) -> Any:
    """Records as mappings; what holds no tensor, such as a special cache, is left out."""
    import torch

    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, Mapping):
        return _kept_by_name(dict(result))
    if hasattr(result, "_fields"):
        return _kept_by_name(result._asdict())
    if is_dataclass(result):
        return _kept_by_name({field.name: getattr(result, field.name) for field in fields(result)})
    if isinstance(result, Sequence) and not isinstance(result, str | bytes):
        found = [each for each in map(_plain, result) if each is not None]
        return tuple(found) or None
    return None


def _kept_by_name(found: Mapping[Any, Any]) -> dict[str, Any] | None:
    plain = {str(name): _plain(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if value is not None} or None


def _readable(program: Any, name: str) -> Any:
    """The program without what changes views in place, and with operators without a rule taken apart."""
    with _exporting(name):
        program = _functional(program)
        for _ in range(_ROUNDS):
            table = _decompositions(program)
            if not table:
                break
            program = _decomposed(program, table)
    return program


def _content(program: Any, name: str) -> bytes:
    import torch

    buffer = io.BytesIO()
    with _exporting(name):
        torch.export.save(program, buffer)
    return buffer.getvalue()


@contextmanager
def _without_weights(program: Any) -> Iterator[dict[str, str]]:
    """While it is saved the program has weights without data; which of them are others by another name."""
    import torch

    weights = program.state_dict
    kept = dict(weights)
    try:
        for key, tensor in kept.items():
            empty = torch.empty_strided(tensor.shape, [0] * tensor.dim(), dtype=tensor.dtype)
            wrapped = isinstance(tensor, torch.nn.Parameter)
            weights[key] = torch.nn.Parameter(empty, tensor.requires_grad) if wrapped else empty
        yield _tied(kept)
    finally:
        weights.update(kept)


def _tied(weights: Mapping[str, Any]) -> dict[str, str]:
    """The names of tensors that are others by another name, with the first name of each."""
    first: dict[Any, str] = {}
    places = {
        key: (_storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
        for key, tensor in weights.items()
        if tensor.numel()
    }
    return {key: owner for key, place in places.items() if (owner := first.setdefault(place, key)) != key}


def _storage(tensor: Any) -> int:
    """What sets the storage of a tensor apart from others; tensors of the meta device have one, though no data."""
    return int(tensor.untyped_storage()._cdata)


def _nodes(program: Any) -> Iterator[Any]:
    """The operators in a program's graphs."""
    import torch

    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")


def _functional(program: Any) -> Any:
    """The program without what changes a view in place that cannot be written through, which is a tensor then."""
    through_views = any(
        _works_in_place(node.target) and node.args and _is_strange_view(node.args[0]) for node in _nodes(program)
    )
    return _decomposed(program, {}) if through_views else program


def _works_in_place(target: Any) -> bool:
    name = getattr(getattr(target, "_schema", None), "name", "")
    return bool(out_of_place(name) != name)


def _is_strange_view(node: Any) -> bool:
    """Whether it lies in another tensor in a way that what is written over it is not read."""
    while (strange := getattr(node, "target", None)) is not None and getattr(strange, "is_view", False):
        if str(strange).split(".")[1] not in FOLLOWED:
            return True
        node = node.args[0]
    return False


def _decompositions(program: Any) -> dict[Any, Any]:
    """torch's decompositions of the operators without a rule."""
    from torch._decomp import decomposition_table
    from torch.export import default_decompositions

    targets = {node.target for node in _nodes(program) if str(node.target).startswith("aten.")}
    strange = [target for target in targets if not _known(str(target))]
    if not strange:
        return {}
    core = default_decompositions()
    found = {target: core[target] if target in core else decomposition_table.get(target) for target in strange}
    return {target: apart for target, apart in found.items() if apart is not None and not _of_primitives(apart)}


def _of_primitives(decomposition: Any) -> bool:
    """Whether it takes an operator apart into those of torch's own compiler, which are not read."""
    return str(getattr(decomposition, "__module__", "")).startswith("torch._refs")


def _known(target: str) -> bool:
    kind = out_of_place(target.split(".")[1])
    return kind in RULES or kind in OPAQUE


def _decomposed(program: Any, table: dict[Any, Any]) -> Any:
    """The program with some operators taken apart; LatteError where that would lose where no gradient flows."""
    switched = [
        node
        for node in _nodes(program)
        if str(node.target) == "wrap_with_set_grad_enabled" and node.args and not node.args[0]
    ]
    if switched:
        what = ", ".join(sorted(str(target) for target in table)[:3]) or "a view that is changed in place"
        raise LatteError(
            f"`{what}` cannot be read beside a `no_grad` region", hint="write it otherwise, or use `detach()` instead"
        )
    return program.run_decompositions(table)
