"""What is known of algorithms, and that any name is allowed."""

import pytest

from latte_cli.algorithms import FRAMEWORK_DEFAULT, KNOWN, Algorithm, known
from latte_cli.layers import Phase


def test_the_frameworks_own_choice_computes_every_phase() -> None:
    found = known(FRAMEWORK_DEFAULT)
    assert found is not None
    assert set(found.phases) == set(Phase)


def test_a_name_that_nobody_described_is_an_algorithm_of_which_nothing_is_known() -> None:
    algorithm = Algorithm(library="onednn", name="jit:avx512_core_fancy", vendor_id=7)
    assert known(algorithm) is None
    assert str(algorithm) == "jit:avx512_core_fancy"


def test_a_name_belongs_to_its_library() -> None:
    assert known(Algorithm(library="torch", name="FFT")) is not None
    assert known(Algorithm(library="elsewhere", name="FFT")) is None


def test_the_vendors_number_does_not_matter_for_what_is_known() -> None:
    assert known(Algorithm(library="torch", name="FFT", vendor_id=3)) == KNOWN["torch", "FFT"]


@pytest.mark.parametrize(("library", "name"), KNOWN)
def test_each_known_algorithm_computes_something_and_has_a_family(library: str, name: str) -> None:
    entry = KNOWN[library, name]
    assert entry.phases
    assert len(set(entry.phases)) == len(entry.phases)
    assert entry.family


def test_algorithms_sort_by_library_and_name() -> None:
    a, b, c = (Algorithm(library=library, name=name) for library, name in (("a", "z"), ("b", "a"), ("b", "b")))
    assert sorted([c, b, a]) == [a, b, c]
