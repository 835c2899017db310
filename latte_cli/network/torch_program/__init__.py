"""Reading `torch.export` programs: the graph that a `.pt2` file holds as JSON becomes an ONNX model."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import ModelProto, TensorProto, helper

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.archive import DAMAGED, Arrays, archived, is_archive, is_pickle, pickled
from latte_cli.network.torch_program.program import ELEMENTS, Aten, Lowering, Meta, Ref, Rule, Symbol
from latte_cli.network.torch_program.rules import ARITHMETIC, RULES

__all__ = ["arrays", "exported", "is_archive", "is_pickle", "model", "pickled"]

_OPSET, _IR_VERSION = 24, 11
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration, OverflowError, RecursionError)


def model(content: bytes | memoryview, name: str) -> ModelProto:
    """The program in a `.pt2` file's `content` as an ONNX model: weights are named and have no values.

    Raises LatteError for another file, a damaged one, and operators of torch without a counterpart.
    """
    module = archived(content, name)
    try:
        return _lowered(module, name)
    except LatteError:
        raise
    except _MALFORMED as exc:
        raise LatteError(f"the graph of `{name}` is malformed: {_line(exc)}", hint=DAMAGED) from exc


def arrays(content: bytes, name: str) -> Arrays:
    """The weights in a `.pt2` file's `content` by their qualified names."""
    return Arrays(content, name, ELEMENTS)


def exported(module: Any, example: Any) -> bytes:
    """A live torch module as the content of a `.pt2` file, exported with the tensors that it is called with.

    Raises LatteError where torch cannot export it.
    """
    import torch

    arguments = example if isinstance(example, tuple) else (example,)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it does with a module's own lists of weights
            torch.export.save(torch.export.export(module, arguments), buffer)
    except Exception as exc:  # torch raises errors of many kinds
        raise LatteError(
            f"torch cannot export `{type(module).__name__}`: {_line(exc)}",
            hint="export it as ONNX, or see https://pytorch.org/docs/stable/export.html",
        ) from exc
    return buffer.getvalue()


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _lowered(module: Mapping[str, Any], name: str) -> ModelProto:
    graph = module["graph"]
    names, weights, inputs = _inputs(module["signature"], graph["inputs"])
    metas = {names.get(own, own): _meta(values) for own, values in graph["tensor_values"].items()}
    low = Lowering(metas=metas)
    for weight in weights:
        low.filled(weight, [_whole(size, weight) for size in low.meta(weight).sizes], low.meta(weight).element)
    for node in graph["nodes"]:
        _lower(low, _aten(node, names))
    symbols = _symbols(graph["tensor_values"])
    given = [
        helper.make_tensor_value_info(one, low.meta(one).element, symbols.get(one) or low.meta(one).sizes)
        for one in inputs
    ]
    outputs = _outputs(module["signature"], names)
    made = [helper.make_tensor_value_info(one, low.metas[one].element, None) for one in outputs if one in low.metas]
    if not made:
        raise LatteError(f"`{name}` returns no tensors", hint=DAMAGED)
    body = helper.make_graph(low.nodes, name, given, made, initializer=list(low.constants.values()))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("aten", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION)


def _whole(size: int | None, weight: str) -> int:
    if size is None:
        raise LatteError(f"parameter `{weight}` has a symbolic size", hint=DAMAGED)
    return size


def _inputs(signature: Mapping[str, Any], given: Sequence[Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """New names of parameters and buffers, their names, and the names of the activations that are given."""
    names: dict[str, str] = {}
    weights, inputs = [], []
    for spec in signature["input_specs"]:
        ((kind, body),) = spec.items()
        qualified = next(
            (body[key] for key in ("parameter_name", "buffer_name", "tensor_constant_name") if key in body), ""
        )
        argument = body.get("arg") or {}
        if qualified:
            names[argument["name"]] = str(qualified)
            weights.append(str(qualified))
        elif kind == "user_input":
            tensor = argument.get("as_tensor")
            inputs += [str(tensor["name"])] if tensor else []
    return names, weights, inputs


def _outputs(signature: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    found = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    tensors = [argument["as_tensor"]["name"] for argument in found if "as_tensor" in argument]
    return [names.get(one, one) for one in dict.fromkeys(tensors)]


def _meta(values: Mapping[str, Any]) -> Meta:
    sizes = tuple(size.get("as_int") for size in values["sizes"])
    if not all(size is None or type(size) is int for size in sizes):
        raise ValueError("a size that is no integer")
    return Meta(sizes=sizes, element=ELEMENTS.get(values["dtype"], TensorProto.FLOAT))


def _symbols(tensors: Mapping[str, Any]) -> dict[str, list[int | str]]:
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


def _aten(node: Mapping[str, Any], names: Mapping[str, str]) -> Aten:
    target = str(node["target"])
    kind = target.removeprefix("torch.ops.aten.").partition(".")[0] if "torch.ops.aten." in target else target
    plain = kind[:-1] if kind.endswith("_") and not kind.endswith("__") else kind
    outputs = tuple(names.get(one, one) for argument in node["outputs"] for one in _output_names(argument))
    arguments = {str(given["name"]): _value(given["arg"], names) for given in node["inputs"]}
    return Aten(target=target, kind=plain, name=_label(node, outputs), arguments=arguments, outputs=outputs)


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
        case "as_int" | "as_float" | "as_bool" | "as_string":
            return found
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return tuple(found)
    return None


def _lower(low: Lowering, op: Aten) -> None:
    low.label = op.name
    rule = _rule(op)
    if rule is None:
        if not op.outputs:
            return
        given = [each.name for each in op.arguments.values() if isinstance(each, Ref)]
        domain = "aten" if op.target.startswith("torch.ops.aten.") else "torch"
        low.emit(op.target.removeprefix("torch.ops.").removeprefix("aten."), given, *op.outputs, domain=domain)
        return
    rule(low, op)


def _rule(op: Aten) -> Rule | None:
    if op.target.startswith("_operator."):
        return ARITHMETIC.get(op.target.removeprefix("_operator."))
    return RULES.get(op.kind) if "torch.ops.aten." in op.target else None
