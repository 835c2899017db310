"""A small study: four devices of two kinds, two rounds, digits."""

import yaml

from latte_cli.federated.study import parse_study

CPU, GPU = "reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference"
BANDWIDTH = {"up": "20Mbit", "down": "100Mbit"}
CLASSES = [
    {"class": "slow", "device": CPU, "count": 2, "slower": 20, "bandwidth": BANDWIDTH},
    {"class": "fast", "device": GPU, "count": 2, "bandwidth": BANDWIDTH},
]
STUDY = {
    "model": "custom_cnn",
    "image-size": 8,
    "data": "digits",
    "rounds": 2,
    "recipe": {"learning-rate": 0.02},
    "seeds": [1, 2, 3],
    "targets": [0.3, 0.6],
    "tuning": {"seed": 0, "round-durations": [0.4, 0.7], "levels": [0.25, 0.5], "deadlines": ["none", "drop"]},
    "methods": ["fedavg", "latte"],
    "scenarios": [
        {"scenario": "calm", "classes": CLASSES},
        {"scenario": "rough", "noise": 0.3, "dropout": 0.2, "classes": CLASSES},
    ],
}


def study(**changes):
    return parse_study(yaml.safe_dump(STUDY | changes).encode(), source="`study.yaml`")
