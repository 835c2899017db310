"""Study files: what they say, and what is said of bad ones; the files that a study keeps."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.errors import LatteError
from latte_cli.federated.data import Partition
from latte_cli.federated.study import METHODS, parse_study, read_study
from latte_cli.federated.study.availability import Availability, Periods
from latte_cli.federated.study.files import Files, configuration_key
from latte_cli.fleet import Method

CPU = "reference-amd-epyc-family-26-model-2-2c-2t"
CLASS = {"class": "phone", "device": CPU, "count": 4, "bandwidth": {"up": "5Mbit", "down": "20Mbit"}}
GOOD = {
    "model": "custom_cnn",
    "image-size": 8,
    "data": "digits",
    "rounds": 3,
    "recipe": {"batch": 32, "learning-rate": 0.02},
    "seeds": [1, 2, 3],
    "targets": [0.5],
    "tuning": {"seed": 0, "round-durations": [0.5, 1]},
    "scenarios": [{"scenario": "one", "classes": [CLASS]}],
}


def parsed(document):
    content = document if isinstance(document, bytes) else yaml.safe_dump(document).encode()
    return parse_study(content, source="`study.yaml`")


def error_of(document):
    with pytest.raises(LatteError) as caught:
        parsed(document)
    error = caught.value
    assert len(error.message.splitlines()) == 1
    assert len(error.message) < 250
    assert error.hint
    assert error.exit_code == 1
    assert "`study.yaml`" in error.message
    return error


def with_class(**fields):
    return GOOD | {"scenarios": [{"scenario": "one", "classes": [CLASS | fields]}]}


def with_scenario(**fields):
    return GOOD | {"scenarios": [GOOD["scenarios"][0] | fields]}


def with_inner(name, **fields):
    return GOOD | {name: GOOD.get(name, {}) | fields}


def test_a_study_says_what_it_says_and_has_defaults():
    study = parsed(GOOD)
    assert (study.settings.batch, study.settings.learning_rate, study.settings.momentum) == (32, 0.02, 0.9)
    assert (study.settings.per_round, study.every, study.seeds, study.targets) == (0, 1, (1, 2, 3), (0.5,))
    assert study.methods == tuple(METHODS)
    assert (study.tuning.target, study.tuning.round_durations, study.tuning.levels) == (0.5, (0.5, 1.0), (1.0,))
    (scenario,) = study.scenarios
    assert [tier.fleet_class.name for tier in scenario.devices] == ["phone"] * 4
    assert (scenario.availability, scenario.tiers[0].slower) == (Availability(), 1)
    assert (study.tuning.proximal, study.tuning.buffers) == ((0.01,), (4,))
    assert (study.tuning.over_selections, study.least_share) == ((1.0,), 0.0)
    assert not study.fine
    assert study.settings.method is Method.ROLLING


def test_everything_a_study_can_say_is_read():
    document = GOOD | {
        "classes": 10,
        "held-out": 0.25,
        "partition": "pathological",
        "classes-each": 3,
        "alpha": 1,
        "devices-per-round": 2,
        "least-share": 0.5,
        "evaluate-every": 3,
        "methods": ["latte", "fedavg"],
        "latte": {"widths": "fine", "objective": "parameters", "channels": "least-trained", "scaled": True},
        "targets": "0.9, 0.5",
    }
    document |= {"recipe": {"batch": 8, "epochs": 2, "learning-rate": 1e-3, "momentum": 0, "weight-decay": 1e-4}}
    tuning = {"seed": 9, "target": 0.7, "round-durations": "1, 0.5", "levels": [0.5]}
    document |= {"tuning": tuning | {"proximal": [1, 0.1], "buffers": [8, 2], "over-selections": [1, 1.3]}}
    entry = CLASS | {"threads": 2, "strategy": "fixed:FFT", "slower": 8, "overhead": "2s", "memory": "1GiB"}
    document |= {"scenarios": [{"scenario": "s", "noise": 0.3, "dropout": 0.1, "classes": [entry]}]}
    document["scenarios"][0]["available"] = {"on": "20 s", "off": "500ms"}
    study = parsed(document)
    assert study.fine
    assert (study.methods, study.targets, study.every) == (("latte", "fedavg"), (0.5, 0.9), 3)
    assert study.objective == "parameters"
    own = study.settings
    assert (own.method, own.scaled, own.masked, own.partition) == ("least-trained", True, False, Partition.PATHOLOGICAL)
    assert (own.epochs, own.momentum, own.weight_decay, own.optimizer) == (2, 0.0, 1e-4, "sgd")
    assert (study.tuning.seeds, study.tuning.target, study.tuning.round_durations) == ((9,), 0.7, (0.5, 1.0))
    assert (study.tuning.proximal, study.tuning.buffers) == ((0.1, 1.0), (2, 8))
    assert (study.tuning.over_selections, study.least_share) == ((1.0, 1.3), 0.5)
    assert study.scenarios[0].availability == Availability(
        noise=0.3, dropout=0.1, available=Periods(on_s=20.0, off_s=0.5)
    )
    (tier,) = study.scenarios[0].tiers
    found = tier.fleet_class
    assert (tier.slower, found.threads, found.strategy, found.memory_bytes) == (8, 2, "fixed:FFT", 2**30)
    assert (found.overhead_s, found.optimizer, found.batch, found.epochs) == (2.0, "sgd", 8, 2)


DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("path", sorted(DOCS.glob("study*.yaml")), ids=lambda path: path.name)
def test_the_studies_of_the_documentation_can_be_read(path):
    study = read_study(path)
    assert len(study.seeds) >= 3
    assert set(study.methods) <= set(METHODS)
    assert {len(scenario.devices) for scenario in study.scenarios} == {20 if path.name == "study-watch.yaml" else 40}


BAD = {
    "an unknown field": (GOOD | {"modle": "a"}, "unknown field `modle`", "did you mean `model`?"),
    "no seeds": ({k: v for k, v in GOOD.items() if k != "seeds"}, "`seeds` is missing", None),
    "no targets": ({k: v for k, v in GOOD.items() if k != "targets"}, "`targets` is missing", None),
    "no tuning": ({k: v for k, v in GOOD.items() if k != "tuning"}, "`tuning` is missing", None),
    "no scenarios": ({k: v for k, v in GOOD.items() if k != "scenarios"}, "`scenarios` is missing", None),
    "an empty list": (GOOD | {"seeds": []}, "`seeds`: there has to be a list of at least one", None),
    "a seed that is none": (GOOD | {"seeds": [1, "two"]}, "`seeds[2]`: `two` is not a seed", None),
    "a seed twice": (GOOD | {"seeds": [1, 1]}, "`seeds` has one of them twice", None),
    "a seed to tune on too": (GOOD | {"seeds": [0, 1]}, "`tuning`: the seed 0 is one of `seeds` too", None),
    "a target over 1": (GOOD | {"targets": [80]}, "`targets[1]`: `80` is not a share", "a number over 0"),
    "an image that is none": (GOOD | {"image-size": "big"}, "`image-size`: `big` is not what it can be", None),
    "rounds in fractions": (GOOD | {"rounds": 2.5}, "`rounds`: `2.5` is not what it can be", None),
    "evaluation too rare": (GOOD | {"evaluate-every": 9}, "`evaluate-every` 9 is more than `rounds`", "at most 3"),
    "nothing held out": (GOOD | {"held-out": 0}, "`held-out` is 0", None),
    "more devices than there are": (
        GOOD | {"devices-per-round": 5},
        "scenario `one`: 5 devices cannot take part in a round",
        "there are only 4",
    ),
    "an unknown partition": (GOOD | {"partition": "dirichlt"}, "`partition`", "did you mean `dirichlet`?"),
    "an unknown method": (GOOD | {"methods": ["fedavgg"]}, "`methods[1]`: unknown method `fedavgg`", "`fedavg`"),
    "a method that is a list": (GOOD | {"methods": [["fedavg"]]}, "`methods[1]`: it is not a single value", None),
    "methods in a mapping": (GOOD | {"methods": {"a": 1}}, "`methods`: there has to be a list", None),
    "a recipe that is a number": (GOOD | {"recipe": 3}, "`recipe`: there have to be fields", None),
    "an unknown part of a recipe": (with_inner("recipe", lr=1), "`recipe`: unknown field `lr`", None),
    "a learning rate below 0": (with_inner("recipe", **{"learning-rate": -1}), "`learning-rate`: `-1`", None),
    "a batch of none": (with_inner("recipe", batch=0), "`batch`: `0` is not what it can be", None),
    "a momentum that is text": (with_inner("recipe", momentum="much"), "`momentum`: `much`", None),
    "a duration of none": (with_inner("tuning", **{"round-durations": [0]}), "`round-durations[1]`: `0`", None),
    "a level over 1": (with_inner("tuning", levels=[2]), "`levels[1]`: `2` is not a share", None),
    "a factor of none": (with_inner("tuning", proximal=[0]), "`proximal[1]`: `0` is not what it can be", None),
    "a buffer of none": (with_inner("tuning", buffers=[0]), "`buffers[1]`: `0` is not a whole number", None),
    "fewer devices than are waited for": (
        with_inner("tuning", **{"over-selections": [0.9]}),
        "`over-selections[1]`: `0.9` is not what it can be",
        "from 1 to 10",
    ),
    "more devices than all": (
        with_inner("tuning", **{"over-selections": [1, 1.3]}),
        "`tuning`: `over-selections` draw more devices than all",
        "`devices-per-round`",
    ),
    "a share that never returns": (
        with_inner("tuning", **{"over-selections": [2]}) | {"least-share": 0.6, "devices-per-round": 2},
        "`least-share` 0.6 of 2 times as many devices is more than return",
        "at most 0.5",
    ),
    "a share of none": (GOOD | {"least-share": 2}, "`least-share`: `2` is not a share", None),
    "tuning without a seed": (GOOD | {"tuning": {"levels": [1]}}, "`tuning`: `seed` is missing", None),
    "an unknown objective": (with_inner("latte", objective="most"), "`latte`: `objective`: unknown objective", None),
    "unknown channels": (with_inner("latte", channels="rollin"), "`method`", "did you mean `rolling`?"),
    "widths that are none": (with_inner("latte", widths=[1, 3]), "`latte`: `widths[2]`: `3` is not a share", None),
    "a rule that does not exist": (with_inner("latte", rule="mean"), "`rule`", "one of: examples, holders"),
    "a truth that is none": (with_inner("latte", scaled="maybe"), "`scaled`: `maybe` is neither true nor false", None),
    "a scenario without a name": (GOOD | {"scenarios": [{}]}, "scenario 1: `scenario` is missing", None),
    "a scenario that is a word": (GOOD | {"scenarios": ["one"]}, "scenario 1 is not a mapping", None),
    "two scenarios of a name": (GOOD | {"scenarios": GOOD["scenarios"] * 2}, "two scenarios are called `one`", None),
    "a scenario without classes": (
        with_scenario(classes=[]),
        "scenario `one`: `classes`: there has to be a list",
        None,
    ),
    "too much noise": (with_scenario(noise=7), "scenario `one`: `noise`: `7` is not what it can be", "from 0 to 2"),
    "all devices lost": (with_scenario(dropout=1), "`dropout`: `1` is not what it can be", "from 0 to 0.9"),
    "devices that are always off": (
        with_scenario(available={"on": "0s", "off": "1s"}),
        "scenario `one`, `available`: `on`: `0s` is not a duration",
        None,
    ),
    "a period that is missing": (with_scenario(available={"on": "1s"}), "`available`: `off` is missing", None),
    "availability that is a share": (with_scenario(available=0.5), "`available`: there have to be fields", None),
    "two classes of a name": (with_scenario(classes=[CLASS, CLASS]), "two classes are called `phone`", None),
    "a class that is a word": (with_scenario(classes=["phone"]), "scenario `one`: class 1 is not a mapping", None),
    "a class without a device": (
        with_scenario(classes=[{k: v for k, v in CLASS.items() if k != "device"}]),
        "class `phone`: `device` is missing",
        None,
    ),
    "a bandwidth that is none": (
        with_class(bandwidth={"up": "fast", "down": "1bit"}),
        "scenario `one`, class `phone`, `bandwidth`: `up`: `fast` is not a bandwidth",
        None,
    ),
    "samples, which are the data's": (with_class(samples=5), "class `phone`: unknown field `samples`", None),
    "a count of none": (with_class(count=0), "class `phone`: `count`: `0` is not a whole number", None),
    "too many devices": (with_class(count=10**6), "scenario `one`: there are 1,000,000 devices", None),
    "half as slow": (with_class(slower=0.5), "class `phone`: `slower`: `0.5` is not a whole number", None),
    "an unknown strategy": (with_class(strategy="pytorc"), "`strategy`: unknown strategy", "did you mean `pytorch`?"),
    "a memory that is none": (with_class(memory="much"), "`memory`: `much` is not a size", None),
    "no YAML": (b"a: b: c", "is not YAML", None),
    "a list": (b"[]", "holds no study", None),
    "nothing": (b"", "holds no study", None),
    "code": (b"model: !!python/object/apply:os.system [exit]", "", None),
    "a field twice": (b"model: a\nmodel: b", "a field is there twice (line 1)", None),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_study_names_the_place_the_field_and_what_is_allowed(case):
    document, message, hint = BAD[case]
    error = error_of(document)
    assert message in error.message
    assert (hint or "") in error.hint


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(LatteError, match="cannot read the study"):
            read_study(path)


FIELDS = (*GOOD, "methods", "latte", "partition", "alpha")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(FIELDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.binary() | values.map(lambda value: yaml.safe_dump(value).encode()))
def test_garbage_raises_nothing_but_our_error(content):
    with pytest.raises(LatteError):
        parsed(content)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FIELDS), values)
def test_a_field_of_garbage_raises_nothing_but_our_error(field, value):
    try:
        parsed(GOOD | {field: value})
    except LatteError as error:
        assert "`study.yaml`" in error.message


# What a study keeps


RUN = {"times_s": [0, 2.5], "accuracies": [0.1, 0.5], "idle": 0.25, "late": 0, "gone": 1, "failed": 0, "devices": 4} | {
    "personal": None,
    "reason": "",
    "by_device": [0.25, 1],
}


def test_a_document_is_written_whole_and_read_again(tmp_path):
    kept = Files(tmp_path, "runs")
    name = configuration_key({"a": 1})
    assert kept.read(name) is None
    kept.write(name, {"run": RUN, "configuration": {}})
    assert kept.read(name)["run"] == RUN
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{name}.json"]


def test_keys_are_those_of_the_content():
    assert (
        configuration_key({"a": 1, "b": [2]})
        == configuration_key({"b": [2], "a": 1})
        != configuration_key({"a": 1, "b": [3]})
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": "latte.study-runs/1", "key": "other"}', "\0"])
def test_a_damaged_document_is_named(tmp_path, content):
    kept = Files(tmp_path, "runs")
    kept.write("abc", {})
    kept.path("abc").write_text(content)
    with pytest.raises(LatteError, match=r"abc\.json` is damaged") as caught:
        kept.read("abc")
    assert "delete it" in caught.value.hint


def test_a_document_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(LatteError, match="cannot write"):
        Files(tmp_path, "runs").write("abc", {})
    kept = Files(tmp_path, "trainings")
    with pytest.raises(ValueError, match="JSON"):
        kept.write("abc", {"a": float("nan")})
    assert not list((tmp_path / "trainings").iterdir()) if (tmp_path / "trainings").exists() else True


def test_documents_are_plain_json(tmp_path):
    kept = Files(tmp_path, "runs")
    kept.write("abc", {"run": {}})
    assert json.loads(kept.path("abc").read_text()) == {"schema": "latte.study-runs/1", "key": "abc", "run": {}}
