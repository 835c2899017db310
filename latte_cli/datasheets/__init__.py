"""Data sheets: what vendors state of devices, each figure with its document."""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pkgutil import get_data

from latte_cli.devices import Device, Kind, kind_named

__all__ = ["FIGURES", "VendorDocument", "Sheet", "find_sheets", "sheet_named", "sheets", "slug_words"]

_TERA, _GIGA, _MEGA = 1e12, 1e9, 1e6  # SI, as vendors' bytes are too

_PEAKS = {
    "fp64_tflops": "fp64",
    "fp32_tflops": "fp32",
    "fp16_tflops": "fp16",
    "bf16_tflops": "bf16",
    "tf32_matrix_tflops": "tf32_matrix",
    "fp16_matrix_tflops": "fp16_matrix",
    "bf16_matrix_tflops": "bf16_matrix",
}
"""The columns of peaks, and their names in `Sheet.peaks_flop_per_s`."""

FIGURES = ("year", "units", "lanes", "clock_mhz", *_PEAKS, "memory_gb", "bandwidth_gb_s", "cache_mb", "power_w")
"""The columns that hold figures of a document."""


@dataclass(frozen=True, kw_only=True)
class VendorDocument:
    """A vendor's document."""

    name: str
    vendor: str
    title: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What documents state of one device; None where they do not.

    `units` are multiprocessors, compute units, GPU cores or cores; `lanes` are 32-bit multiply-adds a cycle of them
    all; `clock_hz` is a GPU's boost clock and a CPU's base clock. `peaks_flop_per_s` are by precision, with `_matrix`
    behind it for tensor cores and the like, without sparsity, adding up in fp32. `cache_bytes` is the last level.
    `documents` names the document of each figure. `compared_with` is the address of the page that the figures were
    compared with; None where nobody did.
    """

    slug: str
    name: str
    kind: Kind
    generation: str
    year: int
    units: int | None
    lanes: int | None
    clock_hz: float | None
    peaks_flop_per_s: tuple[tuple[str, float], ...]
    memory_bytes: int | None
    bandwidth_bytes_per_s: float
    cache_bytes: int | None
    power_w: float | None
    documents: tuple[tuple[str, VendorDocument], ...]
    compared_with: str | None = None

    def peak(self, name: str) -> float | None:
        """A peak by name; in fp32 two operations a lane and cycle where no document states it."""
        stated = dict(self.peaks_flop_per_s).get(name)
        if stated is None and name == "fp32" and self.lanes and self.clock_hz:
            return 2.0 * self.lanes * self.clock_hz
        return stated

    @property
    def shared_memory(self) -> bool:
        """Whether it is a GPU that uses the host's memory, as a Jetson's does."""
        return self.kind.queued and (not self.kind.own_memory or "jetson" in self.slug)

    @property
    def device(self) -> Device:
        """The device as estimates know it."""
        return Device(
            slug=self.slug,
            kind=self.kind,
            name=self.name,
            memory_bytes=self.memory_bytes,
            rated_bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            multiprocessors=self.units,
            cache_bytes=self.cache_bytes,
            sm_clock_hz=self.clock_hz,
            shared_memory=self.shared_memory,
        )


@lru_cache
def sheets() -> tuple[Sheet, ...]:
    """All data sheets, in the order of the table."""
    documents = {row["document"]: _document(row) for row in _rows("documents.csv")}
    return tuple(_sheet(row, documents) for row in _rows("devices.csv"))


def sheet_named(slug: str) -> Sheet | None:
    """The data sheet of the device that has this very slug."""
    return next((sheet for sheet in sheets() if sheet.slug == slug), None)


def find_sheets(name: str) -> list[Sheet]:
    """The data sheets that a name means: the very slug, else those with its words in a row, in any case.

    `rtx 4090` and `RTX-4090` mean the same. Of sheets that have the words those that end with them go first:
    `rtx-2080` is not `rtx-2080-ti`.
    """
    words = slug_words(name)
    same = [sheet for sheet in sheets() if sheet.slug == words]
    if same or not words or words.isdecimal():
        return same
    found = [sheet for sheet in sheets() if f"-{words}-" in f"-{sheet.slug}-"]
    return [sheet for sheet in found if sheet.slug.endswith(words)] or found


def slug_words(name: str) -> str:
    """Words of a device's name as a slug has them: `RTX 4090` as `rtx-4090`."""
    return "-".join(name.lower().replace("_", "-").split())


def _rows(name: str) -> list[dict[str, str]]:
    content = get_data(__name__, name) or b""
    return list(csv.DictReader(content.decode().splitlines()))


def _document(row: dict[str, str]) -> VendorDocument:
    return VendorDocument(name=row["document"], vendor=row["vendor"], title=row["title"], url=row["url"])


def _sheet(row: dict[str, str], documents: dict[str, VendorDocument]) -> Sheet:
    peaks = ((name, _TERA * float(row[column])) for column, name in _PEAKS.items() if row[column])
    memory, cache, clock = (_number(row[column]) for column in ("memory_gb", "cache_mb", "clock_mhz"))
    return Sheet(
        slug=row["device"],
        name=row["name"],
        kind=kind_named(row["kind"]),
        generation=row["generation"],
        year=int(row["year"]),
        units=int(row["units"]) if row["units"] else None,
        lanes=int(row["lanes"]) if row["lanes"] else None,
        clock_hz=_MEGA * clock if clock else None,
        peaks_flop_per_s=tuple(peaks),
        memory_bytes=round(2**30 * memory) if memory else None,
        bandwidth_bytes_per_s=_GIGA * float(row["bandwidth_gb_s"]),
        cache_bytes=round(2**20 * cache) if cache else None,
        power_w=_number(row["power_w"]),
        documents=tuple(_documents_of(row, documents)),
        compared_with=row["compared_with"] or None,
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _documents_of(row: dict[str, str], documents: dict[str, VendorDocument]) -> list[tuple[str, VendorDocument]]:
    """The first document of a row is that of all figures, but for those that others are named for."""
    first, *others = row["documents"].split("; ")
    own = {figure: name for name, _, figures in (each.partition(": ") for each in others) for figure in figures.split()}
    return [(figure, documents[own.get(figure, first)]) for figure in FIGURES if row[figure]]
