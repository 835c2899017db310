"""Tasks: identity that is the same everywhere, and settings as text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.algorithms import Algorithm
from latte_cli.layers import Linear, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings, Task, versions_from_text

TASK = Task(
    layer=Linear(rows=8, in_features=512, out_features=10),
    phase=Phase.FORWARD,
    algorithm=Algorithm(library="torch", name="DEFAULT"),
    settings=Settings(threads=2, library_versions=(("onednn", "3.12"), ("torch", "2.13.0"))),
)


def test_a_task_keeps_its_id_in_every_process_and_version() -> None:
    """The stores of users hold this id: a change of it orphans what they measured."""
    assert TASK.id == "a44eb75d4b14ccf3"


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, layer=replace(TASK.layer, rows=9)),
        replace(TASK, phase=Phase.BACKWARD_DATA),
        replace(TASK, algorithm=Algorithm(library="onednn", name="DEFAULT")),
        replace(TASK, algorithm=Algorithm(library="torch", name="GEMM")),
        *[
            replace(TASK, settings=replace(TASK.settings, **change))
            for change in (
                {"precision": Precision.BF16},
                {"layout": Layout.CHANNELS_LAST},
                {"threads": 1},
                {"cuda_graph": True},
                {"power_mode": "MAXN"},
                {"library_versions": (("torch", "2.12.0"),)},
            )
        ],
    ],
)
def test_whatever_was_asked_for_is_part_of_the_id(other: Task) -> None:
    assert other.id != TASK.id
    assert other != TASK


def test_the_vendors_number_is_not_part_of_the_id() -> None:
    numbered = replace(TASK, algorithm=replace(TASK.algorithm, vendor_id=3))
    assert numbered.id == TASK.id


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.+-_", min_size=1)


@given(st.lists(st.tuples(NAMES, NAMES)).map(tuple))
def test_library_versions_read_back_from_their_text(versions: tuple[tuple[str, str], ...]) -> None:
    assert versions_from_text(Settings(library_versions=versions).versions_text) == versions


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("tf32", 4), ("bf16", 2), ("fp16", 2)])
def test_a_precision_knows_its_bytes(precision: str, size: int) -> None:
    assert Precision(precision).element_bytes == size


def test_a_precision_keeps_the_number_that_shipped_models_know_it_by() -> None:
    known = {"fp32": 0, "tf32": 1, "bf16": 2, "fp16": 3, "bf16_autocast": 4, "fp16_autocast": 5}
    assert {one.value: one.arithmetic.code for one in Precision} == known


def test_autocast_is_where_weights_have_another_type_than_activations() -> None:
    autocast = [Precision.BF16_AUTOCAST, Precision.FP16_AUTOCAST]
    assert [one for one in Precision if one.arithmetic.autocast] == autocast
    assert [one for one in Precision if one.arithmetic.plain] == [Precision.FP32, Precision.BF16, Precision.FP16]
    assert all(one.arithmetic.weight_bytes == 2 * one.element_bytes for one in autocast)
