"""What torch has set for the calling thread: its current stream, and inference mode.

The loader asks for each slice, so the answers must be cheap. torch itself makes a new `Stream` or a
new context each time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

_torch: Final[Any] = torch._C  # noqa: SLF001  torch's compiler asks it in the same way
_NOTHING: Final = nullcontext()


def current_stream_number(device: torch.device) -> int | None:
    """CUDA's handle of the calling thread's current stream on a device; None if it is no GPU.

    Args:
        device: the device; a CUDA device without an index is the current one.
    """
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(_torch._cuda_getCurrentRawStream(index))  # noqa: SLF001  as above


def outside_inference() -> AbstractContextManager[object]:
    """A context for making tensors that may be used in and outside of inference_mode."""
    if torch.is_inference_mode_enabled():
        return torch.inference_mode(mode=False)
    return _NOTHING
