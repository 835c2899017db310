"""Features: a layer's phase, settings and device as named numbers, the same for fitting and predicting."""

from collections.abc import Sequence
from functools import lru_cache
from math import log2, nan, prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.devices import Device
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.precisions import Layout
from latte_cli.tasks import Settings

Matrix: TypeAlias = npt.NDArray[np.float32]

FEATURE_VERSION = 2
"""Counts up when a feature is added, removed or means something else; artefacts of another version are refused."""

_LAYER = (
    *("kind", "function", "phase", "rank", "inputs", "tensors"),
    *("log_in", "log_out", "log_parameters", "log_flops", "log_moved", "log_reduction"),
    *("log_batch", "log_channels", "log_inner", "log_gemm_m", "log_gemm_n", "log_gemm_k"),
)
_SPATIAL = ("log_input", "log_output", "kernel", "stride", "dilation", "pad_before", "pad_after")
_CONVOLUTION = (
    *(f"{name}_{axis}" for name in _SPATIAL for axis in (1, 2, 3)),
    *("log_out_channels", "log_groups", "log_in_per_group", "log_out_per_group", "depthwise", "transposed"),
    *("log_im2col", "pointwise", "unit_stride"),
    *(f"{side}_channels_mod_{unit}" for side in ("in", "out") for unit in (8, 16, 32)),
)
_SETTINGS = ("threads", "precision", "layout", "cuda_graph")
_COMBINED = ("log_bytes", "log_intensity", "log_weight_bytes", "log_compute_s", "log_transfer_s")
_DEVICE = (
    *("log_peak", "log_bandwidth", "log_memory"),
    *("log_multiprocessors", "log_cache", "log_clock", "log_memory_clock", "log_rated_bandwidth"),
)

FEATURES: tuple[str, ...] = (*_LAYER, *_CONVOLUTION, *_SETTINGS, *_COMBINED, *_DEVICE)
"""The names of the columns of `matrix`."""

_UNITS = {"batch": (2, 4, 8, 16, 32), "in": (2, 4, 8, 16, 32, 64), "out": (2, 4, 8, 16, 32, 64, 128)}  # powers of two
_TILES, _BLOCKS = (2, 3, 4, 6), (32, 64, 128, 256)  # Winograd's output tiles; the blocks of GEMM kernels
_EXACT = (
    *("batch", "in_channels", "out_channels", "groups", "in_per_group", "out_per_group"),
    *(f"{name}_{axis}" for name in ("input", "output") for axis in (1, 2)),
    *("positions", "reduction"),
)
DETAILS: tuple[str, ...] = (
    *_EXACT,
    *(f"waste_of_tiles_{tile}" for tile in _TILES),
    *(f"waste_of_{side}_in_blocks_{block}" for block in _BLOCKS for side in ("positions", "out", "reduction")),
    *(f"{name}_mod_{unit}" for name, units in _UNITS.items() for unit in units),
    *(f"positions_mod_{unit}" for unit in (4, 16, 64, 128)),
)
"""The names of the columns of `details`."""

_PHASES = {
    Phase.FORWARD: 0,
    Phase.BACKWARD_DATA: 1,
    Phase.BACKWARD_FILTER: 2,
    Phase.BACKWARD: 3,
    Phase.UPDATE: 4,
}
_LAYOUTS = {Layout.NCHW: 0, Layout.CHANNELS_LAST: 1}
"""The numbers by which what is fitted knows a phase and a layout; kinds and precisions bear their own."""

_FUNCTIONS = (
    *("batch", "layer", "group", "instance", "rms", "lrn", "max", "average", "lp"),
    *("relu", "relu6", "leaky_relu", "prelu", "clip", "hard_sigmoid", "hard_swish", "elu", "selu", "celu"),
    *("sigmoid", "tanh", "silu", "gelu", "mish", "softplus", "softsign", "erf", "exp", "log", "sqrt", "abs", "neg"),
    *("add", "subtract", "multiply", "divide", "power", "minimum", "maximum"),
    *("mean", "sum", "min", "prod", "l1", "l2"),
    *("transpose", "pad", "slice", "expand", "gather", "split", "resize"),
    *("sgd", "momentum", "adam", "adamw"),
    # New names go to the end: those before keep their codes, by which models know them.
    *("nadam", "radam", "rmsprop", "adagrad", "adafactor"),
    *("sgd-foreach", "momentum-foreach", "adam-foreach", "adamw-foreach"),
    *("nadam-foreach", "radam-foreach", "rmsprop-foreach", "adagrad-foreach", "adafactor-foreach"),
    *("sgd-fused", "momentum-fused", "adam-fused", "adamw-fused", "adagrad-fused"),
    *("clip-norm", "ema", "ema-buffers", "grad-scaler", "zero-grad", "zero-grad-foreach"),
)
_FUNCTION_CODES = {name: code for code, name in enumerate(_FUNCTIONS, start=1)}
_UNKNOWN_FUNCTION = 0  # chosen: the codes of those that are known begin with 1

_INDEX = {name: column for column, name in enumerate(FEATURES)}
_LAYER_END = len(_LAYER) + len(_CONVOLUTION)
_SETTINGS_END = _LAYER_END + len(_SETTINGS)


def matrix(
    layers_phases: Sequence[tuple[Layer, Phase]], settings: Settings | Sequence[Settings], device: Device
) -> Matrix:
    """One row of `FEATURES` per (layer, phase), NaN where a number does not apply or is not known.

    `settings` are one for all rows or one per row. Sizes are logarithms to base 2, so that no layer overflows.
    """
    each = [settings] * len(layers_phases) if isinstance(settings, Settings) else settings
    rows = np.full((len(layers_phases), len(FEATURES)), nan, dtype=np.float32)
    if not len(rows):
        return rows
    rows[:, :_LAYER_END] = [_layer_row(layer, phase) for layer, phase in layers_phases]
    rows[:, _LAYER_END:_SETTINGS_END] = [_settings_row(one) for one in each]
    element = np.log2([one.precision.element_bytes for one in each])
    flops, moved = _of(rows, "log_flops"), _of(rows, "log_moved") + element
    peaks = {precision: _log(device.peak_in(precision)) for precision in {one.precision for one in each}}
    peak = np.array([peaks[one.precision] for one in each])
    bandwidth = _log(device.bandwidth_bytes_per_s)
    combined: dict[str, npt.ArrayLike] = {
        "log_bytes": moved,
        "log_intensity": flops - moved,
        "log_weight_bytes": _of(rows, "log_parameters") + element,
        "log_compute_s": flops - peak,
        "log_transfer_s": moved - bandwidth,
        "log_peak": peak,
        "log_bandwidth": bandwidth,
        "log_memory": _log(device.memory_bytes),
        "log_multiprocessors": _log(device.multiprocessors),
        "log_cache": _log(device.cache_bytes),
        "log_clock": _log(device.sm_clock_hz),
        "log_memory_clock": _log(device.memory_clock_hz),
        "log_rated_bandwidth": _log(device.rated_bandwidth_bytes_per_s),
    }
    for name, values in combined.items():
        rows[:, _INDEX[name]] = values
    return rows


def details(layers: Sequence[Layer]) -> Matrix:
    """One row of `DETAILS` per convolution: exact sizes, and what tiles and blocks of them leave over, which decides
    between algorithms of nearly the same time. Zeros for other layers."""
    sizes = np.array([_exact(layer) for layer in layers], dtype=np.float64).reshape(len(layers), len(_EXACT))
    at = {name: sizes[:, column] for column, name in enumerate(_EXACT)}
    area = np.maximum(at["output_1"] * at["output_2"], 1)
    columns = [*sizes.T]
    columns += [_pad(at["output_1"], tile) * _pad(at["output_2"], tile) / area for tile in _TILES]
    for block in _BLOCKS:
        sides = (at["positions"], at["out_channels"], at["reduction"])
        columns += [_pad(side, block) / np.maximum(side, 1) for side in sides]
    whole = {"batch": at["batch"], "in": at["in_channels"], "out": at["out_channels"]}
    columns += [whole[name] % unit for name, units in _UNITS.items() for unit in units]
    columns += [at["positions"] % unit for unit in (4, 16, 64, 128)]
    return np.column_stack(columns).astype(np.float32)


def _pad(sizes: npt.NDArray[np.float64], unit: int) -> npt.NDArray[np.float64]:
    """The sizes rounded up to multiples of `unit`."""
    result: npt.NDArray[np.float64] = np.ceil(sizes / unit) * unit
    return result


@lru_cache(maxsize=65536)
def _exact(layer: Layer) -> tuple[int, ...]:
    if not isinstance(layer, Convolution):
        return (0,) * len(_EXACT)
    wide, deep = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    rows = (layer.batch, layer.in_channels, layer.out_channels, layer.groups, wide, deep)
    spatial = (*(*layer.input, 1)[:2], *(*layer.output, 1)[:2])
    return (*rows, *spatial, layer.batch * prod(layer.output), layer.in_channels * prod(layer.kernel))


def informative(columns: Matrix) -> Matrix:
    """1 for each column that distinguishes rows, 0 for the others, as weights for the columns that trees draw from."""
    same = (columns == columns[:1]) | (np.isnan(columns) & np.isnan(columns[:1]))
    weights: Matrix = (~same.all(axis=0)).astype(np.float32)
    return weights if weights.any() else np.ones_like(weights)


def _of(rows: Matrix, name: str) -> Matrix:
    return rows[:, _INDEX[name]]


def _log(number: float | None) -> float:
    """Python's own log2 takes integers of any size; nothing and unknown have no logarithm."""
    return log2(number) if number else nan


@lru_cache(maxsize=1024)
def _settings_row(settings: Settings) -> tuple[float, ...]:
    codes = (settings.precision.arithmetic.code, _LAYOUTS[settings.layout])
    return (settings.threads, *codes, settings.cuda_graph)


_OF_PHASE = tuple(
    _INDEX[name] for name in ("phase", "log_flops", "log_moved", "log_gemm_m", "log_gemm_n", "log_gemm_k")
)


@lru_cache(maxsize=65536)
def _layer_row(layer: Layer, phase: Phase) -> Matrix:
    """The numbers of a layer, with those that its phase decides."""
    row = _still(layer).copy()
    m, n, k = layer.gemm(phase) or (None, None, None)
    flops, moved = layer.flops(phase), layer.elements_moved(phase)
    row[list(_OF_PHASE)] = (_PHASES[phase], _log(flops), _log(moved), _log(m), _log(n), _log(k))
    row.setflags(write=False)
    return row


@lru_cache(maxsize=65536)
def _still(layer: Layer) -> Matrix:
    """The numbers of a layer that are the same in every phase."""
    numbers = _general(layer)
    if isinstance(layer, Convolution):
        numbers |= _convolution(layer)
    row: Matrix = np.array([numbers.get(name, nan) for name in FEATURES[:_LAYER_END]], dtype=np.float32)
    row.setflags(write=False)
    return row


def _general(layer: Layer) -> dict[str, float]:
    first = next(iter(layer.input_shapes), ())
    name = layer.variant
    return {
        "kind": layer.code,
        "function": _FUNCTION_CODES.get(name, _UNKNOWN_FUNCTION) if name else nan,
        "rank": len(first),
        "inputs": len(layer.input_shapes),
        "tensors": layer.trained_tensors,
        "log_in": _log(sum(map(prod, layer.input_shapes))),
        "log_out": _log(prod(layer.output_shape)),
        "log_parameters": _log(layer.parameters),
        "log_reduction": _log(layer.reduction),
        "log_batch": _log(first[0] if first else 1),
        "log_channels": _log(prod(first[1:2])),
        "log_inner": _log(prod(first[2:])),
    }


def _convolution(layer: Convolution) -> dict[str, float]:
    rows, _, deep = layer.im2col
    numbers: dict[str, float] = {
        "log_out_channels": _log(layer.out_channels),
        "log_groups": _log(layer.groups),
        "log_in_per_group": _log(layer.in_channels // layer.groups),
        "log_out_per_group": _log(layer.out_channels // layer.groups),
        "depthwise": layer.depthwise,
        "transposed": layer.transposed,
        "log_im2col": _log(rows * deep * layer.groups),
        "pointwise": prod(layer.kernel) == 1,
        "unit_stride": prod(layer.stride) == 1,
    }
    for unit in (8, 16, 32):
        numbers[f"in_channels_mod_{unit}"] = layer.in_channels % unit
        numbers[f"out_channels_mod_{unit}"] = layer.out_channels % unit
    for name in _SPATIAL:
        sizes = getattr(layer, name.removeprefix("log_"))
        for axis, size in enumerate(sizes, start=1):
            numbers[f"{name}_{axis}"] = _log(size) if name.startswith("log_") else size
    return numbers
