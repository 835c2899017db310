"""The CUDA context of a device, current for a moment, through the driver's own library."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from latte_cli.backends.contract import OutOfMemory
from latte_cli.errors import LatteError

_OUT_OF_MEMORY, _NO_SUCH_DEVICE = 2, 101


@contextmanager
def current(device_index: int) -> Iterator[None]:
    """Make a device's primary context, the one frameworks use, current in this thread for the `with` block.

    Does nothing where there is no driver that starts: who needs it will say so. Raises LatteError for a device that
    is not there, OutOfMemory where its context finds no room.
    """
    driver = _driver()
    if driver is None:
        yield
        return
    _check(driver.cuCtxPushCurrent_v2(_primary(driver, device_index)), device_index)
    try:
        yield
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@lru_cache
def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    driver.cuInit.argtypes = (ctypes.c_uint,)
    driver.cuDeviceGet.argtypes = (ctypes.POINTER(ctypes.c_int), ctypes.c_int)
    driver.cuDevicePrimaryCtxRetain.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_int)
    driver.cuCtxPushCurrent_v2.argtypes = (ctypes.c_void_p,)
    driver.cuCtxPopCurrent_v2.argtypes = (ctypes.POINTER(ctypes.c_void_p),)
    return driver if driver.cuInit(0) == 0 else None


@lru_cache
def _primary(driver: ctypes.CDLL, device_index: int) -> ctypes.c_void_p:
    # Kept for the life of the process: a handle dies with its context.
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(driver.cuDeviceGet(ctypes.byref(device), device_index), device_index)
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), device_index)
    return context


def _check(status: int, device_index: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise OutOfMemory(f"no memory for a CUDA context on GPU {device_index}")
    if status == _NO_SUCH_DEVICE:
        raise LatteError(f"there is no GPU {device_index}", hint="`nvidia-smi -L` lists them")
    if status:
        raise LatteError(f"GPU {device_index} cannot be used (CUDA error {status})", hint="run `latte doctor`")
