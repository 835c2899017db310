"""The commands, by name."""

from collections.abc import Callable
from typing import Any

import typer

from latte_cli.cli.allocate import allocate
from latte_cli.cli.devices import devices
from latte_cli.cli.doctor import doctor
from latte_cli.cli.estimate import estimate
from latte_cli.cli.explain import explain
from latte_cli.cli.import_files import app as import_files
from latte_cli.cli.plan import app as plan
from latte_cli.cli.profile import profile
from latte_cli.cli.report import report
from latte_cli.cli.simulate import simulate
from latte_cli.cli.store import app as store
from latte_cli.cli.train_estimator import train_estimator
from latte_cli.cli.train_selector import train_selector
from latte_cli.cli.tune import tune
from latte_cli.cli.verify import verify
from latte_cli.cli.zoo import app as zoo

COMMANDS: dict[str, Callable[..., Any]] = {
    "profile": profile,
    "train-selector": train_selector,
    "train-estimator": train_estimator,
    "estimate": estimate,
    "explain": explain,
    "verify": verify,
    "tune": tune,
    "report": report,
    "allocate": allocate,
    "simulate": simulate,
    "devices": devices,
    "doctor": doctor,
}
GROUPS: dict[str, typer.Typer] = {"plan": plan, "import": import_files, "store": store, "zoo": zoo}
