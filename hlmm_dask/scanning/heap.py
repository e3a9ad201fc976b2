"""Memory that a worker's blocks take again and again stays with its process."""

import ctypes

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Let what one block frees serve the next, where the C library is GNU's.

    Dask has its workers give each array back at once: the pages of the next are then made anew,
    filled with zeros, which takes half of the time of a block with random effects.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Heaps of threads are too small for large arrays; more than 32 MiB it does not take.
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_TRIM_THRESHOLD, 512 * 2**20)
