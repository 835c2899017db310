import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.errors import LatteError
from latte_cli.fleet import parse_fleet, read_fleet

GOOD = {
    "class": "phone",
    "device": "arm",
    "count": 10,
    "samples": 500,
    "epochs": 1,
    "batch": 8,
    "bandwidth": {"up": "5Mbit", "down": "20Mbit"},
    "memory": "2GiB",
}
FIELDS = (*GOOD, "threads", "precision", "layout", "strategy", "optimizer")


def error_of(document):
    content = document if isinstance(document, bytes) else yaml.safe_dump(document).encode()
    with pytest.raises(LatteError) as caught:
        parse_fleet(content, source="`fleet.yaml`")
    error = caught.value
    assert len(error.message.splitlines()) == 1
    assert len(error.message) < 200
    assert error.hint
    assert "`fleet.yaml`" in error.message
    return error


def fleet_with(**fields):
    return {"classes": [GOOD | fields]}


@pytest.mark.parametrize("field", ["count", "samples", "epochs", "batch", "threads"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True, float("nan"), float("inf"), "many", 10**30, "1" * 5000, "٣"])
def test_a_number_out_of_range_names_class_and_field(field, value):
    error = error_of(fleet_with(**{field: value}))
    assert f"class `phone`: `{field}`" in error.message
    assert "whole number" in error.message


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2 potatoes", 1e300, True])
def test_a_bad_memory_or_bandwidth_names_class_and_field(value):
    assert "class `phone`: `memory`" in error_of(fleet_with(memory=value)).message
    for way in ("up", "down"):
        error = error_of(fleet_with(bandwidth=GOOD["bandwidth"] | {way: value}))
        assert f"class `phone`, `bandwidth`: `{way}`" in error.message


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [[], [1], ["a", ["b"]], {"a": 1}])
def test_a_list_or_a_mapping_in_the_place_of_a_value_is_an_error(field, value):
    error_of(fleet_with(**{field: value}))


@pytest.mark.parametrize("field", ["class", "device", "samples", "batch", "bandwidth"])
def test_a_missing_field_is_named(field):
    entry = {name: value for name, value in GOOD.items() if name != field}
    assert f"`{field}` is missing" in error_of({"classes": [entry]}).message


def test_an_unknown_field_gets_a_near_match():
    error = error_of(fleet_with(sampels=3))
    assert "class `phone`: unknown field `sampels`" in error.message
    assert error.hint == "did you mean `samples`?"
    assert error_of({"class": [GOOD]}).hint == "did you mean `classes`?"
    assert error_of(fleet_with(bandwidth={"upp": 1, "down": 1})).hint == "did you mean `up`?"


def test_an_unknown_precision_gets_a_near_match():
    error = error_of(fleet_with(precision="fp_16"))
    assert "`precision`" in error.message
    assert error.hint == "did you mean `fp16`?"


def test_an_unknown_layout_lists_those_there_are():
    assert error_of(fleet_with(layout="??")).hint == "one of: channels_last, nchw"


def test_two_classes_of_one_name_are_an_error():
    assert "two classes are called `phone`" in error_of({"classes": [GOOD, GOOD]}).message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n# nothing\n",
        b"[]",
        b"- class: a",
        b"just words",
        b"classes:",
        b"classes: []",
        b"classes: 3",
        b"classes: [1]",
        b"classes: [[]]",
        b"classes: {a: b}",
        b"classes: [{}]",
        b"{",
        b"a: b: c",
        b"\xff\xfe\x00",
        b"\x00",
        b"\x7fELF",
        b"classes: !!python/object/apply:os.system [exit]",
        b"classes: !!timestamp nonsense",
        b"? [a]\n: b",
        b"round_duration: tomorrow\nclasses: [{class: a}]",
        b"classes: [{class: a, class: b}]",
        b"classes: [&a {class: *a}]",
        b"classes: &a [*a]",
        b"<<: {classes: []}",
        b"--- a\n--- b\n",
        b"[" * 20000,
        b"x" * (2 << 20),
    ],
)
def test_what_is_no_fleet_is_one_line_and_a_hint(content):
    error_of(content)


def test_nested_aliases_do_not_grow():
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    error_of("\n".join([*lines, "classes: *a39"]).encode())
    error_of("\n".join([*lines, "classes: [{class: *a39}]"]).encode())


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml", "a\0b"):
        with pytest.raises(LatteError, match="cannot read the fleet"):
            read_fleet(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(FIELDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.binary() | st.text().map(str.encode) | values.map(lambda value: yaml.safe_dump(value).encode()))
def test_garbage_raises_nothing_but_our_error(content):
    try:
        parse_fleet(content, source="`fleet.yaml`")
    except LatteError as error:
        assert len(error.message.splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(st.sampled_from((*FIELDS, "bandwidth")), values)
def test_garbage_in_one_field_raises_nothing_but_our_error(field, value):
    try:
        parse_fleet(yaml.safe_dump(fleet_with(**{field: value})).encode(), source="`fleet.yaml`")
    except LatteError as error:
        assert len(error.message.splitlines()) == 1
