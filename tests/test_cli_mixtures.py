"""`latte estimate` and `latte profile` with several sizes of an open dimension, end to end."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from made_rows import DEVICE, SETTINGS, measurement, step_layers, tasks, write
from onnx import TensorProto, helper, numpy_helper
from running import ended
from schemas import valid
from torch import nn

from latte_cli.algorithms import Algorithm
from latte_cli.cli.advice import long_options
from latte_cli.cli.commands import COMMANDS
from latte_cli.cli.mixtures import MOST_COMBINATIONS, all_sizes, estimated_shape, is_mixed, mixture, shape_options
from latte_cli.devices import CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Convolution
from latte_cli.network import load
from latte_cli.store import open_store

Latte = Callable[..., tuple[int, str, str]]
MIX = ("--shape", "seq=64:0.7,512:0.3")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two inputs with different lengths; the calls of the second do not depend on the first."""
    arrays = {"k": (32, 16, 3), "b": (32,), "l": (32, 16, 3), "w": (32, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["h"], name="first", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Conv", ["z", "l", "b"], ["i"], name="second", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("GlobalAveragePool", ["i"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["s"]),
        helper.make_node("Flatten", ["s"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    sizes = {"x": ["N", 16, "seq"], "z": ["N", 16, "other seq"]}
    graph = helper.make_graph(
        nodes,
        "lengths",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in arrays.items()],
    )
    found = tmp_path_factory.mktemp("models") / "lengths.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), found)
    return found


@pytest.fixture
def latte(path: Path, tmp_path: Path) -> Latte:
    def run(*arguments: object) -> tuple[int, str, str]:
        words = ("--batch-size", 8) if "--batch-size" not in arguments else ()
        device = ("--device", "reference") if "--device" not in arguments else ()
        return ended(
            "estimate", path, "--store", tmp_path / "none", *device, *words, "--shape", "other seq=32", *arguments
        )

    return run


def document(latte: Latte, *arguments: object) -> Any:
    code, out, err = latte(*arguments, "--format", "json")
    assert code == 0, err
    return valid(out)


# How sizes are written


def test_a_mixture_is_every_combination_with_the_product_of_the_shares() -> None:
    found = mixture(["seq=64:0.7,512:30%", "wide=8", "y[1]=1:0.5,2:0.5"])
    assert [each.share for each in found] == pytest.approx([0.35, 0.35, 0.15, 0.15])
    assert found[0].shape == ("seq=64", "wide=8", "y[1]=1")
    assert found[3].mixed == (("seq", 512), ("y[1]", 2))


def test_thirds_that_were_rounded_sum_to_one() -> None:
    assert [each.share for each in mixture(["seq=1:0.333,2:0.333,3:0.333"])] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("seq=64,512", "not every one has a share", "as in `--shape seq=64:0.5,512:0.5`"),
        ("seq=64:0.5,512", "not every one has a share", "as in `--shape seq=64:0.5,512:0.5`"),
        ("seq=64:0.7,512:0.2", "sum to 0.9, not to 1", "as in `--shape seq=64:0.7778,512:0.2222`"),
        ("seq=64:2", "`2` is not a share", "`0.5`"),
        ("seq=64:", "is not a share", "`0.5`"),
        ("seq=64:0,512:1", "`0` is not a share", "`0.5`"),
        ("seq=64:0.5,64:0.5", "names a size twice", "once"),
        ("seq=,", "is not a size of a dimension", "seq=64:0.7,512:0.3"),
        ("=64:1", "is not a size of a dimension", "seq=64:0.7,512:0.3"),
        ("seq=" + "9" * 5000 + ",1", "is not a size of a dimension", "seq=64:0.7,512:0.3"),
    ],
)
def test_other_mixtures_are_refused_with_the_right_form(text: str, message: str, hint: str) -> None:
    assert is_mixed([text])
    with pytest.raises(LatteError, match=message) as caught:
        mixture([text])
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("count", [3, 7, 64])
def test_the_shares_that_a_hint_shows_are_taken(count: int) -> None:
    with pytest.raises(LatteError) as caught:
        mixture(["seq=" + ",".join(map(str, range(1, count + 1)))])
    assert len(mixture([str(caught.value.hint).split()[-1].strip("`")])) == count


def test_too_many_combinations_are_counted() -> None:
    sizes = ",".join(f"{size}:{1 / 9}" for size in range(1, 10))
    with pytest.raises(LatteError, match=f"81 combinations, more than {MOST_COMBINATIONS}"):
        mixture([f"a={sizes}", f"b={sizes}"])


def test_profiles_take_every_size_with_and_without_shares() -> None:
    assert all_sizes(["a=1,2", "b=3:0.1,4:0.2"]) == [("a=1", "b=3"), ("a=1", "b=4"), ("a=2", "b=3"), ("a=2", "b=4")]
    assert all_sizes(None) == [()]
    assert estimated_shape(["a=1:0.5,2:0.5"]) == ("a=1:0.5,2:0.5",)
    assert estimated_shape(["a=1,2", "b=3"]) == ("a=1", "b=3")
    assert estimated_shape(None) == ()
    assert shape_options(["x[2]=1,2", "a=3:0.5"]) == ["--shape 'x[2]=1,2'", "--shape a=3:0.5"]


# What is estimated


def test_the_mean_is_that_of_the_steps_by_their_shares(latte: Latte) -> None:
    found = document(latte, *MIX)
    single = [
        document(latte, "--shape", f"seq={size}")["estimates"][0]["totals"] for size in (64, 512)
    ]  # fmt: skip
    assert found["schema"] == "latte.mixture/1"
    assert [row["sizes"] for row in found["mixture"]] == [{"seq": 64}, {"seq": 512}]
    assert [row["step_s"] for row in found["mixture"]] == [each["step_s"] for each in single]
    for key in ("step_s", "forward_s", "backward_s", "update_s", "other_s", "step_low_s", "step_high_s"):
        assert found["totals"][key] == pytest.approx(0.7 * single[0][key] + 0.3 * single[1][key])
    assert found["totals"]["memory_bytes"] == single[1]["memory_bytes"] > single[0]["memory_bytes"]
    assert (found["largest"], found["limit_bytes"], found["search"]) == ({"seq": 512}, None, None)


def test_the_largest_size_has_the_most_memory_in_whichever_order(latte: Latte) -> None:
    turned = document(latte, "--shape", "seq=512:0.3,64:0.7")
    assert turned["largest"] == {"seq": 512}
    totals = document(latte, *MIX)["totals"]
    assert turned["totals"]["step_s"] == pytest.approx(totals["step_s"])
    assert turned["totals"]["memory_bytes"] == totals["memory_bytes"]


def test_epochs_take_the_mean_step(latte: Latte) -> None:
    totals = document(latte, *MIX, "--samples", 1000, "--epochs", 3)["totals"]
    assert totals["steps"] == 375
    assert totals["epoch_s"] == pytest.approx(125 * totals["step_s"])
    assert totals["round_s"] == pytest.approx(375 * totals["step_s"])
    _, out, _ = latte(*MIX, "--samples", 1000)
    assert "epoch of 1,000 samples" in out


def test_the_table_has_a_line_for_each_size_and_the_mean(latte: Latte) -> None:
    code, out, err = latte(*MIX, "--fits", "1GiB")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[3:6]] == ["seq=64", "seq=512", "mean"]
    assert "70.0 %" in lines[3] and "yes" in lines[4]
    assert any(line.startswith("mean step ") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "looks at the largest size alone" in err
    assert "latte profile" in err and "--shape 'other seq=32' --shape seq=64,512 " in err


def test_csv_has_a_line_for_each_size(latte: Latte) -> None:
    rows = list(csv.DictReader(io.StringIO(latte(*MIX, "--format", "csv")[1])))
    assert [(row["sizes"], row["share"], row["fits"]) for row in rows] == [
        ("seq=64", "0.7", ""),
        ("seq=512", "0.3", ""),
    ]


def test_several_mixed_dimensions_are_independent(path: Path, tmp_path: Path) -> None:
    words = ("estimate", path, "--device", "reference", "--store", tmp_path / "none", *MIX)
    code, out, _ = ended(*words, "--shape", "other seq=8:0.5,16:0.5", "--format", "json")
    assert code == 0
    rows = valid(out)["mixture"]
    assert [row["share"] for row in rows] == pytest.approx([0.35, 0.35, 0.15, 0.15])
    assert rows[2]["sizes"] == {"seq": 512, "other seq": 8}


def test_the_batch_is_no_mixed_dimension(path: Path, tmp_path: Path) -> None:
    words = ("estimate", path, "--device", "reference", "--store", tmp_path / "none", "--shape", "seq=8")
    code, out, err = ended(*words, "--shape", "other seq=8", "--shape", "N=4:0.5,8:0.5")
    assert (code, out) == (2, "")
    assert "mixes sizes of the batch" in err


def test_limits_of_time_are_held_to_the_mean_and_of_memory_to_the_largest(latte: Latte) -> None:
    totals = document(latte, *MIX)["totals"]
    steps = [row["step_s"] for row in document(latte, *MIX)["mixture"]]
    between_s = (totals["step_s"] + max(steps)) / 2
    code, out, _ = latte(*MIX, "--fail-above", f"{between_s}s", "--format", "json")
    [check] = valid(out)["checks"]
    assert (code, check["value"], check["passed"]) == (0, totals["step_s"], True)
    code, _, err = latte(*MIX, "--fail-above", f"{(totals['step_s'] + min(steps)) / 2}s")
    assert (code, "step " in err) == (3, True)
    code, _, err = latte(*MIX, "--fail-above", f"memory={totals['memory_bytes'] - 1}B")
    assert (code, "memory" in err) == (3, True)
    assert latte(*MIX, "--fail-above", f"memory={totals['memory_bytes']}B")[0] == 0


def test_a_limit_of_memory_that_one_size_does_not_fit_names_it(latte: Latte) -> None:
    code, out, err = latte(*MIX, "--memory-limit", "500KiB")
    assert (code, out) == (3, "")
    assert "\nerror: seq=512: a step of" in err


def test_what_does_not_fit_ends_with_3(latte: Latte) -> None:
    code, out, err = latte(*MIX, "--fits", "100MiB")
    assert (code, "no" in out) == (3, True)
    assert "seq=512' --batch-size max:SIZE`" in err or "seq=512 --batch-size max:SIZE`" in err


def test_junit_takes_the_place_of_the_table(latte: Latte) -> None:
    code, out, _ = latte(*MIX, "--fail-above", "1h", "--annotate", "junit")
    assert code == 0
    assert ElementTree.fromstring(out).tag == "testsuites"


def test_a_program_of_torch_has_mixtures_too(tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=8)}
    program = torch.export.export(nn.Conv1d(3, 4, 3), (torch.randn(2, 3, 20),), dynamic_shapes=(dims,))
    torch.export.save(program, tmp_path / "m.pt2")
    name = "input[2]"
    words = ("estimate", tmp_path / "m.pt2", "--device", "reference", "--store", tmp_path / "none")
    code, out, err = ended(*words, "--shape", f"{name}=16:0.25,32:0.75", "--format", "json")
    assert code == 0, err
    assert [row["sizes"] for row in valid(out)["mixture"]] == [{name: 16}, {name: 32}]


# What searching costs

GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
ALGORITHMS = [Algorithm(library="cudnn", name=f"ALGO_{at}", vendor_id=at) for at in (0, 1)]


def test_a_shape_that_two_sizes_have_is_searched_once(path: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), shipped=False)
    networks = [load(path, batch_size=8, sizes={"seq": size, "other seq": 32}) for size in (64, 512)]
    rows = []
    for task in tasks([layer for each in networks for layer in step_layers(each)], replace(SETTINGS, threads=0)):
        algorithms = ALGORITHMS if isinstance(task.layer, Convolution) else [task.algorithm]
        rows += [measurement(replace(task, algorithm=one), time_s=1e-4, device=GPU) for one in algorithms]
    write(store, list({row.task: row for row in rows}.values()))
    words = ("estimate", path, "--device", GPU.slug, "--store", store.uri, "--strategy", "pytorch-benchmark")
    words = (*words, "--batch-size", 8, "--shape", "other seq=32", "--format", "json")
    first, second = (valid(ended(*words, "--shape", f"seq={size}")[1])["estimates"][0]["search"] for size in (64, 512))
    found = valid(ended(*words, *MIX)[1])
    assert (first["shapes"], second["shapes"]) == (4, 4)  # inputs take no gradient
    assert found["search"]["shapes"] == 6
    assert found["search"]["time_s"] == pytest.approx(0.75 * (first["time_s"] + second["time_s"]))
    assert [row["search_s"] for row in found["mixture"]] == [first["time_s"], second["time_s"]]
    code, out, _ = ended(*words[:-2], *MIX)
    assert (code, "more to search 6 shapes" in out) == (0, True)


# Every option either takes part or is refused

TAKEN = {
    "--device": ("reference",),
    "--strategy": ("pytorch",),
    "--estimator": ("flops",),
    "--precision": ("fp32",),
    "--layout": ("nchw",),
    "--threads": ("2",),
    "--workspace-limit": ("1MiB",),
    "--memory-limit": ("1GiB",),
    "--checkpoint": ("none",),
    "--no-measure": (),
    "--batch-size": ("4",),
    "--fits": ("8GiB",),
    "--batch-axis": ("0",),
    "--compare-weights": (),
    "--shape": ("seq=64:0.7,512:0.3",),
    "--optimizer": ("adam",),
    "--loss": ("mse",),
    "--accumulate": ("2",),
    "--clip-norm": ("--allow-unknown",),
    "--ema": ("--allow-unknown",),
    "--zero-grad": ("keep", "--allow-unknown"),
    "--freeze": ("first",),
    "--restore-norms": (),
    "--samples": ("100",),
    "--epochs": ("2", "--samples", "100"),
    "--local-steps": ("10",),
    "--upload": ("1Mbit", "--local-steps", "10"),
    "--download": ("1Mbit", "--local-steps", "10"),
    "--allow-unknown": (),
    "--mmap-threshold": ("64KiB", "--fits", "8GiB"),
    "--fail-above": ("1h",),
    "--annotate": ("github", "--fail-above", "1h"),
    "--format": ("csv",),
    "--store": ("none",),
}
REFUSED = {
    "--measure-below": ("0.5",),
    "--measure": ("1s",),
    "--effective-batch": ("16",),
    "--memory": (),
    "--all": (),
    "--loading-rate": ("100",),
    "--cuda-graph": (),
    "--gpus": ("2", "--link", "25GB/s"),
    "--link": ("25GB/s", "--gpus", "2"),
    "--data-parallel": ("dp", "--gpus", "2", "--link", "25GB/s"),
    "--compile": (),
    "--picture": ("x.png",),
    "--force": ("--picture", "x.png"),
    "--prices": ("prices.yaml", "--samples", "100"),
    "--baseline": ("x.json",),
    "--max-regression": ("5%", "--baseline", "x.json"),
}
ELSEWHERE = {
    "--log-every": "of GPUs alone",
    "--grad-scaler": "of GPUs in fp16_autocast alone",
    "--help": "shows the options",
}


def test_it_is_decided_of_every_option_what_it_means_beside_a_mixture() -> None:
    assert {*TAKEN, *REFUSED, *ELSEWHERE} - {"--help"} == long_options(COMMANDS["estimate"]) - {"--help"}


@pytest.mark.parametrize("option", [option for option in TAKEN if option != "--shape"])
def test_an_option_takes_part(latte: Latte, option: str) -> None:
    code, out, err = latte(*MIX, option, *TAKEN[option])
    assert (code, err.count("error")) == (0, 0), err
    assert out.count("seq=64") == 1


@pytest.mark.parametrize(
    "words",
    [
        *((option, *words) for option, words in REFUSED.items()),
        ("--format", "trace"),
        ("--format", "markdown"),
        ("--layout", "auto"),
        ("--checkpoint", "auto", "--memory-limit", "1GiB"),
        ("--batch-size", "max"),
        ("--batch-size", "4,8"),
        ("--strategy", "latte,pytorch"),
        ("--memory-limit", "1GiB", "--memory-limit", "2GiB"),
        ("--mmap-threshold", "64KiB"),
    ],
    ids=" ".join,
)
def test_an_option_of_one_size_is_refused_in_one_clear_line(latte: Latte, words: tuple[str, ...]) -> None:
    code, out, err = latte(*MIX, *words)
    assert (code, out) == (2, "")
    error, hint = err.splitlines()[-2:]
    assert error.startswith("error: ") and hint.startswith("hint: ")


# Elsewhere


def test_a_profile_measures_every_size(path: Path, tmp_path: Path) -> None:
    def layers(*shapes: str) -> int:
        words = [word for shape in shapes for word in ("--shape", shape)]
        more = ("--dry-run", "--format", "json", "--device", "cpu", "--store", tmp_path / "store")
        code, out, err = ended("profile", path, "--batch-size", 8, *words, *more)
        assert code == 0, err
        return int(json.loads(out)["tasks"])

    assert layers("other seq=32", "seq=64,512") > layers("other seq=32", "seq=64:1")


@pytest.mark.parametrize("command", ["explain", "tune", "verify"])
def test_other_commands_say_who_takes_several_sizes(path: Path, tmp_path: Path, command: str) -> None:
    more = {"tune": ("--output", tmp_path / "choices.json"), "explain": ("--device", "reference")}.get(command, ())
    code, out, err = ended(command, path, *MIX, *more)
    assert (code, out) == (2, "")
    assert "several sizes are for `latte estimate` and `latte profile`" in err
