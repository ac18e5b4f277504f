"""ONNX Runtime, quiet and without telemetry, on a device that was asked for."""

import contextlib
import ctypes
import io
import os
import re
import sys
from functools import cache
from typing import Any

import onnx

from cnnkit.errors import DeviceError, ModelError, UsageError
from cnnkit.graphs.loading import Files

DEVICES = ("auto", "cpu", "cuda")


@cache
def onnxruntime() -> Any:
    """The module, imported at first use with its telemetry off and its warnings silent."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def providers(device: str) -> list[str]:
    """The execution providers for "auto", "cpu" or "cuda", the first choice first.

    "auto" is CUDA where there is one and the CPU elsewhere. Raises DeviceError when "cuda" cannot be had, and
    for any other word.
    """
    if device not in DEVICES:
        raise UsageError(f"there is no device '{device}'; choose one of {', '.join(DEVICES)}")
    if device != "cpu":
        problem = cuda_problem()
        if not problem:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if device == "cuda":
            raise DeviceError(f"the device 'cuda' is not available: {problem}; or say --device cpu")
    return ["CPUExecutionProvider"]


@cache
def cuda_problem() -> str:
    """What stands in the way of CUDA and what to do, or an empty string.

    ONNX Runtime prints red lines when it is made to try without a driver, so the driver is asked first.
    """
    if "CUDAExecutionProvider" not in onnxruntime().get_available_providers():
        return "the installed ONNX Runtime has no CUDA; install onnxruntime-gpu in place of onnxruntime"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found; install one (580 or newer)"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver reports no device; look at what nvidia-smi says"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime().preload_dlls()  # finds the CUDA libraries of pip; prints what it misses
    return ""


def describe_device() -> str:
    """The device that "auto" means here, and why it is not another."""
    return "cuda" if not cuda_problem() else f"cpu ({cuda_problem()})"


def session_options(threads: int | None = None) -> Any:
    """Options of a session: quiet; on all cores unless a number of threads is given.

    Weights are not packed for matrix products, which would hold those of dense layers twice and was seen to
    gain nothing for convolutional networks; so ONNX Runtime reads them where they are mapped. Nor is memory
    planned per shape of the input, which would hold a second set of activations.
    """
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    if threads:
        options.intra_op_num_threads = threads
    return options


def start(
    model: onnx.ModelProto, files: Files | None, name: str, device: str = "auto", threads: int | None = None
) -> Any:
    """An ONNX Runtime session for a model, whose large weights stay in `files`, on a device.

    Raises ModelError when ONNX Runtime refuses the model, and DeviceError when a device that was asked for by
    name is not what it runs on.
    """
    wanted = providers(device)
    options = session_options(threads)
    if files:
        files.check()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(files.folder)
        )
    try:
        session = onnxruntime().InferenceSession(model.SerializeToString(), options, providers=wanted)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run '{name}': {one_sentence(error)}") from None
    had = session.get_providers()[0]
    if had != wanted[0] and device != "auto":
        raise DeviceError(
            f"the device '{device}' was asked for, but ONNX Runtime runs on {had}; "
            "install the CUDA libraries with `pip install cnnkit[cuda]`, or say --device cpu"
        )
    return session


def one_sentence(error: Exception) -> str:
    """ONNX Runtime's text on one line, without its codes and source files."""
    line = " ".join(str(error).split()) or type(error).__name__
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"\S*/onnxruntime\S*:\d+ .*?\) (?=\S)", "", line)
    return line.strip()[:300]


def available_memory() -> int:
    """Bytes that this machine can still give."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as lines:
        line = next(line for line in lines if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 << 30
