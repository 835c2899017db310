"""The table of layers on a screen: as many as fit, equal ones together, the heaviest first, and nothing lost."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_rows import DEVICE, GEMM, measurement, profile, step_layers, tasks, write
from rich.cells import cell_len
from running import ended
from terminal import on_terminal
from torch import nn

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.estimator import BESIDE, Estimate, Estimator
from latte_cli.network import load, zoo
from latte_cli.report.estimate_tables import estimate_table
from latte_cli.report.layer_rows import common_name, fold_equal, heaviest_rows, shown_rows
from latte_cli.report.screens import bar
from latte_cli.schedule import Schedule
from latte_cli.store import Store, open_store

GOLDEN = Path(__file__).parent / "golden" / "estimate-screen.txt"


class Former(nn.Module):
    """A transformer of twelve layers: over 400 calls."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screens")
    (path / "resnet18.onnx").write_bytes(zoo.export("resnet18"))
    (path / "lenet.onnx").write_bytes(zoo.export("lenet"))
    torch.export.save(torch.export.export(Former(), (torch.randn(2, 16, 32),)), path / "former.pt2")
    return path


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    store = open_store(str(folder / "store"), shipped=False)
    for name, batch in (("resnet18.onnx", 8), ("lenet.onnx", 8), ("former.pt2", 2)):
        profile(store, step_layers(load(folder / name, batch_size=batch)))
    return store


@pytest.fixture(scope="module")
def resnet(folder: Path, store: Store) -> Estimate:
    return Estimator(store, DEVICE.slug).estimate(load(folder / "resnet18.onnx", batch_size=8))


def test_threads_are_told_of_devices_that_have_some(resnet: Estimate) -> None:
    for threads, told in ((0, []), (1, ["1 thread"]), (2, ["2 threads"])):
        estimate = replace(resnet, settings=replace(resnet.settings, threads=threads))
        title = " ".join(estimate_table([estimate], Schedule(), None).title)
        assert re.findall(r"\d+ threads?", title) == told


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.0.b",), "a.0.b"),
        (("layer1.0.conv1", "layer1.1.conv2"), "layer1.*.conv*"),
        (("layer1.0.relu1", "layer1.0.relu"), "layer1.0.relu*"),
        (("blocks.10.fc", "blocks.11.fc"), "blocks.*.fc"),
        (("x.matmul10/linear", "x.matmul11/linear"), "x.matmul*/linear"),
        (("layer2.0.bn1", "layer2.0.downsample.1", "layer2.1.bn1"), "layer2.*"),
        (("/e/layers.0/Gemm", "/e/layers.1/Gemm_1"), "/e/layers.*/Gemm*"),
        (("Conv_1", "Conv_12"), "Conv_*"),
        (("a", "b.c"), "*"),
    ],
)
def test_what_names_share_is_shown_with_stars(names: tuple[str, ...], expected: str) -> None:
    assert common_name(names) == expected


def test_equal_layers_of_a_module_are_one_line_and_their_sum(resnet: Estimate) -> None:
    rows = shown_rows([resnet], room=None, every=False).rows
    equal = fold_equal(rows)
    names = [row.title(80) for row in equal]
    assert "layer1.*.conv* x 4" in names
    assert len(names) == len(set(names))
    assert sum(row.count for row in equal) == len(rows)
    assert sum(row.times_s[0] for row in equal) == pytest.approx(sum(row.times_s[0] for row in rows))
    one = next(row for row in rows if row.name == "layer1.0.conv1")
    four = next(row for row in equal if row.title(80) == "layer1.*.conv* x 4")
    assert four.times_s[0] == pytest.approx(4 * one.times_s[0])
    assert {row.name for row in rows} & {*BESIDE} == {row.name for row in equal} & {*BESIDE}


def test_the_heaviest_come_first_and_the_rest_is_summed(resnet: Estimate) -> None:
    rows = shown_rows([resnet], room=None, every=False).rows
    found = heaviest_rows(rows, 10)
    times = [row.times_s[0] for row in found[:-1]]
    assert len(found) == 11
    assert times == sorted(times, reverse=True)
    assert found[-1].title(80) == f"{len(rows) - 10} more layers"
    assert sum(row.times_s[0] for row in found) == pytest.approx(sum(row.times_s[0] for row in rows))
    assert heaviest_rows(rows[:3], 10) == sorted(rows[:3], key=lambda row: -row.times_s[0])


@pytest.mark.parametrize("room", [-5, 0, 5, 6, 7, 10, 11, 12, 20, 30, 40, 50, 60, 69, 70, 71, 72, None])
def test_no_screen_loses_a_layer_or_time(resnet: Estimate, room: int | None) -> None:
    shown = shown_rows([resnet], room=room, every=False)
    parts = resnet.parts
    assert shown.layers == len({part.name for part in parts})
    assert shown.free == 1
    assert sum(row.times_s[0] for row in shown.rows) == pytest.approx(sum(p.count * p.device_s for p in parts))
    assert room is None or len(shown.rows) <= max(room, 6)


def test_every_layer_has_a_line_where_all_are_wanted(resnet: Estimate) -> None:
    shown = shown_rows([resnet], room=3, every=True)
    assert [row.name for row in shown.rows] == list(dict.fromkeys(part.name for part in resnet.parts))
    assert not shown.cut


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(share, 8) for share in (0, 1 / 64, 0.5, 1, 2)] == ["", "▏", "████", "████████", "████████"]


# On a terminal


@pytest.mark.parametrize(("model", "batch"), [("resnet18.onnx", 8), ("former.pt2", 2), ("lenet.onnx", 8)])
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_an_estimate_fits_a_screen_with_its_totals(folder, store, model, batch, columns) -> None:
    words = ("--batch-size", batch, "--device", DEVICE.slug, "--store", store.uri)
    shown = on_terminal("estimate", folder / model, *words, columns=columns)
    assert shown.returncode == 0, shown.text
    assert len(shown.lines) < 24
    text = "\n".join(shown.lines)
    for start in ("step ", "forward ", "memory "):
        assert f"\n{start}" in text
    assert all(cell_len(line) <= columns for line in shown.text.splitlines() if not line.startswith("next:"))


def test_a_transformer_of_400_calls_shows_its_ten_heaviest_layers(folder: Path, store: Store) -> None:
    words = ("--batch-size", 2, "--device", DEVICE.slug, "--store", store.uri)
    lines = on_terminal("estimate", folder / "former.pt2", *words).lines
    rows = lines[4:14]
    assert sum(line.count("%") == 1 for line in rows) == 10
    assert any(" x 12 " in line for line in rows)
    assert "more layers" in lines[14]
    assert "without time" in lines[15] and "x equal layers together" in lines[15]
    every = on_terminal("estimate", folder / "former.pt2", *words, "--all").lines
    assert len(every) > 400
    assert "self_attn" in "".join(every)


def test_bars_stand_where_there_is_colour_alone(folder: Path, store: Store) -> None:
    words = ("estimate", folder / "lenet.onnx", "--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri)
    assert "█" in on_terminal(*words).text
    assert "█" not in on_terminal(*words, NO_COLOR="1").text
    assert "█" not in on_terminal(*words, TERM="dumb").text
    assert "█" not in ended(*words).stdout


def test_several_strategies_keep_their_totals_on_the_screen(folder: Path, store: Store) -> None:
    words = ("--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri, "--strategy", "pytorch,exhaustive")
    shown = on_terminal("estimate", folder / "resnet18.onnx", *words)
    assert len(shown.lines) <= 25
    assert "more layers" in shown.text
    assert shown.text.index("more layers") < shown.text.index("\nstep ")


def test_a_pipe_gets_every_layer_that_takes_time_under_its_whole_name(folder: Path, store: Store) -> None:
    words = ("estimate", folder / "former.pt2", "--batch-size", 2, "--device", DEVICE.slug, "--store", store.uri)
    out = ended(*words).stdout
    network = load(folder / "former.pt2", batch_size=2)
    firsts = [line.split()[0] for line in out.splitlines() if line]
    for node in network.nodes:
        assert firsts.count(node.name) == (not node.layer.free)
    assert "without time" in out and " x 12" not in out
    firsts = [line.split()[0] for line in ended(*words, "--all").stdout.splitlines() if line]
    for node in network.nodes:
        assert firsts.count(node.name) == 1


@pytest.mark.parametrize("form", ["csv", "json", "trace", "markdown"])
def test_all_is_refused_where_nothing_is_left_out_or_no_layers_are_listed(folder, store, form) -> None:
    words = ("estimate", folder / "lenet.onnx", "--device", DEVICE.slug, "--store", store.uri, "--all")
    code, out, err = ended(*words, "--format", form)
    assert (code, out) == (2, "")
    assert "`--all`" in err


@pytest.mark.parametrize(
    ("other_s", "line"),
    [
        (None, "all take the same algorithms: of each convolution one way only was measured"),
        (1.0, "all take the same algorithms"),
        (1e-9, None),
    ],
)
def test_equal_columns_are_explained(folder: Path, tmp_path: Path, other_s: float | None, line: str | None) -> None:
    store = open_store(str(tmp_path / "store"), shipped=False)
    found = tasks(step_layers(load(folder / "lenet.onnx", batch_size=8)))
    own = [measurement(task) for task in found if task.algorithm == FRAMEWORK_DEFAULT]
    write(store, own + [measurement(task, time_s=other_s) for task in found if other_s and task.algorithm == GEMM])
    words = ("estimate", folder / "lenet.onnx", "--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri)
    lines = ended(*words, "--strategy", "pytorch,exhaustive").stdout.splitlines()
    assert [each for each in lines if each.startswith("all take")] == ([line] if line else [])
    assert "all take" not in ended(*words).stdout


def test_the_screen_of_a_shipped_profile_is_the_expected(folder: Path) -> None:
    """`LATTE_GOLDEN=1` writes it anew; README shows a part of it."""
    words = ("estimate", folder / "resnet18.onnx", "--batch-size", 8, "--device", "reference")
    lines = [line.rstrip() for line in on_terminal(*words, "-q").text.splitlines()]
    text = "\n".join(line for line in lines if line and not line.startswith("warning")) + "\n"
    if os.environ.get("LATTE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")
