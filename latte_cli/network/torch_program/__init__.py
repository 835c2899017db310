"""Reading `torch.export` programs: the graph that a `.pt2` file holds as JSON becomes an ONNX model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx import ModelProto, helper

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.archive import (
    DAMAGED,
    Arrays,
    Ties,
    archived,
    is_archive,
    is_pickle,
    pickled,
    tied_weights,
)
from latte_cli.network.torch_program.checkpointed import Observed
from latte_cli.network.torch_program.described import Program
from latte_cli.network.torch_program.live import EXAMPLE, Live, exported, live
from latte_cli.network.torch_program.lowering import lower_graph
from latte_cli.network.torch_program.nodes import meta_of, symbols_of
from latte_cli.network.torch_program.program import ELEMENTS, Lowering
from latte_cli.network.torch_program.signature import signature_of, whole_sizes

__all__ = [
    "EXAMPLE",
    "Live",
    "Program",
    "arrays",
    "exported",
    "is_archive",
    "is_pickle",
    "live",
    "model",
    "pickled",
    "program",
]

_OPSET, _IR_VERSION = 24, 11
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration, OverflowError, RecursionError)


def model(content: bytes | memoryview, name: str) -> ModelProto:
    """The program in a `.pt2` file's `content` as an ONNX model: weights are named and have no values.

    Raises LatteError for another file, a damaged one, and operators of torch without a counterpart.
    """
    return program(content, name).model


def program(
    content: bytes | memoryview,
    name: str,
    tied: Mapping[str, str] | None = None,
    observed: Observed | None = None,
) -> Program:
    """The program in a `.pt2` file's `content` as an ONNX model, with what it says of its tensors.

    `tied` are names of tensors that are others by another name; the file's own where it is None. `observed` is what a
    live module was seen to checkpoint. Raises LatteError as `model` does.
    """
    module = archived(content, name)
    try:
        found = _lowered(module, name, tied_weights(content, name) if tied is None else Ties(owners=tied))
        return replace(found, observed=observed)
    except LatteError:
        raise
    except _MALFORMED as exc:
        line = (" ".join(str(exc).split()) or type(exc).__name__)[:160]
        raise LatteError(f"the graph of `{name}` is malformed: {line}", hint=DAMAGED) from exc


def arrays(content: bytes, name: str) -> Arrays:
    """The weights in a `.pt2` file's `content` by their qualified names."""
    return Arrays(content, name, ELEMENTS)


def _lowered(module: Mapping[str, Any], name: str, ties: Ties) -> Program:
    graph, signature = module["graph"], signature_of(module, ties.owners)
    names = dict(signature.names)
    low = Lowering(metas={names.get(own, own): meta_of(values) for own, values in graph["tensor_values"].items()})
    for weight, role in signature.roles.items():
        low.filled(weight, whole_sizes(low.meta(weight), weight), low.meta(weight).element, role)
    lower_graph(low, graph, names)
    symbols = {signature.names.get(own, own): sizes for own, sizes in symbols_of(graph["tensor_values"]).items()}
    given = [
        helper.make_tensor_value_info(one, low.meta(one).element, symbols.get(one) or low.meta(one).sizes)
        for one in signature.inputs
    ]
    outputs = dict.fromkeys(names.get(one, one) for one in signature.outputs)
    made = [helper.make_tensor_value_info(one, low.metas[one].element, None) for one in outputs if one in low.metas]
    if not made:
        raise LatteError(f"`{name}` returns no tensors", hint=DAMAGED)
    asked = dict.fromkeys(node.input[0] for node in low.nodes if node.op_type == "Shape")
    said = [
        helper.make_tensor_value_info(one, low.metas[one].element, low.metas[one].sizes)
        for one in asked
        if one in low.metas and one not in signature.inputs and None not in low.metas[one].sizes
    ]
    body = helper.make_graph(low.nodes, name, given, made, initializer=list(low.constants.values()), value_info=said)
    opsets = [helper.make_opsetid("", _OPSET), *(helper.make_opsetid(domain, 1) for domain in ("aten", "latte"))]
    lowered = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION)
    return Program(model=lowered, low=low, signature=signature, without_data=ties.without_data)
