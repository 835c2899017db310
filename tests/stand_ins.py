"""Stand-ins for the libraries that the doctor tries, for tests of what it makes of their words: they load at once."""

from pathlib import Path

TORCH = """
from types import SimpleNamespace as _Names
__version__ = "2.7.1+cpu"
version = _Names(cuda=None)
__config__ = _Names(show=lambda: "  - Intel(R) MKL-DNN v3.7.1 (Git Hash 8d26)")
cuda = _Names(get_arch_list=lambda: [])
"""
"""A torch that was built without CUDA."""

TORCH_WITH_GPU = """
from types import SimpleNamespace as _Names
__version__ = "2.7.1+cu126"
version = _Names(cuda="12.6")
__config__ = _Names(show=lambda: "  - Intel(R) MKL-DNN v3.7.1 (Git Hash 8d26)")
_GPU = _Names(name="GeForce GTX 780", uuid="0a1b", total_memory=3 * 2**30, major=3, minor=5, is_integrated=0)
cuda = _Names(
    init=lambda: None,
    device_count=lambda: 1,
    get_device_properties=lambda index: _GPU,
    get_arch_list=lambda: ["sm_50", "sm_90"],
)
"""
"""A torch for CUDA that has no code for the GPU it sees."""


def write_libraries(folder: Path, torch: str = TORCH) -> Path:
    """`torch` and the other libraries in `folder`, which is returned: for the front of `sys.path`."""
    (folder / "torch.py").write_text(torch)
    for name in ("pyarrow", "xgboost"):
        (folder / f"{name}.py").write_text('__version__ = "1.2"\n')
    return folder
