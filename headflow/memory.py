"""Telling lack of memory from other errors."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on this machine."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
