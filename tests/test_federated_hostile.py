"""A server's own inputs when they are hostile: a federation ends in one line that can be read, whatever they hold."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latte_cli.errors import LatteError
from latte_cli.federated import client, server
from latte_cli.federated.grid import run_federation

FROZEN = json.loads((Path(__file__).parent / "frozen" / "allocate.json").read_text("utf-8"))
EVIL = "evil\x1b[2J\nerror: gone\u202e\a"
LONGEST = 400


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def changed(change: Callable[[Any], object]) -> str:
    document = json.loads(json.dumps(FROZEN))
    change(document)
    return json.dumps(document)


PLANS = {
    "another network": lambda: json.dumps(FROZEN),
    "a network with a name that writes to the terminal": lambda: changed(lambda plan: plan["model"].update(name=EVIL)),
    "a number of 4,000 digits": lambda: changed(lambda plan: plan["model"].update(batch=0)).replace(
        '"batch": 0', '"batch": ' + "9" * 4000, 1
    ),
    "lists in lists": lambda: changed(lambda plan: plan.update(classes=deep(900))),
    "more lists in lists": lambda: "[" * 100_000,
    "a key that writes to the terminal": lambda: changed(lambda plan: plan.update({EVIL: 1})),
    "another schema": lambda: changed(lambda plan: plan.update(schema=EVIL)),
    "no document": lambda: EVIL,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "a key": {EVIL: 1},
    "a model": {"model": EVIL},
    "a network that is not known": {"model": "evil"},
    "a duration": {"round-duration": EVIL},
    "widths": {"widths": EVIL},
    "a number": {"rounds": 10**4000},
    "a list of lists": {"rounds": deep(900)},
    "a method": {"method": EVIL},
    "a fleet": {"fleet": EVIL},
    "a plan in another folder": {"plan": f"/nowhere/{EVIL}"},
    "a bandwidth": {"up": EVIL},
    "data": {"data": EVIL},
}


def check_one_line(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flwr")
    logging.getLogger("flwr").addHandler(caplog.handler)
    with pytest.raises(LatteError) as error:
        run_federation(server.app, client.app, [{"partition-id": 0, "num-partitions": 1}], config)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    said = error.value.message
    assert said.isprintable()
    assert len(said) < LONGEST
    assert error.value.__suppress_context__
    assert [each.getMessage() for each in caplog.records if said in each.getMessage()]
    assert all(each.getMessage().strip("\t\n").isprintable() for each in caplog.records)


@pytest.mark.parametrize("name", PLANS)
def test_a_hostile_plan_ends_a_federation_in_one_line(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLANS[name](), "utf-8")
    check_one_line({"plan": str(path)}, caplog)


@pytest.mark.parametrize("name", SETTINGS)
def test_hostile_settings_end_a_federation_in_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check_one_line({"timeout": "1s", **SETTINGS[name]}, caplog)
