"""The machine and chance: devices, precision, threads, seeds, logging, and ordered parallel work."""

import contextlib
import ctypes
import gc
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

# Every random draw of the project starts from one of these, so that no two purposes share a stream.
PURPOSES = ("initialise", "shuffle", "augment", "mix", "dropout", "bootstrap", "halves", "search")


def stream(purpose: str, *numbers: int) -> np.random.SeedSequence:
    """The seed of one purpose at one place, e.g. ("augment", seed, fold, epoch, position); negative seeds are fine."""
    return np.random.SeedSequence([PURPOSES.index(purpose), *(number % 2**32 for number in numbers)])


def integer_seed(purpose: str, *numbers: int) -> int:
    """The same as one number below 2**63, for generators that take nothing else."""
    return int(stream(purpose, *numbers).generate_state(1, np.uint64)[0] >> 1)


def start_logging() -> None:
    """One line per message on standard error: time, then what happened; safe beside progress bars."""
    root = logging.getLogger("pipeline")
    if not root.handlers:
        handler = _BesideBars()
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False


class _BesideBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if (tqdm := sys.modules.get("tqdm")) is not None:
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
        sys.stderr.flush()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(requested: str) -> list[str]:
    """Names of the devices to run on. `auto`: every GPU, else the CPU. UserError for one that is not there."""
    import torch

    from pipeline.errors import UserError

    if requested == "cpu":
        return ["cpu"]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    index = int(requested.partition(":")[2] or 0)
    if index >= count:
        raise UserError(f"runtime.device: {requested} is not there ({count} GPUs found); write auto or cpu")
    return [f"cuda:{index}"]


def start_torch(threads: int, device: str = "cpu") -> None:
    """Fixes what would make two runs differ: threads, kernels picked by stopwatch, OpenCV's own threads; a GPU is this process's own."""
    import cv2
    import torch

    if device == "cpu":
        _keep_freed_memory()
    else:
        torch.cuda.set_device(device)  # or threads that pin memory open a context on the first GPU
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    cv2.setNumThreads(1)


def _keep_freed_memory() -> None:
    """Lets glibc keep what a training step frees, instead of giving it back and faulting it in again.

    1.9 times the images per second for mobilenetv2_100 on a CPU, up to a fifth more memory, the same loss
    (docs/LOG.md, 2026-11-21). Elsewhere than on glibc nothing happens.
    """
    most_mappings, trim_threshold, most_arenas = -4, -1, -8  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX in malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in ((most_mappings, 0), (trim_threshold, -1), (most_arenas, 1)):
            library.mallopt(parameter, value)


OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "could not create a memory object",
)
"""How allocators, cuBLAS, cuDNN and oneDNN say that there is no memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def free_memory() -> None:
    """Gives back what a GPU's allocator keeps, so that what failed for lack of memory is not the next one's reason, nor another process's."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised at a point where what was done can be saved."""


class CtrlC:
    """Ctrl-C as a question instead of an exception: the first only sets `asked`, a second one ends the process's work at once.

    `asked` is the process's: what runs after a question that came too late to be heard hears it, too. Left alone where the
    shell that started the process has it ignored.
    """

    asked = False

    def __enter__(self) -> "CtrlC":
        self._before = signal.getsignal(signal.SIGINT)
        self._heard = threading.current_thread() is threading.main_thread() and self._before is not signal.SIG_IGN
        if self._heard:
            signal.signal(signal.SIGINT, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._heard:
            signal.signal(signal.SIGINT, self._before)

    @staticmethod
    def note(*_: object) -> None:
        """Hears a Ctrl-C; a handler of signals."""
        again, CtrlC.asked = CtrlC.asked, True
        if multiprocessing.parent_process() is not None:
            return  # a terminal sends Ctrl-C to every process, and the parent passes it on
        if again:
            raise KeyboardInterrupt
        os.write(2, b"\nsaving; press Ctrl-C again to stop at once\n")

    def stop_if_asked(self) -> None:
        """Raises Interrupted after a Ctrl-C."""
        if self.asked:
            raise Interrupted


class Alarm:
    """Whether the time was up."""

    rang = False


@contextlib.contextmanager
def stop_after(seconds: float | None, said: str) -> Iterator[Alarm]:
    """After so many seconds what runs inside is ended as by Ctrl-C, training saves at its next update, and the alarm says that it was so.

    None: never. said: logged then. A user's own Ctrl-C is raised.
    """
    alarm = Alarm()

    def ring() -> None:
        log.info(said)
        alarm.rang = True
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a process that a script has put into the background
            CtrlC.asked = True
        else:
            os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(min(seconds or 0.0, threading.TIMEOUT_MAX), ring)
    timer.daemon = True
    try:
        if seconds is not None:
            timer.start()
        yield alarm
    except KeyboardInterrupt:
        if not alarm.rang:
            raise
    finally:
        timer.cancel()
        if alarm.rang:
            CtrlC.asked = False


def autocast_dtype(precision: str, device: "torch.device") -> "torch.dtype | None":
    """The autocast type that `train.precision` means on this device; None is fp32."""
    import torch

    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def casting(device: "torch.device", dtype: "torch.dtype | None") -> "torch.autocast":
    """The context of a forward pass in what `autocast_dtype` gave."""
    import torch

    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def die_with(parent: int) -> None:
    """Ends this process when its parent, whose process id is given, is gone: a killed run leaves nothing claimed.

    The id comes from the parent itself: a child that asks after the kill is told another one.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stay_offline_without_network(seconds: float = 3.0) -> None:
    """Where the weights' hub has no address, sets HF_HUB_OFFLINE, so that a missing file is said at once.

    Otherwise every file costs five retries. Call it before timm or albumentations is imported; weights that an earlier
    run has downloaded are found all the same.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the proxy knows addresses that this machine does not
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(socket.getaddrinfo, host, 443).result(timeout=seconds)
    except (OSError, TimeoutError):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pool.shutdown(wait=False)


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map` in threads, results in order, with few results waiting at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in itertools.islice(remaining, 4 * threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
        finally:
            for future in waiting:
                future.cancel()
