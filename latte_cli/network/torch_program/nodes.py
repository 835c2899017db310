"""Nodes of a program's graph, from JSON: what they compute, of what, and what they write."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import TensorProto

from latte_cli.network.torch_program.program import ELEMENTS, Aten, Meta, Ref, Region, Symbol


def meta_of(values: Mapping[str, Any]) -> Meta:
    """What a graph says of a tensor; ValueError for a size that is no integer."""
    sizes = tuple(size.get("as_int") for size in values["sizes"])
    if not all(size is None or type(size) is int for size in sizes):
        raise ValueError("a size that is no integer")
    return Meta(sizes=sizes, element=ELEMENTS.get(values["dtype"], TensorProto.FLOAT))


def symbols_of(tensors: Mapping[str, Any]) -> dict[str, list[int | str]]:
    """The sizes of tensors with symbolic ones, by short names."""
    found: dict[str, list[int | str]] = {}
    for name, values in tensors.items():
        sizes = [
            size["as_int"] if "as_int" in size else _expression(size["as_expr"]["expr_str"]) for size in values["sizes"]
        ]
        if any(isinstance(size, str) for size in sizes):
            found[name] = sizes
    return found


def _expression(text: str) -> str:
    """`Symbol('s77', positive=True)` as `s77`, and sums and products of symbols as such."""
    plain = re.sub(r"Symbol\('(\w+)'[^()]*\)", r"\1", text)
    plain = re.sub(r"Integer\((-?\d+)\)", r"\1", plain)
    for kind, sign in (("Mul", "*"), ("Add", " + ")):
        while (simpler := re.sub(rf"\b{kind}\(([^(),]+), ([^(),]+)\)", rf"(\1{sign}\2)", plain)) != plain:
            plain = simpler
    return plain[1:-1] if plain.startswith("(") and plain.count("(") == 1 and plain.endswith(")") else plain


def aten_of(node: Mapping[str, Any], names: Mapping[str, str]) -> Aten:
    """A node with the names that tensors have in ONNX."""
    target = str(node["target"])
    kind = target.removeprefix("torch.ops.aten.").partition(".")[0] if "torch.ops.aten." in target else target
    plain = out_of_place(kind)
    outputs = tuple(names.get(one, one) for argument in node["outputs"] for one in _output_names(argument))
    values = tuple(_value(given["arg"], names) for given in node["inputs"])
    arguments = {str(given["name"]): value for given, value in zip(node["inputs"], values, strict=True)}
    first = _first_tensor(node)
    return Aten(
        target=target,
        kind=plain,
        name=_label(node, outputs),
        arguments=arguments,
        outputs=outputs,
        values=values,
        first=first,
        results=tuple(one for argument in node["outputs"] for one in _output_names(argument)),
        mutated=first if plain != kind else "",
    )


def out_of_place(name: str) -> str:
    """The name of an operator without the `_` that says that it works in place."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def tensors_read(node: Mapping[str, Any]) -> Iterator[str]:
    """The program's names for the tensors that a node reads."""
    for given in node["inputs"]:
        argument = given["arg"]
        optional = argument.get("as_optional_tensor") or {}
        each = [argument.get("as_tensor"), optional.get("as_tensor"), *(argument.get("as_tensors") or ())]
        each += [one.get("as_tensor") for one in argument.get("as_optional_tensors") or ()]
        yield from (str(one["name"]) for one in each if one)


def _first_tensor(node: Mapping[str, Any]) -> str:
    """The program's name for the tensor that a node's first argument is, which it writes to if it works in place."""
    first = node["inputs"][0]["arg"] if node["inputs"] else {}
    return str(first["as_tensor"]["name"]) if "as_tensor" in first else ""


def _label(node: Mapping[str, Any], outputs: Sequence[str]) -> str:
    """The module's path, where the program says it, else the node's own name."""
    stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
    parts = stack.rpartition(";")[2].split(",")
    return (parts[1] if len(parts) == 3 else "") or str(node.get("name") or "") or (outputs[0] if outputs else "node")


def _output_names(argument: Mapping[str, Any]) -> list[str]:
    if "as_tensor" in argument:
        return [str(argument["as_tensor"]["name"])]
    if "as_tensors" in argument:
        return [str(each["name"]) for each in argument["as_tensors"]]
    for kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        if kind in argument and "as_name" in argument[kind]:
            return [str(argument[kind]["as_name"])]
    return []


def _value(argument: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """An argument in plain form: numbers, texts and tuples of them, tensors as Ref, computed sizes as Symbol."""
    ((kind, found),) = argument.items()
    match kind:
        case "as_tensor":
            return Ref(names.get(found["name"], str(found["name"])))
        case "as_tensors":
            return tuple(Ref(names.get(each["name"], str(each["name"]))) for each in found)
        case "as_optional_tensor":
            return _value(found, names)
        case "as_optional_tensors":
            return tuple(_value(each, names) for each in found)
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return found["as_int"] if "as_int" in found else Symbol(str(found["as_name"]))
        case "as_sym_ints":
            return tuple(each["as_int"] if "as_int" in each else Symbol(str(each["as_name"])) for each in found)
        case "as_int" | "as_float" | "as_bool" | "as_string" | "as_memory_format":
            return found
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return tuple(found)
        case "as_graph":
            return Region(found["graph"])
    return None
