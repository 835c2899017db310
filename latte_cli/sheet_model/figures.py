"""Figures: what a sheet says of a device in one precision, as the formulas need it."""

from dataclasses import dataclass
from math import exp, log
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

_PROCESSES = {"maxwell": "28 nm", "pascal": "16 nm", "volta": "16 nm", "turing": "16 nm"}
"""Generations that were made alike (TSMC's 16FF and 12FFN are one but for the name); others share with their family."""

_SHARED_LANES = {"ampere": 128, "blackwell": 128}
"""By generation: lanes a unit of GeForce cards, whose architecture is not that of the data centre's."""

_CORE_BANDWIDTH = 15e9  # bytes a second that one core moves at most: about a line for each of ten misses in 40 ns
_FEW = 3  # chosen: a median of fewer says nothing
_LEAST_VECTOR_SHARE = 0.5  # chosen: a vector peak in fp16 below half of fp32's is one that libraries avoid


@dataclass(frozen=True, kw_only=True)
class SheetFigures:
    """Peaks in FLOP/s, bandwidth in bytes/s; `matrix` is None where products run on the vector units too.

    `family` is what efficiencies are learned with, `units` how many multiprocessors, compute units or cores compute.
    `headroom` is the logarithm of how many times the clock that a desktop card reaches exceeds the boost clock on its
    sheet, which is an average that NVIDIA promises. `strain` is that of how many times the power that the reached clock
    needs exceeds what the device may take, as that of its family's desktop cards: it cannot keep that clock.
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
    """Power grows with lanes and with the cube of the clock, as a higher clock needs a higher voltage."""
    alike = [other for other in sheets() if _process(other) == _process(sheet)]
    desktop = [other for other in alike if _desktop(other)]
    each = [need for other in (desktop if len(desktop) >= _FEW else alike) if (need := _power_need(other))]
    own = _power_need(sheet)
    return max(0.0, log(own / median(each))) if own and len(each) >= _FEW else 0.0


def _power_need(sheet: Sheet) -> float | None:
    """Lanes times the cube of the reached clock, by watt."""
    clock = _own_clock(sheet)
    if not sheet.power_w or not sheet.lanes or not clock:
        return None
    return sheet.lanes * (clock * exp(_headroom(sheet)) / 1e9) ** 3 / sheet.power_w


def _headroom(sheet: Sheet) -> float:
    clocks = [other.clock_hz for other in sheets() if _process(other) == _process(sheet) and _desktop(other)]
    known = [clock for clock in clocks if clock]
    return max(0.0, log(max(known) / sheet.clock_hz)) if sheet.clock_hz and known and _desktop(sheet) else 0.0


def _own_clock(sheet: Sheet) -> float | None:
    """The clock on the sheet, else that at which its lanes reach its peak."""
    peak = sheet.peak("fp32")
    return sheet.clock_hz or (peak / 2 / sheet.lanes if peak and sheet.lanes else None)


def _process(sheet: Sheet) -> str:
    return _PROCESSES.get(sheet.generation, family_of(sheet))


def _desktop(sheet: Sheet) -> bool:
    """Whether it raises its clock as far as power allows; data centres' cards stop at that of their sheet."""
    return "nvidia" in sheet.slug and ("-geforce-" in sheet.slug or "-titan-" in sheet.slug)


def _no_peak(sheet: Sheet, precision: Precision) -> LatteError:
    return LatteError(
        f"the data sheet of `{sheet.slug}` states no peak in {precision}",
        hint=f"`--precision {Precision.FP32}`, or a device that computes in {precision}",
        exit_code=ExitCode.USAGE,
    )
