"""Plan files: written and read, damaged, checked, compared and materialised."""

import csv
import json
from dataclasses import replace
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from test_allocator import PHONE, recorded

from latte_cli.allocator import (
    Method,
    Plan,
    allocate,
    catalogue,
    changes,
    plan_document,
    read_plan,
    round_of,
    shared_out,
)
from latte_cli.allocator.document import runs
from latte_cli.allocator.files import materialise
from latte_cli.errors import LatteError
from latte_cli.fleet import Fleet
from latte_cli.network import load, zoo
from latte_cli.report import Format
from latte_cli.report.plans import write_plan

CLASSES = (replace(PHONE, count=2), replace(PHONE, name="slow", count=3, memory_bytes=2 << 30, threads=2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "resnet8.onnx"
    path.write_bytes(zoo.export("resnet8", weights=True))
    return path


@pytest.fixture(scope="module")
def network(model):
    return load(model, batch_size=8)


def price(sub_model, fleet_class):
    step_s = sub_model.parameters / 1e5 * (3 if fleet_class.name == "slow" else 1)
    return round_of(sub_model, fleet_class, recorded(step_s))


def planned(network, duration_s=12.0, widths=(1, 0.5, 0.25), depths=(1,), classes=CLASSES):
    return allocate(catalogue(network, widths, depths), Fleet(classes=classes), price, duration_s)


def shared(network, *, method=Method.LEAST_TRAINED, before=None, **choices):
    return shared_out(planned(network, **choices), network, objective="catalogue", method=method, before=before)


def written(path, file):
    path.write_text(json.dumps(plan_document(file)), "utf-8")
    return path


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.IMPORTANCE])
def test_a_plan_file_is_read_as_it_was_written(tmp_path, network, method):
    file = shared(network, method=method)
    assert [each.sub_model.id for each in file.plan.devices] == ["w0.5", "w0.25"]
    found = read_plan(written(tmp_path / "plan.json", file))
    assert plan_document(found) == plan_document(file)
    assert found.plan == replace(file.plan, devices=tuple(replace(each, warnings=()) for each in file.plan.devices))
    assert found.groups == file.groups
    for mine, other in zip(found.trainees, file.trainees, strict=True):
        assert (mine.class_name, mine.number) == (other.class_name, other.number)
        assert all(np.array_equal(mine.kept[name], other.kept[name]) for name in other.kept)


def test_a_plan_without_a_sub_model_for_some_is_read_too(tmp_path, network):
    file = shared(network, duration_s=2.0)
    assert [each.feasible for each in file.plan.devices] == [True, False]
    assert plan_document(read_plan(written(tmp_path / "plan.json", file))) == plan_document(file)


def test_devices_are_numbered_through_the_fleet_and_counted_in_the_table(network):
    file = shared(network)
    assert [each.number for each in file.trainees] == [0, 1, 2, 3, 4]
    widths = {each.fleet_class.name: dict(each.sub_model.widths) for each in file.plan.devices}
    for name, counts in file.frequencies.examples.items():
        expected = 200 * (2 * widths["phone"][name] + 3 * widths["slow"][name])
        assert counts.sum() == expected


def test_the_next_round_goes_on_with_the_counts_of_the_one_before(network):
    first = shared(network)
    second = shared(network, before=first)
    assert second.round_number == 1
    for name, counts in second.frequencies.examples.items():
        assert counts.sum() == 2 * first.frequencies.examples[name].sum()
        assert counts.max() - counts.min() <= 200
    other = replace(first, sha256="0" * 64)
    with pytest.raises(LatteError, match="the plan is for another model"):
        shared(network, before=other)


@pytest.mark.parametrize("durations", [(1e6, 12.0), (12.0, 1e-3, 12.0), (1e6, 1e6), (1e-3, 12.0)])
def test_counts_go_on_over_rounds_in_which_all_or_none_train_the_whole_model(tmp_path, network, durations):
    before, examples = None, 0
    for duration_s in durations:
        widths = (1,) if duration_s == 1e6 else (1, 0.5, 0.25)
        before = shared(network, before=before, duration_s=duration_s, widths=widths)
        before = read_plan(written(tmp_path / "plan.json", before))
        examples += trained(before)
    assert sum(counts.sum() for counts in before.frequencies.examples.values()) == examples


def trained(file):
    """The examples of all channels of a round, from its sub-models alone."""
    return sum(
        200 * each.fleet_class.count * dict(each.sub_model.widths).get(group.name, group.channels)
        for each in file.plan.devices
        if each.sub_model
        for group in file.groups
    )


def test_counts_that_are_not_known_are_not_made_up(tmp_path, network):
    many = shared(network, method=Method.NESTED, classes=(replace(PHONE, count=10_001),))
    after = shared(network, method=Method.NESTED, before=many)
    assert (after.round_number, after.frequencies, after.listed) == (1, None, True)
    with pytest.raises(LatteError, match="does not say how often each channel was trained"):
        shared(network, before=many)
    older = json.loads(json.dumps(plan_document(shared(network, duration_s=1e6, widths=(1,)))))
    older["model"]["groups"], older["frequencies"], older["coverage"] = [], None, None
    (tmp_path / "plan.json").write_text(json.dumps(older), "utf-8")
    found = shared(network, before=read_plan(tmp_path / "plan.json"))
    assert {float(counts.sum()) for counts in found.frequencies.examples.values()} != {0.0}
    assert all(counts.min() >= 1000 for counts in found.frequencies.examples.values())


def test_a_plan_with_fine_widths_names_no_least_round_whoever_wrote_it(tmp_path, network):
    document = json.loads(json.dumps(plan_document(shared(network, duration_s=2.0))))
    assert all(each["least_s"] for each in document["devices"])
    document["objective"] = "balanced"
    (tmp_path / "plan.json").write_text(json.dumps(document), "utf-8")
    found = read_plan(tmp_path / "plan.json")
    assert [each.least_s for each in found.plan.devices] == [None, None]
    out = StringIO()
    write_plan(found, Format.TABLE, out)
    assert "infeasible: no widths were found that meet the round" in out.getvalue()
    assert "a round takes at least" not in out.getvalue()


def no_classes(document):
    document["devices"] = []


def a_class_twice(document):
    document["devices"] *= 2


def no_duration(document):
    document["round_duration_s"] = 0


def a_round_outside_its_interval(document):
    document["devices"][0]["low_s"] = 2 * document["devices"][0]["round_s"]


@pytest.mark.parametrize("damage", [no_classes, a_class_twice, no_duration, a_round_outside_its_interval])
def test_a_plan_that_contradicts_itself_is_not_read(tmp_path, network, damage):
    document = json.loads(json.dumps(plan_document(shared(network))))
    damage(document)
    (tmp_path / "plan.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(LatteError, match="is not a plan"):
        read_plan(tmp_path / "plan.json")


def test_classes_of_another_number_of_devices_differ(network):
    before = planned(network)
    more = planned(network, classes=(CLASSES[0], replace(CLASSES[1], count=30)))
    assert [each.alike for each in changes(before.devices, more.devices)] == [True, False]


def test_blocks_that_are_left_out_are_not_trained():
    network = replace(zoo.network("resnet20", batch_size=8), sha256="a" * 64)
    file = shared_out(
        planned(network, widths=(1, 0.5), depths=(0.5,), duration_s=30.0),
        network,
        objective="catalogue",
        method=Method.NESTED,
    )
    sub_model = file.plan.devices[0].sub_model
    assert sub_model.dropped
    assert sub_model.of(network).parameters == sub_model.parameters
    gone = [name for name, counts in file.frequencies.examples.items() if not counts.any()]
    assert gone
    assert all(len(each.kept[name]) == 0 for each in file.trainees for name in gone)


def test_more_devices_than_can_be_listed_are_not(network):
    file = shared(network, classes=(replace(PHONE, count=10_001),))
    assert (file.trainees, file.frequencies, file.coverage) == ((), None, None)


def test_sub_models_of_devices_that_are_not_listed_are_not_said_to_be_written(tmp_path, model, network):
    file = shared(network, classes=(replace(PHONE, count=10_001),))
    with pytest.raises(LatteError, match="more than 10,000 devices are not listed"):
        materialise(file, model, network, tmp_path / "parts", lambda _: None)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_channels_are_written_as_runs(numbers):
    channels = np.array(sorted(numbers))
    pairs = runs(channels)
    assert [at for first, last in pairs for at in range(first, last + 1)] == channels.tolist()
    assert all(first <= last for first, last in pairs)
    assert all(second[0] > first[1] + 1 for first, second in pairwise(pairs))


def places(part, path=()):
    """Every place in a document."""
    yield path
    if isinstance(part, dict | list):
        for key in part if isinstance(part, dict) else range(len(part)):
            yield from places(part[key], (*path, key))


@given(data=st.data(), odd=st.sampled_from((None, -1, 1e400, float("nan"), "x", [], {}, True, [[5, 2]], [[0, 10**9]])))
def test_a_damaged_plan_is_one_line_or_a_plan(tmp_path_factory, network, data, odd):
    document = json.loads(json.dumps(plan_document(shared(network))))
    path = data.draw(st.sampled_from([each for each in places(document) if each]))
    part = document
    for key in path[:-1]:
        part = part[key]
    if data.draw(st.booleans()) or not isinstance(part, dict):
        part[path[-1]] = odd
    else:
        del part[path[-1]]
    file = tmp_path_factory.mktemp("plans") / "plan.json"
    file.write_text(json.dumps(document), "utf-8")
    try:
        found = read_plan(file)
    except LatteError as exc:
        assert "plan" in exc.message
        assert "\n" not in exc.message
    else:
        json.dumps(plan_document(found))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is not JSON"),
        (b"[1]", "it says no schema"),
        (b'{"schema": "latte.plan/0"}', "it has the schema `latte.plan/0`"),
        (b"[" * 100_000, "it is not JSON"),
        (b"\xff", "it is not JSON"),
    ],
)
def test_a_file_that_is_no_plan_is_named(tmp_path, content, said):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(LatteError, match=said):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(LatteError, match="cannot read the plan"):
        read_plan(tmp_path / "none.json")


def test_changes_are_by_class(network):
    before, after = planned(network), planned(network, duration_s=30.0)
    found = changes(before.devices, after.devices)
    assert [(each.name, each.alike) for each in found] == [("phone", False), ("slow", False)]
    assert all(each.alike for each in changes(before.devices, before.devices))
    fewer = Plan(round_duration_s=1, sub_models=(), devices=before.devices[1:])
    assert [
        (each.name, each.before is None, each.after is None) for each in changes(before.devices, fewer.devices)
    ] == [
        ("slow", False, False),
        ("phone", False, True),
    ]


@pytest.mark.parametrize(("method", "count"), [(Method.NESTED, 2), (Method.RANDOM, 5)])
def test_each_distinct_sub_model_is_a_model_file_with_its_weights(tmp_path, model, network, method, count):
    file = shared(network, method=method)
    done = []
    assert materialise(file, model, network, tmp_path / "out", done.append) == count == done[-1]
    with (tmp_path / "out/devices.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["number"], row["class"], row["sub_model"]) for row in rows] == [
        (str(each.number), each.class_name, "w0.5" if each.class_name == "phone" else "w0.25") for each in file.trainees
    ]
    assert {row["file"] for row in rows} == {path.name for path in (tmp_path / "out").glob("*.onnx")}
    for row in rows:
        part = load(tmp_path / "out" / row["file"])
        arrays = load_file((tmp_path / "out" / row["file"]).with_suffix(".safetensors"))
        sizes = {name: arrays[name].size for name in part.trained_sizes}
        assert sizes == dict(part.trained_sizes)
        sub_model = next(each for each in file.plan.sub_models if each.id == row["sub_model"])
        assert part.parameters == sub_model.parameters
