"""A federation's rounds correct the prices of a plan."""

import copy
import json
from dataclasses import replace
from math import exp, inf, nan

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli_allocate import FLEET, latte, place  # noqa: F401 - fixtures

from latte_cli.allocator import PlanFile, RoundsFile, catalogue, correct_rounds, pricer_of, read_before
from latte_cli.allocator.learning import step_price
from latte_cli.errors import LatteError
from latte_cli.fleet import read_fleet
from latte_cli.network import load
from latte_cli.network.channels import channel_groups
from latte_cli.store import open_store

FAST, SLOW = "made-up-cpu-2c-2t", "made-up-cpu-2c-1t"


def trained(name, times, sub_model="w1", parameters=61706, step_s=0.01, **changes):
    """A device's round, whose steps took so many times their estimate."""
    price = {"step_s": step_s, "low_s": step_s / 2, "high_s": step_s * 2}
    found = {"name": name, "sub_model": sub_model, "parameters": parameters, "examples": 800, "loss": 1.0}
    found |= {"steps": 100, "step_s": times * step_s, "step_spread_s": 0.1 * step_s, "price": price, "in_use": price}
    return found | changes


def document(network, rounds, devices=(("fast-0", FAST), ("fast-1", FAST)), **changes):
    return {
        "schema": "latte-federation/1",
        "model": {"name": network.name, "sha256": network.sha256, "batch": 8},
        "round_duration_s": 60.0,
        "devices": [
            {"name": name, "number": at, "device": slug, "examples": 800} for at, (name, slug) in enumerate(devices)
        ],
        "refused": [],
        "rounds": [
            {"number": at + 1, "trained": each, "left_out": [], "evaluation": {}, "local_evaluation": {}}
            for at, each in enumerate(rounds)
        ],
        "coverage": None,
        "frequencies": {each.name: [0.0] * each.channels for each in channel_groups(network)},
        **changes,
    }


@pytest.fixture(scope="module")
def network(place):  # noqa: F811
    return load(place / "lenet.onnx", batch_size=8)


@pytest.fixture(scope="module")
def good(network):
    return document(network, [[trained("fast-0", 1.5), trained("fast-1", 1.6)], [trained("fast-0", 1.5)]])


@pytest.fixture
def written(tmp_path):
    def write(found):
        path = tmp_path / "rounds.json"
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        return path

    return write


def priced(place, network):  # noqa: F811
    store = open_store(str(place / "store"), shipped=False)
    fleet, price = read_fleet(place / "fleet.yaml"), pricer_of(place / "lenet.onnx", store)
    sub_models = catalogue(network, (1.0, 0.5))
    return [(each, tuple(price(one, each) for one in sub_models)) for each in fleet.classes]


def test_classes_are_corrected_by_what_their_own_devices_measured(place, network, good, written):  # noqa: F811
    before = priced(place, network)
    found = read_before(written(good))
    assert isinstance(found, RoundsFile)
    found.check_model(network)
    after = found.correct(before)
    assert after[1] == before[1]
    measured = [one for each in found.devices for one in each.measured]
    assert [round(exp(one.log_ratio), 9) for one in measured] == [1.5, 1.5, 1.6]
    assert after[0][1] == correct_rounds(before[0][1], measured)
    assert after[0][1] != before[0][1]


def test_rounds_without_measured_steps_change_nothing(place, network, written):  # noqa: F811
    quiet = trained("fast-0", 1.0, step_s=0.01) | {"step_s": None, "step_spread_s": None}
    before = priced(place, network)
    for rounds in ([], [[quiet]]):
        assert read_before(written(document(network, rounds))).correct(before) == before


def test_a_device_is_of_the_class_that_it_is_called_after(network, written):
    classes = [replace(each, name=name) for each in read_classes() for name in ("desk", "lap-top")][:2]
    names = ("desk", "desk-7", "lap-top-12")
    rounds = [[trained(name, 1.0) for name in names]]
    found = read_before(written(document(network, rounds, [(name, FAST) for name in names])))
    assert {name: [one.name for one in each] for name, each in found.measured_by(classes).items()} == {
        "desk": ["desk", "desk-7"],
        "lap-top": ["lap-top-12"],
    }


def test_a_device_that_may_be_of_two_classes_is_named(network, written):
    classes = [replace(read_classes()[0], name=name) for name in ("desk", "desk-1")]
    found = read_before(written(document(network, [[trained("desk-1", 1.0)]], [("desk-1", FAST)])))
    with pytest.raises(LatteError, match="`desk-1` may be of the classes desk and desk-1"):
        found.measured_by(classes)


def read_classes():
    from latte_cli.fleet import parse_fleet

    return parse_fleet(FLEET.encode(), source="fleet").classes


def changed(path, value):
    def change(found):
        part = found
        for key in path[:-1]:
            part = part[key]
        if value is KeyError:
            del part[path[-1]]
        else:
            part[path[-1]] = value

    return change


TRAINED = ("rounds", 0, "trained", 0)
BAD = [
    (changed(("schema",), "latte.study/1"), "is neither a plan nor a federation's rounds"),
    (changed(("schema",), KeyError), "says no schema"),
    (changed(("model",), KeyError), "it does not say of which model"),
    (changed(("model", "batch"), 0), "`model.batch`: `0` is too small"),
    (changed((*TRAINED, "step_s"), -1.0), "`rounds[0].trained[0].step_s`: `-1.0` is too small"),
    (changed((*TRAINED, "step_s"), 0), "is too small"),
    (changed((*TRAINED, "step_s"), 1e11), "is too large"),
    (changed((*TRAINED, "step_s"), "1"), "is not a number or null"),
    (changed((*TRAINED, "step_s"), nan), "NaN is no number"),
    (changed((*TRAINED, "step_s"), inf), "Infinity is no number"),
    (changed((*TRAINED, "steps"), 0), "`rounds[0].trained[0].steps`: `0` is too small"),
    (changed((*TRAINED, "steps"), KeyError), "`fast-0` in round 1 has steps without `steps`"),
    (changed((*TRAINED, "parameters"), KeyError), "has steps without `parameters`"),
    (changed((*TRAINED, "step_spread_s"), 9.0), "the steps of `fast-0` in round 1 spread more than they can"),
    (changed((*TRAINED, "price", "high_s"), 0.001), "the price of `fast-0` in round 1 is no interval"),
    (changed((*TRAINED, "price", "step_s"), 0.0), "is too small"),
    (changed((*TRAINED, "name"), "phone-1"), "`phone-1` in round 1 is not one of its devices"),
    (changed(("devices", 1, "name"), "fast-0"), "two of its devices have the same name"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_what_is_wrong_with_a_rounds_file_is_named_in_one_line(good, written, change, said):
    found = copy.deepcopy(good)
    change(found)
    with pytest.raises(LatteError) as error:
        read_before(written(found))
    assert said in error.value.message
    assert error.value.hint
    assert "rounds.json" in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"schema": 1}', "[" * 100, '{"schema": "latte-federation/1"}'])
def test_a_damaged_file_is_named(written, text):
    with pytest.raises(LatteError) as error:
        read_before(written(text))
    assert "rounds.json" in error.value.message and error.value.hint


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just(1e-320)
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_read_or_refused_and_prices_stay_in_order(place, network, good, written, data):  # noqa: F811
    found, part = copy.deepcopy(good), None
    part = found["rounds"][0]["trained"][data.draw(st.integers(0, 1))]
    part = data.draw(st.sampled_from([part, part["price"], found["model"], found["devices"][0]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(LEAVES)
    try:
        rounds = read_before(written(found))
        after = rounds.correct(priced_once(place, network))
    except LatteError as error:
        assert error.hint and "\n" not in error.message
        return
    for each in after[0][1]:
        assert step_price(each) and 0 < each.low_s <= each.round_s <= each.high_s < inf


_ONCE = {}


def priced_once(place, network):  # noqa: F811
    if not _ONCE:
        _ONCE["priced"] = priced(place, network)
    return _ONCE["priced"]


# The command


ALLOCATE = ("allocate", "lenet.onnx", "--fleet", "fleet.yaml", "--round-duration", "30s", "--format", "json")


def allocated(latte, *more):  # noqa: F811
    code, out, err = latte(*ALLOCATE, *more)
    assert code in (0, 3), err
    return json.loads(out), err


def test_a_plan_goes_by_measured_steps_and_on_with_what_channels_were_trained(latte, network, good, written):  # noqa: F811
    good = copy.deepcopy(good)
    name, counts = next(iter(good["frequencies"].items()))
    good["frequencies"][name] = [5.0] * len(counts)
    path = str(written(good))
    plain, _ = allocated(latte)
    learned, said = allocated(latte, "--after", path)
    assert "class `fast`: steps took 1.53 times their estimate (3 rounds of 2 devices)" in said
    assert learned["devices"][0]["round_s"] > plain["devices"][0]["round_s"]
    assert learned["devices"][1] == plain["devices"][1] | {"windows": learned["devices"][1]["windows"]}
    assert learned["channels"]["round"] == 2
    assert min(learned["frequencies"][name]) >= min(plain["frequencies"][name]) + 5


def test_rounds_of_no_measured_steps_give_the_same_times(latte, network, written):  # noqa: F811
    plain, _ = allocated(latte)
    same, said = allocated(latte, "--after", str(written(document(network, []))))
    assert "measured its steps, so prices stay as they are" in said
    assert same == plain


@pytest.mark.parametrize(
    ("change", "options", "code", "said", "hint"),
    [
        (changed(("devices", 0, "device"), SLOW), (), 1, f"was priced on `{SLOW}`", "the same profile"),
        (changed(("model", "batch"), 4), (), 1, "its batch is 8, and that of the rounds 4", "`batch: 4`"),
        (changed(("model", "sha256"), "0" * 64), (), 1, "is of another model than `lenet`", "the federation trained"),
        (changed(("frequencies",), {}), (), 1, "its frequencies are not those of `lenet`", "rounds.json"),
        (lambda found: rename(found, "fest-0"), (), 1, "`fest-0` is of no class", "did you mean `fast`"),
        (lambda found: None, ("--fine",), 2, "`--fine` and the rounds in", "leave `--fine` out"),
    ],
)
def test_rounds_that_do_not_fit_the_plan_are_refused(latte, good, written, change, options, code, said, hint):  # noqa: F811
    found = copy.deepcopy(good)
    change(found)
    ended, _, err = latte(*ALLOCATE, "--after", str(written(found)), *options)
    assert ended == code
    assert said in err and hint in err


def test_examples_that_no_plan_can_count_are_refused(latte, good, written):  # noqa: F811
    found = copy.deepcopy(good)
    for counts in found["frequencies"].values():
        counts[:] = [2.0**53] * len(counts)
    code, out, err = latte(*ALLOCATE, "--after", str(written(found)))
    assert (code, out) == (1, "")
    assert "no plan counts more than 9,007,199,254,740,992 rounds" in err and "begin again without `--after`" in err


def rename(found, name):
    found["devices"][0]["name"] = name
    for each in found["rounds"]:
        each["trained"][0]["name"] = name


def test_a_plan_is_still_read_as_one(latte, tmp_path):  # noqa: F811
    path = tmp_path / "plan.json"
    allocated(latte, "-o", str(path))
    assert isinstance(read_before(path), PlanFile)
