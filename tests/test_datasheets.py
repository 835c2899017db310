"""The table of data sheets: every figure has a document, and could be true."""

import csv
import io
import json
from pathlib import Path

import pytest
from running import here, latte

from latte_cli.datasheets import FIGURES, Sheet, find_sheets, sheet_named, sheets
from latte_cli.errors import LatteError
from latte_cli.network.zoo import export
from latte_cli.profiles import known_devices, resolve_profile, sheet_of
from latte_cli.store import open_store

LIMITS = {
    "bandwidth_bytes_per_s": (10e9, 10e12),
    "memory_bytes": (2e9, 1e12),
    "cache_bytes": (2**18, 2**30),
    "power_w": (5, 1500),
    "clock_hz": (0.5e9, 4e9),
    "units": (1, 512),
    "lanes": (16, 30_000),
}
"""What figures of devices of these years can be."""

by_slug = pytest.mark.parametrize("sheet", sheets(), ids=lambda sheet: sheet.slug)


def test_there_are_many_devices_and_each_once() -> None:
    slugs = [sheet.slug for sheet in sheets()]
    assert len(slugs) == len(set(slugs)) >= 40
    assert {sheet.kind.name for sheet in sheets()} == {"cuda", "rocm", "mps", "xpu", "cpu"}


@by_slug
def test_every_figure_has_a_document_of_its_vendor(sheet: Sheet) -> None:
    documents = dict(sheet.documents)
    stated = {"units", "lanes", "cache_bytes"} & {name for name in LIMITS if getattr(sheet, name, None) is not None}
    assert {name.replace("cache_bytes", "cache_mb") for name in stated} <= documents.keys() <= set(FIGURES)
    assert all(document.url.startswith("https://") and document.title for document in documents.values())


@by_slug
def test_figures_are_plausible(sheet: Sheet) -> None:
    assert 2014 <= sheet.year <= 2026
    for name, (low, high) in LIMITS.items():
        value = getattr(sheet, name)
        assert value is None or low <= value <= high, name
    assert 0.1e12 <= (sheet.peak("fp32") or 0) <= 200e12 or sheet.slug == "raspberry-pi-4"


@by_slug
def test_peaks_agree_with_lanes_and_clock(sheet: Sheet) -> None:
    """Two operations a lane and cycle, four where a lane computes two at once."""
    stated = dict(sheet.peaks_flop_per_s).get("fp32")
    if stated and sheet.lanes and sheet.clock_hz:
        computed = 2 * sheet.lanes * sheet.clock_hz
        assert min(abs(stated / computed - 1), abs(stated / (2 * computed) - 1)) < 0.05


@by_slug
def test_fewer_bits_are_no_slower(sheet: Sheet) -> None:
    peaks = dict(sheet.peaks_flop_per_s) | {"fp32": sheet.peak("fp32") or 0.0}
    order = ("fp64", "fp32", "tf32_matrix", "fp16_matrix")
    known = [peaks[name] for name in order if name in peaks]
    assert known == sorted(known)


def test_names_are_found_by_their_words() -> None:
    assert [sheet.slug for sheet in find_sheets("RTX 2080")] == ["nvidia-geforce-rtx-2080"]
    assert [sheet.slug for sheet in find_sheets("mi300x")] == ["amd-instinct-mi300x"]
    assert len(find_sheets("a100")) == 4
    assert not find_sheets("2")


def test_a_profile_goes_before_a_sheet_of_the_same_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert sheet_named("nvidia-h200")
    assert resolve_profile(store, "nvidia-h200") == "nvidia-h200-reference"
    assert resolve_profile(store, "raspberry-pi-5") == "raspberry-pi-5"
    assert sheet_of(store, "nvidia-h200-reference") is None
    with pytest.raises(LatteError) as caught:
        resolve_profile(store, "nvidia-geforce-rtx-3091")
    assert "`nvidia-geforce-rtx-3090`" in (caught.value.hint or "")
    with pytest.raises(LatteError) as caught:
        resolve_profile(store, "v100")
    assert "nvidia-tesla-v100-sxm2-32gb" in (caught.value.hint or "")


def test_all_devices_are_listed_in_every_format(tmp_path: Path) -> None:
    table, as_json, as_csv = (here("devices", "--format", form) for form in ("table", "json", "csv"))
    names = [each.device.slug for each in known_devices(open_store(str(tmp_path)))]
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == names
    document = json.loads(as_json.stdout)
    assert [each["device"] for each in document["devices"]] == names
    assert [row["device"] for row in csv.DictReader(io.StringIO(as_csv.stdout))] == names
    assert {each["origin"] for each in document["devices"]} == {"shipped", "data sheet"}
    assert "next: `latte estimate" in table.stderr
    assert here("devices", "rtx 40", "--format", "csv").stdout.count("rtx-40") == 4


def test_an_estimate_is_marked_as_from_the_sheet(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(export("resnet18", batch_size=8))
    asked = ("estimate", str(tmp_path / "net.onnx"), "--device", "nvidia-a100-sxm4-40gb")
    found = json.loads(latte(*asked, "--format", "json").stdout)["estimates"][0]
    assert {layer["source"] for layer in found["layers"] if layer["time_s"]} == {"data sheet"}
    totals = found["totals"]
    assert totals["step_low_s"] < totals["step_low_80_s"] < totals["step_s"] < totals["step_high_s"]
    assert [warning["code"] for warning in found["warnings"]] == ["data_sheet"]
    shown = latte(*asked)
    assert "^ from its data sheet" in shown.stdout
    refused = latte(*asked, "--estimator", "roofline", code=2)
    assert "data sheet" in refused.stderr
