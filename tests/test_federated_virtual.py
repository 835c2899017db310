"""Virtual devices: the nodes of a simulation represent the classes of a fleet file."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.allocator import Pricer, catalogue, class_estimator
from latte_cli.errors import LatteError
from latte_cli.federated import client, device, models, server
from latte_cli.federated.grid import run_federation
from latte_cli.federated.settings import settings
from latte_cli.federated.virtual import class_of, fleet_of
from latte_cli.store import open_store

CPU, GPU = "reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference"
FLEET = f"""
round_duration: 2.26s
classes:
  - class: phone
    device: {CPU}
    count: 2
    samples: 1
    batch: 32
    bandwidth: {{up: 1Mbit, down: 20Mbit}}
    overhead: 300ms
    memory: 1GiB
  - class: workstation
    device: {GPU}
    samples: 1
    batch: 32
    bandwidth: {{up: 100Mbit, down: 100Mbit}}
    strategy: pytorch
"""
CONFIG = {"image-size": 8, "rounds": 1, "learning-rate": 0.02, "partition": "iid", "devices": 3, "widths": "1,0.5"}


def nodes(count):
    """What Flower's simulation engine says to each of so many nodes."""
    return [{"partition-id": number, "num-partitions": count} for number in range(count)]


@pytest.fixture
def fleet(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return str(path)


@pytest.fixture
def chosen(fleet):
    return settings({**CONFIG, "fleet": fleet})


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_each_class_has_as_many_nodes_as_its_count_in_the_order_of_the_file(tmp_path_factory, counts):
    entry = "{{class: c{}, device: d, count: {}, samples: 1, batch: 32, bandwidth: {{up: 1Mbit, down: 1Mbit}}}}"
    text = "\n".join(["classes:", *(f"  - {entry.format(*each)}" for each in enumerate(counts))])
    path = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    path.write_text(text)
    chosen = settings({"fleet": str(path)})
    found = [class_of(node, chosen).name for node in nodes(sum(counts))]
    assert found == [f"c{number}" for number, count in enumerate(counts) for _ in range(count)]


def test_a_node_of_no_fleet_has_no_class():
    assert class_of(nodes(1)[0], settings({})) is None
    assert fleet_of(settings({})) is None


@pytest.mark.parametrize("count", [1, 2, 4, 1000])
def test_a_federation_of_another_size_than_the_fleet_is_refused(chosen, count):
    with pytest.raises(LatteError, match=f"the fleet has 3 devices, and the federation {count}") as error:
        class_of(nodes(count)[0], chosen)
    assert "`num-supernodes`" in error.value.hint


@pytest.mark.parametrize("number", [-1, 3, True, None, "0", 1.0])
def test_a_node_whose_number_is_none_of_the_fleet_is_refused(chosen, number):
    with pytest.raises(LatteError, match=f"there is no device {number} of 3"):
        class_of({"partition-id": number, "num-partitions": 3}, chosen)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("batch: 32", "batch: 8", "class `phone`: `batch` is 8, and that of the run 32"),
        ("samples: 1", "{samples: 1, epochs: 5", "class `phone`: `epochs` is 5, and that of the run 1"),
        ("samples: 1", "optimizer: adam", "class `phone`: `optimizer` is adam, and that of the run momentum"),
    ],
)
def test_a_class_that_trains_otherwise_than_the_run_is_refused(tmp_path, before, after, reason):
    path = tmp_path / "fleet.yaml"
    added = after.removeprefix("{").replace(", ", "\n    ")
    path.write_text(
        FLEET.replace(before, added if "batch" in after or "samples" in after else f"{before}\n    {after}", 1)
    )
    with pytest.raises(LatteError) as error:
        fleet_of(settings({**CONFIG, "fleet": str(path)}))
    assert reason in error.value.message


def test_a_node_is_priced_as_its_class_and_what_it_says_itself_counts_more(chosen):
    phone = device.fleet_class(nodes(3)[1], chosen, 77)
    assert (phone.name, phone.count, phone.device, phone.samples) == ("phone-1", 1, CPU, 77)
    assert (phone.up_bit_per_s, phone.overhead_s, phone.memory_bytes) == (1e6, 0.3, 1 << 30)
    workstation = device.fleet_class(nodes(3)[2], chosen, 5)
    assert (workstation.name, workstation.strategy, workstation.optimizer) == ("workstation-2", "pytorch", "momentum")
    own = device.fleet_class({**nodes(3)[0], "name": "mine", "up": "5Mbit", "device": GPU}, chosen, 5)
    assert (own.name, own.up_bit_per_s, own.down_bit_per_s, own.device) == ("mine", 5e6, 20e6, GPU)


def test_a_long_name_of_a_class_leaves_room_for_the_number(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET.replace("phone", "p" * 100))
    name = device.device_name(nodes(3)[0], settings({**CONFIG, "fleet": str(path)}))
    assert name.endswith("p-0") and len(name) <= 100 - len("999999999")


@pytest.mark.usefixtures("one_thread")
def test_virtual_devices_take_as_many_steps_as_their_estimates_say(chosen, fleet, tmp_path):
    config = {**CONFIG, "fleet": fleet, "output": str(tmp_path / "out")}
    run_federation(server.app, client.app, nodes(3), config)
    found = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert found["round_duration_s"] == 2.26
    assert [each["name"] for each in found["devices"]] == ["phone-0", "phone-1", "workstation-2"]
    assert [each["device"] for each in found["devices"]] == [CPU, CPU, GPU]
    trained = {each["name"]: each["sub_model"] for each in found["rounds"][0]["trained"]}
    assert trained == {"phone-0": "w0.5", "phone-1": "w0.5", "workstation-2": "w1"}
    # sending takes a phone 2.24 s, so that 6 of its 15 steps of 32 examples end in time
    learned = np.unique(found["frequencies"]["conv1"])
    assert learned.tolist() == [479, 479 + 6 * 32, 479 + 2 * 6 * 32]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_data_too_few_for_a_fleet_are_named_before_any_device_is_asked(tmp_path, partition):
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("count: 2", "count: 900"))
    chosen = settings({**CONFIG, "partition": partition, "fleet": str(tmp_path / "fleet.yaml")})
    with pytest.raises(LatteError, match="1,438 examples cannot be spread over 901 devices, with 2 at least each"):
        server.federation(None, chosen)


def test_a_virtual_device_is_priced_within_its_memory_as_latte_allocate_prices_its_class(tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("memory: 1GiB", "memory: 11MiB"))
    chosen = settings({**CONFIG, "fleet": str(tmp_path / "fleet.yaml"), "image-size": 28})
    model = models.content(chosen.model, image_size=28, classes=10)
    store, node = open_store(None), nodes(3)[0]
    subs = catalogue(models.network_from(model, batch=32), (1.0, 0.5))
    price = Pricer(lambda batch: models.network_from(model, batch=batch), partial(class_estimator, store))
    wanted = [price(each, device.fleet_class(node, chosen, 64)) for each in subs]
    found = device.rounds(node, chosen, model, subs, 64)
    assert [(each.round_s, each.memory_bytes) for each in found] == [
        (each.round_s, each.memory_bytes) for each in wanted
    ]
    assert min(each.memory_bytes for each in found) <= 11 << 20 < max(each.memory_bytes for each in found)
