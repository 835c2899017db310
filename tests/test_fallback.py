"""What a profile does not know comes from the device's data sheet, moved by the rows and marked as such."""

import csv
import json
import warnings
from dataclasses import replace
from math import log
from pathlib import Path

import made_rows
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import here, latte

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.datasheets import sheet_named
from latte_cli.devices import CPU, CUDA, Device
from latte_cli.layers import Activation, Layer, Linear, Norm, Phase, Reduce
from latte_cli.lookup import Source, Timing
from latte_cli.sheet_model import SheetModel, measured_peaks_model, moved_model, shipped_fit
from latte_cli.store import open_store
from latte_cli.tasks import Settings, Task

H200 = sheet_named("nvidia-h200")
EPYC = sheet_named("amd-epyc-7763")
ROWS: tuple[Layer, ...] = (
    *(Linear(rows=rows, in_features=512, out_features=512) for rows in (64, 256, 1024)),
    *(Norm(shape=(16, 64, size, size), function="batch") for size in (8, 16, 32)),
    *(Activation(shape=(16, 64, size, size), function="relu") for size in (8, 16, 32)),
)
MEAN = Reduce(operation="mean", shape=(32, 256, 14, 14), axes=(2, 3))


class MeanAndTranspose(torch.nn.Module):
    """Convolutions, a transpose, and the mean over an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 32, 3, padding=1)
        self.classes = torch.nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images).relu().transpose(2, 3).contiguous()
        return self.classes(self.second(hidden).relu().mean((2, 3)))


class Recurrent(torch.nn.Module):
    """An embedding, an LSTM and a classifier: kinds that the shipped model of a CPU does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(100, 16)
        self.state = torch.nn.LSTM(16, 32, batch_first=True)
        self.classes = torch.nn.Linear(32, 10)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.classes(self.state(self.words(words))[0][:, -1])


def save(module: torch.nn.Module, given: torch.Tensor, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch, of the weights that an LSTM keeps flat
        torch.export.save(torch.export.export(module, (given,)), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("fallback")
    save(MeanAndTranspose(), torch.zeros(8, 3, 16, 16), found / "mean.pt2")
    save(Recurrent(), torch.zeros(4, 8, dtype=torch.int64), found / "lstm.pt2")
    return found


@pytest.fixture(autouse=True)
def _in_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LATTE_STORE", str(tmp_path / "store"))


# The model of a sheet, moved by rows


def task(layer: Layer, phase: Phase = Phase.FORWARD, threads: int = 0) -> Task:
    return Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=Settings(threads=threads))


def rows_at(factor: float, host_factor: float, device: Device, threads: int = 0) -> list[Timing]:
    """Timings of ROWS that are so many times those of the device's sheet."""
    sheet = H200 if device.kind == CUDA else EPYC
    assert sheet
    tasks = [task(layer, phase, threads) for layer in ROWS for phase in layer.phases]
    found = SheetModel(sheet).predict(tasks, device)
    return [
        replace(each, device_s=factor * each.device_s, host_s=host_factor * each.host_s, source=Source.MEASURED)
        for each in found.values()
    ]


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.7, 1.6), host_factor=st.floats(0.5, 3.0))
def test_rows_move_both_clocks_of_a_gpu(factor: float, host_factor: float) -> None:
    assert H200
    device = Device(slug="h", kind=CUDA, name="NVIDIA H200")
    plain = SheetModel(H200).predict([task(MEAN)], device)[task(MEAN)]
    moved = moved_model(H200, device, rows_at(factor, host_factor, device)).predict([task(MEAN)], device)[task(MEAN)]
    for found, before, wanted in (
        (moved.device_s, plain.device_s, factor),
        (moved.host_s, plain.host_s, host_factor),
    ):
        assert abs(log(found / before / wanted)) < 0.5 * abs(log(wanted)) + 1e-6  # a prior holds back some of it
    assert moved.low_s < plain.device_s * factor < moved.high_s
    assert moved.source is Source.DATA_SHEET


def test_a_cpu_whose_rows_are_far_from_its_sheet_is_followed() -> None:
    assert EPYC
    device, wanted = Device(slug="c", kind=CPU, name="AMD EPYC 7763"), task(MEAN, threads=2)
    plain = SheetModel(EPYC).predict([wanted], device)[wanted]
    moved = moved_model(EPYC, device, rows_at(3.0, 1.0, device, threads=2)).predict([wanted], device)[wanted]
    assert moved.device_s / plain.device_s == pytest.approx(3.0, rel=0.25)


def test_rows_that_disagree_leave_a_wider_interval() -> None:
    assert H200
    device = Device(slug="h", kind=CUDA, name="NVIDIA H200")
    rows = rows_at(1.0, 1.0, device)
    apart = [replace(each, device_s=each.device_s * (4.0 if each.task.layer.kind == "norm" else 0.5)) for each in rows]
    widths = []
    for each in (rows, apart):
        found = moved_model(H200, device, each).predict([task(MEAN)], device)[task(MEAN)]
        widths.append(log(found.high_s / found.low_s))
    assert widths[1] > 1.5 * widths[0] > 1.5 * 2 * 1.96 * shipped_fit().layer_spread


def test_without_rows_it_is_the_sheet() -> None:
    assert H200
    device = Device(slug="h", kind=CUDA, name="NVIDIA H200")
    plain, moved = (
        model.predict([task(MEAN)], device)[task(MEAN)] for model in (SheetModel(H200), moved_model(H200, device, []))
    )
    assert moved.device_s == pytest.approx(plain.device_s)
    assert moved.high_s >= plain.high_s


def test_measured_peaks_do_where_there_is_no_sheet() -> None:
    rows = rows_at(1.0, 1.0, Device(slug="c", kind=CPU, name="AMD EPYC 7763"), threads=2)
    device, wanted = made_rows.DEVICE, task(MEAN, threads=2)
    found = measured_peaks_model(device, 2, rows)
    assert found
    timing = found.predict([wanted], device)[wanted]
    assert timing.source is Source.PREDICTED
    assert 0 < timing.low_s < timing.device_s < timing.high_s
    assert measured_peaks_model(replace(device, peak_flop_per_s=None), 2, rows) is None


# The command line


def sources(document: str) -> dict[str, set[str]]:
    """Where the times of each kind of layer come from."""
    found: dict[str, set[str]] = {}
    for layer in json.loads(document)["estimates"][0]["layers"]:
        if layer["time_s"]:
            found.setdefault(layer["kind"], set()).add(layer["source"])
    return found


def test_a_shipped_profile_falls_back_on_its_sheet_for_kinds_that_it_lacks() -> None:
    asked = ("estimate", "mean.pt2", "--device", "nvidia-h200")
    found = sources(here(*asked, "--format", "json").stdout)
    assert {kind for kind, its in found.items() if "data sheet" in its} == {"copy", "reduce"}
    assert "predicted" in found["convolution"] | found["linear"]
    shown = here(*asked)
    assert "^ from its data sheet" in shown.stdout
    assert "of the step is from the device's data sheet" in shown.stderr


def test_an_estimator_that_replaces_rows_has_no_fallback() -> None:
    said = here("estimate", "mean.pt2", "--device", "nvidia-h200", "--estimator", "roofline", code=1).stderr
    assert "has no measurements that tell the time of" in said


def test_without_a_sheet_what_is_missing_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), shipped=False)
    made_rows.profile(store, made_rows.step_layers(made_rows.network()))
    said = here("estimate", "lstm.pt2", "--device", made_rows.DEVICE.slug, code=1).stderr
    assert f"`{made_rows.DEVICE.slug}` has no measurements that tell the time of" in said
    assert "lstm" in said or "embedding" in said


FLEET = """
round_duration: {duration}
classes:
  - class: known
    device: nvidia-h200
    samples: 8000
    batch: 8
    bandwidth: {{up: 1Gbit, down: 1Gbit}}
  - class: bought
    device: {device}
    samples: 8000
    batch: 8
    bandwidth: {{up: 1Gbit, down: 1Gbit}}
"""


def allocated(folder: Path, *more: str, duration: str = "1h", device: str = "nvidia-geforce-rtx-4090") -> str:
    (folder / "fleet.yaml").write_text(FLEET.format(duration=duration, device=device), "utf-8")
    return here("allocate", "mean.pt2", "--fleet", "fleet.yaml", *more).stdout


def test_a_fleet_names_a_device_by_its_sheet_and_the_plan_marks_it(tmp_path: Path, folder: Path) -> None:
    plan = json.loads(allocated(folder, "--format", "json"))
    known, bought = plan["devices"]
    assert 0 < known["sheet_share"] < 0.5 < bought["sheet_share"] == 1.0
    assert bought["device"] == "nvidia-geforce-rtx-4090"
    shown = allocated(folder, "-o", str(tmp_path / "plan.json"))
    assert "^ by a data sheet" in shown
    assert "bought: nvidia-geforce-rtx-4090, fp32 nchw, 100.0 % of a step by its data sheet" in shown
    assert "^ by a data sheet" in here("plan", "show", tmp_path / "plan.json").stdout
    here("plan", "check", tmp_path / "plan.json", "mean.pt2")
    assert allocated(folder, "--format", "csv").splitlines()[0].endswith(",sheet_share")


def test_a_wide_interval_makes_the_allocation_careful(folder: Path) -> None:
    """A round as long as the whole model is expected to take is too short for a device of which little is known."""
    asked = ("--format", "json")
    bought = json.loads(allocated(folder, *asked, device="raspberry-pi-5"))["devices"][1]
    assert bought["sub_model"] == "w1"
    assert bought["high_s"] > 1.25 * bought["round_s"]
    duration = f"{bought['round_s'] * 1.05:.6f}s"
    shorter = json.loads(allocated(folder, *asked, device="raspberry-pi-5", duration=duration))
    found = shorter["devices"][1]
    assert found["sub_model"] != "w1"
    assert found["high_s"] <= shorter["round_duration_s"]


@pytest.mark.parametrize("more", [("--fine",), ("--curve",)])
def test_every_way_to_plan_takes_such_a_fleet(folder: Path, more: tuple[str, ...]) -> None:
    assert "data sheet" in allocated(folder, *more) or more == ("--curve",)


def test_many_devices_of_such_a_class_are_marked(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "devices.csv").write_text("device,class\na,known\nb,bought\n", "utf-8")
    entries = json.loads(allocated(folder, "--devices", str(tmp_path / "devices.csv"), "--format", "json"))["classes"]
    assert {each["class"]: each["sheet_share"] > 0.5 for each in entries} == {"known": False, "bought": True}
    assert "^ by a data sheet" in allocated(folder, "--devices", str(tmp_path / "devices.csv"))


# This machine, measured for a moment


def test_kinds_that_no_model_knows_are_priced_after_a_moments_measuring() -> None:
    done = latte("estimate", "lstm.pt2", "--measure", "1ms", "--format", "json")
    found = sources(done.stdout)
    assert json.loads(done.stdout)["estimates"][0]["missing"] == []
    assert found["embedding"] | found["recurrent"] <= {"measured", "data sheet", "predicted"}


# Which device, on a page and in a table of numbers


def test_a_ranking_is_on_the_page_and_in_csv_too(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("devices: {nvidia-h200: {per_hour: 3.5}, rtx-4090: {per_hour: 0.5}}", "utf-8")
    devices = ("--device", "nvidia-h200,nvidia-geforce-rtx-4090,raspberry-pi-5")
    training = ("--samples", "1.2M", "--epochs", 3, "--prices", tmp_path / "prices.yaml")
    rows = list(
        csv.DictReader(here("estimate", "mean.pt2", *devices, *training, "--format", "csv").stdout.splitlines())
    )
    assert [row["side"] for row in rows] == ["1", "2", "3"]
    times = [float(row["time_s"]) for row in rows]
    assert times == sorted(times)
    assert rows[-1]["device"] == "raspberry-pi-5"

    done = here("report", "mean.pt2", "-o", tmp_path / "page.html", *devices, *training)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.index("Which device") < page.index("raspberry-pi-5")
    ranking = page[page.index('id="ranking"') :]
    places = [ranking.index(row["device"]) for row in rows]
    assert places == sorted(places)
    assert "states no price of `raspberry-pi-5`" in done.stderr
    assert 'id="ranking"' not in _page(tmp_path / "plain.html", *devices)


def _page(path: Path, *more: object) -> str:
    here("report", "mean.pt2", "-o", path, *more)
    return path.read_text("utf-8")


def test_a_length_of_training_needs_a_model_and_prices_a_length(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = here("report", "-o", page, "--device", "nvidia-h200", "--samples", 10, code=2).stderr
    assert "`--samples` means nothing without a model" in said
    (tmp_path / "prices.yaml").write_text("devices: {h200: {per_hour: 1}}", "utf-8")
    said = here("report", "mean.pt2", "-o", page, "--prices", tmp_path / "prices.yaml", code=2).stderr
    assert "without the length of a training" in said
