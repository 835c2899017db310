"""The federation of docs/federation under `flwr run`: a SuperLink and two SuperNodes on loopback."""

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
import torch
from safetensors.numpy import load_file

from latte_cli.federated import client, server
from latte_cli.federated.device import NODE_SETTINGS
from latte_cli.federated.grid import run
from latte_cli.federated.settings import Settings, settings

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
PATIENCE_S = 200
COMMANDS = Path(sys.executable).parent


def test_the_documented_settings_are_all_there_are_and_the_defaults():
    assert settings(CONFIG) == Settings(learning_rate=0.02, round_duration_s=1.0)
    assert len(CONFIG) == len(Settings.__dataclass_fields__)


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


def node_config(node):
    return " ".join(f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in node.items())


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
            command = ("flower-supernode", "--insecure", *address, "--node-config", node_config(node))
            processes.append(stack.enter_context(running(command, log, environment)))
        command = ("flwr", "run", str(APP), "loopback", "--stream", "--run-config", f'output="{output}"')
        processes.append(stack.enter_context(running(command, logs[3], environment)))
        wait_until((output / "rounds.json").exists, processes, logs)
    return processes


@pytest.mark.timeout(2 * PATIENCE_S)
def test_flwr_run_gives_what_the_same_federation_gives_in_this_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    processes = run_by_flower(tmp_path, there)
    assert all(each.poll() is not None for each in processes)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run(server.app, client.app, NODES, {**CONFIG, "output": str(here)})
    torch.set_num_threads(before)

    local, flower = (json.loads((folder / "rounds.json").read_text()) for folder in (here, there))
    first, second = (load_file(folder / "model.safetensors") for folder in (here, there))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert flower["frequencies"] == local["frequencies"]
    assert flower["devices"] == local["devices"]
    assert len(flower["rounds"]) == CONFIG["rounds"] == 3
    for mine, theirs in zip(local["rounds"], flower["rounds"], strict=True):
        assert [(each["name"], each["sub_model"]) for each in theirs["trained"]] == [
            (each["name"], each["sub_model"]) for each in mine["trained"]
        ]
        assert theirs["left_out"] == mine["left_out"] == []
        assert theirs["evaluation"]["accuracy"] == pytest.approx(mine["evaluation"]["accuracy"], abs=0.01)
    slow, fast = flower["rounds"][0]["trained"]
    assert slow["sub_model"] != fast["sub_model"] == "w1"
    assert flower["rounds"][-1]["evaluation"]["accuracy"] > 0.6


def test_the_readme_runs_in_one_process(tmp_path):
    code = re.search(r"```python\n(.*?)```", (APP / "README.md").read_text(), re.DOTALL)[1]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result" / "rounds.json").read_text())["rounds"][2]["trained"]


def test_the_readme_names_every_node_setting():
    table = (APP / "README.md").read_text().partition("| node setting")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(
        NODE_SETTINGS
    )
