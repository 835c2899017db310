"""Loading: a model file or a live module becomes a network."""

import gzip
import mmap
import os
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from stat import S_ISDIR, S_ISFIFO
from typing import Any

from onnx import ModelProto, TensorProto

from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.network.foreign import FIRST_BYTES, foreign_kind
from latte_cli.network.graph import Network
from latte_cli.network.training import with_trained_masks


def load(
    model: Any,
    example: Any = None,
    *,
    batch_size: int | None = None,
    sizes: Mapping[str, int] | None = None,
    allow_unknown: bool = False,
    batch_axis: int | None = None,
    compare_weights: bool = False,
) -> Network:
    """Read a model file, or a live torch module together with an `example` of what it is called with.

    A file is an ONNX model or a program of `torch.export` (`.pt2`), told apart by what it holds, plain or packed by
    gzip; its content may be given as bytes, an ONNX model as a `ModelProto`, a program as an `ExportedProgram`. The
    example is a tensor, a tuple of positional arguments, a dict of keyword arguments, or a tuple that ends in such a
    dict. `batch_size` is the one wanted (default: the file's or the example's own, or 1 where it is open), `batch_axis`
    its dimension in the inputs (default: the one that is called so, else the first), `sizes` are those of other
    dimensions that are left open, by name or by place. Weights beside the file are not read, unless to
    `compare_weights`: those that it holds twice count once, and numbers that code computed do not count.
    Raises LatteError for a file that is missing, damaged, or of another format, and for an operator that is not known
    (unless `allow_unknown`, when the network names it in `unknown`).
    """
    from latte_cli.network import copies, torch_program, weights
    from latte_cli.network.onnx import read, stripped

    content, name, tied, wanted = b"", type(model).__name__, None, batch_size
    observed = None
    notes: tuple[str, ...] = ()
    whole, path = b"", Path(model) if isinstance(model, str | os.PathLike) else None
    if isinstance(model, ModelProto):
        whole, name = model.SerializeToString(), model.graph.name or "model"
        content = stripped.stripped(whole)
    elif isinstance(model, bytes | bytearray | memoryview):
        whole, name = bytes(model), "model"
        content = stripped.stripped(whole)
    elif path and _is_packed(path):
        whole, name, path = _unpack(path), Path(path.stem).stem, None
        content = stripped.stripped(whole)
    elif path:
        content, name = _content(path), path.stem
    else:
        live = torch_program.live(model, example, batch_size, batch_axis or 0)
        content, tied, notes, observed = live.content, live.tied, live.notes, live.observed
        wanted = batch_size if example is None else None
    label = str(model) if isinstance(model, str | os.PathLike) else name
    if torch_program.is_pickle(content):
        raise torch_program.pickled(label)
    program = torch_program.program(content, label, tied, observed) if torch_program.is_archive(content) else None
    compared = compare_weights and not program
    network = read(
        program.model if program else weights.with_small_values(content, path) if compared else content,
        name=label,
        sha256=stripped.digest(content),
        batch_size=wanted,
        allow_unknown=allow_unknown,
        sizes=sizes,
        batch_axis=batch_axis,
    )
    network = replace(network, name=name)
    if program:
        described = program.described(network)
        described = with_trained_masks(replace(described, notes=(*described.notes, *notes)))
        return _with_element_types(described, program.element_types)
    network = with_trained_masks(network)
    stored = weights.weights(path) if path else weights.weights_in(whole)
    network = _with_element_types(network, stored.element_types)
    return copies.tie_weights(network, stored) if compared else copies.with_notes(network, stored)


def _with_element_types(network: Network, types: Mapping[str, int]) -> Network:
    """`network` with a note where weights are stored as other floating-point numbers than those of single precision."""
    kinds = Counter(_ELEMENTS[kind] for name in network.parameter_sizes if (kind := types.get(name, 0)) in _ELEMENTS)
    count = len(network.parameter_sizes)
    notes = (
        f"{times} of its {count} weights are stored as {kind}; times and memory are those of the precision that "
        "`--precision` sets"
        for kind, times in kinds.items()
    )
    return replace(network, notes=(*network.notes, *notes))


_ELEMENTS = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64"}


def _content(path: Path) -> bytes:
    """What the file at `path` holds but for large weights, which stay where they are."""
    from latte_cli.network.onnx import stripped

    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as seen,
        ):
            return stripped.stripped(seen)
    except (OSError, ValueError) as exc:
        raise _unread(path, exc) from exc


def _unread(path: Path, exc: Exception) -> LatteError:
    reason = getattr(exc, "strerror", None) or str(exc)
    hint = "`latte zoo list` names models to export"
    if isinstance(exc, FileNotFoundError) and (near := _nearest(path)):
        hint = f"did you mean `{near}`?"
    return LatteError(f"cannot read `{path}`: {reason}", hint=hint)


def _nearest(path: Path) -> Path | None:
    """The model beside a `path` that is not there whose name, but for its ending, is most like its own."""
    with suppress(OSError):
        models = {_bare(each): each for each in sorted(path.parent.iterdir()) if each.name.endswith(_ENDINGS)}
        return next((models[name] for name in get_close_matches(_bare(path), models, n=1)), None)
    return None


def _bare(path: Path) -> str:
    return path.name.partition(".")[0]


def _check_readable(path: Path) -> None:
    """Raise LatteError for a folder, a pipe, another device, and an empty file; raises OSError for none at all."""
    found = path.stat()
    if S_ISDIR(found.st_mode):
        raise LatteError(f"cannot read `{path}`: it is a folder", hint="name the `.onnx` or `.pt2` file in it")
    if S_ISFIFO(found.st_mode):
        hint = "`latte estimate -` reads a model from standard input; for others write it to a file first"
        raise LatteError(f"cannot read `{path}`: it is a pipe", hint=hint)
    files.check_regular(path, "a model is an ONNX file or a `.pt2`")
    if not found.st_size:
        raise LatteError(
            f"cannot read `{path}`: it is empty", hint="was its export or download cut short? make it again"
        )


_ENDINGS = (".onnx", ".pt2", ".onnx.gz", ".pt2.gz")
_GZIP = b"\x1f\x8b"
_BLOCK = 2**20
_MOST_UNPACKED = 2**30  # chosen: as of other files; weights hardly shrink, so packing larger ones gains nothing
_LEAST_UNPACKED, _MOST_GROWTH = 2**26, 100  # chosen: a graph without weights shrinks to a twentieth


def _is_packed(path: Path) -> bool:
    """Whether a file begins as those of gzip do; raises LatteError for what is no file to read, and for no model."""
    try:
        _check_readable(path)
        with path.open("rb") as file:
            start = file.read(FIRST_BYTES)
    except (OSError, ValueError) as exc:
        raise _unread(path, exc) from exc
    if kind := foreign_kind(start):
        raise LatteError(f"cannot read `{path}`: it is {kind}", hint="a model is an ONNX file or a `.pt2`")
    return start.startswith(_GZIP)


def _unpack(path: Path) -> bytes:
    """What a file of gzip holds; raises LatteError for one that is damaged, and early for one that grows too large."""
    content = bytearray()
    try:
        most = min(_MOST_UNPACKED, max(_LEAST_UNPACKED, _MOST_GROWTH * path.stat().st_size))
        with gzip.open(path) as file:
            while part := file.read(_BLOCK):
                content += part
                if len(content) > most:
                    message = f"`{path}` unpacks to more than {most >> 20} MiB"
                    raise LatteError(message, hint="unpack it with `gunzip` if you trust it, and name that file")
    except (OSError, EOFError, zlib.error) as exc:
        raise _unread(path, exc) from exc
    return bytes(content)
