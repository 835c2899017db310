"""What is known of algorithms, and that any name is allowed."""

import pytest

from latte_cli.algorithms import FRAMEWORK_DEFAULT, KNOWN, Algorithm, kernel_family, known_algorithm
from latte_cli.backends.native.cudnn.convolutions import ALGORITHMS
from latte_cli.layers import Phase


def test_the_frameworks_own_choice_computes_every_phase() -> None:
    found = known_algorithm(FRAMEWORK_DEFAULT)
    assert found is not None
    assert set(found.phases) == set(Phase)


def test_a_name_that_nobody_described_is_an_algorithm_of_which_nothing_is_known() -> None:
    algorithm = Algorithm(library="onednn", name="jit:avx512_core_fancy", vendor_id=7)
    assert known_algorithm(algorithm) is None
    assert str(algorithm) == "jit:avx512_core_fancy"


def test_a_name_belongs_to_its_library() -> None:
    assert known_algorithm(Algorithm(library="torch", name="FFT")) is not None
    assert known_algorithm(Algorithm(library="elsewhere", name="FFT")) is None


def test_the_vendors_number_does_not_matter_for_what_is_known() -> None:
    assert known_algorithm(Algorithm(library="torch", name="FFT", vendor_id=3)) == KNOWN["torch", "FFT"]


@pytest.mark.parametrize(("library", "name"), KNOWN)
def test_each_known_algorithm_computes_something_and_has_a_family(library: str, name: str) -> None:
    entry = KNOWN[library, name]
    assert entry.phases
    assert len(set(entry.phases)) == len(entry.phases)
    assert entry.family


def test_algorithms_sort_by_library_and_name() -> None:
    a, b, c = (Algorithm(library=library, name=name) for library, name in (("a", "z"), ("b", "a"), ("b", "b")))
    assert sorted([c, b, a]) == [a, b, c]


@pytest.mark.parametrize(
    ("phase", "algorithm"), [(phase, found) for phase, all_ in ALGORITHMS.items() for found in all_]
)
def test_each_algorithm_of_cudnn_is_known_for_its_phase(phase: Phase, algorithm: Algorithm) -> None:
    found = known_algorithm(algorithm)
    assert found is not None
    assert phase in found.phases
    assert not found.rarely_wins


def test_the_algorithms_of_cudnn_are_known_for_no_other_phase() -> None:
    has = {(name, phase) for (library, name), entry in KNOWN.items() if library == "cudnn" for phase in entry.phases}
    assert has == {(algorithm.name, phase) for phase, all_ in ALGORITHMS.items() for algorithm in all_}


def test_of_cudnn_the_algorithms_that_add_atomically_are_not_deterministic() -> None:
    names = {name for (library, name), entry in KNOWN.items() if library == "cudnn" and not entry.deterministic}
    assert names == {"ALGO_0", "ALGO_3"}


@pytest.mark.parametrize(
    ("family", "kernels"),
    [
        ("implicit_gemm", ["void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1, true>"]),
        ("implicit_gemm", ["cudnn::ops::nchwToNhwcKernel", "sm80_xmma_fprop_implicit_gemm_tf32f32_f32_nhwckrsc"]),
        ("implicit_gemm", ["cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688fprop_optimized_tf32_64x64_32x5_nhwc>"]),
        ("implicit_gemm", ["ampere_scudnn_128x64_relu_medium_nn_v1", "compute_gemm_pointers"]),
        ("implicit_gemm", ["void precomputed_convolve_sgemm<float, 1024>"]),
        ("implicit_gemm", ["void cudnn::cnn::wgrad_alg0_engine<float, 512, 6, 5, 3, 3, 3, true, 512>"]),
        ("implicit_gemm", ["void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>"]),
        ("gemm", ["void im2col4d_kernel<float, long>", "ampere_sgemm_128x64_nn"]),
        ("gemm", ["ampere_sgemm_128x64_nn"]),
        ("fft", ["void fft2d_r2c_32x32<float>", "ampere_cgemm_32x32_tn", "void fft2d_c2r_32x32<float>"]),
        ("fft", ["void flip_filter<float, float>", "void fft2d_r2c_16x16<float>"]),
        ("winograd", ["ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1"]),
        ("winograd", ["cudnn::winograd_nonfused::winogradForwardData4x4", "ampere_sgemm_128x64_nn"]),
        (None, ["void cudnn::ops::nchwToNhwcKernel<float>", "computeOffsetsKernel"]),
        (None, []),
    ],
)
def test_kernels_tell_the_family_of_what_ran_them(family: str | None, kernels: list[str]) -> None:
    assert kernel_family(kernels) == family
    assert kernel_family(reversed(kernels)) == family


def test_the_families_of_kernels_are_those_of_algorithms() -> None:
    families = {kernel_family([kernel]) for kernel in ("winograd", "fft2d_", "im2col", "implicit")}
    assert families <= {entry.family for entry in KNOWN.values()}
