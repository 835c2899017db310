"""Algorithms: an open set of names, and what is known of the named ones."""

from dataclasses import dataclass

from latte_cli.layers import Phase

_ALL = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)
_FORWARD_AND_DATA = (Phase.FORWARD, Phase.BACKWARD_DATA)


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

KNOWN: dict[tuple[str, str], Known] = {
    ("torch", "DEFAULT"): Known(phases=tuple(Phase), family="framework"),
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
}
"""Annotations by (library, name); an algorithm that is not here is as usable as one that is."""


def known(algorithm: Algorithm) -> Known | None:
    """What is known of `algorithm`, or None for a name that only its library knows."""
    return KNOWN.get((algorithm.library, algorithm.name))
