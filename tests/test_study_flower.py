"""A small study under `flwr run`: what LATTE's devices learn on SuperNodes is what the simulation says."""

import json

import pytest
import test_federated_flower as flower
import torch
import yaml

from latte_cli.federated.study import Workshop, parse_study
from latte_cli.store import open_store

CONFIG = flower.CONFIG


@pytest.mark.timeout(2 * flower.PATIENCE_S)
def test_latte_learns_under_flwr_run_what_the_simulation_says(tmp_path):
    classes = [
        {
            "class": node["device"],
            "device": node["device"],
            "bandwidth": {"up": node.get("up", CONFIG["up"]), "down": CONFIG["down"]},
        }
        for node in flower.NODES
    ]
    document = {
        **{key: CONFIG[key] for key in ("model", "image-size", "data", "partition", "alpha", "held-out", "rounds")},
        "recipe": {key: CONFIG[key] for key in ("batch", "epochs", "learning-rate", "momentum")},
        "latte": {"widths": CONFIG["widths"], "channels": CONFIG["method"], "rule": CONFIG["rule"]},
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
    whole = workshop.planned("fedavg", scenario, 1.0, seed)
    slowest_s = max(share.round_s for share in whole.shared.shares.values())
    planned = workshop.planned("latte", scenario, float(CONFIG["round-duration"].removesuffix("s")) / slowest_s, seed)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    simulated = workshop.trained(planned)
    torch.set_num_threads(before)

    output = tmp_path / "there"
    processes = flower.run_by_flower(tmp_path, output)
    assert all(each.poll() is not None for each in processes)
    rounds = json.loads((output / "rounds.json").read_text())["rounds"]
    for tick, each in zip(planned.ticks, rounds, strict=True):
        assert [trainer["sub_model"] for trainer in each["trained"]] == [
            planned.shared.sub_models[number].id for number in tick.done
        ]
    evaluations = [each["evaluation"] for each in rounds]
    assert simulated.accuracies[1:] == pytest.approx([each["accuracy"] for each in evaluations], abs=0.01)
    assert simulated.losses[1:] == pytest.approx([each["loss"] for each in evaluations], rel=0.01)
