"""Device-less: the engines that cuDNN has for a GPU that is not here, asked of the library in a separate process.

A cuDNN that lacks one of its parts, cuBLAS or NVIDIA's driver library ends the process that asks it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_cli import documents, files
from latte_cli.backends import probes
from latte_cli.documents import DocumentSource
from latte_cli.engines import Engine, Heuristic, Listed
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase, layer_text
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision

SCHEMA = "latte.gpu-properties/1"
LIMIT_S = 600.0  # chosen: cuDNN answers for each layer and phase of a network

HINT = (
    "it takes the whole of cuDNN 9.8 or later and cuBLAS (`pip install nvidia-cudnn-cu13 nvidia-cublas`) and NVIDIA's "
    "driver library `libcuda.so.1`, but no GPU"
)
"""What a machine needs to answer for a GPU that it has not."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The version of the cuDNN that answered, and what it has for each pair, or why it takes none."""

    version: str
    listed: tuple[Listed | str, ...]


def write_properties(file: Path, *, force: bool = False) -> str:
    """Write the properties of this machine's first GPU to `file`; returns the GPU's name.

    Raises LatteError where there is none that cuDNN can describe, where `file` cannot be written, and where it is there
    already, unless `force`.
    """
    files.check_free(file, force=force)
    found = probes.gpu_properties()
    if isinstance(found, probes.Trouble):
        raise LatteError(f"cuDNN describes no GPU here: {found.reason}", hint=found.hint or "run `latte doctor`")
    files.write_file(file, f"{found}\n")
    return str(json.loads(found)["deviceName"])


def read_properties(file: Path) -> tuple[str, str]:
    """The GPU's name in a file of `write_properties`, and its properties; raises LatteError for any other file."""
    hint = "`latte doctor --device-json FILE` writes one on the machine with the GPU"
    source = DocumentSource(where=f"`{file}`", fault="holds no properties of a GPU", hint=hint)
    found = documents.load_document(file, SCHEMA, source)
    return str(found["deviceName"]), json.dumps(found)


def engines_of(
    network: Network, properties: str, precision: Precision, layout: Layout
) -> tuple[str, list[tuple[str, Convolution, Phase, Listed | str]]]:
    """The version of cuDNN, and what it has for each convolution of a network in each phase, by the node's name.

    Each different pair is asked about once. Raises LatteError as `answer` does.
    """
    calls = [
        (node.name, node.layer, phase)
        for node in network.nodes
        if isinstance(node.layer, Convolution)
        for phase in node.layer.phases
    ]
    pairs = list(dict.fromkeys((layer, phase) for _, layer, phase in calls))
    found = answer(properties, pairs, precision, layout)
    listed = dict(zip(pairs, found.listed, strict=True))
    return found.version, [(name, layer, phase, listed[layer, phase]) for name, layer, phase in calls]


def answer(
    properties: str,
    pairs: Sequence[tuple[Convolution, Phase]],
    precision: Precision,
    layout: Layout,
    limit_s: float = LIMIT_S,
) -> Answer:
    """What cuDNN has for convolutions on the device of these properties, which `cudnn.properties` writes.

    Raises LatteError where there is no cuDNN that can say so, and for properties that it does not take.
    """
    question = {
        "properties": properties,
        "precision": precision,
        "layout": layout,
        "pairs": [(layer_text(layer), phase) for layer, phase in pairs],
    }
    found = probes.engines(question, limit_s)
    if isinstance(found, probes.Trouble):
        raise LatteError(f"cuDNN does not tell its engines here: {found.reason}", hint=found.hint or HINT)
    listed = zip(pairs, found["listed"], strict=True)
    return Answer(version=found["version"], listed=tuple(_list_engines(pair, each) for pair, each in listed))


def _list_engines(pair: tuple[Convolution, Phase], found: dict[str, Any]) -> Listed | str:
    layer, phase = pair
    if "refused" in found:
        return str(found["refused"])
    engines = [
        Engine(
            index=each["index"],
            numerical=frozenset(each["numerical"]),
            behavior=frozenset(each["behavior"]),
            workspace_bytes=each["workspace_bytes"],
        )
        for each in found["engines"]
    ]
    lists = {Heuristic[name]: tuple(indices) for name, indices in found["lists"].items()}
    return Listed(operation=layer.computed_as(phase), engines=engines, lists=lists)
