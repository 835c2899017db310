"""A corpus of model files that are damaged, hostile, or no models: `python tests/bad_models.py FOLDER` writes it.

`corpus()` gives the content of each, or what makes it, by a name that says what is wrong with it.
"""

import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from latte_cli.network import zoo

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
WEIGHT = np.zeros((4, 3, 3, 3), np.float32)
SIZES = {"negative": -1, "empty": 0, "2e31": 2**31, "2e40": 2**40, "2e62": 2**62, "2e63": 2**63 - 1}
Dims = Sequence[int | str | None] | None
Makers = Iterator[tuple[str, bytes | Callable[[], bytes]]]


def value(name: str, shape: Dims = (1, 3, 8, 8), element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def node(kind: str, *inputs: str, out: str = "y", **values: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), [out], name=f"the_{kind}", **values)


def graph(*nodes: NodeProto, shape: Dims = (1, 3, 8, 8), **constants: Any) -> GraphProto:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(list(nodes), "graph", [value("x", shape)], [value("y", None)], initializer=stored)


def model(made: GraphProto, opset: int = 21, functions: Sequence[FunctionProto] = ()) -> ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(made, opset_imports=opsets, functions=list(functions))


def content(*nodes: NodeProto, opset: int = 21, shape: Dims = (1, 3, 8, 8), **constants: Any) -> bytes:
    made: bytes = model(graph(*nodes, shape=shape, **constants), opset).SerializeToString()
    return made


def integers(*values: int) -> Any:
    return np.asarray(values, np.int64)


def declared(name: str, *dims: int, kind: int = FLOAT) -> TensorProto:
    """A tensor that claims a shape and holds nothing."""
    return TensorProto(name=name, dims=dims, data_type=kind)


def with_stored(tensor: TensorProto, *nodes: NodeProto) -> bytes:
    made = graph(*(nodes or (node("Conv", "x", "w"),)))
    made.initializer.append(tensor)
    stored: bytes = model(made).SerializeToString()
    return stored


# --- files that were cut, changed, or are no models


def _cut() -> Makers:
    whole = zoo.export("lenet", weights=True)
    for share in range(1, 40):
        yield f"cut after {share} of 40 parts", whole[: len(whole) * share // 40]
    for count in (1, 2, 3, 5, 8, 13, 21):
        yield f"cut after {count} bytes", whole[:count]
        yield f"cut {count} bytes before its end", whole[:-count]
    yield "twice in one file", whole + whole
    yield "followed by zeros", whole + bytes(100)
    yield "a byte too early", whole[1:]


def _changed() -> Makers:
    whole = zoo.export("lenet")
    for seed in range(25):
        changed, draw = bytearray(whole), np.random.default_rng(seed)
        for place in draw.integers(0, len(whole), 5):
            changed[place] = draw.integers(0, 256)
        yield f"with five bytes changed, {seed}", bytes(changed)
    for mask in (0x01, 0x80, 0xFF):
        yield (
            f"with bits {mask:#x} of every 50th byte turned",
            bytes(byte ^ mask if at % 50 == 7 else byte for at, byte in enumerate(whole)),
        )


class _Touch:
    """Unpickling it makes a file in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("unpickled", "w")


def zipped(**entries: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _foreign() -> Makers:
    yield "empty", b""
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096
    yield "text", b"hello, world\n" * 50
    yield "json", json.dumps({"graph": {"node": []}}).encode()
    yield "png", b"\x89PNG\r\n\x1a\n" + bytes(64)
    yield "gzip", b"\x1f\x8b\x08\x00" + zlib.compress(bytes(1000))
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(512)
    yield "tflite", struct.pack("<I", 28) + b"TFL3" + bytes(128)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(64)
    yield "random", np.random.default_rng(0).bytes(10_000)
    for protocol in range(6):
        yield f"pickle of protocol {protocol}", pickle.dumps(_Touch(), protocol)
    touch = pickle.dumps(_Touch())
    yield "torchscript", zipped(**{"m/data.pkl": touch, "m/code/__torch__.py": b"", "m/constants.pkl": touch})
    yield "torch.save", zipped(**{"archive/data.pkl": touch, "archive/version": b"3\n"})
    yield "zip without entries", zipped()
    yield "zip that is cut", zipped(**{"m/models/model.json": b"{}" * 500})[:-30]
    yield "zip of another kind", zipped(**{"word/document.xml": b"<a/>"})
    yield "zip with a bad path", zipped(**{"../../models/model.json": b"{}"})
    for name, text in {
        "no object": b"[]",
        "nothing": b"{}",
        "cut": b'{"graph_module": {"graph": {',
        "nested deeply": b"[" * 100_000,
        "of strange types": b'{"graph_module": 3, "schema_version": "x"}',
    }.items():
        yield (
            f"program whose json is {name}",
            zipped(**{"m/archive_format": b"pt2", "m/archive_version": b"0", "m/models/model.json": text}),
        )
    yield (
        "program that unpacks to half a gigabyte",
        lambda: zipped(**{"m/archive_format": b"pt2", "m/models/model.json": b" " * 2**29}),
    )


def _length(data: bytes) -> bytes:
    return _number(len(data))


def _number(size: int) -> bytes:
    text = b""
    while size > 127:
        text, size = text + bytes([size & 127 | 128]), size >> 7
    return text + bytes([size])


def _protobuf() -> Makers:
    for depth in (50, 500, 5000):
        nested = b""
        for _ in range(depth):  # a graph in an attribute of a node of a graph ...
            attribute = b"\x32" + _length(nested) + nested
            inner = b"\x2a" + _length(attribute) + attribute
            nested = b"\x0a" + _length(inner) + inner
        yield f"with graphs {depth} deep", b"\x3a" + _length(nested) + nested
    yield "with a length beyond its end", b"\x3a\xff\xff\xff\xff\x0f" + bytes(10)
    yield "with a length of 2^63", b"\x3a" + b"\xff" * 9 + b"\x01"
    yield "with unknown fields", content(node("Relu", "x")) + b"\xfa\x3f\x05hello" * 1000
    yield "with two graphs merged", content(node("Relu", "x")) + content(node("Abs", "x"))
    yield "with a group that does not end", b"\x3b" * 100
    yield "with text that is not UTF-8", content(node("Relu", "x")).replace(b"the_Relu", b"\xff\xfe\xffRelu")
    yield "of unknown fields for 50 MB", lambda: content(node("Relu", "x")) + b"\xfa\x3f\x05hello" * 6_000_000


# --- graphs that do not hold together


def _circular() -> Makers:
    yield "reading itself", content(node("Relu", "y"))
    yield "in a circle of two", content(node("Add", "x", "z"), node("Relu", "y", out="z"))
    ring = [helper.make_node("Add", ["x", f"a{(at + 1) % 1000}"], [f"a{at}"]) for at in range(1000)]
    yield "in a circle of a thousand", content(*ring, node("Relu", "a0"))
    yield "in a circle that no output needs", content(node("Relu", "x"), node("Add", "p", "q", out="p"))
    body = helper.make_graph([node("Relu", "y", out="inside")], "body", [], [value("inside", None)])
    yield (
        "in a circle through a branch",
        content(node("If", "c", then_branch=body, else_branch=body), c=np.asarray(True)),
    )
    for name, calls in {"itself": ["A"], "another that calls it": ["B"], "itself twice": ["A", "A"]}.items():
        yield f"with a function that calls {name}", _functions({"A": calls, "B": ["A"]})


def _functions(bodies: dict[str, list[str]]) -> bytes:
    """Functions of the domain `own`, each a chain of calls; the graph calls A."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    made = []
    for name, kinds in bodies.items():
        names = ["x", *(f"t{at}" for at in range(1, len(kinds))), "y"]
        chain = [
            helper.make_node(kind, [names[at]], [names[at + 1]], domain="own" if kind in bodies else "")
            for at, kind in enumerate(kinds)
        ]
        made.append(helper.make_function("own", name, ["x"], ["y"], chain, opsets))
    whole: bytes = model(graph(helper.make_node("A", ["x"], ["y"], domain="own")), functions=made).SerializeToString()
    return whole


def _dangling() -> Makers:
    yield "with an input that nobody writes", content(node("Add", "x", "nowhere"))
    yield "with a weight that is not there", content(node("Conv", "x", "w"))
    yield "with a bias that is not there", content(node("Conv", "x", "w", "b"), w=WEIGHT)
    yield "with an output that nobody writes", content(node("Relu", "x", out="other"))
    yield "with an output without a name", content(node("Relu", "x", out=""))
    yield "with an input without a name", content(node("Relu", ""))
    yield "with a tensor written twice", content(node("Relu", "x"), node("Abs", "x"))
    yield "with its input written again", content(node("Relu", "x", out="x"), node("Abs", "x"))
    yield "with a weight written again", content(node("Relu", "x", out="w"), node("Conv", "x", "w"), w=WEIGHT)
    for part in ("node", "input", "output"):
        lacking = model(graph(node("Relu", "x")))
        del getattr(lacking.graph, part)[:]
        yield f"without any {part}", lacking.SerializeToString()
    lacking = model(graph(node("Relu", "x")))
    lacking.ClearField("graph")
    yield "without a graph", lacking.SerializeToString()
    lacking = model(graph(node("Relu", "x")))
    del lacking.opset_import[:]
    yield "without an opset", lacking.SerializeToString()
    for opset in (-1, 0, 1, 99_999, 2**62):
        yield f"of opset {opset}", content(node("Relu", "x"), opset=opset)
    yield (
        "with an operator of a domain nobody knows",
        content(helper.make_node("Relu", ["x"], ["y"], domain="com.example.nowhere")),
    )
    yield "with an operator nobody knows", content(node("NoSuchOperator", "x"))
    yield "with an operator without a name", content(node("", "x"))
    yield "with a function that is not there", content(helper.make_node("A", ["x"], ["y"], domain="own"))
    twice = model(graph(node("Conv", "x", "w"), w=WEIGHT))
    twice.graph.initializer.append(twice.graph.initializer[0])
    yield "with a weight stored twice", twice.SerializeToString()


def _ranks() -> Makers:
    kinds: dict[str, dict[str, Any]] = {
        "Conv": {"w": WEIGHT},
        "ConvTranspose": {"w": WEIGHT.swapaxes(0, 1)},
        "MaxPool": {},
        "GlobalAveragePool": {},
        "BatchNormalization": {name: np.zeros(3, np.float32) for name in ("s", "b", "m", "v")},
        "Gemm": {"w": np.zeros((8, 4), np.float32)},
        "MatMul": {"w": np.zeros((9, 2, 3), np.float32)},
        "DepthToSpace": {},
        "LSTM": {"w": np.zeros((1, 16, 8), np.float32), "r": np.zeros((1, 16, 4), np.float32)},
        "Einsum": {"w": np.zeros((8, 4), np.float32)},
    }
    attributes: dict[str, dict[str, Any]] = {
        "MaxPool": {"kernel_shape": [2, 2]},
        "DepthToSpace": {"blocksize": 2},
        "LSTM": {"hidden_size": 4},
        "Einsum": {"equation": "abcd,de->abce"},
    }
    for kind, constants in kinds.items():
        for shape in ((), (3,), (1, 3, 8, 8, 8, 8)):
            one = node(kind, "x", *constants, **attributes.get(kind, {}))
            yield f"with a {kind} of rank {len(shape)}", content(one, shape=shape, **constants)


# --- sizes


def _sizes() -> Makers:
    for name, size in SIZES.items():
        yield f"with an input of a {name} size", content(node("Relu", "x"), shape=(1, 3, size, 8))
        yield f"with a {name} batch", content(node("Relu", "x"), shape=(size, 3, 8, 8))
        yield f"with a weight of a {name} size", with_stored(declared("w", size, 3, 3, 3))
        yield f"reshaped to a {name} size", content(node("Reshape", "x", "s"), s=integers(1, size, 8))
        yield f"expanded to a {name} size", content(node("Expand", "x", "s"), s=integers(size, 3, 8, 8))
        yield f"tiled a {name} number of times", content(node("Tile", "x", "s"), s=integers(1, 1, 1, size))
        yield f"padded by a {name} size", content(node("Pad", "x", "s"), s=integers(0, 0, 0, size, 0, 0, 0, size))
        yield (
            f"filled to a {name} size",
            content(node("ConstantOfShape", "s", out="c"), node("Add", "x", "c"), s=integers(size), shape=(1,)),
        )
        yield (
            f"counted to a {name} number",
            content(
                node("Range", "a", "s", "b", out="c"),
                node("Add", "x", "c"),
                a=np.int64(0),
                s=np.int64(size),
                b=np.int64(1),
            ),
        )
        yield f"split into a {name} size", content(node("Split", "x", "s"), s=integers(size))
        yield f"with a stride of a {name} size", content(node("Conv", "x", "w", strides=[size, 1]), w=WEIGHT)
        yield f"with a dilation of a {name} size", content(node("Conv", "x", "w", dilations=[size, 1]), w=WEIGHT)
        yield f"with a {name} number of groups", content(node("Conv", "x", "w", group=size), w=WEIGHT)
        yield f"pooled by a {name} window", content(node("MaxPool", "x", kernel_shape=[size, 2]))
        yield f"with a {name} axis", content(node("Concat", "x", "x", axis=size))
        yield f"with a {name} hidden size", content(
            node("LSTM", "x", "w", "r", hidden_size=size), shape=(2, 3, 8), w=np.zeros((1, 16, 8), np.float32),
            r=np.zeros((1, 16, 4), np.float32),
        )  # fmt: skip
    yield "with a tensor of 4,000 dimensions", with_stored(declared("w", *[1] * 4000))
    yield "with an input of 4,000 dimensions", content(node("Relu", "x"), shape=[1] * 4000)
    yield "resized by nothing", content(node("Resize", "x", "", "s"), s=np.zeros(4, np.float32))
    for text in ("nan", "inf", "-inf", "1e30"):
        scales = np.asarray([1, 1, float(text), 1], np.float32)
        yield f"resized by {text}", content(node("Resize", "x", "", "s"), s=scales)
        yield f"with a slope of {text}", content(node("LeakyRelu", "x", alpha=float(text)))
    yield (
        "counting by nothing",
        content(node("Range", "a", "a", "a", out="c"), node("Add", "x", "c"), a=np.float32("nan")),
    )
    yield (
        "sliced in steps of nothing",
        content(node("Slice", "x", "a", "b", "c", "a"), a=integers(0), b=integers(2), c=integers(1)),
    )
    yield "transposed to an order that is none", content(node("Transpose", "x", perm=[0, 1, 1, 2]))
    doubled = [helper.make_node("Concat", [f"a{at}", f"a{at}"], [f"a{at + 1}"], axis=1) for at in range(60)]
    yield "doubled sixty times", content(node("Relu", "x", out="a0"), *doubled, node("Relu", "a60"))


def _types() -> Makers:
    for name, wrong in {"a number": 1.5, "a text": "two", "texts": ["a", "b"], "a tensor": declared("t", 2)}.items():
        yield f"with strides that are {name}", content(node("Conv", "x", "w", strides=wrong), w=WEIGHT)
        yield f"with a group that is {name}", content(node("Conv", "x", "w", group=wrong), w=WEIGHT)
        yield f"with a cast to {name}", content(node("Cast", "x", to=wrong))
        yield f"with a condition that is {name}", content(node("If", "x", then_branch=wrong, else_branch=wrong))
    for kind in (0, 8, 17, 99, 2**31 - 1):
        yield f"with weights of element type {kind}", with_stored(declared("w", 4, 3, 3, 3, kind=kind))
        yield f"with a cast to element type {kind}", content(node("Cast", "x", to=kind))
    reference = AttributeProto(name="group", ref_attr_name="outer", type=AttributeProto.INT)
    referring = node("Conv", "x", "w")
    referring.attribute.append(reference)
    yield "with an attribute of an outer function where there is none", content(referring, w=WEIGHT)
    short = numpy_helper.from_array(WEIGHT, "w")
    short.raw_data = short.raw_data[:10]
    yield "with weights of too few bytes", with_stored(short)
    shape = TensorProto(name="s", dims=[4], data_type=INT64, raw_data=bytes(7))
    yield "with a shape of too few bytes", with_stored(shape, node("Reshape", "x", "s"))
    yield "with a sequence for input", _sequence_input()


def _sequence_input() -> bytes:
    made = graph(node("Relu", "x"))
    made.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", FLOAT, None))
    whole: bytes = model(made).SerializeToString()
    return whole


# --- what grows


_LEAF = helper.make_graph([node("Relu", "x", out="z")], "leaf", [], [value("z", None)]).SerializeToString()
_OUTPUT = b"\x62" + _length(value("z", None).SerializeToString()) + value("z", None).SerializeToString()
_IF, _GRAPH = b"\x0a\x01c\x12\x01z\x22\x02If", b"\xa0\x01\x05"
"""The start of a node and the type of an attribute; by hand, since a message of that depth may not serialise."""


def _branch(name: str, size: int) -> bytes:
    """What stands before a graph of so many bytes that is an attribute of a node; `_GRAPH` follows it."""
    start = b"\x0a\x0b" + name.encode() + b"\x32" + _number(size)
    return b"\x2a" + _number(len(start) + size + len(_GRAPH)) + start


def _nested(depth: int) -> bytes:
    """If in both branches of If, `depth` deep."""
    text = _LEAF
    for _ in range(depth):
        made = _IF + b"".join(_branch(name, len(text)) + text + _GRAPH for name in ("then_branch", "else_branch"))
        text = b"\x0a" + _length(made) + made + _OUTPUT
    return _beside(text)


def _chained(depth: int) -> bytes:
    """If in the then-branch of If, `depth` deep."""
    other = _GRAPH + _branch("else_branch", len(_LEAF)) + _LEAF + _GRAPH
    starts, size = [], len(_LEAF)
    for _ in range(depth):
        start = _IF + _branch("then_branch", size)
        starts.append(b"\x0a" + _number(len(start) + size + len(other)) + start)
        size += len(starts[-1]) + len(other) + len(_OUTPUT)
    return _beside(b"".join((*reversed(starts), _LEAF, (other + _OUTPUT) * depth)))


def _beside(text: bytes) -> bytes:
    """A model of one node, and of a graph that a reader adds to its own."""
    whole = model(graph(node("Relu", "x"), c=np.asarray(True)))
    return whole.SerializeToString() + b"\x3a" + _length(text) + text


def looped(trips: int, inner: GraphProto | None = None, *, name: str = "z") -> NodeProto:
    """A Loop over `x` whose body is one Relu, or `inner`."""
    body = inner or helper.make_graph(
        [
            helper.make_node("Relu", [f"{name}_in"], [f"{name}_out"]),
            helper.make_node("Identity", [f"{name}_c"], [f"{name}_d"]),
        ],
        "body",
        [value(f"{name}_i", (), INT64), value(f"{name}_c", (), BOOL), value(f"{name}_in", None)],
        [value(f"{name}_d", (), BOOL), value(f"{name}_out", None)],
    )
    return helper.make_node("Loop", ["trips", "", "x"], ["y"], name=f"loop of {trips}", body=body)


def _growing() -> Makers:
    for depth in (10, 18):
        yield f"with branches in branches {depth} deep", (lambda depth=depth: _nested(depth))
    for depth in (100, 1000, 20_000):
        yield f"with a chain of branches {depth} deep", (lambda depth=depth: _chained(depth))
    for trips in (-1, 0, 10**6, 2**62):
        yield f"with a loop of {trips} trips", content(looped(trips), trips=np.int64(trips))
    inner = looped(1000)
    inner.input[:], inner.output[:] = ["trips", "", "z_in"], ["z_out"]
    nested = helper.make_graph(
        [inner, helper.make_node("Identity", ["z_c"], ["z_d"])],
        "outer",
        [value("z_i", (), INT64), value("z_c", (), BOOL), value("z_in", None)],
        [value("z_d", (), BOOL), value("z_out", None)],
    )
    yield "with loops in loops", content(looped(1000, nested), trips=np.int64(1000))
    yield (
        "with functions that double thirty times",
        _functions({"A": ["F0"], **{f"F{at}": [f"F{at + 1}"] * 2 for at in range(30)}, "F30": ["Relu"]}),
    )
    yield (
        "with functions 3,000 deep",
        _functions({"A": ["F0"], **{f"F{at}": [f"F{at + 1}"] for at in range(3000)}, "F3000": ["Relu"]}),
    )
    yield "of a million nodes", _million_nodes
    yield "of 200,000 weights", _many_weights
    yield "of a node with 20,000 inputs", lambda: content(node("Sum", *["x"] * 20_000))
    yield (
        "of a node with 20,000 outputs",
        lambda: content(
            helper.make_node("Split", ["x"], [f"y{at}" for at in range(20_000)], axis=0), node("Relu", "y5")
        ),
    )
    yield "with an attribute of a million numbers", lambda: content(node("Conv", "x", "w", pads=[1] * 10**6), w=WEIGHT)
    yield (
        "with a name of ten million letters",
        lambda: content(node("Relu", "x", out="n" * 10**7), node("Relu", "n" * 10**7)),
    )
    yield (
        "with a constant of ten million texts",
        lambda: content(node("Constant", value_strings=["a"] * 10**6, out="c"), node("Add", "x", "c")),
    )
    yield "with a product over an equation of a thousand letters", content(node("Einsum", "x", equation="ab" * 500))


def _counted(field: bytes, template: bytes, times: int) -> bytes:
    """A field of a graph so many times over; its `#` become digits that count, from 0, from 1."""
    pieces = template.split(b"#")
    start = field + _length(template.replace(b"#", b"0000000"))
    last = len(pieces) - 1
    return b"".join(
        start + b"".join(piece + (b"%07d" % (at + hole) if hole < last else b"") for hole, piece in enumerate(pieces))
        for at in range(times)
    )


def _around(text: bytes) -> bytes:
    whole = model(graph())
    whole.ClearField("graph")
    return whole.SerializeToString() + b"\x3a" + _length(text) + text


def _million_nodes() -> bytes:
    ends = helper.make_graph([], "graph", [value("a0000000", (1, 3))], [value("a1000000", None)]).SerializeToString()
    return _around(_counted(b"\x0a", b"\x0a\x08a#\x12\x08a#\x22\x04Relu", 10**6) + ends)


def _many_weights() -> bytes:
    text = _counted(b"\x2a", b"\x08\x01\x10\x01\x42\x08w#", 200_000)
    return _around(graph(node("Relu", "x")).SerializeToString() + text)


# --- data that lie elsewhere


def _external() -> Makers:
    locations = {
        "above its folder": "../outside.bin",
        "far above": "../../../../../../etc/passwd",
        "at an absolute path": "/etc/passwd",
        "in a device": "/dev/zero",
        "in a device, by a relative path": "../../../../../../../../dev/zero",
        "behind a link": "link.bin",
        "in a folder": ".",
        "nowhere": "nowhere.bin",
        "at no path": "",
        "at a path with a zero byte": "a\0b",
        "at a very long path": "d/" * 10_000,
        "at a url": "file:///etc/passwd",
    }
    for name, location in locations.items():
        tensor = declared("w", 4, 3, 3, 3)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        yield f"with weights {name}", with_stored(tensor)
        shape = declared("s", 4, kind=INT64)
        shape.data_location = TensorProto.EXTERNAL
        shape.external_data.add(key="location", value=location)
        yield f"with a shape {name}", with_stored(shape, node("Reshape", "x", "s"))
    tensor = declared("w", 4, 3, 3, 3)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": "link.bin", "offset": "-1", "length": str(2**62)}.items():
        tensor.external_data.add(key=key, value=text)
    yield "with weights of an absurd length", with_stored(tensor)


_FAMILIES = (*(_cut, _changed, _foreign, _protobuf, _circular, _dangling, _ranks, _sizes, _types, _growing, _external),)


def corpus() -> dict[str, bytes | Callable[[], bytes]]:
    """What each file holds, or what makes it, by name."""
    found: dict[str, bytes | Callable[[], bytes]] = {}
    for family in _FAMILIES:
        for name, made in family():
            assert name not in found, name
            found[name] = made
    return found


def write(folder: Path) -> list[Path]:
    """Write the corpus into `folder`, and beside it what nobody may open; the files of the corpus."""
    folder.mkdir()
    (folder.parent / "outside.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    paths = []
    for at, (name, made) in enumerate(corpus().items()):
        path = folder / f"{at:03d} {name[:80].replace('/', ' ')}.onnx"
        path.write_bytes(made() if callable(made) else made)
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
