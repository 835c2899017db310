"""The federation of docs/federation under `flwr run`: a SuperLink and two SuperNodes on loopback.

What they did is held against the same federation in this process, and against a study's simulation of it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from latte_cli.allocator import Deadline
from latte_cli.federated import client, server
from latte_cli.federated.device import NODE_SETTINGS
from latte_cli.federated.grid import run_federation
from latte_cli.federated.settings import FederationSettings, settings
from latte_cli.federated.study import Workshop, parse_study
from latte_cli.federated.study.shares import TunedOption
from latte_cli.store import open_store

APP = Path(__file__).parents[1] / "docs" / "federation"
CONFIG = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
NODES = (
    {
        "partition-id": 0,
        "num-partitions": 2,
        "device": "reference-amd-epyc-family-26-model-2-2c-2t",
        "up": "4Mbit",
    },
    {"partition-id": 1, "num-partitions": 2, "device": "nvidia-h200-reference"},
)
CHANGES = {"rounds": 2, "partition": "iid", "widths": "1,0.5", "deadline": "drop"}
"""To be quick: flwr-datasets, which spreads by Dirichlet, takes 3 s to import in each process."""

PATIENCE_S = 200
COMMANDS = Path(sys.executable).parent


def test_the_documented_settings_are_all_there_are_and_the_defaults():
    assert settings(CONFIG) == FederationSettings(learning_rate=0.02, round_duration_s=1.0)
    assert len(CONFIG) == len(FederationSettings.__dataclass_fields__)


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command, log, environment):
    """A process and what it starts, stopped at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [COMMANDS / command[0], *command[1:]],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition, processes, logs):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        ended = [each.args for each in processes if each.poll() not in (None, 0)]
        if ended or time.monotonic() > until:
            pytest.fail(f"ended: {ended}\n" + "\n".join(each.read_text(errors="replace")[-3000:] for each in logs))
        time.sleep(0.2)


def flower_config(settings):
    return " ".join(
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in settings.items()
    )


def run_by_flower(folder, output):
    link, *ports = free_ports(3)
    home = folder / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "loopback"\n[superlink.loopback]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
    }
    logs = [folder / f"{name}.log" for name in ("superlink", "node0", "node1", "run")]
    superlink = ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link))
    with ExitStack() as stack:
        processes = [stack.enter_context(running(superlink, logs[0], environment))]
        wait_until(lambda: listening(link), processes, logs[:1])
        for port, node, log in zip(ports, NODES, logs[1:], strict=False):
            address = ("--superlink", f"127.0.0.1:{link}", "--host", "127.0.0.1", "--port", str(port))
            command = ("flower-supernode", "--insecure", *address, "--node-config", flower_config(node))
            processes.append(stack.enter_context(running(command, log, environment)))
        config = flower_config({**CHANGES, "output": str(output)})
        command = ("flwr", "run", str(APP), "loopback", "--stream", "--run-config", config)
        processes.append(stack.enter_context(running(command, logs[3], environment)))
        wait_until((output / "rounds.json").exists, processes, logs)
    return processes


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    """What a run of two rounds under Flower wrote: its folder, and `rounds.json` in it."""
    folder = tmp_path_factory.mktemp("flower")
    processes = run_by_flower(folder, folder / "output")
    assert all(each.poll() is not None for each in processes)
    return folder / "output", json.loads((folder / "output" / "rounds.json").read_text())


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.usefixtures("one_thread")
def test_flwr_run_gives_what_the_same_federation_gives_in_this_process(flower, tmp_path):
    output, theirs = flower
    run_federation(server.app, client.app, NODES, {**CONFIG, **CHANGES, "output": str(tmp_path / "here")})
    ours = json.loads((tmp_path / "here" / "rounds.json").read_text())
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "here", output))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert theirs["frequencies"] == ours["frequencies"]
    assert theirs["devices"] == ours["devices"]
    assert len(theirs["rounds"]) == CHANGES["rounds"]
    for mine, each in zip(ours["rounds"], theirs["rounds"], strict=True):
        assert [(one["name"], one["sub_model"]) for one in each["trained"]] == [
            (one["name"], one["sub_model"]) for one in mine["trained"]
        ]
        assert each["left_out"] == mine["left_out"] == []
        assert each["evaluation"]["accuracy"] == pytest.approx(mine["evaluation"]["accuracy"], abs=0.01)
    slow, fast = theirs["rounds"][0]["trained"]
    assert slow["sub_model"] != fast["sub_model"] == "w1"
    assert theirs["rounds"][-1]["evaluation"]["accuracy"] > 0.5


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.usefixtures("one_thread")
def test_latte_learns_under_flwr_run_what_the_simulation_of_a_study_says(flower, tmp_path):
    classes = [
        {
            "class": node["device"],
            "device": node["device"],
            "bandwidth": {"up": node.get("up", CONFIG["up"]), "down": CONFIG["down"]},
        }
        for node in NODES
    ]
    document = {
        **{key: (CONFIG | CHANGES)[key] for key in ("model", "image-size", "data", "held-out", "rounds", "partition")},
        "recipe": {key: CONFIG[key] for key in ("batch", "epochs", "learning-rate", "momentum")},
        "latte": {"widths": CHANGES["widths"], "channels": CONFIG["method"], "rule": CONFIG["rule"]},
        "methods": ["fedavg", "latte"],
        "seeds": [1, 2, 3],
        "targets": [0.6],
        "tuning": {"seed": 9},
        "scenarios": [{"scenario": "two", "classes": classes}],
    }
    study = parse_study(yaml.safe_dump(document).encode(), source="study")
    workshop = Workshop(study, open_store(str(tmp_path / "store")), tmp_path / "study")
    seed = CONFIG["seed"]
    (scenario,) = study.scenarios
    whole = workshop.plan_run("fedavg", scenario, TunedOption(), seed)
    slowest_s = max(share.round_s for share in whole.shared.shares.values())
    duration = float(CONFIG["round-duration"].removesuffix("s")) / slowest_s
    planned = workshop.plan_run("latte", scenario, TunedOption(duration=duration, deadline=Deadline.DROP), seed)
    simulated = workshop.train(planned)

    _, found = flower
    for tick, each in zip(planned.ticks, found["rounds"], strict=True):
        assert [trainer["sub_model"] for trainer in each["trained"]] == [
            planned.shared.sub_models[number].id for number in tick.done
        ]
    evaluations = [each["evaluation"] for each in found["rounds"]]
    assert simulated.accuracies[1:] == pytest.approx([each["accuracy"] for each in evaluations], abs=0.01)
    assert simulated.losses[1:] == pytest.approx([each["loss"] for each in evaluations], rel=0.01)


@pytest.mark.usefixtures("one_thread")
def test_the_readme_runs_in_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", (APP / "README.md").read_text(), re.DOTALL)[1], {})
    assert json.loads((tmp_path / "result" / "rounds.json").read_text())["rounds"][2]["trained"]


def test_the_readme_names_every_node_setting():
    table = (APP / "README.md").read_text().partition("| node setting")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(
        NODE_SETTINGS
    )
