"""A program's signature: which tensors are parameters, buffers, inputs and outputs, and which output is scored."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.archive import DAMAGED
from latte_cli.network.torch_program.program import Meta

PARAMETER, FROZEN, BUFFER = "parameter", "frozen", "buffer"
"""What a module has a tensor for: to train it, to keep it as it is, or in addition to its parameters."""

_QUALIFIED = ("parameter_name", "buffer_name", "tensor_constant_name")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a program says of its tensors.

    `names` are the qualified names of parameters and buffers by those in the graph, and new ones of activations that
    are called as one of them; `roles` are what the module has each for, `inputs` and `outputs` the activations it is
    given and returns; the one that is scored comes last. `wanted` are the inputs that ask for a gradient.
    """

    names: Mapping[str, str]
    roles: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    wanted: tuple[str, ...]


def signature_of(module: Mapping[str, Any], tied: Mapping[str, str]) -> Signature:
    """The signature of a program; `tied` are the names of tensors that are others by another name."""
    graph, signature = module["graph"], module["signature"]
    names: dict[str, str] = {}
    roles: dict[str, str] = {}
    inputs = []
    for spec in signature["input_specs"]:
        ((kind, body),) = spec.items()
        argument = body.get("arg") or {}
        qualified = next((str(body[key]) for key in _QUALIFIED if key in body), "")
        if qualified:
            own = tied.get(qualified, qualified)
            names[argument["name"]] = own
            trains = graph["tensor_values"][argument["name"]].get("requires_grad", True)
            roles[own] = BUFFER if kind != "parameter" else PARAMETER if trains else FROZEN
        elif kind == "user_input" and argument.get("as_tensor"):
            inputs.append(str(argument["as_tensor"]["name"]))
    names |= _renamed(graph["tensor_values"], names)
    wanted = tuple(names.get(name, name) for name in inputs if graph["tensor_values"][name].get("requires_grad", False))
    outputs, given = _outputs(module, names), tuple(names.get(name, name) for name in inputs)
    return Signature(names=names, roles=roles, inputs=given, outputs=outputs, wanted=wanted)


def _renamed(own: Collection[str], names: Mapping[str, str]) -> dict[str, str]:
    """Other names for activations that are called as a parameter or a buffer is, such as `t` in `self.t.t()`."""
    taken, found = {*names.values()}, {}
    for name in sorted(name for name in own if name in taken and name not in names):
        other = f"{name}_"
        while other in taken or other in own:
            other += "_"
        found[name] = other
        taken.add(other)
    return found


def _outputs(module: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, ...]:
    specs = module["signature"]["output_specs"]
    kept = [spec.get("user_output") or spec.get("loss_output") for spec in specs]
    given: list[dict[str, Any]] = [each["arg"] for each in kept if each]
    tensors = [argument.get("as_tensor") or (argument if "name" in argument else None) for argument in given]
    labels = _labels(module)
    if len(labels) != len(given):
        labels = [""] * len(given)
    found = [(str(tensor["name"]), label) for tensor, label in zip(tensors, labels, strict=True) if tensor]
    ranks = {name: len(module["graph"]["tensor_values"].get(name, {}).get("sizes", "?")) for name, _ in found}
    ordered = [name for name, _ in found]
    if scored := _scored(found, ranks):
        ordered = [name for name in ordered if name != scored] + [scored]
    return tuple(names.get(name, name) for name in dict.fromkeys(ordered))


def _scored(found: Sequence[tuple[str, str]], ranks: Mapping[str, int]) -> str:
    """The output that training starts from: a loss, the logits, the first that has a name; "" where none is marked."""
    by_label = {label: name for name, label in found if label}
    numbers = [name for name, _ in found if ranks[name] == 0]
    if "loss" in by_label:
        return by_label["loss"]
    if numbers:
        return numbers[-1]
    return next((by_label[label] for label in ("logits", *by_label) if label in by_label), "")


def _labels(module: Mapping[str, Any]) -> list[str]:
    """The outermost key that each output has where the module returns a mapping or a record; "" for others."""
    try:
        calls = module.get("module_call_graph") or []
        spec = json.loads(calls[0]["signature"]["out_spec"])[1]
        return list(_leaves(spec, ""))
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, AttributeError):
        return []


def _leaves(spec: Mapping[str, Any], label: str) -> Iterator[str]:
    children = spec["children_spec"]
    if not children:
        if spec["type"] is None:
            yield label
        return
    keys: Any = json.loads(spec["context"]) if spec["context"] else None
    named = isinstance(keys, list) and len(keys) == len(children) and all(isinstance(key, str) for key in keys)
    labels = list(keys) if named else [""] * len(children)
    for own, child in zip(labels, children, strict=True):
        yield from _leaves(child, label or own)


def whole_sizes(meta: Meta, name: str) -> list[int]:
    """The sizes of a stored tensor, which has no symbolic ones."""
    if None in meta.sizes:
        raise LatteError(f"parameter `{name}` has a symbolic size", hint=DAMAGED)
    return [size for size in meta.sizes if size is not None]


def count(meta: Meta) -> int:
    """How many numbers a stored tensor holds."""
    return prod(size or 0 for size in meta.sizes)
