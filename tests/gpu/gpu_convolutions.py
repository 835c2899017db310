"""Convolutions to try on a GPU: layers, separate operands, what each phase has to give, and how exactly."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.algorithms import Algorithm, known_algorithm
from latte_cli.backends.native import cudnn
from latte_cli.backends.torch.layers import Operands, activations_type
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

DEVICE = "cuda"
PRECISIONS = (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16)
PHASES = Convolution.phases

GUARD_BYTES = 4096
_GUARD, _POISON = 0xA5, 0xFF  # 0xFF throughout is a NaN in each of the types

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def convolution(
    batch: int, channels: tuple[int, int], size: tuple[int, ...], kernel: tuple[int, ...], **more: Any
) -> Convolution:
    """A convolution from `channels` in and out; `pad` is the padding on both sides."""
    pad = more.pop("pad", (0,) * len(size))
    return Convolution(
        batch=batch, in_channels=channels[0], out_channels=channels[1], input=size, kernel=kernel, pad_before=pad,
        pad_after=pad, **more,
    )  # fmt: skip


PLAIN = convolution(4, (32, 48), (28, 28), (3, 3), pad=(1, 1))

LAYERS: dict[str, Convolution] = {
    "3x3": PLAIN,
    "3x3 with bias": convolution(4, (32, 48), (28, 28), (3, 3), pad=(1, 1), bias=True),
    "3x3 wide": convolution(2, (64, 128), (56, 56), (3, 3), pad=(1, 1)),
    "3x3 deep": convolution(8, (256, 128), (7, 7), (3, 3), pad=(1, 1)),
    "3x3 of odd sizes": convolution(3, (17, 29), (37, 41), (3, 3)),
    "3x3 on one image": convolution(1, (16, 16), (14, 14), (3, 3), pad=(1, 1)),
    "3x3 with full padding": convolution(2, (16, 24), (20, 20), (3, 3), pad=(2, 2)),
    "3x3 padded in height": convolution(2, (16, 24), (20, 21), (3, 3), pad=(1, 0)),
    "3x3 stride 2": convolution(4, (32, 64), (28, 28), (3, 3), pad=(1, 1), stride=(2, 2)),
    "3x3 strides 2 and 1": convolution(4, (16, 24), (21, 28), (3, 3), pad=(1, 1), stride=(2, 1)),
    "3x3 stride 3": convolution(2, (16, 24), (29, 31), (3, 3), stride=(3, 3)),
    "3x3 from 3 channels": convolution(4, (3, 32), (64, 64), (3, 3), pad=(1, 1)),
    "1x1": convolution(8, (64, 128), (28, 28), (1, 1)),
    "1x1 stride 2": convolution(8, (64, 128), (28, 28), (1, 1), stride=(2, 2)),
    "1x1 of odd sizes": convolution(3, (19, 7), (13, 11), (1, 1)),
    "1x1 on points": convolution(16, (128, 64), (1, 1), (1, 1)),
    "2x2 stride 2": convolution(4, (32, 64), (28, 28), (2, 2), stride=(2, 2)),
    "5x5": convolution(4, (32, 32), (28, 28), (5, 5), pad=(2, 2)),
    "5x5 of odd sizes": convolution(2, (9, 13), (31, 27), (5, 5)),
    "7x7": convolution(2, (16, 32), (32, 32), (7, 7), pad=(3, 3)),
    "7x7 stride 2": convolution(4, (3, 64), (112, 112), (7, 7), pad=(3, 3), stride=(2, 2)),
    "7x7 on 7x7": convolution(8, (32, 64), (7, 7), (7, 7)),
    "11x11 stride 4": convolution(2, (3, 64), (63, 63), (11, 11), pad=(2, 2), stride=(4, 4)),
    "1x7": convolution(4, (32, 32), (17, 17), (1, 7), pad=(0, 3)),
    "2x3": convolution(2, (12, 20), (15, 19), (2, 3)),
    "dilation 2": convolution(4, (32, 32), (28, 28), (3, 3), pad=(2, 2), dilation=(2, 2)),
    "dilation 3 with stride 2": convolution(2, (16, 24), (33, 35), (3, 3), pad=(3, 3), dilation=(3, 3), stride=(2, 2)),
    "2 groups": convolution(4, (32, 48), (28, 28), (3, 3), pad=(1, 1), groups=2),
    "32 groups": convolution(4, (128, 128), (14, 14), (3, 3), pad=(1, 1), groups=32),
    "depthwise": convolution(4, (32, 32), (28, 28), (3, 3), pad=(1, 1), groups=32),
    "depthwise 5x5 stride 2": convolution(4, (24, 24), (29, 29), (5, 5), pad=(2, 2), stride=(2, 2), groups=24),
    "depthwise to twice the channels": convolution(2, (16, 32), (15, 15), (3, 3), pad=(1, 1), groups=16),
    "1-D": convolution(4, (32, 48), (200,), (3,), pad=(1,)),
    "1-D stride 2 dilation 2": convolution(3, (15, 21), (201,), (5,), pad=(2,), stride=(2,), dilation=(2,)),
    "3-D": convolution(2, (16, 24), (10, 12, 14), (3, 3, 3), pad=(1, 1, 1)),
    "3-D stride 2": convolution(2, (8, 16), (11, 13, 12), (3, 3, 3), pad=(1, 1, 1), stride=(2, 2, 2)),
    "transposed": convolution(4, (32, 24), (14, 14), (4, 4), pad=(1, 1), stride=(2, 2), transposed=True),
    "transposed with output padding": convolution(
        2, (24, 16), (13, 15), (3, 3), pad=(1, 1), stride=(2, 2), transposed=True, output_padding=(1, 1), bias=True
    ),
    "transposed in groups": convolution(2, (16, 24), (14, 14), (2, 2), stride=(2, 2), transposed=True, groups=4),
    "transposed 1-D": convolution(3, (24, 16), (50,), (4,), pad=(1,), stride=(2,), transposed=True),
    "transposed 3-D": convolution(
        2, (16, 8), (6, 7, 5), (3, 3, 3), pad=(1, 1, 1), stride=(2, 2, 2), transposed=True, output_padding=(1, 1, 1)
    ),
}  # fmt: skip

_EXACT, _LOOSE = 0, 1
TOLERANCES: dict[Precision, tuple[float, float]] = {
    # All accumulate in fp32, so that a sum of K terms loses about 2**-24 sqrt(K) / 3: 1e-6 at the 12,544 terms of the
    # longest sum here. What is lost beyond that is lost in rounding what goes in or comes out, once each:
    Precision.FP32: (1e-5, 1e-3),
    # Both factors keep 10 bits: 4e-4 where they are rounded, 8e-4 where they are cut off.
    Precision.TF32: (2e-3, 3e-2),
    # The result keeps 10 bits: 2e-4; atomic additions in 16 bits, as ALGO_0 and ALGO_3 may do them, some times more.
    Precision.FP16: (5e-3, 3e-2),
    # The result keeps 7 bits: 2e-3; the same.
    Precision.BF16: (2e-2, 1e-1),
}
"""The largest error of products, and of Winograd and FFT, as a norm relative to that of the result.

A Winograd transform magnifies the rounding of what is transformed: by 5 to 12 where tiles of 4x4 or 6x6 are computed at
once (3e-3 to 6e-3 in 10 bits, 3e-2 to 5e-2 in 7). A wrong index or a swapped operand gives an error near 1.
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One algorithm of cuDNN's for one phase of one layer, as it is requested."""

    layer: Convolution
    phase: Phase
    algorithm: Algorithm
    precision: Precision = Precision.FP32
    layout: Layout = Layout.NCHW

    @property
    def tolerance(self) -> float:
        """The error that its result may have."""
        about = known_algorithm(self.algorithm)
        loose = about is not None and about.family in ("winograd", "fft")
        return TOLERANCES[self.precision][_LOOSE if loose else _EXACT]

    def __str__(self) -> str:
        return f"{self.phase} {self.algorithm.name} {self.precision} {self.layout}"


def cases(layer: Convolution, precision: Precision) -> Iterator[Case]:
    """Every algorithm of every phase in each layout that tensors of the layer can have."""
    for layout in Layout if len(layer.input) > 1 else (Layout.NCHW,):
        for phase in PHASES:
            for algorithm in cudnn.algorithms(layer, phase):
                yield Case(layer=layer, phase=phase, algorithm=algorithm, precision=precision, layout=layout)


def of_phase(phase: Phase, o: Operands) -> Tensor:
    """The operand that what `phase` writes looks like."""
    return {Phase.FORWARD: o.gy, Phase.BACKWARD_DATA: o.x, Phase.BACKWARD_FILTER: o.w}[phase]


@lru_cache(maxsize=4)
def drawn(layer: Convolution, precision: Precision, layout: Layout) -> Operands:
    """Operands of independent normal numbers, the same ones in each layout."""
    generator = torch.Generator().manual_seed(1)

    def draw(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, generator=generator).to(activations_type(precision))
        if layout is Layout.CHANNELS_LAST and tensor.dim() in _FORMATS:
            tensor = tensor.contiguous(memory_format=_FORMATS[tensor.dim()])
        return tensor.to(DEVICE)

    x, w, gy = draw(layer.input_shapes[0]), draw(layer.weight_shape), draw(layer.output_shape)
    return Operands(x=x, w=w, b=None, gy=gy)


def reference(layer: Convolution, o: Operands) -> dict[Phase, Tensor]:
    """The three results in float64, computed on the CPU by torch's own convolution and autograd."""
    x, w = (tensor.detach().cpu().double().contiguous().requires_grad_() for tensor in (o.x, o.w))
    b = None if o.b is None else o.b.detach().cpu().double()
    rank = len(layer.input)
    if layer.transposed:
        transposed: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        y = transposed(x, w, b, layer.stride, layer.pad_before, layer.output_padding, layer.groups, layer.dilation)
    else:
        plain: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        y = plain(x, w, b, layer.stride, layer.pad_before, layer.dilation, layer.groups)
    gx, gw = torch.autograd.grad(y, [x, w], o.gy.detach().cpu().double())
    found = {Phase.FORWARD: y.detach(), Phase.BACKWARD_DATA: gx, Phase.BACKWARD_FILTER: gw}
    return {phase: tensor.to(o.x.device) for phase, tensor in found.items()}


@lru_cache(maxsize=2)
def _expected(layer: Convolution, dtype: torch.dtype) -> dict[Phase, Tensor]:
    precision = next(one for one in PRECISIONS if activations_type(one) is dtype)
    return reference(layer, drawn(layer, precision, Layout.NCHW))


def expected(case: Case) -> Tensor:
    """What `case` has to give on the operands that `drawn` gives it, in float64."""
    return _expected(case.layer, activations_type(case.precision))[case.phase]


def relative_error(out: Tensor, right: Tensor) -> float:
    """The norm of the difference over that of what is right; NaN where anything is NaN or infinite."""
    assert out.shape == right.shape, (out.shape, right.shape)
    error = float((out.double() - right).norm() / right.norm())
    return error if math.isfinite(error) else math.nan


class Guarded:
    """Memory of exactly `size` bytes on the GPU, which holds NaNs, between two guards that nobody may write to."""

    def __init__(self, size: int) -> None:
        self._all = torch.full((size + 2 * GUARD_BYTES,), _GUARD, dtype=torch.uint8, device=DEVICE)
        self._inside = self._all[GUARD_BYTES : GUARD_BYTES + size]
        self._guards = (self._all[:GUARD_BYTES], self._all[GUARD_BYTES + size :])
        self.size = size
        self.poison()

    @property
    def address(self) -> int:
        """Where the memory between the guards begins; 0 for none at all."""
        return self._inside.data_ptr() if self.size else 0

    def poison(self) -> None:
        """Fill the memory with what is no number."""
        self._inside.fill_(_POISON)

    @property
    def intact(self) -> bool:
        """Whether the guards are as they were."""
        return all(bool((guard == _GUARD).all()) for guard in self._guards)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A case bound to its operands, to the memory it writes and to a workspace of the size it requested."""

    case: Case
    operands: Operands
    out: Tensor
    workspace: Guarded
    run: Callable[[], None]

    def poison(self) -> None:
        """Let results and workspace hold NaNs."""
        self.out.fill_(math.nan)
        self.workspace.poison()

    def error(self) -> float:
        """The relative error of what was written last."""
        return relative_error(self.out, expected(self.case))


@contextmanager
def bound(library: cudnn.Library, handle: int, case: Case, operands: Operands | None = None) -> Iterator[Call]:
    """`case` ready to run, on `operands` where they are given; raises what cuDNN's refusals become, and no memory."""
    o = operands or drawn(case.layer, case.precision, case.layout)
    out = torch.full_like(of_phase(case.phase, o), math.nan)
    places = {"x": o.x, "w": o.w, "y": o.gy}
    places[{Phase.FORWARD: "y", Phase.BACKWARD_DATA: "x", Phase.BACKWARD_FILTER: "w"}[case.phase]] = out
    addresses = {name: tensor.data_ptr() for name, tensor in places.items()}
    with cudnn.problem(library, case.layer, case.precision, case.layout) as problem:
        size = problem.workspace_bytes(handle, case.phase, case.algorithm)
        workspace = Guarded(size)
        run = problem.bind(
            handle, case.phase, case.algorithm, **addresses, workspace=workspace.address, workspace_bytes=size
        )
        yield Call(case=case, operands=o, out=out, workspace=workspace, run=run)
