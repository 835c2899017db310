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


BUSES = {
    64: "jetson-nano",
    128: "gtx-1650 a2 rtx-4060 rtx-4060-ti-8gb rtx-5060-ti-16gb jetson-tx2 jetson-xavier-nx jetson-orin-nano-8gb "
    "jetson-orin-nx-16gb rx-6600 rx-7600",
    192: "gtx-1060-6gb gtx-1660-ti rtx-2060 rtx-3060 rtx-4070 rtx-4070-super rtx-4070-ti l4 rtx-5070 rx-6700-xt b580",
    256: "gtx-1070 gtx-1080 tesla-p4 rtx-2070 rtx-2080 rtx-2070-super rtx-2080-super tesla-t4 rtx-a4000 rtx-3070 "
    "rtx-3060-ti rtx-3070-ti rtx-4080 rtx-4080-super rtx-5070-ti rtx-5080 jetson-agx-xavier jetson-agx-orin-64gb "
    "rx-5700-xt rx-6800-xt rx-6900-xt rx-7800-xt rx-9070-xt a750 a770-16gb",
    320: "rtx-3080 rx-7900-xt",
    352: "gtx-1080-ti rtx-2080-ti",
    384: "gtx-titan-x tesla-m40 titan-x-pascal titan-xp tesla-p40 titan-rtx quadro-rtx-6000 quadro-rtx-8000 a10 a40 "
    "rtx-a6000 rtx-a5000 rtx-3090 rtx-3080-ti rtx-3090-ti rtx-4090 l40s rtx-6000-ada l40 rx-7900-xtx",
    512: "rtx-pro-6000-blackwell rtx-5090",
    2048: "mi25 vega-frontier-edition vega-64",
    3072: "titan-v a30",
    4096: "tesla-p100-pcie-16gb tesla-p100-sxm2-16gb tesla-v100-pcie-16gb tesla-v100-sxm2-16gb tesla-v100-sxm2-32gb "
    "mi50 mi60 mi100 mi210 mi250x-die",
    5120: "a100-sxm4-40gb a100-sxm4-80gb a100-pcie-40gb a100-80gb-pcie h100-80gb-hbm3 h100-pcie",
    6016: "h100-nvl",
    6144: "h200",
    8192: "mi300a mi300x",
}
"""Bits of a memory's bus, by its pages at TechPowerUp and by its stacks of HBM."""

RATES = (
    *(1.406, 1.43, 1.7, 1.758, 1.89, 2.0, 2.4, 2.43, 3.024, 3.125, 3.19, 3.2, 5.2, 5.24, 5.9, 6.25),
    *(3.73, 4.25, 4.266, 6.4),
    *(6.0, 7.0, 7.2, 8.0, 10.0, 11.0, 11.4),
    *(10.0, 12.0, 12.5, 14.0, 14.5, 15.0, 15.5, 16.0, 17.0, 17.5, 18.0, 19.5, 20.0),
    *(19.0, 19.5, 21.0, 22.4, 23.0, 28.0, 30.0),
)
"""Gbit/s a pin at which memories were sold: HBM, LPDDR, GDDR5 and 5X, GDDR6, GDDR6X and 7."""


def test_bandwidths_are_that_of_a_bus_and_a_rate() -> None:
    without = {sheet.slug for sheet in sheets() if sheet.kind.queued and sheet.kind.name != "mps"}
    for bits, names in BUSES.items():
        for name in names.split():
            sheet = next(sheet for sheet in sheets() if sheet.slug.endswith(f"-{name}"))
            rate = sheet.bandwidth_bytes_per_s * 8 / bits / 1e9
            assert min(abs(rate / known - 1) for known in RATES) < 0.006, (name, rate)
            without.remove(sheet.slug)
    assert without == {"nvidia-b200", "amd-instinct-mi325x"}  # whose makers round


UNIT_LANES = {
    "maxwell": 128,
    "pascal": 128,
    "volta": 64,
    "turing": 64,
    "ampere": 128,
    "ada": 128,
    "hopper": 128,
    "blackwell": 128,
    "xe-hpg": 128,
    "xe2": 128,
}
"""Lanes of a unit; 64 of all of AMD's."""

TENSOR_RATES = {"volta": 1024, "turing": 1024, "ampere": 1024, "ada": 1024, "hopper": 4096, "blackwell": 1024}
"""Operations of a multiprocessor's tensor cores a cycle in fp16, dense, adding up in fp32, by the whitepapers.

GeForce cards have half of it, GA100 twice, and Hopper's tensor cores a lower clock.
"""


@by_slug
def test_lanes_are_a_multiple_of_the_units(sheet: Sheet) -> None:
    if sheet.kind.queued and sheet.lanes and sheet.units:
        data_centre = "-p100-" in sheet.slug or "-a100-" in sheet.slug or sheet.slug == "nvidia-a30"
        assert sheet.lanes == sheet.units * (64 if data_centre else UNIT_LANES.get(sheet.generation, 64))


@by_slug
def test_tensor_peaks_are_dense(sheet: Sheet) -> None:
    """Sheets print twice the rate in large letters, for matrices with half their numbers zero."""
    peaks = dict(sheet.peaks_flop_per_s)
    half, wide = peaks.get("fp16_matrix"), peaks.get("tf32_matrix")
    if half and wide:
        assert wide / half == pytest.approx(1 / 2, rel=0.03)
    if half and "bf16_matrix" in peaks:
        assert peaks["bf16_matrix"] / half in (pytest.approx(1.0), pytest.approx(0.5))
    if half and sheet.kind.name == "cuda" and sheet.units and sheet.clock_hz:
        rate = TENSOR_RATES[sheet.generation] / (2 if "-geforce-" in sheet.slug else 1)
        rate *= 2 if "-a100-" in sheet.slug or sheet.slug == "nvidia-a30" else 1
        assert half / (rate * sheet.units * sheet.clock_hz) == pytest.approx(1.0, abs=0.08)


@by_slug
def test_vector_peaks_are_simple_shares_of_that_in_fp32(sheet: Sheet) -> None:
    own = sheet.peak("fp32") or 1.0
    peaks = dict(sheet.peaks_flop_per_s)
    for name, shares in (("fp64", (1 / 32, 1 / 16, 1 / 2, 1)), ("fp16", (1, 2, 4)), ("bf16", (1, 2))):
        if name in peaks:
            assert min(abs(peaks[name] / own / share - 1) for share in shares) < 0.03, name


def test_most_sheets_were_compared_with_a_page() -> None:
    compared = [sheet for sheet in sheets() if sheet.compared_with]
    assert all((sheet.compared_with or "").startswith("https://") for sheet in compared)
    text = (Path(__file__).parents[1] / "docs/datasheets.md").read_text()
    assert f"{len(compared)} of {len(sheets())} sheets" in " ".join(text.split())


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
    assert here("devices", "rtx 4090", "--format", "csv").stdout.count("rtx-4090") == 1


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
