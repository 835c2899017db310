"""`latte compare`, and the ranking of `latte estimate`: models, devices, batches and prices side by side."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_rows import DEVICE, SETTINGS, measurement, seconds, step_layers, tasks, write
from running import Ended, here
from schemas import valid

from latte_cli.backends.contract import Conditions
from latte_cli.devices import CUDA
from latte_cli.layers import Optimizer
from latte_cli.network import load
from latte_cli.network.zoo import export
from latte_cli.optimizers import measured_name
from latte_cli.store import open_store
from latte_cli.tasks import Task

CPU = replace(DEVICE, memory_bytes=2**34)
GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA, memory_bytes=2**34)
POWER_W = 200.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LeNet under two names, a custom CNN, and a store in which a GPU is three times as fast as a CPU."""
    folder = tmp_path_factory.mktemp("compare")
    store = open_store(str(folder / "store"), shipped=False)
    content = export("lenet")
    for name in ("lenet", "again"):
        (folder / f"{name}.onnx").write_bytes(content)
    (folder / "custom_cnn.onnx").write_bytes(export("custom_cnn"))
    layers = [
        layer
        for name, batches in (("lenet", (8, 16)), ("custom_cnn", (8,)))
        for batch in batches
        for layer in step_layers(load(folder / f"{name}.onnx", batch_size=batch))
    ]
    all_tasks = tasks(dict.fromkeys(layers))
    write(store, [measurement(task, device=CPU) for task in all_tasks])
    seen = Conditions(power_w=POWER_W)
    write(
        store,
        [
            measurement(on_gpu(task), device=GPU, time_s=seconds(task) / 3, before=seen, after=seen)
            for task in all_tasks
        ],
    )
    return folder


def on_gpu(task: Task) -> Task:
    """The same task as a GPU measures it."""
    layer = task.layer
    if isinstance(layer, Optimizer):
        layer = replace(layer, function=measured_name(layer.function, on_gpu=True))
    return replace(task, layer=layer, settings=replace(SETTINGS, threads=0))


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in the folder on its store."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATTE_STORE", str(place / "store"))

    def command(*words: object, code: int = 0) -> Ended:
        return here(*words, code=code)

    return command


ON_CPU = ("--device", CPU.slug, "--batch-size", "8")


def document(run: Any, *words: object, code: int = 0) -> Any:
    return valid(run("compare", *words, "--format", "json", code=code).stdout)


@pytest.fixture
def earlier(run: Any, place: Path) -> Any:
    """Writes what `latte estimate` says of LeNet, its step longer by a factor, to a file."""

    def make(name: str, factor: float = 1.0, *words: str) -> str:
        body = json.loads(run("estimate", "lenet.onnx", *ON_CPU, *words, "--format", "json").stdout)
        entry = body["estimates"][0]
        entry["totals"]["step_s"] *= factor
        entry["layers"][0]["time_s"] *= factor
        (place / name).write_text(json.dumps(body))
        return name

    return make


# What stands side by side


def test_two_models_stand_side_by_side_and_layer_by_layer(run: Any) -> None:
    done = run("compare", "lenet.onnx", "custom_cnn.onnx", *ON_CPU)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{CPU.slug}, fp32, latte"
    assert lines[1].split()[:2] == ["model", "step"]
    assert [line.split()[:2] for line in lines[2:4]] == [["A", "lenet"], ["B", "custom_cnn"]]
    assert f"from A to B: latte on {CPU.slug}" in done.stdout and "in A" in done.stdout
    assert "next: `latte estimate" in done.stderr


def test_models_that_share_few_layers_are_not_compared_by_layers(run: Any, earlier: Any, place: Path) -> None:
    body = json.loads((place / earlier("one.json")).read_text())
    for layer in body["estimates"][0]["layers"][:-2]:
        layer["name"] = f"other {layer['name']}"
    (place / "other.json").write_text(json.dumps(body))
    assert "from A to B" not in run("compare", "one.json", "other.json").stdout


def test_everything_is_combined(run: Any) -> None:
    body = document(run, "lenet.onnx", "--device", f"{CPU.slug},{GPU.slug}", "--batch-size", "8,16")
    assert body["apart"][:2] == ["device", "batch_size"]
    found = [(side["device"], side["batch_size"]) for side in body["sides"]]
    assert found == [(CPU.slug, 8), (CPU.slug, 16), (GPU.slug, 8), (GPU.slug, 16)]
    assert [side["side"] for side in body["sides"]] == ["A", "B", "C", "D"]
    assert {side["fits"] for side in body["sides"]} == {"yes"}
    assert body["training"] is None and body["sides"][0]["time_s"] is None


def test_a_side_is_what_an_estimate_says(run: Any) -> None:
    side = document(run, "lenet.onnx", "--device", CPU.slug, "--batch-size", "8,16")["sides"][1]
    words = ("--device", CPU.slug, "--batch-size", "16", "--format", "json")
    [entry] = json.loads(run("estimate", "lenet.onnx", *words).stdout)["estimates"]
    assert side["step_s"] == pytest.approx(entry["totals"]["step_s"])
    assert side["samples_per_s"] == pytest.approx(16 / entry["totals"]["step_s"])
    assert side["memory_bytes"] == entry["totals"]["memory_bytes"] < side["process_bytes"]
    assert side["libraries"] == entry["settings"]["library_versions"]


def test_strategies_precisions_and_the_largest_batch_are_sides(run: Any) -> None:
    body = document(run, "lenet.onnx", *ON_CPU, "--strategy", "latte,pytorch")
    assert [side["strategy"] for side in body["sides"]] == ["latte", "pytorch"]
    assert "unknown precision" in run("compare", "lenet.onnx", *ON_CPU, "--precision", "fp32,fp99", code=2).stderr
    most = ("--device", "reference", "--batch-size", "8,max:1GiB")
    sides = document(run, "lenet.onnx", *most)["sides"]
    assert sides[0]["batch_size"] == 8 < sides[1]["batch_size"]


def test_checkpoints_and_compiled_steps_are_sides(run: Any, earlier: Any, place: Path) -> None:
    plain, saving = earlier("one.json"), earlier("two.json", 1.0, "--checkpoint", "auto", "--memory-limit", "1GiB")
    body = document(run, plain, saving)
    assert body["apart"] == ["checkpoint", "memory_limit_bytes"]
    assert [side["checkpoint"] for side in body["sides"]] == ["none", "auto"]
    [entry] = json.loads((place / plain).read_text())["estimates"]
    told = {"eager_step_s": entry["totals"]["step_s"], "source": "measured", "batches": [8], "networks": 0}
    changed = json.loads((place / plain).read_text()) | {"estimates": [entry | {"compiled": told}]}
    (place / "compiled.json").write_text(json.dumps(changed))
    assert document(run, plain, "compiled.json")["apart"] == ["compiled"]
    lines = run("compare", plain, "compiled.json").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["compiled", "step"], ["A", "no"], ["B", "yes"]]


def test_a_model_is_compared_as_it_is_compiled_and_checkpointed(run: Any) -> None:
    both = ("lenet.onnx", "custom_cnn.onnx", *ON_CPU)
    assert "`--memory-limit" in run("compare", *both, "--checkpoint", "auto", code=2).stderr
    limits = ("--checkpoint", "auto", "--memory-limit", "1GiB", "--memory-limit", "2GiB")
    sides = document(run, "lenet.onnx", *ON_CPU, *limits)["sides"]
    assert [(side["checkpoint"], side["memory_limit_bytes"]) for side in sides] == [("auto", 2**30), ("auto", 2**31)]
    both = (*both, "--compile")
    assert "latte profile lenet.onnx --compile" in run("compare", *both, code=1).stderr
    assert "do not go together" in run("compare", *both, "--fits", "8GiB", code=2).stderr
    assert "`--checkpoint`" in run("compare", *both, "--checkpoint", "auto", code=2).stderr


def test_the_same_model_under_two_names_is_told_by_its_file(run: Any) -> None:
    body = document(run, "lenet.onnx", "again.onnx", *ON_CPU)
    assert body["apart"] == ["model"]
    body = document(run, "lenet.onnx", "lenet.onnx", *ON_CPU)
    assert body["apart"] == []


def test_documents_of_other_versions_are_told_by_them(run: Any, earlier: Any, place: Path) -> None:
    first, second = earlier("one.json"), earlier("two.json")
    body = json.loads((place / second).read_text())
    body["version"] = "9.9.9"
    body["estimates"][0]["settings"]["library_versions"]["torch"] = "9.0.0"
    (place / second).write_text(json.dumps(body))
    assert document(run, first, second)["apart"] == ["version", "libraries"]
    out = run("compare", first, second).stdout
    assert "9.9.9" in out and "torch 9.0.0" in out
    assert document(run, first, "again.onnx", *ON_CPU)["apart"][0] == "model"


def test_a_table_of_many_is_csv_too(run: Any) -> None:
    words = ("lenet.onnx", "--device", CPU.slug, "--batch-size", "8,16", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(run("compare", *words).stdout)))
    assert [(row["side"], row["batch_size"], row["cost"]) for row in rows] == [("A", "8", ""), ("B", "16", "")]
    assert rows[0]["libraries"] == "torch=2.13.0"


def test_markdown_is_a_comment(run: Any, earlier: Any) -> None:
    out = run("compare", earlier("one.json"), "custom_cnn.onnx", *ON_CPU, "--format", "markdown").stdout
    assert out.startswith("### Steps side by side\n\n| side | model |")
    assert "| A | <code>lenet</code> |" in out
    out = run("compare", earlier("one.json"), earlier("two.json", 2.0), "--format", "markdown").stdout
    assert "** from A to B: " in out


# Limits


def test_growth_beyond_the_first_file_ends_with_3(run: Any, earlier: Any) -> None:
    quick, same = earlier("quick.json", 0.5), earlier("same.json")
    gate = ("--max-regression", "5%")
    assert run("compare", same, "lenet.onnx", *ON_CPU, *gate).returncode == 0
    done = run("compare", quick, "lenet.onnx", *ON_CPU, *gate, code=3)
    assert "longer than in the baseline" in done.stderr
    [check] = document(run, quick, same, *gate, code=3)["checks"]
    assert (check["quantity"], check["passed"]) == ("regression", False)
    [pair] = document(run, quick, same, *gate, code=3)["comparisons"]
    assert (pair["before_side"], pair["after_side"]) == ("A", "B")
    out = run("compare", quick, same, *gate, "--annotate", "github", code=3)
    assert any(line.startswith("::error title=latte%3A quick.json same.json::") for line in out.stderr.splitlines())
    suite = ElementTree.fromstring(run("compare", quick, same, *gate, "--annotate", "junit", code=3).stdout)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")


def test_a_side_without_its_like_in_the_first_file_is_refused(run: Any, earlier: Any) -> None:
    done = run(
        "compare", earlier("one.json"), earlier("two.json", 1.0, "--loss", "mse"), "--max-regression", "5%", code=1
    )
    assert "its loss is `cross-entropy`, not `mse`" in done.stderr
    words = ("--device", CPU.slug, "--batch-size", "8,16", "--max-regression", "5%")
    assert run("compare", "lenet.onnx", "again.onnx", *words).returncode == 0


def test_steps_and_memory_can_be_limited(run: Any) -> None:
    words = ("compare", "lenet.onnx", "custom_cnn.onnx", *ON_CPU)
    assert "exceeds" in run(*words, "--fail-above", "0.01ms", code=3).stderr
    assert run(*words, "--fail-above", "memory=1GiB").returncode == 0
    assert "fits" in run(*words, "--fits", "1KiB", code=3).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lenet.onnx", *ON_CPU), "nothing to compare"),
        (("lenet.onnx", *ON_CPU, "--max-regression", "5%"), "needs a baseline"),
        (("lenet.onnx", *ON_CPU, "--annotate", "github"), "without a limit"),
        (("lenet.onnx", *ON_CPU, "--epochs", "3"), "`--epochs` means nothing without `--samples`"),
        (("lenet.onnx", *ON_CPU, "--prices", "p.yaml"), "without the length of a training"),
        (("lenet.onnx", *ON_CPU, "--fail-above", "epoch=1h"), "not trainings"),
        (("lenet.onnx", *ON_CPU, "--shape", "seq=1:0.5,2:0.5"), "one mean step"),
        (
            ("lenet.onnx", *ON_CPU, "--fail-above", "1h", "--annotate", "junit", "--format", "json"),
            "both write to stdout",
        ),
        (("lenet.onnx", "--device", CPU.slug, "--batch-size", ",".join(map(str, range(1, 300)))), "more than 256"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(run: Any, words: tuple[str, ...], said: str) -> None:
    done = run("compare", *words, code=2)
    assert said in done.stderr and done.stdout == ""


def test_options_of_models_mean_nothing_to_documents(run: Any, earlier: Any) -> None:
    pair = earlier("one.json"), earlier("two.json")
    assert "`--batch-size` says how models are estimated" in run("compare", *pair, "--batch-size", "8", code=2).stderr


def test_another_document_is_named(run: Any, place: Path) -> None:
    (place / "plan.json").write_text('{"schema": "latte.plan/1"}')
    assert "`latte.plan/1`" in run("compare", "plan.json", "lenet.onnx", *ON_CPU, code=1).stderr
    assert "No such file" in run("compare", "none.onnx", "lenet.onnx", *ON_CPU, code=1).stderr


# Which device trains best

TRAINING = ("--samples", "1.2M", "--epochs", "90")
RANK = ("estimate", "lenet.onnx", "--batch-size", "8", "--device", f"{CPU.slug},{GPU.slug}", *TRAINING)


def test_devices_are_ranked_by_the_time_of_a_training(run: Any) -> None:
    body = valid(run(*RANK, "--format", "json").stdout)
    first, second = body["ranking"]
    assert (first["side"], first["device"], second["device"]) == ("1", GPU.slug, CPU.slug)
    assert first["steps"] == 90 * 150_000
    assert first["time_s"] == pytest.approx(first["steps"] * first["step_s"])
    assert first["time_low_s"] < first["time_s"] < first["time_high_s"]
    assert first["fits"] == "yes"
    assert [entry["totals"]["round_s"] for entry in body["estimates"]] == [second["time_s"], first["time_s"]]
    lines = run(*RANK).stdout.splitlines()
    assert lines[1].split()[0] == "place"
    assert [line.split()[:2] for line in lines[2:4]] == [["1", GPU.slug], ["2", CPU.slug]]


def test_a_ranking_has_every_form(run: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(run(*RANK, "--format", "csv").stdout)))
    assert [row["device"] for row in rows] == [GPU.slug, CPU.slug]
    assert "| 1 | <code>made-up-gpu</code> |" in run(*RANK, "--format", "markdown").stdout
    assert "does not show `--samples`" in run(*RANK, "--format", "trace", code=2).stderr


def test_energy_is_measured_or_it_is_not_known(run: Any) -> None:
    first, second = valid(run(*RANK, "--format", "json").stdout)["ranking"]
    assert first["energy_source"] == "measured"
    assert first["energy_j"] == pytest.approx(POWER_W * first["time_s"])
    assert (second["energy_j"], second["energy_source"], second["cost"]) == (None, None, None)


def test_a_device_that_is_too_small_comes_last(run: Any) -> None:
    done = run(*RANK, "--fits", "1KiB", "--format", "json", code=3)
    assert {side["fits"] for side in valid(done.stdout)["ranking"]} == {"no"}


def prices(place: Path, text: str) -> tuple[str, str]:
    (place / "prices.yaml").write_text(text)
    return "--prices", "prices.yaml"


def test_prices_that_are_stated_make_costs(run: Any, place: Path) -> None:
    own = prices(
        place,
        "currency: EUR\ndevices:\n  made-up-gpu: {per_hour: 2, per_kwh: 0.5}\n"
        f"  {CPU.slug}: {{per_kwh: 1, power: 100W}}\n",
    )
    gpu, cpu = valid(run(*RANK, *own, "--format", "json").stdout)["ranking"]
    hours, kwh = gpu["time_s"] / 3600, gpu["energy_j"] / 3.6e6
    assert (gpu["cost"], gpu["currency"]) == (pytest.approx(2 * hours + 0.5 * kwh), "EUR")
    assert (cpu["energy_source"], cpu["energy_j"]) == ("stated", pytest.approx(100 * cpu["time_s"]))
    assert cpu["cost"] == pytest.approx(cpu["energy_j"] / 3.6e6)
    out = run(*RANK, *own).stdout
    assert "EUR" in out and "* energy by the power that the file of prices states" in out


def test_a_cost_that_is_not_known_is_said(run: Any, place: Path) -> None:
    done = run(*RANK, *prices(place, f"devices: {{{CPU.slug}: {{per_hour: 1, per_kwh: 1}}}}"), "--format", "json")
    assert [side["cost"] for side in valid(done.stdout)["ranking"]] == [None, None]
    assert f"states no price of `{GPU.slug}`" in done.stderr
    assert f"the energy of `{CPU.slug}` was not measured" in done.stderr


def test_prices_of_one_device_are_a_ranking_of_one(run: Any, place: Path) -> None:
    words = ("estimate", "lenet.onnx", *ON_CPU, "--samples", "50k")
    [side] = valid(
        run(*words, *prices(place, f"devices: {{{CPU.slug}: {{per_hour: 3600}}}}"), "--format", "json").stdout
    )["ranking"]
    assert side["cost"] == pytest.approx(side["time_s"])
    assert "ranking" not in valid(run(*words, "--format", "json").stdout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "holds no prices"),
        ("devices: [1]", "`devices`"),
        ("devices: {gpu: 3}", "`gpu` states no price"),
        ("devices: {gpu: {}}", "`gpu` states no price"),
        ("devices: {gpu: {per_hour: -1}}", "`-1` is not an amount"),
        ("devices: {gpu: {per_hour: 1 EUR}}", "`1 EUR` is not an amount"),
        ("devices: {gpu: {power: 300}}", "did you mean `300W`?"),
        ("devices: {gpu: {perhour: 3}}", "did you mean `per_hour`?"),
        ("devices: {made-up: {per_hour: 1}, gpu: {per_hour: 2}}", "`made-up` and `gpu` both mean `made-up-gpu`"),
        ("currency: EUR", "`devices` is missing"),
        ("{", "is not YAML"),
    ],
)
def test_prices_that_are_none_are_refused_by_their_place(run: Any, place: Path, text: str, said: str) -> None:
    done = run(*RANK, *prices(place, text), code=1)
    assert said in done.stderr and "prices.yaml" in done.stderr
    assert done.stdout == ""


def test_sides_of_a_training_are_ranked_and_keep_their_letters(run: Any) -> None:
    out = run("compare", "lenet.onnx", "--batch-size", "8", "--device", f"{CPU.slug},{GPU.slug}", *TRAINING).stdout
    assert [line.split()[:2] for line in out.splitlines()[2:4]] == [["B", GPU.slug], ["A", CPU.slug]]


@pytest.mark.parametrize("text", ["0", "1.5", "1.23456k", "-1", "1e6", "many", "1.2Mi", "9" * 40])
def test_other_numbers_of_samples_are_refused(run: Any, text: str) -> None:
    assert "is not a whole number" in run("estimate", "lenet.onnx", *ON_CPU, "--samples", text, code=2).stderr
