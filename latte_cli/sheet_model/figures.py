"""Figures: what a sheet says of a device in one precision, as the formulas need it."""

from dataclasses import dataclass
from math import log
from statistics import median

from latte_cli.datasheets import Sheet, sheets
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import Precision

_FAMILIES = {
    "maxwell": "pascal",
    "gcn5": "gcn",
    "cdna1": "cdna",
    "cdna2": "cdna",
    "cdna3": "cdna",
    "rdna1": "rdna",
    "rdna2": "rdna",
    "rdna3": "rdna-dual",
    "rdna4": "rdna-dual",
    "xe-hpg": "xe",
    "xe2": "xe",
    "apple7": "apple",
    "apple8": "apple",
}
"""Generations that share what is learned of one."""

_SHARED_LANES = {"ampere": 128, "blackwell": 128}
"""By generation: lanes a unit of GeForce cards, whose architecture is not that of the data centre's."""

_CORE_BANDWIDTH = 15e9  # bytes a second that one core moves at most: about a line for each of ten misses in 40 ns
_FEW = 3  # chosen: a median of fewer says nothing
_LEAST_VECTOR_SHARE = 0.5  # chosen: a vector peak in fp16 below half of fp32's is one that libraries avoid


@dataclass(frozen=True, kw_only=True)
class SheetFigures:
    """Peaks in FLOP/s, bandwidth in bytes/s; `matrix` is None where products run on the vector units too.

    `family` is what efficiencies are learned with, `units` how many multiprocessors, compute units or cores compute.
    `strain` is the logarithm of how many times the peak by watt exceeds that of its family: such a device cannot keep
    its boost clock. `headroom` is that of how many times the boost clock of its generation exceeds its own: such a
    device runs above it.
    """

    family: str
    vector: float
    matrix: float | None
    arithmetic: str
    bandwidth: float
    units: float
    element_bytes: int
    queued: bool
    strain: float = 0.0
    headroom: float = 0.0
    desktop: bool = False


def figures_of(sheet: Sheet, precision: Precision, threads: int = 0) -> SheetFigures:
    """The figures of a device in `precision`, of a CPU's `threads` (0: all its cores).

    Raises LatteError where the sheet tells no peak of it.
    """
    vector, cores = sheet.peak("fp32"), float(sheet.units or _usual_units(sheet))
    if vector is None:
        raise _no_peak(sheet, Precision.FP32)
    share = min(1.0, threads / cores) if threads and sheet.kind.threaded else 1.0
    bandwidth = sheet.bandwidth_bytes_per_s
    if sheet.kind.threaded:
        bandwidth = min(bandwidth, share * cores * _CORE_BANDWIDTH)
    matrix, own = _peaks_in(sheet, precision, vector)
    return SheetFigures(
        family=family_of(sheet),
        vector=share * own,
        matrix=None if matrix is None else share * matrix,
        arithmetic="float32" if precision.arithmetic.tf32 and matrix is None else _arithmetic(precision),
        bandwidth=bandwidth,
        units=max(1.0, share * cores),
        element_bytes=precision.element_bytes,
        queued=sheet.kind.queued,
        strain=_strain(sheet),
        headroom=_headroom(sheet),
        desktop=desktop(sheet),
    )


def family_of(sheet: Sheet) -> str:
    """The family of a sheet's generation."""
    if not sheet.kind.queued:
        return "cpu"
    lanes = _SHARED_LANES.get(sheet.generation)
    if lanes and sheet.units and sheet.lanes == lanes * sheet.units:
        return f"{sheet.generation}-geforce"
    return _FAMILIES.get(sheet.generation, sheet.generation)


def _arithmetic(precision: Precision) -> str:
    arithmetic = precision.arithmetic
    return "tf32" if arithmetic.tf32 else arithmetic.activations


def _peaks_in(sheet: Sheet, precision: Precision, fp32: float) -> tuple[float | None, float]:
    """The peaks of matrix units, if any, and of vector units."""
    name = _arithmetic(precision)
    if name == "float32":
        return None, fp32
    if name == "tf32":
        return _matrix_peak(sheet, "tf32_matrix"), fp32
    short = "fp16" if name == "float16" else "bf16"
    matrix, own = _matrix_peak(sheet, f"{short}_matrix"), sheet.peak(short)
    if matrix is None and own is None and (short == "bf16" or not sheet.kind.queued):
        raise _no_peak(sheet, precision)
    avoided = own is None or own < _LEAST_VECTOR_SHARE * fp32
    return matrix, fp32 if avoided or own is None else own


def _matrix_peak(sheet: Sheet, name: str) -> float | None:
    """The peak that its document states, else as many times fp32's as other devices of its family have.

    GeForce cards have half the rate of others of their generation, and GTX cards have no tensor cores.
    """
    stated = sheet.peak(name)
    if stated is not None or not sheet.kind.queued or "-gtx-" in sheet.slug:
        return stated
    alike = [other for other in sheets() if family_of(other) == family_of(sheet) and _geforce(other) == _geforce(sheet)]
    ratios = [peak / own for other in alike if (peak := other.peak(name)) and (own := other.peak("fp32"))]
    return median(ratios) * (sheet.peak("fp32") or 0.0) if ratios and sheet.generation != "maxwell" else None


def _geforce(sheet: Sheet) -> bool:
    return "-geforce-" in sheet.slug


def _usual_units(sheet: Sheet) -> float:
    """Multiprocessors of a device whose document does not count them, by its peak and those of its family."""
    alike = [other for other in sheets() if family_of(other) == family_of(sheet) and other.units]
    each = [(other.peak("fp32") or 0.0) / (other.units or 1) for other in alike]
    return max(1.0, (sheet.peak("fp32") or 0.0) / median(each)) if each else 100.0


def _strain(sheet: Sheet) -> float:
    alike = [other for other in sheets() if family_of(other) == family_of(sheet) and other.power_w]
    each = [(other.peak("fp32") or 0.0) / (other.power_w or 1.0) for other in alike]
    if not sheet.power_w or not sheet.kind.queued or len(each) < _FEW:
        return 0.0
    return max(0.0, log((sheet.peak("fp32") or 0.0) / sheet.power_w / median(each)))


def _headroom(sheet: Sheet) -> float:
    """Cards of a generation reach about the same clock, whatever boost clock their sheets promise of their coolers."""
    alike = [other.clock_hz for other in sheets() if other.generation == sheet.generation and desktop(other)]
    if not sheet.clock_hz or not desktop(sheet):
        return 0.0
    return max(0.0, log(max(clock for clock in alike if clock) / sheet.clock_hz))


def desktop(sheet: Sheet) -> bool:
    """Whether it is a card for desktops, which boosts as far as its cooler allows."""
    return any(f"-{line}-" in sheet.slug for line in ("geforce", "titan", "rx"))


def _no_peak(sheet: Sheet, precision: Precision) -> LatteError:
    return LatteError(
        f"the data sheet of `{sheet.slug}` states no peak in {precision}",
        hint=f"`--precision {Precision.FP32}`, or a device that computes in {precision}",
        exit_code=ExitCode.USAGE,
    )
