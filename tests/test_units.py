"""Every option, file and setting that takes a duration, a rate or a size wants its unit."""

import copy
import re

import pytest
import typer.main
import yaml
from running import latte
from test_study_files import GOOD as STUDY

from latte_cli.cli import app
from latte_cli.cli.explain import other_values
from latte_cli.errors import ExitCode, LatteError
from latte_cli.federated.device import fleet_class, rounds
from latte_cli.federated.settings import FederationSettings, settings
from latte_cli.federated.study import parse_study
from latte_cli.fleet import parse_fleet
from latte_cli.strategies import by_name
from latte_cli.thresholds import QUANTITIES, parse_threshold

DURATION = "did you mean `{0}7ms` or `{0}7s`?"
RATE = "did you mean `{0}7kbit` or `{0}7Mbit`?"
SIZE = "did you mean `{0}7MiB` or `{0}7GiB`?"

OPTIONS = {
    "profile --budget": DURATION,
    "train-selector --workspace-limit": SIZE,
    "estimate --workspace-limit": SIZE,
    "estimate --memory-limit": SIZE,
    "estimate --measure": DURATION,
    "estimate --fits": f"{SIZE}; or `device`",
    "estimate --upload": RATE,
    "estimate --download": RATE,
    "estimate --mmap-threshold": SIZE,
    "estimate --fail-above": DURATION,
    "explain --workspace-limit": SIZE,
    "explain --memory-limit": SIZE,
    "compare --workspace-limit": SIZE,
    "compare --memory-limit": SIZE,
    "compare --fits": f"{SIZE}; or `device`",
    "compare --fail-above": DURATION,
    "verify --seconds": DURATION,
    "tune --workspace-limit": SIZE,
    "tune --memory-limit": SIZE,
    "tune --seconds": DURATION,
    "allocate --round-duration": DURATION,
    "import torch-trace --step-time": DURATION,
}
TYPED = {
    **{f"{name}=": (parse_threshold, DURATION) for name in QUANTITIES if name != "memory"},
    "memory=": (parse_threshold, SIZE),
    "tensorflow:workspace-limit=": (by_name, SIZE),
    "xla:tolerance=": (by_name, DURATION),
    "workspace-limit=": (other_values, SIZE),
    "memory-limit=": (other_values, SIZE),
}
"""What stands before a quantity within an option's text, and what reads it."""

FLEET = {
    "round_duration": "30s",
    "classes": [
        {
            "class": "phone",
            "device": "d",
            "samples": 5,
            "batch": 1,
            "bandwidth": {"up": "5Mbit", "down": "20Mbit"},
            "overhead": "2s",
            "memory": "2GiB",
        }
    ],
}


def options(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from options(child, (*path, name))
    for param in command.params:
        if param.metavar in ("DURATION", "RATE", "SIZE", "LIMIT"):
            yield " ".join((*path, param.opts[0])), param


FOUND = dict(options(typer.main.get_command(app)))


def refused(parse, *arguments):
    """The message and the hint with which a bare 7 is refused."""
    with pytest.raises(LatteError) as caught:
        parse(*arguments)
    assert "`7` is not a " in caught.value.message
    assert caught.value.message.endswith(": the unit is missing")
    return caught.value.message, caught.value.hint


def named(hint):
    return re.findall("`([^`]+)`", hint)


def test_the_table_has_every_option_that_takes_a_quantity():
    assert [*FOUND] == [*OPTIONS]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_wants_the_unit(name):
    param = FOUND[name]
    _, hint = refused(param.type.convert, "7", param, None)
    assert hint == OPTIONS[name].format("")
    assert all(param.type.convert(each, param, None) for each in named(hint))


@pytest.mark.parametrize("before", TYPED)
def test_a_quantity_within_an_options_text_wants_the_unit(before):
    parse, expected = TYPED[before]
    _, hint = refused(parse, before + "7")
    assert hint == expected.format(before)
    assert all(parse(each) for each in named(hint))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--fail-above", 10),
            "error: `10` is not a duration: the unit is missing\nhint: did you mean `10ms` or `10s`?\n",
        ),
        (("--fail-above", "memory=2"), "hint: did you mean `memory=2MiB` or `memory=2GiB`?\n"),
        (("--strategy", "tensorflow:workspace-limit=1"), "hint: did you mean `tensorflow:workspace-limit=1MiB` or"),
    ],
)
def test_the_command_line_says_it_in_two_lines(tmp_path, arguments, said):
    model = tmp_path / "lenet.onnx"
    latte("zoo", "export", "lenet", model)
    done = latte("estimate", model, *arguments, "--device", "reference", code=ExitCode.USAGE)
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 2


def changed(document, keys, value):
    """The document as YAML with the value that the keys lead to."""
    found = copy.deepcopy(document)
    *way, last = keys
    inner = found
    for key in way:
        inner = inner[key]
    inner[last] = value
    return yaml.safe_dump(found).encode()


IN_CLASS = {
    ("bandwidth", "up"): ("class `phone`, `bandwidth`: `up`: ", RATE),
    ("bandwidth", "down"): ("class `phone`, `bandwidth`: `down`: ", RATE),
    ("overhead",): ("class `phone`: `overhead`: ", DURATION),
    ("memory",): ("class `phone`: `memory`: ", SIZE),
}
FILES = [
    (parse_fleet, FLEET, ("round_duration",), "`file`: `round_duration`: ", DURATION),
    *(
        (parse_fleet, FLEET, ("classes", 0, *keys), f"`file`, {place}", expected)
        for keys, (place, expected) in IN_CLASS.items()
    ),
    *(
        (
            parse_study,
            STUDY,
            ("scenarios", 0, "classes", 0, *keys),
            f"`file`, scenario `{STUDY['scenarios'][0]['scenario']}`, {place}",
            expected,
        )
        for keys, (place, expected) in IN_CLASS.items()
    ),
]


@pytest.mark.parametrize(("parse", "document", "keys", "place", "expected"), FILES)
def test_a_number_in_a_file_wants_the_unit(parse, document, keys, place, expected):
    def read(content):
        return parse(content, source="`file`")

    message, hint = refused(read, changed(document, keys, 7))
    assert message.startswith(place)
    assert hint == expected.format("")
    assert all(read(changed(document, keys, each)) for each in named(hint))


@pytest.mark.parametrize(
    ("key", "expected"), [("round-duration", DURATION), ("timeout", DURATION), ("up", RATE), ("down", RATE)]
)
def test_a_setting_of_a_federation_wants_the_unit(key, expected):
    message, hint = refused(settings, {key: 7})
    assert message.startswith(f"setting `{key}`: ")
    assert hint == expected.format("")
    assert all(settings({key: each}) for each in named(hint))


@pytest.mark.parametrize(("key", "expected"), [("up", RATE), ("down", RATE), ("memory", SIZE)])
def test_a_setting_of_a_node_wants_the_unit(key, expected):
    node = {"partition-id": 0, "num-partitions": 1}
    message, hint = refused(fleet_class, node | {key: 7}, FederationSettings(), 5)
    assert message.startswith(f"node setting `{key}`: ")
    assert hint == expected.format("")
    assert all(fleet_class(node | {key: each}, FederationSettings(), 5) for each in named(hint))


def test_the_budget_of_a_nodes_profile_wants_the_unit():
    message, hint = refused(rounds, {"partition-id": 0, "profile-budget": 7}, FederationSettings(), b"", [], 5)
    assert message.startswith("node setting `profile-budget`: ")
    assert hint == DURATION.format("")
