"""Layers that run in channels_last although the model runs in NCHW: they take their own rows, or a warning says so."""

from dataclasses import replace

import pytest
from made_rows import DEVICE, SETTINGS, convolution, profile, seconds, step_layers, tasks

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.estimator import Estimator
from latte_cli.layers import Copy
from latte_cli.network import Network, Node
from latte_cli.precisions import Layout
from latte_cli.store import open_store

IMAGE, TURNED, ORDER = (4, 12, 12, 8), (4, 8, 12, 12), (0, 3, 1, 2)
NETWORK = Network(
    name="turned",
    inputs=(("image", IMAGE),),
    nodes=(
        Node(
            name="turn",
            layer=Copy(operation="transpose", shape=IMAGE, output=TURNED, order=ORDER),
            inputs=("image",),
            output="turn",
        ),
        Node(name="first", layer=convolution(4, 8, 16, 12), inputs=("turn",), output="first"),
        Node(name="second", layer=convolution(4, 16, 6, 12), inputs=("first",), output="second"),
    ),
    outputs=("second",),
)


@pytest.fixture
def store(tmp_path):
    found = open_store(str(tmp_path), shipped=False)
    profile(found, step_layers(NETWORK))
    return found


def test_calls_that_a_model_has_turned_are_said_where_no_row_tells_of_them(store):
    found = Estimator(store, DEVICE.slug).estimate(NETWORK)
    (said,) = [warning for warning in found.warnings if warning.code == "turned"]
    assert said.message.startswith("2 layers")
    assert all(part.layout is Layout.NCHW for part in found.parts)


def test_calls_that_a_model_has_turned_take_what_was_measured_channels_last(store):
    profile(store, step_layers(NETWORK), replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    found = Estimator(store, DEVICE.slug).estimate(NETWORK)
    assert not [warning for warning in found.warnings if warning.code == "turned"]
    layouts = {part.name: part.layout for part in found.parts}
    assert [name for name, layout in layouts.items() if layout is Layout.CHANNELS_LAST] == ["first", "second"]
    part = next(part for part in found.parts if part.name == "first")
    settings = replace(SETTINGS, layout=Layout.CHANNELS_LAST)
    task = next(task for task in tasks([part.layer], settings) if task.phase is part.phase)
    assert part.algorithm == FRAMEWORK_DEFAULT
    assert part.device_s == pytest.approx(seconds(task), rel=0.2)


def test_a_model_that_lies_channels_last_as_a_whole_has_no_turned_calls(store):
    profile(store, step_layers(NETWORK), replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    found = Estimator(store, DEVICE.slug, layout=Layout.CHANNELS_LAST).estimate(NETWORK)
    assert not [warning for warning in found.warnings if warning.code == "turned"]
