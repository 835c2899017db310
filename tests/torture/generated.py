"""Models of one operator, with random inputs and attributes: any rank, empty and huge sizes, any type."""

import random
from functools import cache
from typing import Any

import mutations
import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

SIZES = (0, 1, 1, 2, 2, 3, 4, 5, 8, 16, 64, 2**16, 2**31, 2**40)
SMALL = (0, 1, 1, 2, 3, 4, 8)
TYPES = (1, 1, 1, 1, 7, 7, 6, 9, 10, 11, 2, 3, 16, 8)


@cache
def schemas() -> list[Any]:
    """Each version of each operator of ONNX."""
    return [each for each in defs.get_all_schemas_with_history() if each.domain == ""]


def model(draw: random.Random) -> bytes:
    """The file of a model of one operator, whose name seed and attributes are drawn."""
    schema = draw.choice(schemas())
    inputs, stored = [], []
    count = draw.randint(schema.min_input, min(schema.max_input, schema.min_input + 3))
    names = []
    for at in range(count):
        name = f"i{at}" if draw.random() < 0.98 else draw.choice(mutations.TEXTS)
        way = draw.random()
        if way < 0.04 and at >= schema.min_input:
            name = ""
        elif way < 0.5 or at == 0:
            inputs.append(helper.make_tensor_value_info(name, draw.choice(TYPES), _shape(draw, SIZES)))
        else:
            stored.append(_tensor(draw, name))
        names.append(name)
    outputs = [
        f"o{at}" for at in range(max(1, draw.randint(schema.min_output, min(schema.max_output, schema.min_output + 2))))
    ]
    node = NodeProto(
        op_type=schema.name, name=draw.choice(("n", "n", "n", *mutations.TEXTS)), input=names, output=outputs
    )
    for attribute in schema.attributes.values():
        if attribute.required or draw.random() < 0.5:
            node.attribute.append(_attribute(draw, attribute))
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info(name, 1, None) for name in outputs], initializer=stored
    )
    version = schema.since_version if draw.random() < 0.9 else draw.choice((1, 7, 13, 28))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    return bytes(made.SerializeToString())


def constant(draw: random.Random) -> bytes:
    """The file of a model of one operator whose inputs are all stored, some of them large."""
    made = ModelProto.FromString(model(draw))
    names = [each.name for each in made.graph.input]
    del made.graph.input[:]
    made.graph.initializer.extend(_tensor(draw, name) for name in names)
    for each in made.graph.initializer:
        if draw.random() < 0.5:
            each.CopyFrom(_large(draw, each.name))
    return bytes(made.SerializeToString())


def _large(draw: random.Random, name: str) -> TensorProto:
    """A tensor of up to 300,000 small numbers."""
    shape = [draw.choice((1, 1, 2, 3, 8, 64, 300, 1000)) for _ in range(draw.choice((1, 2, 2, 3, 4, 4, 5)))]
    while np.prod(shape, dtype=float) > 3e5:
        shape[shape.index(max(shape))] //= 4
    kind = draw.choice((np.float32, np.float32, np.float32, np.int64, np.bool_, np.int32))
    return numpy_helper.from_array((np.arange(np.prod(shape)) % 7).reshape(shape).astype(kind), name)


def _shape(draw: random.Random, sizes: tuple[int, ...]) -> list[int | str]:
    """A shape of up to six dimensions, most of them small; some are open."""
    rank = draw.choice((0, 1, 2, 2, 3, 3, 4, 4, 4, 5, 6))
    chosen = sizes if draw.random() < 0.3 else (1, 2, 3, 4, 8)
    return [draw.choice(("N", "")) if draw.random() < 0.03 else draw.choice(chosen) for _ in range(rank)]


def _tensor(draw: random.Random, name: str) -> TensorProto:
    kind = draw.choice(("whole", "real", "weights", "odd"))
    if kind == "whole":
        values = [
            draw.choice((-1, 0, 1, 2, 3, 4, 8) if draw.random() < 0.8 else mutations.INTEGERS)
            for _ in range(draw.choice((0, 1, 2, 3, 4, 4, 8)))
        ]
        array = np.array(values, np.int64)
        return numpy_helper.from_array(array.reshape(()) if len(values) == 1 and draw.random() < 0.5 else array, name)
    shape = [int(size) for size in _shape(draw, SMALL) if isinstance(size, int)]
    if np.prod(shape, dtype=float) > 10**5:
        shape = [2]
    found = numpy_helper.from_array(np.full(shape, draw.choice((0.0, 1.0, -1.0, 1e38, 2.0)), np.float32), name)
    if kind == "odd":
        mutations.tensor_damaged(draw, found)
        found.name = name
    return found


def _attribute(draw: random.Random, schema: Any) -> AttributeProto:
    """A value of the type that the attribute has, mostly a small one."""
    found = AttributeProto(name=schema.name, type=int(schema.type))
    small = draw.random() < 0.7
    if found.type == AttributeProto.INT:
        found.i = draw.choice((0, 1, 1, 2, -1, 3)) if small else draw.choice(mutations.INTEGERS)
    elif found.type == AttributeProto.INTS:
        found.ints[:] = [
            draw.choice((0, 1, 1, 2, 3) if small else mutations.INTEGERS)
            for _ in range(draw.choice((1, 2, 2, 4, 4, 6)))
        ]
    elif found.type == AttributeProto.GRAPH:
        found.g.CopyFrom(_body(draw))
    elif found.type == AttributeProto.TENSOR:
        found.t.CopyFrom(_tensor(draw, "t"))
    else:
        mutations.odd_attribute(draw, found)
    return found


def _body(draw: random.Random) -> Any:
    """A graph inside of an operator."""
    inputs = [
        helper.make_tensor_value_info(f"b{at}", draw.choice((1, 7, 9)), _shape(draw, SMALL))
        for at in range(draw.randrange(5))
    ]
    names = [each.name for each in inputs] or ["i0"]
    nodes = [
        helper.make_node(draw.choice(("Relu", "Identity", "Not", "Shape", "Strange")), [draw.choice(names)], [f"r{at}"])
        for at in range(draw.randrange(4))
    ]
    outputs = [
        helper.make_tensor_value_info(draw.choice([*names, *(f"r{at}" for at in range(3))]), 1, None)
        for _ in range(draw.randrange(4))
    ]
    return helper.make_graph(nodes, "body", inputs, outputs)
