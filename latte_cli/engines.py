"""Engines: cuDNN's numbered ways to compute a convolution, and the rules by which frameworks take them.

PyTorch 2 and XLA no longer choose among the eight named algorithms, but among engines of cuDNN's graph API, which its
heuristics list best first. Pure functions on those lists.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from latte_cli.algorithms import RANKERS, Algorithm, Ranker, known_algorithm
from latte_cli.layers import Phase
from latte_cli.precisions import Precision

PREFIX = "ENGINE_"
"""How the names of engines begin; the index in cuDNN's list for the operation follows."""


class Heuristic(IntEnum):
    """`cudnnBackendHeurMode_t`: who lists engines: A a decision tree, B a neural network, FALLBACK what runs anywhere.

    INSTANT is what A was called, and is what PyTorch asks for.
    """

    INSTANT = 0
    B = 1
    FALLBACK = 2
    A = 3


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine with its knobs as they come: its notes, and the bytes of workspace that it wants (None: not known).

    Notes are named as cuDNN's headers do: `numerical` is what it does to numbers, `behavior` what it needs.
    """

    index: int
    numerical: frozenset[str] = frozenset()
    behavior: frozenset[str] = frozenset()
    workspace_bytes: int | None = None

    @property
    def name(self) -> str:
        """The name under which it is an algorithm."""
        return f"{PREFIX}{self.index}"

    @property
    def algorithm(self) -> Algorithm:
        """The engine as an algorithm; its index means something else in each operation and version of cuDNN."""
        return Algorithm(library="cudnn", name=self.name)

    @property
    def notes(self) -> tuple[str, ...]:
        """All its notes, as rows keep them."""
        return tuple(sorted(self.numerical | self.behavior))

    @property
    def deterministic(self) -> bool:
        """Whether results repeat bit by bit."""
        return "NONDETERMINISTIC" not in self.numerical

    def keeps(self, precision: Precision) -> bool:
        """Whether it computes in `precision`: not with inputs rounded to fewer bits, nor in TF32 where fp32 is meant.

        That is PyTorch's filter (aten/src/ATen/native/cudnn/Conv_v8.cpp, `plan_errata_exception` aside).
        """
        return "DOWN_CONVERT_INPUTS" not in self.numerical and not (
            precision is Precision.FP32 and "TENSOR_CORE" in self.numerical
        )

    def family(self, phase: Phase) -> str:
        """Which of the eight named algorithms it is a kind of, as far as its notes and its place show it."""
        if "FFT" in self.numerical:
            return "FFT"
        if "WINOGRAD" in self.numerical:
            return "WINOGRAD_NONFUSED" if self.workspace_bytes else "WINOGRAD"
        if "TENSOR_CORE" in self.numerical:
            return "TENSOR_CORE_IMPLICIT_GEMM"
        return _SIMPLEST.get(phase, {}).get(self.index, "IMPLICIT_GEMM")


_SIMPLEST = {Phase.FORWARD: {0: "IMPLICIT_GEMM", 1: "IMPLICIT_PRECOMP_GEMM", 2: "GEMM"}}
# The first engines of the forward operation are known: their workspaces identify them.

PYTORCH_FALLBACK = {Phase.FORWARD: (0, 1, 28), Phase.BACKWARD_DATA: (0, 1, 25), Phase.BACKWARD_FILTER: (0, 1, 20)}
"""What PyTorch tries where no listed engine can be built (cudnn-frontend, `EngineFallbackListBuilder`)."""

XLA_MODES = (Heuristic.B, Heuristic.A)
"""The heuristics that XLA asks, and TensorFlow with it, in this order (stream_executor/cuda/cuda_dnn.cc)."""

Lists: TypeAlias = Mapping[Heuristic, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What cuDNN has for one operation: the engines that take it, and the indices that each heuristic lists, best
    first. `operation` is the one that cuDNN computes, which for a transposed layer is not its phase."""

    operation: Phase
    engines: Sequence[Engine]
    lists: Lists

    def of(self, indices: Iterable[int]) -> list[Engine]:
        """The engines of these indices that take the operation, in this order, each once."""
        there = {engine.index: engine for engine in self.engines}
        return [there[index] for index in dict.fromkeys(indices) if index in there]

    def pytorch(self, precision: Precision, *, mode_b: bool = False, deterministic: bool = False) -> list[Engine]:
        """The engines that PyTorch 2 tries, in its order: the first that can be built and allocated is taken.

        `mode_b` is TORCH_CUDNN_USE_HEURISTIC_MODE_B=1, `deterministic` torch's flag of that name (Conv_v8.cpp,
        `get_generator_sources`, `get_plans_from_find`).
        """
        listed = self.lists.get(Heuristic.B if mode_b else Heuristic.INSTANT, ())
        return [
            engine
            for engine in self.of((*listed, *PYTORCH_FALLBACK[self.operation]))
            if engine.keeps(precision) and (engine.deterministic or not deterministic)
        ]

    def xla(self, precision: Precision) -> list[Engine]:
        """The engines that XLA times, and TensorFlow with it: what `XLA_MODES` list."""
        listed = (index for mode in XLA_MODES for index in self.lists.get(mode, ()))
        return [engine for engine in self.of(listed) if engine.keeps(precision)]


def family(
    algorithm: Algorithm, operation: Phase, notes: Iterable[str] = (), workspace_bytes: int | None = None
) -> str:
    """Which kind of algorithm it is, in the terms of cuDNN's eight names; "" for one of which nothing is known.

    Its notes identify an engine, as far as they can (see `Engine.family`).
    """
    if is_engine(algorithm) and algorithm.name.removeprefix(PREFIX).isdecimal():
        index = int(algorithm.name.removeprefix(PREFIX))
        return Engine(index=index, numerical=frozenset(notes), workspace_bytes=workspace_bytes).family(operation)
    about = known_algorithm(algorithm)
    return about.family.upper() if about else ""


def is_engine(algorithm: Algorithm) -> bool:
    """Whether an algorithm is one of cuDNN's engines, rather than a named algorithm."""
    return algorithm.library == "cudnn" and algorithm.name.startswith(PREFIX)


def rankers(algorithms: Iterable[Algorithm]) -> tuple[Ranker, ...]:
    """Those who rank some of `algorithms`."""
    ranked = {(algorithm.library, is_engine(algorithm)) for algorithm in algorithms}
    return tuple(ranker for ranker in RANKERS.values() if (ranker.library, bool(ranker.mode)) in ranked)
