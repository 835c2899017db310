"""Tasks: one layer, phase, algorithm and settings to time, or a question to who ranks algorithms.

Both are hashable, and their ids are the same text on every machine.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from latte_cli.algorithms import Algorithm, Ranker
from latte_cli.layers import Layer, Phase, layer_text

_TYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # IEEE 754, and bfloat16


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What a precision stands for.

    `activations` and `weights` are types by the name that torch has for them; parameters, their gradients and the
    optimizer's states have that of weights. Where the two differ, autocast casts weights in each step. `tf32` says
    that products of 32-bit numbers may be computed in TF32. `code` is the number by which what is fitted knows the
    precision: it never changes, and a new one takes the next.
    """

    code: int
    activations: str
    weights: str
    tf32: bool = False

    @property
    def autocast(self) -> bool:
        """Whether autocast computes it."""
        return self.activations != self.weights

    @property
    def plain(self) -> bool:
        """Whether a module's own type says it all."""
        return not self.autocast and not self.tf32

    @property
    def weight_bytes(self) -> int:
        """Bytes of one parameter."""
        return _TYPE_BYTES[self.weights]


class Precision(StrEnum):
    """The arithmetic that was asked for, by name."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    BF16_AUTOCAST = "bf16_autocast"

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of an activation."""
        return _TYPE_BYTES[self.arithmetic.activations]

    @property
    def arithmetic(self) -> Arithmetic:
        """What it stands for."""
        return _ARITHMETICS[self]


_ARITHMETICS = {
    Precision.FP32: Arithmetic(code=0, activations="float32", weights="float32"),
    Precision.TF32: Arithmetic(code=1, activations="float32", weights="float32", tf32=True),
    Precision.BF16: Arithmetic(code=2, activations="bfloat16", weights="bfloat16"),
    Precision.FP16: Arithmetic(code=3, activations="float16", weights="float16"),
    Precision.BF16_AUTOCAST: Arithmetic(code=4, activations="bfloat16", weights="float32"),
}


class Layout(StrEnum):
    """How the activations of the whole model lie in memory."""

    NCHW = "nchw"
    CHANNELS_LAST = "channels_last"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for when a task was timed: part of each row's key.

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
    parts = (
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
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
