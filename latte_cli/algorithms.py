"""Algorithms: their names and properties, and the libraries' rankings."""

from collections.abc import Iterable
from dataclasses import dataclass

from latte_cli.layers import Convolution, Phase

_ALL = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)
_FORWARD_AND_DATA = (Phase.FORWARD, Phase.BACKWARD_DATA)
_BACKWARDS = (Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)


@dataclass(frozen=True, kw_only=True, order=True)
class Algorithm:
    """One way to compute a layer's phase, as a library names it; any name is allowed.

    `vendor_id` is the library's own number for it, where it has one.
    """

    library: str
    name: str
    vendor_id: int | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Who of a library's ranks its algorithms for a layer's phase, best first, and computes nothing.

    `mode` is the mode of cuDNN's heuristics that lists engines; empty for who ranks other algorithms.
    """

    library: str
    name: str
    mode: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a named algorithm: its phases, its family, whether results repeat bit by bit.

    `rarely_wins` marks those that are worth trying on a share of layers only.
    """

    phases: tuple[Phase, ...]
    family: str
    deterministic: bool = True
    rarely_wins: bool = False


FRAMEWORK_DEFAULT = Algorithm(library="torch", name="DEFAULT")
"""What the framework takes by itself: the baseline, and the only algorithm of layers that have one way."""

FRAMEWORK_BENCHMARK = Algorithm(library="torch", name="BENCHMARK")
"""What the framework takes on a GPU after it has timed some of what its library offers (`cudnn.benchmark`)."""

COMPILED = Algorithm(library="torch", name="COMPILED")
"""A whole network as `torch.compile` makes it, with its default compiler."""

HEURISTIC = Ranker(library="cudnn", name="HEURISTIC_V7")
"""cuDNN's own heuristic, of its named algorithms (`cudnnGet…Algorithm_v7`)."""

LISTED = Ranker(library="onednn", name="LISTED")
"""oneDNN's list of its implementations, in the order in which it would take them."""

ENGINE_LISTS = tuple(
    Ranker(library="cudnn", name=f"LISTED_{mode}", mode=mode) for mode in ("INSTANT", "A", "B", "FALLBACK")
)
"""The modes of cuDNN's heuristics, which list its engines."""

RANKERS: dict[tuple[str, str], Ranker] = {
    (ranker.library, ranker.name): ranker for ranker in (HEURISTIC, LISTED, *ENGINE_LISTS)
}
"""Who ranks algorithms, by (library, name)."""

KNOWN: dict[tuple[str, str], Known] = {
    ("torch", "DEFAULT"): Known(phases=tuple(Phase), family="framework"),
    ("torch", "BENCHMARK"): Known(phases=_ALL, family="framework"),
    ("torch", "ONEDNN_NCHW"): Known(phases=(Phase.FORWARD,), family="direct"),
    ("torch", "ONEDNN_NHWC"): Known(phases=(Phase.FORWARD,), family="direct"),
    ("torch", "ONEDNN_NHWC_CVT"): Known(phases=_ALL, family="direct"),
    ("torch", "IM2COL_GEMM"): Known(phases=_ALL, family="gemm"),
    ("torch", "GEMM_1X1"): Known(phases=_ALL, family="gemm"),
    ("torch", "NNPACK"): Known(phases=_FORWARD_AND_DATA, family="winograd"),
    ("torch", "ONEDNN_ROT"): Known(phases=(Phase.BACKWARD_DATA,), family="direct"),
    ("torch", "DW_SHIFT"): Known(phases=_ALL, family="direct"),
    ("torch", "EXPLICIT_GEMM"): Known(phases=_ALL, family="gemm", rarely_wins=True),
    ("torch", "KN2ROW"): Known(phases=_ALL, family="gemm", rarely_wins=True),
    ("torch", "WINOGRAD_2X2"): Known(phases=_ALL, family="winograd", rarely_wins=True),
    ("torch", "WINOGRAD_4X4"): Known(phases=_ALL, family="winograd", rarely_wins=True),
    ("torch", "FFT"): Known(phases=_ALL, family="fft", rarely_wins=True),
    ("torch", "FFT_TILING"): Known(phases=_ALL, family="fft", rarely_wins=True),
    ("cudnn", "IMPLICIT_GEMM"): Known(phases=(Phase.FORWARD,), family="implicit_gemm"),
    ("cudnn", "IMPLICIT_PRECOMP_GEMM"): Known(phases=(Phase.FORWARD,), family="implicit_gemm"),
    ("cudnn", "GEMM"): Known(phases=(Phase.FORWARD,), family="gemm"),
    ("cudnn", "DIRECT"): Known(phases=(Phase.FORWARD,), family="direct"),
    ("cudnn", "FFT"): Known(phases=_ALL, family="fft"),
    ("cudnn", "FFT_TILING"): Known(phases=_ALL, family="fft"),
    ("cudnn", "WINOGRAD"): Known(phases=_ALL, family="winograd"),
    ("cudnn", "WINOGRAD_NONFUSED"): Known(phases=_ALL, family="winograd"),
    ("cudnn", "ALGO_0"): Known(phases=_BACKWARDS, family="implicit_gemm", deterministic=False),
    ("cudnn", "ALGO_1"): Known(phases=_BACKWARDS, family="implicit_gemm"),
    ("cudnn", "ALGO_3"): Known(phases=(Phase.BACKWARD_FILTER,), family="implicit_gemm", deterministic=False),
    ("onednn", "ref:any"): Known(phases=_ALL, family="direct", rarely_wins=True),
    ("onednn", "ref:any+reorder"): Known(phases=_ALL, family="direct", rarely_wins=True),
}
"""Annotations by (library, name); an algorithm that is not here is as usable as one that is."""

_KERNELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("winograd", ("winograd",)),
    ("fft", ("fft2d_", "flip_filter")),
    ("gemm", ("im2col",)),
    ("implicit_gemm", ("implicit", "precomputed_convolve", "scudnn_", "cutlass", "wgrad_alg", "dgrad_engine")),
    ("gemm", ("gemm",)),
)
# Families by a part of a kernel's name, the most telling first: a Winograd or FFT run has matrix products as well.


def known_algorithm(algorithm: Algorithm) -> Known | None:
    """What is known of `algorithm`, or None for a name that only its library knows."""
    return KNOWN.get((algorithm.library, algorithm.name))


def kernel_family(names: Iterable[str]) -> str | None:
    """The family of the algorithm that ran the kernels `names`, as a profiler lists them for one call.

    Kernels that convert layouts or prepare indices belong to what they were run for; None where nothing else ran.
    """
    ran = [name.lower() for name in names]
    families = (family for family, parts in _KERNELS if any(part in name for part in parts for name in ran))
    return next(families, None)


def corrupts_heap(layer: Convolution) -> bool:
    """Whether PyTorch's own operator writes past its buffers for it, on a CPU, with activations in channels_last.

    The gradient of the weights of strided 1x1 kernels with few channels does so in oneDNN 3.2 and 3.12.
    """
    return max(layer.kernel) == 1 and max(layer.stride) > 1 and layer.in_channels // layer.groups < 16
