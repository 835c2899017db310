"""The archive of a `torch.export` program: a zip whose graph is JSON; nothing in it is ever unpickled."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from latte_cli.errors import LatteError

EXPORT = 'export it: `torch.export.save(torch.export.export(model, (example,)), "model.pt2")`'
DAMAGED = "is the file complete? " + EXPORT

_GRAPHS = ("models/model.json", "serialized_exported_program.json")
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_PICKLES = ("data.pkl", "constants.pkl")
_LARGEST_JSON = 256 * 2**20
_DEEPEST_JSON = 200
_MOST_LISTS = 2**22  # chosen: each takes up to 250 bytes, and a program of 30,000 nodes has a million
_MOST_ENTRIES = 100_000
_KNOWN_MAJOR = 8
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # torch stores; others may ask for gigabytes to unpack
_UNPACKING = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
"""What unpacking a damaged entry raises; RuntimeError for one that is encrypted."""


def is_archive(content: bytes | memoryview) -> bool:
    """Whether `content` begins as a zip does."""
    return bytes(content[:4]) in (b"PK\x03\x04", b"PK\x05\x06")


def is_pickle(content: bytes | memoryview) -> bool:
    """Whether `content` begins as pickles of protocol 2 and later do, or as a tar of an old `torch.save`."""
    start = bytes(content[:2])
    return start[:1] == b"\x80" and len(start) == 2 and 2 <= start[1] <= 5


def pickled(name: str) -> LatteError:
    """The error for a file that would have to be unpickled."""
    return LatteError(f"`{name}` is a pickled module, which may run code when it is opened", hint=EXPORT)


def archived(content: bytes | memoryview, name: str) -> dict[str, Any]:
    """The program in a `.pt2` archive as JSON has it; raises LatteError for any other zip, and a damaged one."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type not in _COMPRESSIONS for entry in entries):
                raise LatteError(f"`{name}` is compressed as `torch.export` compresses nothing", hint=DAMAGED)
            if len(entries) > _MOST_ENTRIES:
                raise LatteError(f"`{name}` holds {len(entries)} entries", hint=DAMAGED)
            found = _graph_entry(entries, name)
            if found.file_size > _LARGEST_JSON:
                raise LatteError(f"the graph of `{name}` would unpack to {found.file_size} bytes", hint=DAMAGED)
            with archive.open(found) as file:
                text = file.read(_LARGEST_JSON + 1)
    except (*_UNPACKING, ValueError) as exc:
        raise LatteError(f"`{name}` is a damaged archive: {_line(exc)}", hint=DAMAGED) from exc
    return _checked(_parsed(text, name), name)


@dataclass(frozen=True, kw_only=True)
class Ties:
    """Which weights are others by another name, as tied ones are, with the first name of each.

    `without_data` are weights of a file that was written from the meta device: all of them lie in one empty entry, so
    that nothing says which are tied.
    """

    owners: Mapping[str, str]
    without_data: tuple[str, ...] = ()


def tied_weights(content: bytes | memoryview, name: str) -> Ties:
    """The ties that a `.pt2` file's entries show; none for a file whose weights cannot be read."""
    owners: dict[str, str] = {}
    first: dict[Any, str] = {}
    try:
        arrays = Arrays(bytes(content), name, {})
        empty = set(arrays.without_data())
        for key, meta in arrays.metas.items():
            tensor = meta["tensor_meta"]
            place = (meta["path"], *(json.dumps(tensor[part]) for part in ("sizes", "strides", "storage_offset")))
            owner = first.setdefault(place, key)
            if owner != key and key not in empty:
                owners[key] = owner
    except (LatteError, KeyError, TypeError, ValueError, AttributeError, *_UNPACKING):
        return Ties(owners={})
    return Ties(owners=owners, without_data=tuple(empty))


class Arrays(Mapping[str, NDArray[Any]]):
    """The weights and constants of a `.pt2` archive by their qualified names, each unpacked when it is first read.

    Those that are pickled are not there. Raises LatteError for a file that does not list them, and for data that do
    not fill their shape.
    """

    def __init__(self, content: bytes, name: str, elements: Mapping[int, int]) -> None:
        self._content, self._name, self._elements = content, name, elements
        try:
            self.metas = self._configured(_CONSTANTS) | self._configured(_WEIGHTS)
        except (KeyError, TypeError, ValueError, AttributeError, *_UNPACKING) as exc:
            raise LatteError(f"the weights of `{name}` cannot be read: {_line(exc)}", hint=DAMAGED) from exc

    def _configured(self, ending: str) -> dict[str, Any]:
        """What the file says of each tensor, with the path of its data."""
        with zipfile.ZipFile(io.BytesIO(self._content)) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith(ending)]
            if len(found) != 1 or found[0].file_size > _LARGEST_JSON:
                return {}
            config = _parsed(archive.read(found[0]), self._name).get("config")
        folder = found[0].filename.rpartition("/")[0]
        plain = {key: meta for key, meta in dict(config).items() if not meta.get("use_pickle")}
        return {key: {**meta, "path": f"{folder}/{meta['path_name']}"} for key, meta in plain.items()}

    def without_data(self) -> Iterator[str]:
        """The weights that hold numbers by their shape, but none in the file."""
        with zipfile.ZipFile(io.BytesIO(self._content)) as archive:
            empty = {entry.filename for entry in archive.infolist() if not entry.file_size}
        for key, meta in self.metas.items():
            sizes = (size["as_int"] for size in meta["tensor_meta"]["sizes"])
            if meta["path"] in empty and all(sizes):
                yield key

    def __getitem__(self, key: str) -> NDArray[Any]:
        meta = self.metas[key]
        try:
            tensor = meta["tensor_meta"]
            shape, strides = ([size["as_int"] for size in tensor[part]] for part in ("sizes", "strides"))
            dtype = helper.tensor_dtype_to_np_dtype(self._elements[tensor["dtype"]])
            with zipfile.ZipFile(io.BytesIO(self._content)) as archive:
                entry = archive.getinfo(meta["path"])
                if entry.file_size > max(64, 2 * len(self._content)):
                    raise ValueError("it unpacks to more than the file holds")
                flat = np.frombuffer(archive.read(entry), dtype)[tensor["storage_offset"]["as_int"] :]
            return _strided(flat, shape, strides)
        except (KeyError, TypeError, ValueError, IndexError, *_UNPACKING) as exc:
            raise LatteError(f"the data of `{key}` do not fill its shape", hint=DAMAGED) from exc

    def __iter__(self) -> Iterator[str]:
        return iter(self.metas)

    def __len__(self) -> int:
        return len(self.metas)


def _strided(flat: NDArray[Any], shape: list[int], strides: list[int]) -> NDArray[Any]:
    """A view of `flat`, as far as it reaches."""
    last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if min([*shape, *strides, 1]) < 0 or (0 not in shape and last >= len(flat)):
        raise ValueError("beyond the data's end")
    steps = [step * flat.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


def _graph_entry(entries: list[zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    found = [entry for entry in entries if entry.filename.endswith(_GRAPHS)]
    if len(found) == 1:
        return found[0]
    if found:
        raise LatteError(f"`{name}` holds {len(found)} graphs where one is read", hint=DAMAGED)
    if any(entry.filename.endswith(_PICKLES) for entry in entries):
        raise pickled(name)
    raise LatteError(f"`{name}` is an archive without a program of `torch.export`", hint=EXPORT)


def _parsed(text: bytes, name: str) -> Any:
    depth = deepest = 0
    brackets = text.translate(None, delete=bytes(set(range(256)) - set(b"[]{}")))
    if len(brackets) > 2 * _MOST_LISTS:
        raise LatteError(f"the graph of `{name}` holds {len(brackets) // 2:,} lists and objects", hint=DAMAGED)
    for byte in brackets:
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST_JSON:
        raise LatteError(f"the graph of `{name}` is nested {deepest} deep", hint=DAMAGED)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise LatteError(f"the graph of `{name}` is not JSON: {_line(exc)}", hint=DAMAGED) from exc


def _checked(found: Any, name: str) -> dict[str, Any]:
    module = found.get("graph_module") if isinstance(found, dict) else None
    if not isinstance(module, dict) or not all(isinstance(module.get(key), dict) for key in ("graph", "signature")):
        raise LatteError(f"`{name}` holds no program of `torch.export`", hint=DAMAGED)
    version = found.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if isinstance(major, int) and major > _KNOWN_MAJOR:
        raise LatteError(
            f"`{name}` is of schema {major}; up to {_KNOWN_MAJOR} is read", hint="`pip install --upgrade latte-cli`"
        )
    return module


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
