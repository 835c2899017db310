import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from latte_cli.errors import ExitCode, LatteError
from latte_cli.quantities import bandwidth_bit_per_s, duration_or_zero_s, duration_s, size_bytes, transfer_bytes_per_s

PARSERS = (duration_or_zero_s, duration_s, bandwidth_bit_per_s, size_bytes, transfer_bytes_per_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("2 min", 120),
        ("1h", 3600),
        ("500ms", 0.5),
        ("20us", 2e-5),
        ("1.5s", 1.5),
        (" .5H ", 1800),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert duration_s(text) == duration_or_zero_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "bits"),
    [("5Mbit", 5e6), ("20 kbit/s", 2e4), ("1Gbps", 1e9), ("2.5e0bit", None), ("1000bit", 1e3), ("5MB", None)],
)
def test_a_bandwidth_is_in_bits_with_decimal_prefixes(text, bits):
    if bits is None:
        with pytest.raises(LatteError, match="is not a bandwidth"):
            bandwidth_bit_per_s(text)
    else:
        assert bandwidth_bit_per_s(text) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 << 30),
        ("512 MiB", 512 << 20),
        ("2GB", 2 * 10**9),
        ("4096B", 4096),
        ("1.5B", 2),
        ("4Gi", 4 << 30),
        ("512Mi", 512 << 20),
    ],
)
def test_a_size_is_in_bytes_with_decimal_or_binary_prefixes(text, count):
    assert size_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8G", "did you mean `8GiB` or `8GB`?"),
        ("512m", "did you mean `512MiB` or `512MB`?"),
        (" .5 T", "did you mean `.5TiB` or `.5TB`?"),
    ],
)
def test_a_unit_of_size_that_may_mean_two_is_refused_with_both(text, hint):
    with pytest.raises(LatteError, match="its unit may mean two sizes") as caught:
        size_bytes(text)
    assert (caught.value.exit_code, caught.value.hint) == (ExitCode.USAGE, hint)
    assert all(size_bytes(each) for each in re.findall("`([^`]+)`", hint))


def test_a_rate_in_gi_is_refused_since_it_may_be_of_bits():
    with pytest.raises(LatteError, match="is not a transfer rate"):
        transfer_bytes_per_s("4Gi/s")


@pytest.mark.parametrize(
    "text", ["", "s", "-3s", "0", "0ms", "inf", "nan", "1e3s", "3 weeks", "2m30s", "9999999h", "٣s", "-3", "9" * 50]
)
def test_anything_else_is_a_usage_error_with_a_hint(text):
    with pytest.raises(LatteError, match="is not a duration") as caught:
        duration_s(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "30s" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("parse", "number", "hint"),
    [
        (duration_s, "10", "did you mean `10ms` or `10s`?"),
        (duration_s, 1.0, "did you mean `1ms` or `1s`?"),
        (duration_s, " 1e3 ", "did you mean `1000ms` or `1000s`?"),
        (duration_s, "1_000", "did you mean `1000ms` or `1000s`?"),
        (duration_s, 10**9, "did you mean `1000000000ms`?"),
        (bandwidth_bit_per_s, "20", "did you mean `20kbit` or `20Mbit`?"),
        (bandwidth_bit_per_s, 5000000, "did you mean `5000000bit`?"),
        (size_bytes, ".5", "did you mean `0.5MiB` or `0.5GiB`?"),
        (size_bytes, "2147483648", "did you mean `2147483648B`?"),
    ],
)
def test_a_number_without_a_unit_is_refused_with_the_likely_units(parse, number, hint):
    with pytest.raises(LatteError, match="the unit is missing") as caught:
        parse(number)
    assert (caught.value.exit_code, caught.value.hint) == (ExitCode.USAGE, hint)


usual = st.integers(1, 10**6) | st.floats(1e-9, 1e9)
numbers = usual | st.integers() | st.floats() | st.decimals(allow_nan=False)


@given(numbers | numbers.map(str), st.sampled_from(PARSERS[1:]), st.sampled_from(("", "memory=", "xla:tolerance=")))
@example("0", duration_s, "")
@example(1e-300, size_bytes, "")
@example("1e999999999", size_bytes, "")
def test_a_bare_number_is_refused_and_all_that_its_hint_names_is_accepted(number, parse, before):
    with pytest.raises(LatteError) as caught:
        parse(number, before)
    meant = re.findall("`([^`]+)`", caught.value.hint or "")
    assert meant
    assert all(each.startswith(before) and parse(each.removeprefix(before)) > 0 for each in meant)
    assert len((caught.value.hint or "").splitlines()) == 1


@given(usual | usual.map(str))
def test_where_zero_is_allowed_all_other_numbers_need_a_unit(number):
    with pytest.raises(LatteError, match="the unit is missing") as caught:
        duration_or_zero_s(number)
    assert all(duration_or_zero_s(each) > 0 for each in re.findall("`([^`]+)`", caught.value.hint or ""))


@pytest.mark.parametrize("text", ["0", "0.0", "-0", 0, "0e5", "0s", "0 ms"])
def test_zero_needs_no_unit_where_it_is_allowed(text):
    assert duration_or_zero_s(text) == 0


@given(st.text(), st.sampled_from(PARSERS))
def test_garbage_raises_nothing_but_our_error_on_one_line(text, parse):
    try:
        assert parse(text) >= 0
    except LatteError as error:
        assert len(error.message.splitlines()) == 1
