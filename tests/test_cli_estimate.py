import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import made_choices
import pytest
from made_rows import DEVICE, SETTINGS, measurement, profile, step_layers, tasks, write
from rich.cells import cell_len
from running import ended

from latte_cli import selector as selectors
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.host import cpu_slug
from latte_cli.layers import Phase
from latte_cli.network import load, zoo
from latte_cli.precisions import Layout
from latte_cli.report.estimates import estimates_document
from latte_cli.store import open_store

OTHER = replace(DEVICE, slug="other-cpu-2c-2t")


@pytest.fixture
def store(tmp_path, model):
    store = open_store(str(tmp_path / "store"), shipped=False)
    layers = step_layers(load(model, batch_size=8))
    profile(store, layers)
    write(store, [replace(measurement(task, time_s=1e-3), device=OTHER) for task in tasks(layers)])
    return store


@pytest.fixture
def latte(store, model):
    """Runs `latte estimate lenet.onnx` at batch 8 with more arguments: exit code, stdout, stderr."""

    def run(*arguments, device=DEVICE.slug, path=model):
        named = ("--device", device) if device else ()
        return ended("estimate", path, "--batch-size", 8, "--store", store.uri, *named, *arguments)

    return run


def test_the_table_has_a_line_for_each_layer_and_the_totals(latte, model):
    code, out, err = latte("--samples", 50_000)
    assert (code, err) == (0, f"next: `latte allocate {model} --fleet FILE --round-duration 10m`\n")
    lines = out.splitlines()
    assert lines[0] == "lenet, batch 8: latte"
    for node in load(model).nodes:
        assert sum(line.split()[0] == node.name for line in lines) == (not node.layer.free)
    assert any(line.startswith("step ") for line in lines)
    assert any(line.startswith("epoch of 50,000 samples ") for line in lines)
    assert "100.0 % measured" in lines[-1]


def test_the_table_fits_80_columns_where_names_are_long(latte):
    _, out, _ = latte()
    assert max(map(cell_len, out.splitlines())) <= 80


def test_json_is_the_documented_document(latte, model):
    code, out, _ = latte("--format", "json", "--samples", 100)
    found = json.loads(out)
    network = load(model, batch_size=8)
    assert code == 0
    assert list(found) == ["schema", "version", "model", "estimates", "asked", "measured"]
    assert found["asked"] == {"shape": [], "freeze": [], "checkpoint": "none", "restore_norms": False}
    assert found["schema"] == "latte.estimate/1"
    own = {"parameters": network.parameters, "trained_parameters": network.parameters}
    assert found["model"] == {"name": "lenet", "sha256": network.sha256, "batch_size": 8} | own
    [entry] = found["estimates"]
    assert list(entry) == [
        "device",
        "strategy",
        "estimator",
        "limits",
        "settings",
        "totals",
        "memory",
        "checkpoints",
        "layers",
        "missing",
        "warnings",
    ]
    totals = entry["totals"]
    parts = ("forward_s", "backward_s", "update_s", "other_s")
    assert totals["step_s"] == pytest.approx(sum(totals[part] for part in parts))
    assert totals["epoch_s"] == pytest.approx(13 * totals["step_s"])
    assert totals["step_low_s"] < totals["step_s"] < totals["step_high_s"]
    assert totals["step_s"] == pytest.approx(sum(layer["time_s"] for layer in entry["layers"]))
    assert totals["step_low_s"] < totals["step_low_80_s"] < totals["step_high_80_s"] < totals["step_high_s"]
    assert (totals["energy_j"], totals["transfer_s"]) == (None, None)
    keys = ("name", "kind", "phase", "algorithm", "layout", "time_s", "low_s", "high_s", "low_80_s", "high_80_s")
    more = ("workspace_bytes", "source", "confidence", "count")
    figures = ("module", "input_shapes", "output_shape", "parameter_shapes", "flops")
    assert {tuple(layer) for layer in entry["layers"]} == {(*keys, *more, *figures)}
    assert entry["missing"] == []


def test_a_cuda_graph_on_a_cpu_is_a_usage_error(latte):
    code, out, error = latte("--cuda-graph")
    assert (code, out) == (2, "")
    assert "runs no CUDA graphs" in error


def test_memory_is_shown_call_by_call_and_is_in_the_document(latte, model):
    _, out, _ = latte("--memory")
    assert "memory of a step on" in out
    assert out.index("memory of a step on") < out.index("step ", out.index("peak ")), "totals come last"
    assert max(map(cell_len, out.splitlines())) <= 80
    [entry] = json.loads(latte("--format", "json")[1])["estimates"]
    memory = entry["memory"]
    assert memory["peak_bytes"] == entry["totals"]["memory_bytes"] == max(m["live_bytes"] for m in memory["timeline"])
    assert memory["peak_at"]["name"] in {moment["name"] for moment in memory["timeline"]}


def test_what_is_frozen_accumulated_and_compared_is_in_the_document(latte):
    arguments = ("--freeze", "conv1", "--accumulate", 2, "--loss", "none", "--format", "json", "--allow-unknown")
    found = json.loads(latte(*arguments)[1])
    assert found["model"]["trained_parameters"] < found["model"]["parameters"]
    settings = found["estimates"][0]["settings"]
    assert (settings["accumulate"], settings["loss"]) == (2, "none")
    phases = {(layer["name"], layer["phase"]): layer["count"] for layer in found["estimates"][0]["layers"]}
    assert ("conv1", "backward_filter") not in phases
    assert phases["conv1", "forward"] == 2


def test_csv_has_a_line_for_each_layer_and_phase_of_each_device(latte):
    _, out, _ = latte("--device", OTHER.slug, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["device"] for row in rows} == {DEVICE.slug, OTHER.slug}
    assert len({(row["device"], row["name"], row["phase"]) for row in rows}) == len(rows)
    assert all(float(row["low_s"]) <= float(row["time_s"]) <= float(row["high_s"]) for row in rows)


def test_devices_stand_side_by_side(latte):
    _, out, _ = latte("--device", OTHER.slug)
    lines = out.splitlines()
    assert lines[1].split() == ["layer", "A", "B"]
    assert len(next(line for line in lines if line.startswith("step ")).split("  ")) >= 3
    assert f"B: {OTHER.slug}, fp32 nchw, 2 threads" in lines
    assert max(map(cell_len, lines)) <= 80


def test_a_step_over_the_limit_ends_with_3_after_the_result(latte):
    code, out, err = latte("--fail-above", "0.001ms")
    assert code == 3
    assert "step " in out
    assert "exceeds 1.00 us" in err
    assert latte("--fail-above", "1h")[0] == 0


def test_what_was_not_measured_is_predicted_with_a_warning_and_a_note(latte):
    code, out, err = latte("--batch-size", 32)
    assert code == 0
    assert "* predicted" in out
    assert re.search(r"the time model of `made-up-cpu-2c-2t` is that of `reference-.*`, moved by \d+ timings", err)
    assert "warning: " in err
    assert "the time model" not in latte("--batch-size", 32)[2]


def test_channels_last_is_read_where_it_was_measured(latte, store, model):
    profile(store, step_layers(load(model, batch_size=8)), replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    assert "fp32 channels_last" in latte("--layout", "auto")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--strategy", "late"), 2, "did you mean `latte`?"),
        (("--strategy", "fixed:IM2COL"), 2, "unknown algorithm `IM2COL`"),
        (("--layout", "nhcw"), 2, "did you mean `nchw`?"),
        (("--precision", "fp31"), 2, "did you mean `fp32`?"),
        (("--loss", "mze"), 2, "did you mean `mse`?"),
        (("--estimator", "lokup"), 2, "did you mean `lookup`?"),
        (("--freeze", "con1"), 2, "did you mean `conv1`?"),
        (("--shape", "seq"), 2, "is not a size of a dimension"),
        (("--shape", "sequence=3"), 2, "unknown dimension `sequence`"),
        (("--optimizer", "adan"), 2, "did you mean `adam`?"),
        (("--workspace-limit", "lots"), 2, "is not a size"),
        (("--fail-above", "soon"), 2, "is not a duration"),
        (("--fail-above", "sleep=1s"), 2, "did you mean `step`?"),
        (("--max-regression", "much"), 2, "is not a share"),
        (("--batch-size", "0"), 2, "--batch-size"),
        (("--precision", "bf16"), 1, "has no rows in bf16 nchw"),
        (("--threads", "7"), 1, "with 7 threads"),
        (("--device", "made-up-cpu-2c-4t"), 1, "did you mean"),
        (("--device", "cuda:0"), 1, "there is no profile of this machine's GPU"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_hint(latte, arguments, code, message):
    ended, out, err = latte(*arguments)
    assert (ended, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_without_a_profile_of_this_machine_the_hint_says_how_to_make_one(latte):
    code, _, err = latte(device=None)
    assert code == 1
    assert "there is no profile of this machine" in err
    assert "latte profile --budget 2m" in err
    assert DEVICE.slug in err


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_bad_model_file_is_named(latte, tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    code, out, err = latte(path=path)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_document_needs_no_samples(store, model):
    from latte_cli.estimator import Estimator

    found = Estimator(store, DEVICE.slug).estimate(load(model, batch_size=8))
    assert estimates_document([found])["estimates"][0]["totals"]["epoch_s"] is None


# Several strategies and limits, and measuring where the selector is unsure


def test_strategies_stand_side_by_side(latte):
    code, out, err = latte("--strategy", "latte,pytorch", "--strategy", "tensorflow:workspace-limit=1MiB")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "lenet, batch 8: 3 strategies"
    assert lines[1].split() == ["layer", "A", "B", "C"]
    assert [line for line in lines if line[1:2] == ":"] == [
        "A: latte",
        "B: pytorch",
        "C: tensorflow:workspace-limit=1MiB",
    ]
    assert "`tensorflow:workspace-limit=1MiB` chooses on GPUs alone" in err
    found = json.loads(latte("--strategy", "latte,fixed:IM2COL_GEMM,latte", "--format", "json")[1])
    assert [entry["strategy"] for entry in found["estimates"]] == ["latte", "fixed:IM2COL_GEMM"]
    faster, slower = (entry["totals"]["step_s"] for entry in found["estimates"])
    assert faster < slower


def test_many_what_ifs_are_a_line_each(latte):
    limits = [word for most in ("3MiB", "1GiB", "1KiB") for word in ("--memory-limit", most)]
    code, out, err = latte("--strategy", "latte,pytorch,exhaustive", *limits)
    assert code == 0
    lines = out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert lines[1].split() == ["under", "forward", "backward", "update", "step", "memory", "ratio"]
    assert lines[2].startswith("latte, at most 3.00 MiB ")
    assert len([line for line in lines if ", at most " in line]) == 6
    assert "the step does not fit 1.00 KiB" in err
    rows = list(csv.DictReader(io.StringIO(latte("--strategy", "latte", *limits, "--format", "csv")[1])))
    assert {row["memory_limit_bytes"] for row in rows} == {str(3 * 2**20), str(2**30)}


def test_a_step_that_does_not_fit_ends_with_the_least_it_needs_and_code_three(latte):
    code, out, err = latte("--memory-limit", "100KiB")
    assert (code, out) == (3, "")
    assert "a step of `lenet` at batch 8 needs at least" in err
    assert "more than the limit of" in err
    assert "hint: " in err


def test_where_the_selector_is_unsure_the_likeliest_are_timed(latte, model, store):
    here = replace(DEVICE, slug=cpu_slug(1))
    settings = replace(SETTINGS, threads=1)
    layers = [layer for layer in step_layers(load(model, batch_size=8)) if layer.kind != "convolution"]
    write(store, [replace(measurement(task), device=here) for task in tasks(layers, settings)])
    phases = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)
    learned = [
        replace(row, task=replace(row.task, settings=settings)) for row in made_choices.profile(here, phases=phases)
    ]
    write(store, learned)
    selectors.save_selector(
        selectors.fit_selector(selectors.decisions(learned)), store.models_dir / f"selector-{here.slug}"
    )

    def convolutions(*words):
        code, out, err = latte("--device", "cpu", "--threads", 1, "--format", "json", *words, device=None)
        assert code == 0, err
        entries = json.loads(out)["estimates"][0]["layers"]
        return [entry for entry in entries if entry["kind"] == "convolution"]

    sure = convolutions("--measure-below", 0)
    assert {entry["source"] for entry in sure} == {"predicted"}
    assert all(0 < entry["confidence"] <= 1 for entry in sure)
    both = ("--strategy", "latte,pytorch", "--format", "json", "--device", "cpu", "--threads", 1)
    latte_s, pytorch_s = json.loads(latte(*both, device=None)[1])["estimates"]
    assert any(entry["confidence"] for entry in latte_s["layers"])
    assert not any(entry["confidence"] for entry in pytorch_s["layers"])  # torch did not ask the selector
    timed = convolutions("--measure-below", 1)
    assert {entry["source"] for entry in timed} == {"measured"}
    assert {entry["confidence"] for entry in timed} == {None}
    rows = [row for row in store.measurements(here.slug, kinds={"convolution"}) if row.origin.endswith(" estimate")]
    assert {row.task.algorithm for row in rows} >= {FRAMEWORK_DEFAULT}
    per_pair = Counter((row.task.layer, row.task.phase) for row in rows)
    assert all(2 <= count <= 4 for count in per_pair.values())


def test_another_machine_s_layers_are_not_measured_here(latte, store):
    learned = made_choices.profile(DEVICE, phases=(Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER))
    selectors.save_selector(
        selectors.fit_selector(selectors.decisions(learned)), store.models_dir / f"selector-{DEVICE.slug}"
    )
    write(store, learned)
    code, _, err = latte("--measure-below", 1, "--batch-size", 64)
    assert code == 1
    assert f"`{DEVICE.slug}` is not this machine" in err


def test_regions_are_chosen_for_a_limit_of_memory(latte, store, tmp_path):
    deep = tmp_path / "deep.onnx"
    deep.write_bytes(zoo.export("resnet8"))
    profile(store, step_layers(load(deep, batch_size=8)))
    latte = partial(latte, path=deep)
    _, out, _ = latte("--format", "json")
    full = json.loads(out)["estimates"][0]
    limit = int(0.9 * full["totals"]["memory_bytes"])
    code, out, _ = latte("--format", "json", "--checkpoint", "auto", "--memory-limit", f"{limit}B")
    [entry] = json.loads(out)["estimates"]
    assert code == 0
    assert entry["totals"]["memory_bytes"] <= limit
    assert entry["checkpoints"]
    again = [layer for layer in entry["layers"] if layer["phase"] == "again"]
    assert sum(layer["count"] * layer["time_s"] for layer in again) == pytest.approx(
        sum(each["extra_s"] for each in entry["checkpoints"])
    )
    code, out, _ = latte("--checkpoint", entry["checkpoints"][0]["name"])
    assert code == 0
    assert f"  {entry['checkpoints'][0]['name']}: " in out


def test_regions_are_refused_without_a_limit_out_of_reach_and_by_an_unknown_name(latte):
    code, _, err = latte("--checkpoint", "auto")
    assert (code, "--memory-limit" in err) == (2, True)
    code, _, err = latte("--checkpoint", "auto", "--memory-limit", "1KiB")
    assert (code, "whatever is checkpointed" in err) == (3, True)
    code, _, err = latte("--checkpoint", "nothing")
    assert (code, "unknown region `nothing`" in err) == (2, True)


def test_noise_is_said_even_when_little_is_to_be_said_and_no_useless_bounds_are_given(tmp_path, model):
    store, rows = open_store(str(tmp_path / "noisy"), shipped=False), []
    for sweep_pass, factor in enumerate((1.0, 20.0)):
        for task in tasks(step_layers(load(model, batch_size=8))):
            row = measurement(task, sweep_pass=sweep_pass)
            rows.append(replace(row, device_times_s=tuple(factor * time_s for time_s in row.device_times_s)))
    write(store, rows)
    asked = ("estimate", model, "--batch-size", 8, "--store", store.uri, "--device", DEVICE.slug, "--quiet")
    code, out, err = ended(*asked)
    assert code == 0
    assert any(line.startswith("step ") and "not bounded: the times are too noisy" in line for line in out.splitlines())
    assert "noise, 80 % of repeats within a factor of" in err
    assert "while nothing else runs" in err
    assert "next:" not in err
