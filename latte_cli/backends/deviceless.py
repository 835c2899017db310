"""Device-less: the engines that cuDNN has for a GPU that is not here, asked of the library in a process of its own.

A cuDNN that lacks one of its parts, cuBLAS or NVIDIA's driver library ends the process that asks it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latte_cli.backends import probes
from latte_cli.backends.cudnn.attributes import Heuristic
from latte_cli.backends.cudnn.engines import Engine
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase, layer_text
from latte_cli.lookup import Pair
from latte_cli.tasks import Layout, Precision

LIMIT_S = 600.0

HINT = (
    "it takes the whole of cuDNN 9.8 or later and cuBLAS (`pip install nvidia-cudnn-cu13 nvidia-cublas`) and NVIDIA's "
    "driver library `libcuda.so.1`, but no GPU"
)
"""What a machine needs to answer for a GPU that it has not."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What cuDNN has for a layer's phase: the engines that take it, and the indices that each heuristic lists, best
    first; or why it takes none."""

    layer: Convolution
    phase: Phase
    engines: tuple[Engine, ...] = ()
    lists: tuple[tuple[Heuristic, tuple[int, ...]], ...] = ()
    refused: str = ""

    def engine(self, index: int) -> Engine | None:
        """The engine of an index, if it takes the layer."""
        return next((engine for engine in self.engines if engine.index == index), None)

    def listed(self, *modes: Heuristic) -> tuple[Engine, ...]:
        """The engines in the order of these heuristics, one list after the other, each engine once."""
        lists = dict(self.lists)
        indices = dict.fromkeys(index for mode in modes for index in lists.get(mode, ()))
        return tuple(engine for index in indices if (engine := self.engine(index)))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The version of the cuDNN that answered, and what it has for each pair."""

    version: str
    listed: tuple[Listed, ...]


def answer(
    properties: str, pairs: Sequence[Pair], precision: Precision, layout: Layout, limit_s: float = LIMIT_S
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
    found = probes.engines(json.dumps(question), limit_s)
    if isinstance(found, probes.Trouble):
        raise LatteError(f"cuDNN does not tell its engines here: {found.reason}", hint=found.hint or HINT)
    listed = zip(pairs, found["listed"], strict=True)
    return Answer(version=found["version"], listed=tuple(_listed(pair, each) for pair, each in listed))


def _listed(pair: Pair, found: dict[str, Any]) -> Listed:
    layer, phase = pair
    assert isinstance(layer, Convolution)
    engines = tuple(
        Engine(
            index=each["index"],
            numerical=frozenset(each["numerical"]),
            behavior=frozenset(each["behavior"]),
            workspace_bytes=each["workspace_bytes"],
        )
        for each in found.get("engines", ())
    )
    lists = tuple((Heuristic[name], tuple(indices)) for name, indices in found.get("lists", {}).items())
    return Listed(layer=layer, phase=phase, engines=engines, lists=lists, refused=found.get("refused", ""))


def as_json(engine: Engine) -> dict[str, Any]:
    """An engine as JSON has it."""
    return asdict(engine) | {"numerical": sorted(engine.numerical), "behavior": sorted(engine.behavior)}
