"""Estimates held to limits and to a baseline, as pipelines do; traces; documents against their schemas."""

import json
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from forking import zygote
from made_rows import DEVICE, measurement, profile, step_layers, tasks, write
from running import here, latte
from schemas import valid

from latte_cli.network import load
from latte_cli.store import open_store
from latte_cli.thresholds import check_regressions, compare_estimates


@pytest.fixture(scope="module")
def stores(tmp_path_factory, model):
    """A store, and one in which a convolution has become slower."""
    layers = step_layers(load(model, batch_size=8))
    found = []
    for name, factor in (("before", 1.0), ("after", 1.5)):
        store = open_store(str(tmp_path_factory.mktemp(name) / "store"), shipped=False)
        profile(store, layers)
        if factor > 1:
            slow = [task for task in tasks(layers) if task.layer.kind == "convolution"]
            late = [replace(measurement(task, time_s=0.02), measured_at=2.0) for task in slow]
            write(store, late)
        found.append(store.uri)
    return found


def estimate(model, store, *arguments, code=0):
    named = ("--batch-size", 8, "--device", DEVICE.slug, "--store", store)
    return here("estimate", model, *named, *arguments, code=code)


def test_the_document_of_an_estimate_keeps_to_its_schema(model, stores):
    plain = valid(estimate(model, stores[0], "--format", "json").stdout)
    assert "checks" not in plain
    more = ("--samples", 100, "--strategy", "pytorch,latte", "--fail-above", "1h", "--format", "json")
    body = valid(estimate(model, stores[0], *more).stdout)
    assert [check["passed"] for check in body["checks"]] == [True, True]


@pytest.mark.parametrize(
    ("limit", "code"),
    [("1us0", 2), ("0.01ms", 3), ("1h", 0), ("backward=0.01ms", 3), ("memory=1GiB", 0), ("memory=1KiB", 3)],
)
def test_a_limit_ends_the_command_with_3_where_it_is_exceeded(model, stores, limit, code):
    done = estimate(model, stores[0], "--fail-above", limit, code=code)
    assert (code == 2) == (done.stdout == "")
    assert code != 3 or "exceeds" in done.stderr


def test_a_process_of_its_own_ends_with_3_too(model, stores):
    named = ("--batch-size", 8, "--device", DEVICE.slug, "--store", stores[0])
    assert "exceeds" in latte("estimate", model, *named, "--fail-above", "0.01ms", code=3).stderr


def test_an_epoch_can_be_limited_only_where_there_are_samples(model, stores):
    assert "no epoch" in estimate(model, stores[0], "--fail-above", "epoch=1s", code=2).stderr
    assert "exceeds" in estimate(model, stores[0], "--samples", 10**9, "--fail-above", "epoch=1s", code=3).stderr


def test_a_regression_is_shown_by_layer_and_ends_with_3(model, stores, tmp_path):
    baseline = tmp_path / "old.json"
    baseline.write_text(estimate(model, stores[0], "--format", "json").stdout)
    same = estimate(model, stores[0], "--baseline", baseline, "--max-regression", "5%")
    assert "+0.0 %" in same.stdout
    slower = estimate(model, stores[1], "--baseline", baseline, "--max-regression", "5%", code=3)
    assert "since the baseline" in slower.stdout
    assert "conv" in slower.stdout.split("since the baseline")[1]
    assert "longer than in the baseline" in slower.stderr
    body = valid(
        estimate(model, stores[1], "--baseline", baseline, "--max-regression", "5%", "--format", "json", code=3).stdout,
    )
    [comparison] = body["comparisons"]
    changed = {change["name"] for change in comparison["changes"]}
    assert changed
    assert changed < {layer["name"] for layer in body["estimates"][0]["layers"]}
    assert comparison["growth"] == pytest.approx(comparison["after_step_s"] / comparison["before_step_s"] - 1)
    estimate(model, stores[1], "--baseline", baseline)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[]", "it says no schema"),
        ('{"schema": "latte.plan/1"}', "has the schema `latte.plan/1`"),
        ('{"schema": "latte.estimate/1", "estimates": []}', "`estimates`: it has 0 entries, not 1 or more"),
        (
            '{"schema": "latte.estimate/1", "estimates": [{"settings": 1}]}',
            "`estimates[0].settings`: `1` is not an object",
        ),
    ],
)
def test_a_baseline_that_is_none_is_one_clear_line(model, stores, tmp_path, content, message):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    done = estimate(model, stores[0], "--baseline", path, code=1)
    assert message in done.stderr
    assert done.stderr.count("\n") == 2


def test_a_baseline_of_another_strategy_is_named(model, stores, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(estimate(model, stores[0], "--strategy", "pytorch", "--format", "json").stdout)
    error = estimate(model, stores[0], "--baseline", path, code=1).stderr
    assert "has no estimate for this: its strategy is `pytorch`, not `latte`" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--loss", "mse"), "its loss is `mse`, not `cross-entropy`"),
        (("--accumulate", 2), "its accumulate is `2`, not `1`"),
        (("--optimizer", "adam"), "its optimizer is `adam`, not `sgd`"),
        (("--estimator", "flops"), "its estimator is `flops`, not `lookup`"),
        (("--workspace-limit", "1MiB"), "its workspace-limit is `1048576 B`, not none"),
        (("--freeze", "conv1"), "its freeze is `conv1`, not none"),
        (
            ("--loss", "mse", "--accumulate", 2),
            "its loss is `mse`, not `cross-entropy`, its accumulate is `2`, not `1`",
        ),
    ],
    ids=str,
)
def test_a_baseline_that_was_asked_otherwise_is_refused_with_what_differs(model, stores, tmp_path, words, said):
    path = tmp_path / "old.json"
    path.write_text(estimate(model, stores[0], *words, "--allow-unknown", "--format", "json").stdout)
    done = estimate(model, stores[0], "--baseline", path, code=1)
    assert done.stdout == ""
    assert said in done.stderr
    assert "write a new one" in done.stderr


def test_a_baseline_of_another_batch_is_refused(model, stores, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(estimate(model, stores[0], "--format", "json").stdout)
    body = json.loads(path.read_text())
    body["model"]["batch_size"] = 16
    path.write_text(json.dumps(body))
    error = estimate(model, stores[0], "--baseline", path, "--max-regression", "5%", code=1).stderr
    assert "its batch-size is `16`, not `8`" in error


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "bf16"), ("layout", "channels_last"), ("threads", 7)],
)
def test_a_baseline_with_other_settings_is_refused(model, stores, tmp_path, name, value):
    path = tmp_path / "old.json"
    body = json.loads(estimate(model, stores[0], "--format", "json").stdout)
    body["estimates"][0]["settings"][name] = value
    path.write_text(json.dumps(body))
    assert f"its {name} is `{value}`, not `" in estimate(model, stores[0], "--baseline", path, code=1).stderr


def test_a_baseline_of_another_device_is_refused(model, stores, tmp_path):
    path = tmp_path / "old.json"
    body = json.loads(estimate(model, stores[0], "--format", "json").stdout)
    body["estimates"][0]["device"] = "another"
    path.write_text(json.dumps(body))
    assert "its device is `another`, not `" in estimate(model, stores[0], "--baseline", path, code=1).stderr


def test_a_baseline_of_an_earlier_version_says_less_and_is_compared(model, stores, tmp_path):
    path = tmp_path / "old.json"
    body = json.loads(estimate(model, stores[0], "--format", "json").stdout)
    del body["version"], body["asked"], body["estimates"][0]["settings"]["ema"]
    path.write_text(json.dumps(body))
    assert "+0.0 %" in estimate(model, stores[0], "--baseline", path).stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "0.0.1"}, "the baseline is of latte 0.0.1"),
        ({"model": {"name": "other"}}, "the baseline is of the model `other`"),
    ],
    ids=str,
)
def test_what_changed_beside_the_model_is_said(model, stores, tmp_path, change, said):
    path = tmp_path / "old.json"
    body = json.loads(estimate(model, stores[0], "--format", "json").stdout)
    for key, value in change.items():
        body[key] = body[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(body))
    done = estimate(model, stores[0], "--baseline", path)
    assert f"warning: {said}" in done.stderr
    path.write_text(estimate(model, stores[0], "--format", "json").stdout)
    assert "baseline" not in estimate(model, stores[0], "--baseline", path).stderr
    assert "so the profile changed" in estimate(model, stores[1], "--baseline", path).stderr


def document(time_s, doubt_s, *, others=0):
    """A document of one layer that takes so long, and of others that are in all documents."""
    layers = [("changed", time_s, doubt_s), *((f"same {at}", 1.0, 0.5) for at in range(others))]
    return {
        "model": {"name": "m", "sha256": str(time_s), "batch_size": 8},
        "estimates": [
            {
                **{"device": "d", "strategy": "latte", "estimator": "lookup", "settings": {}, "limits": {}},
                "totals": {"step_s": time_s + others},
                "layers": [
                    {
                        **{"name": name, "phase": "forward", "kind": "linear", "algorithm": "a", "count": 1},
                        **{"time_s": seconds, "low_80_s": seconds - doubt, "high_80_s": seconds + doubt},
                    }
                    for name, seconds, doubt in layers
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("after", "doubt", "passed", "doubtful"),
    [
        (1.04, 0.5, True, False),  # within the limit, whatever the interval
        (1.06, 0.001, False, False),  # over it for certain
        (1.06, 0.05, True, True),  # over it, but no more than the intervals explain
        (1.09, 0.02, False, False),
        (1.11, 0.5, False, False),  # more than twice the limit, which no doubt excuses
        (0.9, 0.5, True, False),
    ],
)
def test_a_gate_fails_on_a_regression_and_not_on_noise(after, doubt, passed, doubtful):
    [comparison] = compare_estimates(document(1.0, doubt), document(after, doubt))
    [check] = check_regressions([comparison], 0.05)
    assert (check.passed, check.doubtful) == (passed, doubtful)
    low, high = comparison.growth_80
    assert (comparison.growth - low, high - comparison.growth) == pytest.approx((doubt * 2**0.5, doubt * 2**0.5))


def test_layers_that_stay_as_they_are_add_no_doubt():
    [comparison] = compare_estimates(document(1.0, 0.001, others=9), document(2.0, 0.001, others=9))
    assert comparison.growth == pytest.approx(0.1)
    assert comparison.growth_80 == pytest.approx((0.1, 0.1), abs=2e-4)
    assert not check_regressions([comparison], 0.05)[0].passed


def test_where_the_host_sets_the_pace_the_interval_of_the_whole_step_counts():
    """The layers take the same on the device; the host takes 8 % longer, known as well as the step is: to a tenth."""
    before, after = document(1.0, 0.001), document(1.0, 0.001)
    for body, step_s in ((before, 10.0), (after, 10.8)):
        [entry] = body["estimates"]
        entry["totals"] = {"step_s": step_s, "step_low_80_s": 0.9 * step_s, "step_high_80_s": 1.2 * step_s}
    [comparison] = compare_estimates(before, after)
    assert comparison.growth_80 == pytest.approx((0.08 - 0.1 * 0.08, 0.08 + 0.2 * 0.08))
    assert [check_regressions([comparison], most)[0].doubtful for most in (0.071, 0.073)] == [False, True]


def test_the_limit_0_excuses_nothing():
    [comparison] = compare_estimates(document(1.0, 0.5), document(1.001, 0.5))
    assert not check_regressions([comparison], 0.0)[0].passed


def test_a_doubtful_regression_is_a_warning_everywhere(model, stores, tmp_path):
    path = tmp_path / "old.json"
    body = json.loads(estimate(model, stores[0], "--format", "json").stdout)
    entry = body["estimates"][0]
    entry["totals"]["step_s"] /= 1.06
    entry["layers"][0] |= {"time_s": entry["layers"][0]["time_s"] / 2, "high_80_s": entry["totals"]["step_s"]}
    path.write_text(json.dumps(body))
    gate = ("--baseline", path, "--max-regression", "5%", "--annotate", "github")
    done = estimate(model, stores[0], *gate)
    assert (
        "warning: the step is 6.0 % longer than in the baseline, but may be within 5.0 %: 80 % between" in done.stderr
    )
    assert any(line.startswith("::warning ") for line in done.stderr.splitlines())
    [check] = valid(estimate(model, stores[0], *gate, "--format", "json").stdout)["checks"]
    assert check["passed"] and check["low_80"] < 0.05 < check["value"] < check["high_80"]


def test_options_that_need_others_say_so(model, stores):
    assert "--baseline FILE" in estimate(model, stores[0], "--max-regression", "5%", code=2).stderr
    assert "without a limit" in estimate(model, stores[0], "--annotate", "github", code=2).stderr
    both = ("--annotate", "junit", "--format", "json", "--fail-above", "1h")
    assert "both write to stdout" in estimate(model, stores[0], *both, code=2).stderr


def test_github_reads_the_annotations_from_stderr(model, stores):
    done = estimate(model, stores[0], "--fail-above", "0.01ms", "--fail-above", "1h", "--annotate", "github", code=3)
    found = [line for line in done.stderr.splitlines() if line.startswith("::")]
    assert [line.split(" ")[0] for line in found] == ["::error", "::notice"]
    assert found[0].startswith("::error title=latte%3A lenet.onnx::step ")


def test_junit_has_a_case_for_each_check(model, stores):
    done = estimate(model, stores[0], "--fail-above", "0.01ms", "--fail-above", "1h", "--annotate", "junit", code=3)
    suite = ElementTree.fromstring(done.stdout)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [True, False]


def test_a_trace_keeps_to_the_trace_event_format(model, stores):
    body = json.loads(estimate(model, stores[0], "--strategy", "pytorch,latte", "--format", "trace").stdout)
    events = body["traceEvents"]
    assert body["displayTimeUnit"] in ("ms", "ns")
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] in ("X", "M")
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ts"] >= 0
            assert event["dur"] > 0
            assert isinstance(event["cat"], str)
    for process in (1, 2):
        own = [event for event in events if event["ph"] == "X" and event["pid"] == process]
        ends = [event["ts"] + event["dur"] for event in own]
        assert all(nxt["ts"] >= end - 1e-6 for nxt, end in zip(own[1:], ends, strict=False))
        directions = [event["cat"] for event in own if event["name"].startswith("conv")]
        assert directions.index("backward_filter") > max(i for i, d in enumerate(directions) if d == "forward")
    step_us = 1e6 * valid(estimate(model, stores[0], "--format", "json").stdout)["estimates"][0]["totals"]["step_s"]
    assert max(e["ts"] + e["dur"] for e in events if e["ph"] == "X" and e["pid"] == 2) == pytest.approx(step_us)


def test_an_explanation_names_what_every_rule_takes_and_loses(model, stores):
    named = ("--batch-size", 8, "--device", DEVICE.slug, "--store", stores[0])
    done = here("explain", model, *named, "--what-if", "workspace-limit=1KiB", "--format", "json")
    body = valid(done.stdout)
    assert [case["what_if"] for case in body["cases"]] == ["", "workspace-limit=1KiB"]
    first = body["cases"][0]
    lost = {each["strategy"]: each["lost_s"] for each in first["strategies"]}
    assert lost["pytorch"] == pytest.approx(
        sum(
            choice["lost_s"] for call in first["calls"] for choice in call["choices"] if choice["strategy"] == "pytorch"
        )
    )
    assert all(each >= 0 for each in lost.values())
    table = here("explain", model, *named).stdout
    assert "the whole step" in table
    one = here("explain", model, *named, "--strategy", "pytorch").stdout
    assert "workspace" in one
    assert "what-if" in here("explain", model, *named, "--what-if", "batch=3", code=2).stderr
    lines = here("explain", model, *named, "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("what_if,device,strategy,")


def test_what_is_piped_into_head_does_not_fail(model, stores):
    named = f"--batch-size 8 --device {DEVICE.slug} --store {stores[0]}"
    command = f"{zygote().commands}/latte explain {model} {named} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
