"""Convolution algorithms on the CPU: each a rule for when it applies and a function for each phase.

In the shapes N, C, H, W are the input's, K the output channels, R, S the kernel, P, Q the output.
"""

from latte_cli.backends.cpu.convolutions import libraries, products, shifts, spectra, winograd
from latte_cli.backends.cpu.convolutions.shared import CpuAlgorithm
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS

CONVOLUTIONS: dict[str, CpuAlgorithm] = {
    "DEFAULT": CpuAlgorithm(applies=lambda layer, phase, settings: True, calls=FRAMEWORK_CONVOLUTIONS),
    "ONEDNN_NCHW": libraries.ONEDNN_NCHW,
    "ONEDNN_NHWC": libraries.ONEDNN_NHWC,
    "ONEDNN_NHWC_CVT": libraries.ONEDNN_NHWC_CVT,
    "ONEDNN_ROT": libraries.ONEDNN_ROT,
    "GEMM_1X1": products.GEMM_1X1,
    "IM2COL_GEMM": products.IM2COL_GEMM,
    "NNPACK": libraries.NNPACK,
    "DW_SHIFT": shifts.DW_SHIFT,
    "EXPLICIT_GEMM": products.EXPLICIT_GEMM,
    "KN2ROW": shifts.KN2ROW,
    "WINOGRAD_2X2": winograd.WINOGRAD_2X2,
    "WINOGRAD_4X4": winograd.WINOGRAD_4X4,
    "FFT": spectra.FFT,
    "FFT_TILING": spectra.FFT_TILING,
}
"""Every convolution algorithm of this backend, in the order in which they are worth trying."""
