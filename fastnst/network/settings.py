"""The settings of the process that a run needs, whatever its caller set, and gives back at its end."""

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from fastnst.errors import FastnstError


class SharedSetting:
    """Attributes that belong to the whole process, and have one value for as long as the runs of any thread hold it.

    Threads that want the same value hold it together, one that wants another waits for them, and the last to let go
    puts back what was there before the first, whatever order they end in.
    """

    def __init__(self, *attributes: tuple[object, str]) -> None:
        self._attributes = attributes
        self._changed = threading.Condition()
        self._holders: list[tuple[int, object]] = []
        self._restore = ExitStack()

    @contextmanager
    def held(self, value: object) -> Iterator[None]:
        """Gives the attributes `value` within its block. Raises FastnstError where this thread itself holds another."""
        holder = threading.get_ident(), value
        with self._changed:
            if own := [held for thread, held in self._holders if thread == holder[0] and held != value]:
                raise FastnstError(
                    f"this run needs {value} and the run around it needs {own[0]}; start it after that run, or give "
                    "both the same precision"
                )
            self._changed.wait_for(lambda: all(held == value for _, held in self._holders))
            if not self._holders:
                for place, name in self._attributes:
                    self._restore.callback(setattr, place, name, getattr(place, name))
                    setattr(place, name, value)
            self._holders.append(holder)
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(holder)
                if not self._holders:
                    self._restore.close()
                self._changed.notify_all()


# Parameters of glibc's mallopt, and the largest values that it gives them by itself, once maps of 32 MiB were freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL = {_TRIM_THRESHOLD: 1 << 26, _MMAP_THRESHOLD: 1 << 25}
# Bytes of addresses at the end of the heap whose pages are to be huge, and the number of that advice.
_HUGE, _MADV_HUGEPAGE = 3 << 29, 14


class Heap:
    """The memory of a CPU's maps. While it `is_kept`, glibc keeps what is freed for the next map, in huge pages where
    the system has them: else each page of the next map is a fault, and is filled with zeros. Where addresses are
    limited, what is free goes back, because what is kept may lie in holes."""

    def __init__(self) -> None:
        self._is_kept = False

    @property
    def is_kept(self) -> bool:
        return self._is_kept

    @is_kept.setter
    def is_kept(self, is_kept: bool) -> None:
        self._is_kept = is_kept
        if _can_be_kept():
            library = ctypes.CDLL(None)
            for parameter, usual in _USUAL.items():
                library.mallopt(parameter, 2**31 - 1 if is_kept else usual)
            if is_kept:
                _make_huge(library)
        if not is_kept:
            give_back()


def _can_be_kept() -> bool:
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"):
        return False
    import resource  # there is none on Windows

    return all(resource.getrlimit(limit)[0] < 0 for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))


def _make_huge(library: ctypes.CDLL) -> None:
    """Advises huge pages for the next `_HUGE` bytes of the heap; none of them is taken yet."""
    library.malloc.restype = ctypes.c_void_p
    if (start := library.malloc(ctypes.c_size_t(_HUGE))) is not None:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + _HUGE - first) // mmap.PAGESIZE * mmap.PAGESIZE
        library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)
        library.free(ctypes.c_void_p(start))


def give_back() -> None:
    """Gives free pages of the heap back to the system; glibc keeps them, in holes too small for the next large map."""
    if os.name == "posix":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


# Torch's stubs lack some of these.
_CUDNN = SharedSetting((torch.backends.cudnn.conv, "fp32_precision"))  # type: ignore[attr-defined]
_CUBLAS = SharedSetting((torch.backends.cuda.matmul, "fp32_precision"))
_MKLDNN = SharedSetting(
    (torch.backends.mkldnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    (torch.backends.mkldnn.matmul, "fp32_precision"),  # type: ignore[attr-defined]
)
_TIMED = SharedSetting((torch.backends.cudnn, "benchmark"))
_HEAP = SharedSetting((Heap(), "is_kept"))


def kept_heap(device: torch.device) -> AbstractContextManager[None]:
    """Lets a CPU's iterations take the memory of the last one, all of which have the same shapes: see `Heap`. At the
    end what is free goes back to the system.

    On another device, and where the C library is not GNU's, nothing changes.
    """
    return _HEAP.held(True) if device.type == "cpu" else nullcontext()


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Makes float32 convolutions on a GPU exact (ieee) or rounded (tf32), and all other products exact, whatever was
    set: the optimiser's inner products are among them.

    The settings are the process's: a thread that needs the other of the two on a GPU waits until no run needs this one.
    """
    with ExitStack() as settings:
        settings.enter_context(_MKLDNN.held("ieee"))
        if torch.cuda.is_available():
            settings.enter_context(_CUBLAS.held("ieee"))
            settings.enter_context(_CUDNN.held("tf32" if tf32 else "ieee"))
        yield


def timed_algorithms() -> AbstractContextManager[None]:
    """Lets cuDNN time its algorithms at the first call of each shape, since every iteration has the same shapes.

    Without a GPU nothing is touched.
    """
    return _TIMED.held(True) if torch.cuda.is_available() else nullcontext()


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Keeps the caller's torch modes (no_grad, inference_mode, autocast, a default device) from a run."""
    cpu = torch.device("cpu")
    # A default device costs each of torch's calls some microseconds.
    default = nullcontext() if torch.get_default_device() == cpu else cpu
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), default:
        yield
