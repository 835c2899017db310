"""Flower's mods around the training of a federation's devices."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from blocks import blocks
from flwr.app import Error, Message
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod, message_size_mod

from latte_cli.federated import messages, server
from latte_cli.federated.client import app_with
from latte_cli.federated.grid import run_federation
from latte_cli.federated.messages import ARRAYS, FREQUENCIES, KEPT
from latte_cli.federated.mods import parameters_alone

PAGE = Path(__file__).parents[1] / "docs" / "federation" / "mods.md"
NODES = (
    {"partition-id": 0, "num-partitions": 2, "device": "reference-amd-epyc-family-26-model-2-2c-2t", "up": "4Mbit"},
    {"partition-id": 1, "num-partitions": 2, "device": "nvidia-h200-reference"},
)
CONFIG = {"rounds": 1, "round-duration": "1s", "partition": "iid", "deadline": "drop", "widths": "1,0.5"}

pytestmark = pytest.mark.usefixtures("one_thread")


class Watch:
    """A mod that keeps what it saw, by device: the arrays that were sent, and those that came back."""

    def __init__(self):
        self.sent, self.returned = {}, {}

    def __call__(self, message, context, call_next):
        device = context.node_config["partition-id"]
        self.sent[device] = self._arrays(message)
        reply = call_next(message, context)
        self.returned[device] = self._arrays(reply)
        return reply

    def _arrays(self, message):
        return {key: messages.arrays_in(record) for key, record in message.content.array_records.items()}


def run(folder, *mods):
    """What a round of two devices with these mods wrote."""
    run_federation(server.app, app_with(*mods), NODES, {**CONFIG, "output": str(folder / "out")})
    return json.loads((folder / "out" / "rounds.json").read_text())


def change(sent, returned):
    return np.concatenate([(returned[ARRAYS][name] - value).ravel() for name, value in sent[ARRAYS].items()])


def test_a_mod_sees_parameters_alone_and_the_rest_arrives_as_it_was(tmp_path):
    outside, inside, device = Watch(), Watch(), Watch()
    clip = parameters_alone(LocalDpMod(clipping_norm=0.125, sensitivity=0.0, epsilon=1.0, delta=1e-5))
    found = run(tmp_path, outside, parameters_alone(inside), clip, device)
    assert [each["name"] for each in found["rounds"][0]["trained"]] == ["device-0", "device-1"]
    for number in (0, 1):
        assert list(inside.sent[number]) == list(inside.returned[number]) == [ARRAYS]
        assert set(outside.sent[number]) == set(device.sent[number]) == {ARRAYS, KEPT}
        assert set(outside.returned[number]) == set(device.returned[number]) == {ARRAYS, KEPT, FREQUENCIES}
        for key in (KEPT, FREQUENCIES):
            for name, value in device.returned[number][key].items():
                assert np.array_equal(outside.returned[number][key][name], value)
        assert np.linalg.norm(change(device.sent[number], device.returned[number])) > 0.2
        assert np.linalg.norm(change(outside.sent[number], outside.returned[number])) == pytest.approx(0.125, rel=1e-3)


def test_local_noise_is_as_large_as_the_mod_says(tmp_path):
    outside = Watch()
    np.random.seed(0)
    noise = LocalDpMod(clipping_norm=1e-6, sensitivity=2e-6, epsilon=0.5, delta=1e-5)
    found = run(tmp_path, outside, parameters_alone(noise))
    assert len(found["rounds"][0]["trained"]) == 2
    wanted = 2e-6 * np.sqrt(2 * np.log(1.25 / 1e-5)) / 0.5
    assert change(outside.sent[1], outside.returned[1]).std() == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize(
    ("mod", "reason"),
    [
        (LocalDpMod(clipping_norm=1.0, sensitivity=0.0, epsilon=1.0, delta=1e-5), "exactly one ArrayRecord"),
        (parameters_alone(fixedclipping_mod), "requires the key 'clipping_norm'"),
        (parameters_alone(adaptiveclipping_mod), "requires the key 'clipping_norm'"),
    ],
)
def test_a_mod_that_cannot_be_used_so_is_named_and_nothing_is_learned(tmp_path, mod, reason):
    found = run(tmp_path, mod)
    assert found["rounds"][0]["trained"] == []
    assert all(reason in said for _, said in found["rounds"][0]["left_out"])


def test_a_device_that_fails_within_a_mod_is_named(tmp_path):
    def fail(message, context, call_next):
        return Message(Error(code=0, reason="no power"), reply_to=message)

    found = run(tmp_path, parameters_alone(lambda message, context, call_next: call_next(message, context)), fail)
    assert found["rounds"][0]["left_out"] == [["device-0", "no power"], ["device-1", "no power"]]


def test_mods_that_tell_sizes_take_the_messages_as_they_are(tmp_path):
    assert len(run(tmp_path, message_size_mod, arrays_size_mod)["rounds"][0]["trained"]) == 2


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    app, one_process = (block.code for block in blocks(PAGE.read_text("utf-8")) if block.language == "python")
    Path("client.py").write_text(app)
    exec(one_process, {})
    (only,) = json.loads(Path("private/rounds.json").read_text())["rounds"]
    assert [each["name"] for each in only["trained"]] == ["device-0", "device-1"]
    assert re.search(r"`clientapp = \"client:app\"`", PAGE.read_text("utf-8"))
