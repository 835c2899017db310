"""Tasks: one layer, phase, algorithm and settings to time, or a question to who ranks algorithms.

Both are hashable, and their ids are the same text on every machine.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from latte_cli.algorithms import Algorithm, Ranker
from latte_cli.layers import Layer, Phase, layer_text
from latte_cli.precisions import Layout, Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was set when a task was timed: part of each row's key.

    `threads` is the number of threads on a CPU and 0 on a GPU; `library_versions` are (library, version) pairs in
    the order of their names.
    """

    precision: Precision = Precision.FP32
    layout: Layout = Layout.NCHW
    threads: int = 0
    cuda_graph: bool = False
    power_mode: str = ""
    library_versions: tuple[tuple[str, str], ...] = ()

    @property
    def versions_text(self) -> str:
        """The libraries on one line: `onednn=3.12 torch=2.13.0`."""
        return " ".join(f"{name}={version}" for name, version in self.library_versions)


def versions_from_text(text: str) -> tuple[tuple[str, str], ...]:
    """The inverse of `Settings.versions_text`."""
    pairs = (part.partition("=") for part in text.split())
    return tuple((name, version) for name, _, version in pairs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to time: `phase` of `layer` by `algorithm` under `settings`."""

    layer: Layer
    phase: Phase
    algorithm: Algorithm
    settings: Settings

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits that name this task wherever and whenever it is written."""
        return _id(self.layer, self.phase, self.algorithm, self.settings)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One ranking to ask for: of the algorithms for `phase` of `layer` by `ranker` under `settings`."""

    layer: Layer
    phase: Phase
    ranker: Ranker
    settings: Settings

    @cached_property
    def id(self) -> str:
        """As of a task; no task has the same."""
        return _id(self.layer, self.phase, self.ranker, self.settings)


def _id(layer: Layer, phase: Phase, named: Algorithm | Ranker, settings: Settings) -> str:
    texts = (
        layer_text(layer),
        phase,
        named.library,
        named.name,
        settings.precision,
        settings.layout,
        str(settings.threads),
        str(int(settings.cuda_graph)),
        settings.power_mode,
        settings.versions_text,
    )
    return id_of_texts(texts)


def id_of_texts(texts: Iterable[str]) -> str:
    """The id of a task or a question from its texts: layer, phase, library, name, and the settings in their order."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()
