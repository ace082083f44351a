"""Where a model runs, in which number format, and what is said when that does not work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streamprune.errors import DeviceError, InvalidTypeError, InvalidValueError, UnknownNameError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device | None) -> torch.device:
    """Resolve ``device``; None or "auto" takes the first GPU, else the CPU.

    Raises InvalidValueError for what is no device, DeviceError for one that is not there.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}"
        ) from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0 or (chosen.index or 0) >= count:
            raise DeviceError(
                f"device={device!r} was asked for, but torch finds {count} CUDA GPUs; use device='cpu'"
            )
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device='mps' was asked for, but this machine has none; use device='cpu'")
    elif chosen.type not in ("cpu", "mps"):
        raise InvalidValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """Resolve ``dtype``: a name of DTYPES, "auto" (as stored); None is float32 on the CPU, else as stored."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype):
        if dtype not in DTYPES.values():
            raise InvalidValueError(f"dtype must be one of {', '.join(DTYPES)} or 'auto', got {dtype}")
        return dtype
    if not isinstance(dtype, str):
        raise InvalidTypeError(f"dtype must be a name or a torch.dtype, got {dtype!r}")
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise UnknownNameError.among("dtype", dtype, [*DTYPES, "auto"])
    return DTYPES[dtype]


@contextmanager
def out_of_memory_explained(doing: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a DeviceError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(_too_little(doing, "GPU")) from error
    except RuntimeError as error:
        # the CPU allocator has no class of its own
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise DeviceError(_too_little(doing, "main")) from error
        raise


def _too_little(doing: str, kind: str) -> str:
    return (
        f"there was not enough {kind} memory for {doing}; use fewer frames (num_frames=), a smaller "
        "keep_ratio, fewer frames_per_batch, or dtype='bfloat16'"
    )
