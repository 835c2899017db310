"""Damage done to good inputs, as a seed decides: to bytes, JSON values, tables, zips, models."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

TEXTS = (
    "",
    "x" * 5000,
    "\x1b[2J\x07\r\n\u202eevil",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "NaN",
    "\ud7ff",
    "ß" * 40,
)
INTEGERS = (-(2**63), -(2**31), -7, -2, -1, 0, 1, 2, 3, 5, 8, 64, 1000, 2**16, 2**31, 2**33, 2**40, 2**62, 2**63 - 1)
REALS = (0.0, -1.0, 1e-45, 0.5, 1e38, 1e308, float("inf"), float("-inf"), float("nan"))


def bytes_damaged(draw: random.Random, content: bytes) -> bytes:
    """`content` with bytes changed, cut off, left out, doubled or put in."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        if not found:
            break
        at, length = draw.randrange(len(found)), draw.choice((1, 1, 2, 8, 100))
        way = draw.randrange(5)
        if way == 0:
            found[at : at + length] = draw.randbytes(length)
        elif way == 1:
            del found[at : None if draw.random() < 0.3 else at + length]
        elif way == 2:
            found[at:at] = found[at : at + length] * draw.choice((1, 2, 50))
        elif way == 3:
            found[at] = draw.choice((0, 0x7F, 0x80, 0xFF, found[at] ^ (1 << draw.randrange(8))))
        else:
            found[at:at] = draw.choice((b"\xff" * 9 + b"\x7f", b"\x00" * 16, b'"', b"[", b"{", b",,", b"\n"))
    return bytes(found)


# JSON


def odd_value(draw: random.Random) -> Any:
    """A value that documents seldom hold."""
    deep: Any = []
    for _ in range(draw.choice((3, 40, 900))):
        deep = [deep]
    return draw.choice(
        (None, True, False, *INTEGERS, *REALS, *TEXTS, 10**4000, [], {}, deep, [0] * 10_000, [[]] * 100, {"": {}})
    )


def json_damaged(draw: random.Random, document: Any) -> Any:
    """A document of JSON with some of its values or keys odd, gone, or doubled."""
    found = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 2, 4))):
        places = list(_places(found))
        if not places:
            return odd_value(draw)
        inside, key = draw.choice(places)
        way = draw.randrange(6)
        if way == 0:
            del inside[key]
        elif way == 1:
            other = draw.choice([each[at] for each, at in places])
            with suppress(RecursionError):  # an odd value may be nested deeper than can be copied
                inside[key] = deepcopy(other)
        elif way == 2 and isinstance(inside, dict):
            inside[draw.choice((*TEXTS, f"{key}2"))] = inside.pop(key)
        elif way == 3 and isinstance(inside, list):
            inside[key:key] = [inside[key]] * draw.choice((1, 3, 2000))
        else:
            inside[key] = odd_value(draw)
    return found


def _places(value: Any, most: int = 4000) -> list[tuple[Any, Any]]:
    """Each container of a document with each of its keys, the first `most`."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < most:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        found += [(each, key) for key in keys]
        waiting += [each[key] for key in keys if isinstance(each[key], dict | list)]
    return found


def json_text(draw: random.Random, document: Any) -> bytes:
    """A damaged document as text, whose bytes are damaged too now and then."""
    try:
        content = json.dumps(json_damaged(draw, document)).encode("utf-8", "surrogatepass")
    except RecursionError:  # odd values within odd values
        content = b"[" * 5000 + b"]" * 5000
    if draw.random() < 0.05:
        content = content.replace(b"{", b'{"schema": 1, "schema": 2, ', 1)
    return bytes_damaged(draw, content) if draw.random() < 0.2 else content


YAML_TRICKS = (
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nclasses: *c\n",
    b"classes: &a [*a]\n",
    b"!!python/object/apply:os.system ['touch unpickled']\n",
    b"classes: !!binary aGVsbG8=\n",
    b"<<: {classes: []}\nclasses: 1\n",
    b"classes: 2020-13-45\n",
    b"? [a, b]\n: c\n",
    b"- " * 3000 + b"a\n",
    b"%YAML 9.9\n---\nclasses: []\n",
    b"classes: []\n---\nclasses: []\n",
    b"classes: 1:2:3:4:5\n",
    b"\xff\xfeclasses",
    b"classes: 0x" + b"f" * 5000 + b"\n",
    b"classes: {{}: 1}\n",
)


def yaml_text(draw: random.Random, document: Any) -> bytes:
    """A damaged document as YAML, or a text that some readers of YAML stumble over."""
    return draw.choice(YAML_TRICKS) if draw.random() < 0.1 else json_text(draw, document)


# Tables

FIELDS = (
    "",
    "-1",
    "1e999",
    "nan",
    "9" * 4000,
    "=1+1",
    '"',
    "'",
    "\x00",
    "\x1b[31m",
    "a,b",
    "\u202e",
    "x" * 200_000,
    " 1 ",
)


def table_damaged(draw: random.Random, text: str, separator: str = ",") -> bytes:
    """A table of text with fields, columns, or lines odd, gone, or doubled."""
    rows = [line.split(separator) for line in text.splitlines()]
    for _ in range(draw.choice((1, 1, 2, 5))):
        row = draw.choice(rows)
        at = draw.randrange(len(row)) if row else 0
        way = draw.randrange(6)
        if way == 0 and row:
            row[at] = draw.choice(FIELDS)
        elif way == 1:
            for each in rows:
                del each[at : at + 1]
        elif way == 2:
            for each in rows:
                each[at:at] = each[at : at + 1]
        elif way == 3 and len(rows) > 1:
            rows.remove(row)
        elif way == 4:
            rows.insert(draw.randrange(len(rows) + 1), row)
        elif row:
            row[at] = row[at] + draw.choice(FIELDS)
    content = "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")
    return bytes_damaged(draw, content) if draw.random() < 0.2 else content


# Zips


def zip_damaged(draw: random.Random, content: bytes, documents: Callable[[str], bool]) -> bytes:
    """An archive with a member odd, gone, renamed or added; `documents` tells the names of those that are JSON."""
    if draw.random() < 0.15:
        return bytes_damaged(draw, content)
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        members = old.infolist()
        chosen = draw.choice([each for each in members if documents(each.filename)] or members)
        if draw.random() < 0.3:
            chosen = draw.choice(members)
        for member in members:
            data, name = old.read(member), member.filename
            if member is chosen:
                name, data = _member_damaged(draw, name, data, is_document=documents(name))
            if data is not None:
                way = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
                new.writestr(zipfile.ZipInfo(name), data, way if draw.random() < 0.1 else member.compress_type)
    return bytes_damaged(draw, found.getvalue()) if draw.random() < 0.1 else found.getvalue()


def _member_damaged(draw: random.Random, name: str, data: bytes, *, is_document: bool) -> tuple[str, bytes | None]:
    way = draw.randrange(12)
    if way == 0:
        return name, None
    if way == 1:
        return draw.choice((f"../{name}", f"/{name}", name + "\x1b[2J", name.upper(), "data.pkl")), data
    if way == 2:
        return name, draw.choice((b"", b"[" * 10**6, b"0" * 10**8, b"\x80\x04cos\nsystem\n"))
    if is_document and way < 10:
        try:
            return name, json_text(draw, json.loads(data))
        except ValueError:
            pass
    return name, bytes_damaged(draw, data)


# Models


def _tensors(model: ModelProto) -> list[TensorProto]:
    found = list(model.graph.initializer)
    return found + [
        each.t for node in model.graph.node for each in node.attribute if each.type == AttributeProto.TENSOR
    ]


def odd_attribute(draw: random.Random, attribute: AttributeProto) -> None:
    """Give an attribute another value of its type, or another type."""
    kind = draw.choice(list(AttributeProto.AttributeType.values())) if draw.random() < 0.1 else attribute.type
    attribute.type = kind
    if kind == AttributeProto.INT:
        attribute.i = draw.choice(INTEGERS)
    elif kind == AttributeProto.FLOAT:
        attribute.f = draw.choice(REALS[:5])
    elif kind == AttributeProto.STRING:
        attribute.s = draw.choice((*TEXTS, "SAME_UPPER", "...->", "VALID", "reflect")).encode("utf-8", "surrogatepass")
    elif kind == AttributeProto.INTS:
        length = draw.choice((0, len(attribute.ints), len(attribute.ints), 1, 6))
        attribute.ints[:] = [draw.choice(INTEGERS) if draw.random() < 0.5 else 1 for _ in range(length)]
    elif kind == AttributeProto.FLOATS:
        attribute.floats[:] = [draw.choice(REALS[:5]) for _ in range(draw.choice((0, 1, 4)))]
    elif kind == AttributeProto.STRINGS:
        attribute.strings[:] = [b"forward", b"\xff", b"Tanh"][: draw.randrange(4)]
    elif kind == AttributeProto.TENSOR:
        tensor_damaged(draw, attribute.t)


def tensor_damaged(draw: random.Random, tensor: TensorProto) -> None:
    """Make a tensor's shape, type, name or data odd."""
    way = draw.randrange(7)
    if way == 0 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(INTEGERS)
    elif way == 1:
        tensor.dims.append(draw.choice(INTEGERS))
    elif way == 2:
        tensor.data_type = draw.choice((*range(25), -1, 999))
    elif way == 3:
        tensor.raw_data = bytes_damaged(draw, tensor.raw_data)
    elif way == 4:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = (
            draw.choice(("location", "offset", "length")),
            draw.choice(("/etc/passwd", "-1", "w.bin")),
        )
    elif way == 5:
        del tensor.dims[:]
    else:
        tensor.name = draw.choice(TEXTS)


def _node_damaged(draw: random.Random, model: ModelProto, node: NodeProto) -> None:
    names = [name for each in model.graph.node for name in (*each.input, *each.output)] or ["x"]
    way = draw.randrange(9)
    if way == 0 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice((*names, "", "nowhere"))
    elif way == 1 and node.output:
        node.output[draw.randrange(len(node.output))] = draw.choice((*names, "", "\x1b[31m"))
    elif way == 2:
        node.op_type = draw.choice(("Conv", "Loop", "If", "Scan", "Einsum", "Reshape", "LSTM", "Gather", *TEXTS))
    elif way == 3:
        node.domain = draw.choice(("com.microsoft", "ai.onnx.ml", *TEXTS))
    elif way == 4:
        node.name = draw.choice(TEXTS)
    elif way == 5 and node.attribute:
        del node.attribute[draw.randrange(len(node.attribute))]
    elif way == 6:
        node.input.extend(draw.choice(names) for _ in range(draw.choice((1, 3, 300))))
    elif node.attribute:
        odd_attribute(draw, draw.choice(node.attribute))


def model_damaged(draw: random.Random, model: ModelProto) -> bytes:
    """The file of a model in which nodes, attributes, tensors, shapes or versions are odd."""
    found = ModelProto()
    found.CopyFrom(model)
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        way, nodes, tensors = draw.randrange(12), found.graph.node, _tensors(found)
        values = [*found.graph.input, *found.graph.output, *found.graph.value_info]
        if way < 6 and nodes:
            _node_damaged(draw, found, draw.choice(nodes))
        elif way == 6 and tensors:
            tensor_damaged(draw, draw.choice(tensors))
        elif way == 7 and values:
            kind = draw.choice(values).type.tensor_type
            dimensions = kind.shape.dim
            if dimensions and draw.random() < 0.7:
                draw.choice(dimensions).dim_value = draw.choice(INTEGERS)
            elif dimensions:
                draw.choice(dimensions).dim_param = draw.choice(TEXTS)
            else:
                kind.elem_type = draw.choice((0, 1, 7, 8, 9, 99))
        elif way == 8 and found.opset_import:
            found.opset_import[0].version = draw.choice((-1, 0, 1, 6, 7, 13, 28, 40, 2**40))
        elif way == 9 and nodes:
            del found.graph.node[draw.randrange(len(nodes))]
        elif way == 10 and nodes:
            found.graph.node.append(draw.choice(nodes))
        elif values:
            draw.choice(values).name = draw.choice(TEXTS)
    content = found.SerializeToString()
    return bytes_damaged(draw, content) if draw.random() < 0.1 else content


def model_changed(draw: random.Random, model: ModelProto) -> bytes:
    """The file of a model with one thing changed to what another model has: an attribute, a size, a type, a name."""
    found = ModelProto()
    found.CopyFrom(model)
    nodes, values = found.graph.node, [*found.graph.input, *found.graph.output, *found.graph.value_info]
    attributes = [each for node in nodes for each in node.attribute]
    sizes = [size for value in values for size in value.type.tensor_type.shape.dim]
    swappable = [node for node in nodes if len(node.input) > 1]
    way = draw.choice(["attribute"] * 3 + ["size"] * 3 + ["type", "swap", "name"])
    if way == "attribute" and attributes:
        _attribute_changed(draw, draw.choice(attributes))
    elif way == "size" and sizes:
        draw.choice(sizes).dim_value = draw.choice((0, 1, 2, 3, 5, 7, 64))
    elif way == "swap" and swappable:
        node = draw.choice(swappable)
        one, other = draw.sample(range(len(node.input)), 2)
        node.input[one], node.input[other] = node.input[other], node.input[one]
    elif way == "name" and nodes:
        names = [name for node in nodes for name in (*node.input, *node.output)]
        node = draw.choice(nodes)
        side = node.input if node.input and draw.random() < 0.7 else node.output
        if side:
            side[draw.randrange(len(side))] = draw.choice(names)
    elif values:
        draw.choice(values).type.tensor_type.elem_type = draw.choice((1, 6, 7, 9, 10, 11, 16))
    return found.SerializeToString()


def _attribute_changed(draw: random.Random, attribute: AttributeProto) -> None:
    """Another likely value of the same type."""
    numbers = (-2, -1, 0, 1, 2, 3, 5)
    if attribute.type == AttributeProto.INT:
        attribute.i = draw.choice(numbers)
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(numbers)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = draw.choice((-1.0, 0.0, 0.5, 1.0, 2.0))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = draw.choice((b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"NOTSET", b"linear", b"cubic", b"max", b""))
    elif attribute.type == AttributeProto.TENSOR:
        tensor_damaged(draw, attribute.t)
