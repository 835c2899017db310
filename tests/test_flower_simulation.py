"""`benchmarks/simulation.py`: the commands it takes from the documentation, and its check of what a run wrote."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from latte_cli.federated import client, device, server
from latte_cli.federated.grid import run_federation
from latte_cli.federated.settings import settings
from latte_cli.fleet import parse_fleet

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE = (ROOT / "docs" / "federation" / "simulation.md").read_text("utf-8")
ROUNDS, PER_ROUND = 2, 4
COUNTS = {"phone": 7, "laptop": 4, "workstation": 1}
NAMES = [f"phone-{at}" for at in range(7)] + [f"laptop-{at}" for at in range(7, 11)] + ["workstation-11"]
DEVICES = len(NAMES)

sys.path.insert(0, str(BENCHMARKS))
import simulation  # noqa: E402  # it imports what lies beside it


def nodes(count):
    """What Flower's simulation engine says to each of so many nodes."""
    return [{"partition-id": number, "num-partitions": count} for number in range(count)]


def run_config(folder, devices):
    """The run's configuration in the page, for a fleet of so many devices."""
    found = simulation.commands(PAGE, port=1, devices=devices, rounds=ROUNDS, per_round=PER_ROUND)
    (text,) = re.findall(r"--run-config \\\n\s+\"(.*)\"\n", found.run)
    values = text.replace('\\"', '"').replace("$PWD", str(folder)).split()
    return tomllib.loads("\n".join(values))


@pytest.mark.parametrize(
    ("devices", "counts"),
    [
        (1000, {"phone": 600, "laptop": 350, "workstation": 50}),
        (20, {"phone": 12, "laptop": 7, "workstation": 1}),
        (DEVICES, COUNTS),
        (2, {"phone": 1, "laptop": 1}),
        (1, {"phone": 1}),
    ],
)
def test_a_fleet_of_any_size_has_the_classes_of_the_page_in_their_shares(devices, counts):
    classes = simulation.fleet_classes(PAGE, devices)
    fleet = parse_fleet(yaml.safe_dump({"classes": classes}).encode(), source="fleet")
    assert {each.name: each.count for each in fleet.classes} == counts


def test_the_fleet_of_the_page_is_taken_as_it_is():
    (fleet,) = (yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    assert simulation.fleet_classes(PAGE, 1000) == fleet["classes"]


def test_devices_are_called_as_the_app_calls_them(tmp_path):
    classes = simulation.fleet_classes(PAGE, DEVICES)
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump({"classes": classes}))
    chosen = settings({"fleet": str(tmp_path / "fleet.yaml"), "batch": 4})
    names = [device.device_name(node, chosen) for node in nodes(DEVICES)]
    assert simulation.device_names(classes) == names == NAMES


def test_the_commands_of_the_page_have_the_port_and_the_sizes_that_are_asked_for():
    found = simulation.commands(PAGE, port=4321, devices=70, rounds=3, per_round=5)
    assert "--port 4321" in found.superlink and "127.0.0.1:4321" in found.run
    assert "num-supernodes=70 " in found.run and "devices=70 per-round=5 " in found.run and " rounds=3 " in found.run
    assert f'flwr run "{ROOT / "docs" / "federation"}" here' in found.run
    for each in (found.superlink, found.run):
        assert each.startswith("export FLWR_HOME=$PWD/flower ")
        assert "9093" not in each and "1000" not in each


def test_a_page_whose_commands_changed_is_named():
    with pytest.raises(SystemExit, match="`num-supernodes=1000 ` 0 times"):
        simulation.commands(
            PAGE.replace("num-supernodes=1000", "num-supernodes=10"), port=1, devices=2, rounds=1, per_round=0
        )
    with pytest.raises(SystemExit, match="0 blocks with `flower-superlink`"):
        simulation.block("```sh\nflwr run\n```\n", "flower-superlink")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The `rounds.json` of the page's run for twelve devices, of which four take part in a round, in this process."""
    folder = tmp_path_factory.mktemp("simulation")
    (folder / "fleet.yaml").write_text(yaml.safe_dump({"classes": simulation.fleet_classes(PAGE, DEVICES)}))
    config = {**run_config(folder, DEVICES), "data": "digits", "held-out": 0.9}  # to be quick
    run_federation(server.app, client.app, nodes(DEVICES), config)
    return (folder / "result" / "rounds.json").read_text()


def faults(document, *, rounds=ROUNDS, per_round=PER_ROUND):
    return list(simulation.faults(document, NAMES, rounds=rounds, per_round=per_round))


@pytest.mark.usefixtures("one_thread")
def test_a_run_in_which_all_devices_took_part_passes(written):
    assert faults(json.loads(written)) == []


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_short_of_devices_or_rounds_fails(written):
    document = json.loads(written)
    assert faults(document, per_round=5) == [f"round {at}: 4 devices took part instead of 5" for at in (1, 2)]
    assert faults(document, per_round=0) == [f"round {at}: 4 devices took part instead of 12" for at in (1, 2)]
    assert faults(document, rounds=3) == ["there are 2 rounds instead of 3"]


def refuse(document):
    document["refused"] = [f"reason {at}" for at in range(4)]


def lose(document):
    del document["devices"][2]


def rename(document):
    document["devices"][8]["name"] = "phone-8"


def skip_training(document):
    del document["rounds"][1]["trained"][0]


def leave_out(document):
    document["rounds"][0]["left_out"].append(["phone-1", "it did not reply"])


def train_twice(document):
    trained = document["rounds"][0]["trained"]
    trained.append({**trained[0], "name": trained[0]["name"]})


def train_stranger(document):
    document["rounds"][0]["trained"][0]["name"] = "stranger-3"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (refuse, "4 devices were refused: reason 0, reason 1, reason 2, …"),
        (lose, "1 devices are missing: phone-2"),
        (rename, "1 devices are not called by their class and number: 8 is `phone-8`"),
        (skip_training, "round 2: 3 devices took part instead of 4"),
        (leave_out, "round 1: 1 devices were left out: phone-1: it did not reply"),
        (train_twice, "round 1: 1 devices took part more than once: "),
        (train_stranger, "round 1: 1 devices took part that are not of the fleet: stranger-3"),
    ],
)
def test_each_fault_of_a_run_is_found_and_named(written, damage, wanted):
    document = json.loads(written)
    damage(document)
    (found,) = faults(document)
    assert found.startswith(wanted)


ORPHAN = """
import os, subprocess, sys, time
sys.path.insert(0, {benchmarks!r})
import simulation
from process_memory import descendants
simulation.adopt_orphans()
simulation.STOP_S = 0.5
subprocess.run(["bash", "-c", "trap '' TERM; sleep 600 >&2 & setsid sleep 601 >&2 &"], check=True)
before = len(descendants(os.getpid())) - 1
simulation.stop_all()
print(before, len(descendants(os.getpid())) - 1)
"""


def test_processes_whose_parent_has_ended_are_stopped_too():
    script = ORPHAN.format(benchmarks=str(BENCHMARKS))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "2 0\n"


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_in_one_line_how_to_install_it():
    command = [sys.executable, str(BENCHMARKS / "simulation.py"), "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ray missing; `{simulation.INSTALL}` installs what is needed\n"
