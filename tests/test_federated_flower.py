"""The federation of docs/federation under `flwr run`: a SuperLink and three SuperNodes on loopback, with TLS and keys.

They are started by the commands of docs/federation/tls.md. What they did is held against the same federation in this
process, and against a study's simulation of it.
"""

import json
import os
import re
import shlex
import shutil
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
from blocks import blocks
from safetensors.numpy import load_file
from test_federated_hostile import PLANS

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
KEYS, DEVICE_KEYS, SUPERLINK, REGISTER, *SUPERNODES, RUN = (
    block.code for block in blocks((APP / "tls.md").read_text("utf-8"))
)
NODES = tuple(
    {
        key: json.loads(value)
        for key, value in re.findall(r"([a-z-]+)=(\d+|\"[^\"]*\")", block.partition("--node-config")[2])
    }
    for block in SUPERNODES
)
CHANGES = {"rounds": 2, "devices": 3, "per-round": 2, "partition": "iid", "widths": "1,0.5", "round-duration": "60s"}
CHANGES["learn-times"] = False  # the devices are stand-ins: none is as fast as its profile here
"""To be quick: flwr-datasets, which spreads by Dirichlet, takes 3 s to import in each process.

A device stops in time by its own clock. The slow one sends half of the network for 29 s of the 60 s, and all of it for
longer: what it trains follows from the sub-model, and its steps end in time on the slowest machine.
"""

HOSTILE = ("a network with a name that writes to the terminal", "more lists in lists")
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
def running(command, log, folder, environment):
    """What a documented command starts, stopped at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-euc", command],
            cwd=folder,
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
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


class Terminals:
    """The terminals of tls.md in `folder`, each of which runs one of its commands on separate ports."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.processes, self.logs = [], []
        self._stack = stack
        self._ports = dict(zip(("9093", "9094", "9095", "9096", "9097"), map(str, free_ports(5)), strict=True))
        self._environment = {
            **os.environ,
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, command):
        """Run `command`; its process and the file it writes to."""
        command = re.sub(r"\b909\d\b", lambda match: self._ports[match[0]], command)
        log = self.folder / f"terminal{len(self.logs)}.log"
        process = self._stack.enter_context(running(command, log, self.folder, self._environment))
        self.processes.append(process)
        self.logs.append(log)
        return process, log

    def wait(self, condition):
        wait_until(condition, self.processes, self.logs)

    def finish(self, command):
        """Run `command` to its end."""
        process, _ = self.start(command)
        self.wait(lambda: process.poll() == 0)

    def serving(self):
        return listening(int(self._ports["9093"]))


def run_by_flower(folder, output):
    """Run the documented federation into `output`; what a device that is not registered said, and hostile runs."""
    config = flower_config({**CHANGES, "output": str(output)})
    with ExitStack() as stack:
        terminals = Terminals(folder, stack)
        terminals.finish(KEYS)
        terminals.finish(DEVICE_KEYS.replace("0 1 2", "0 1 2 3"))
        terminals.start(SUPERLINK)
        terminals.wait(terminals.serving)
        terminals.finish(REGISTER)
        for command in SUPERNODES:
            terminals.start(command)
        stranger, said = terminals.start(
            SUPERNODES[-1].rstrip().replace("device-2", "device-3").replace("9096", "9097") + " || true"
        )
        command = RUN.replace("docs/federation", str(APP)).partition("--run-config")[0]
        hostile = [terminals.start(f"{command} --run-config {shlex.quote(each)} || true") for each in _hostile(folder)]
        terminals.wait(lambda: all(process.poll() is not None for process, _ in hostile))
        terminals.start(f"{command} --run-config {shlex.quote(config)}")
        terminals.wait((output / "rounds.json").exists)
        terminals.wait(lambda: stranger.poll() is not None)
    assert all(each.poll() is not None for each in terminals.processes)
    return said.read_text(), [log.read_text() for _, log in hostile]


def _hostile(folder):
    """The configurations of runs with plans that nobody can follow."""
    for name in HOSTILE:
        path = folder / f"{name.replace(' ', '-')}.json"
        path.write_text(PLANS[name](), "utf-8")
        yield flower_config({"plan": str(path), "devices": 3})


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    """What a run under Flower wrote: its folder and `rounds.json` in it; what a stranger said, and hostile runs."""
    missing = [each for each in ("openssl", "ssh-keygen") if shutil.which(each) is None]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    folder = tmp_path_factory.mktemp("flower")
    said, hostile = run_by_flower(folder, folder / "output")
    return folder / "output", json.loads((folder / "output" / "rounds.json").read_text()), said, hostile


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.usefixtures("one_thread")
def test_flwr_run_gives_what_the_same_federation_gives_in_this_process(flower, tmp_path):
    output, theirs, *_ = flower
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
    trained = {one["name"]: one["sub_model"] for each in theirs["rounds"] for one in each["trained"]}
    assert trained.pop("device-0") != "w1"
    assert trained == {"device-1": "w1", "laptop": "w1"}
    assert theirs["rounds"][-1]["evaluation"]["accuracy"] > 0.5


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_device_whose_key_is_not_registered_takes_no_part(flower):
    _, found, said, _ = flower
    assert "Failed to activate SuperNode." in said
    assert [each["name"] for each in found["devices"]] == ["device-0", "device-1", "laptop"]


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_run_with_a_hostile_plan_ends_in_one_line_of_the_log_and_the_next_one_goes_on(flower):
    *_, hostile = flower
    for said in hostile:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said)  # Flower's own colours
        assert re.search(r"^ERROR.*: +the federation ends: .* plan.* \(.*\)$", plain, re.MULTILINE), plain
        assert all(line.replace("\t", "").isprintable() for line in plain.splitlines()), plain


def test_the_pages_name_each_option_that_secures_a_federation():
    assert "--insecure" not in "".join((SUPERLINK, *SUPERNODES))
    assert len(SUPERNODES) == CHANGES["devices"] == len(NODES)


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.usefixtures("one_thread")
def test_latte_learns_under_flwr_run_what_the_simulation_of_a_study_says(flower, tmp_path):
    classes = [
        {
            "class": f"class-{node['partition-id']}",
            "device": node["device"],
            "bandwidth": {"up": node.get("up", CONFIG["up"]), "down": CONFIG["down"]},
        }
        for node in NODES
    ]
    document = {
        **{key: (CONFIG | CHANGES)[key] for key in ("model", "image-size", "data", "held-out", "rounds", "partition")},
        "devices-per-round": CHANGES["per-round"],
        "recipe": {key: CONFIG[key] for key in ("batch", "epochs", "learning-rate", "momentum")},
        "latte": {"widths": CHANGES["widths"], "channels": CONFIG["method"], "rule": CONFIG["rule"]},
        "methods": ["fedavg", "latte"],
        "seeds": [1, 2, 3],
        "targets": [0.6],
        "tuning": {"seed": 9},
        "scenarios": [{"scenario": "three", "classes": classes}],
    }
    study = parse_study(yaml.safe_dump(document).encode(), source="study")
    workshop = Workshop(study, open_store(str(tmp_path / "store")), tmp_path / "study")
    seed = CONFIG["seed"]
    (scenario,) = study.scenarios
    whole = workshop.plan_run("fedavg", scenario, TunedOption(), seed)
    slowest_s = max(share.round_s for share in whole.shared.shares.values())
    duration = float(CHANGES["round-duration"].removesuffix("s")) / slowest_s
    planned = workshop.plan_run("latte", scenario, TunedOption(duration=duration, deadline=Deadline.PARTIAL), seed)
    simulated = workshop.train(planned)

    _, found, *_ = flower
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
