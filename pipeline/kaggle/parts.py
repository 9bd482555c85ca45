"""The rows of a test set over devices: a process for each GPU, watched by the one that started it.

A process that dies, or a GPU that breaks, takes the networks of one group along; they are tried again one by one in new processes, so that
what breaks is left out and the rest predicts. Processes are started with a command, not forked: a notebook's own module stays out of it.
"""

import contextlib
import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config_data import Competition
from pipeline.kaggle.bundle import Bundle
from pipeline.kaggle.models import Costs, Done, Key, Part, Report, in_words, measure, run_part
from pipeline.runtime import OUT_OF_MEMORY

log = logging.getLogger(__name__)
FEWEST_ROWS = 32  # that are worth a further process
MEMORY_WORDS = (*OUT_OF_MEMORY, "OutOfMemoryError")


@dataclass
class Lost:
    """Networks that did not predict all rows, with the reason."""

    failed: dict[Key, str] = field(default_factory=dict)
    late: dict[Key, str] = field(default_factory=dict)


def split(part: Part, devices: Sequence[str], folder: Path) -> list[Part]:
    """The rows of a part in one stretch per device, as even as can be."""
    count = max(1, min(len(devices), len(part.paths) // FEWEST_ROWS))
    bounds = [len(part.paths) * number // count for number in range(count + 1)]
    found = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        place = folder / str(number)
        place.mkdir(parents=True)
        found.append(replace(part, paths=part.paths[start:stop], device=devices[number], folder=place))
    return found


def run_parts(parts: Sequence[Part], bundle: Bundle, report: Report) -> list[Lost]:
    """Predicts every part, each on its device, all at the same time; what fails on one device is tried on another that can do it."""
    lost = _together([_Attempts(part, bundle, _here(parts)) for part in parts], report)
    again = {number: part for number in range(len(parts)) if (part := _elsewhere(parts, lost, number))}
    retried = _together([_Attempts(part, bundle, here=False) for part in again.values()], report)
    for (number, part), found in zip(again.items(), retried, strict=True):
        kept = {key: reason for key, reason in lost[number].failed.items() if (key,) not in part.groups}
        lost[number] = Lost(kept | found.failed, lost[number].late | found.late)
    return lost


def _elsewhere(parts: Sequence[Part], lost: Sequence[Lost], number: int) -> Part | None:
    """A part with the networks that failed, on a device on which they did not; None where there is no such device."""
    own, every = lost[number], [key for keys in parts[number].groups for key in keys]
    for part, theirs in zip(parts, lost, strict=True):
        keys = [key for key in every if key in own.failed and key not in theirs.failed and key not in theirs.late]
        if keys:
            log.warning("kernel    %s: %d networks failed (%s) and are tried on %s", parts[number].device, len(keys), own.failed[keys[0]], part.device)
            needed = all(any(key in one.failed or key in one.late for one in lost) for key in every)
            return replace(parts[number], device=part.device, groups=tuple((key,) for key in keys), needed=needed)
    return None


def measure_part(part: Part, bundle: Bundle) -> Costs:
    """What networks cost on a part's device; empty where that cannot be found out."""
    if part.device == "cpu":
        return measure(part, bundle)
    found: Costs = {}

    def hear(message: dict[str, Any]) -> None:
        found.update({int(number): costs for number, costs in message.get("costs", {}).items()})

    with contextlib.suppress(OSError):  # the clock is watched all the same
        _in_process(part, "measure", hear)
    return found


def _here(parts: Sequence[Part]) -> bool:
    """Whether no process is needed."""
    return len(parts) == 1 and parts[0].device == "cpu"


def _together(attempts: "Sequence[_Attempts]", report: Report) -> list[Lost]:
    """Runs them at the same time; messages are heard in this thread."""
    if all(one.here for one in attempts):
        return [one.run(report) for one in attempts]
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    threads = [threading.Thread(target=one.run, args=(messages.put,), daemon=True) for one in attempts]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) or not messages.empty():
            try:
                report(messages.get(timeout=0.2))
            except queue.Empty:
                continue
    finally:
        for one in attempts:
            one.end()
    return [one.lost for one in attempts]


class _Attempts:
    """One part, begun again after each group that breaks."""

    def __init__(self, part: Part, bundle: Bundle, here: bool) -> None:
        self.part, self.bundle, self.here = part, bundle, here
        self.lost = Lost()
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    def run(self, report: Report) -> Lost:
        """Predicts all groups; a group that breaks is taken apart, a network that breaks alone is lost."""
        groups = list(self.part.groups)
        while groups and not self._ended:
            said = any(self.part.file(key).exists() for keys in self.part.groups for key in keys)
            done = self._once(replace(self.part, groups=tuple(groups), needed=self.part.needed and not said), report)
            self.lost.late |= done.late
            failed = {key: done.failed[key] for keys in groups[: done.groups] for key in keys if key in done.failed}
            scarce = [key for keys in groups[: done.groups] if len(keys) > 1 for key in keys if _is_of_memory(failed.get(key, ""))]
            self.lost.failed |= {key: reason for key, reason in failed.items() if key not in scarce}
            left = groups[done.groups :] if done.reason else []
            if done.reason.startswith(NO_DEVICE):
                self.lost.failed |= {key: done.reason for keys in left for key in keys}
                left = []
            elif left and len(left[0]) == 1:
                self.lost.failed[left[0][0]] = done.reason
                left = left[1:]
            elif left:
                log.warning("kernel    %s: %d networks fail together (%s) and are tried one by one", self.part.device, len(left[0]), done.reason)
                left = [*_one_by_one(left[0]), *left[1:]]
            groups = [*left, *_one_by_one(scarce)]
        return self.lost

    def _once(self, part: Part, report: Report) -> Done:
        if self.here:
            return run_part(part, self.bundle, report)
        done = Done()

        def hear(message: dict[str, Any]) -> None:
            nonlocal done
            if "done" in message:
                done = Done.from_json(message["done"])
            else:
                report(message)

        try:
            code = _in_process(part, "predict", hear, self)
        except OSError as error:
            return Done(reason=f"{NO_DEVICE}: {in_words(error)}")
        if done.groups < len(part.groups) and not done.reason:
            done.reason = f"its process died ({_died(code)})"
        return done

    def hold(self, process: "subprocess.Popen[str]") -> None:
        """Remembers the process that works for it."""
        self._process = process
        if self._ended:
            process.kill()

    def end(self) -> None:
        """Stops what still runs."""
        self._ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def _one_by_one(keys: Iterable[Key]) -> list[tuple[Key, ...]]:
    return [(key,) for key in keys]


def _is_of_memory(reason: str) -> bool:
    return any(words in reason for words in MEMORY_WORDS)


def _died(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}{', perhaps for lack of memory' if code == -9 else ''}"


# ---------------------------------------------------------------- processes

NO_DEVICE = "the device cannot be used"


def _in_process(part: Part, what: str, hear: Report, attempts: "_Attempts | None" = None) -> int:
    """Runs a part in a process of its own; its exit code."""
    job = {
        "what": what,
        "parent": os.getpid(),
        "bundle": str(part.bundle),
        "competition": part.competition.model_dump_json(),
        "paths": part.paths,
        "device": part.device,
        "workers": part.workers,
        "groups": part.groups,
        "views": {str(number): views for number, views in part.views.items()},
        "folder": str(part.folder),
        "deadline": part.deadline,
        "needed": part.needed,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=part.folder, delete=False) as file:
        json.dump(job, file)
    reading, writing = os.pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # where the notebook has put the package
    command = [sys.executable, "-P", "-m", __name__, file.name, str(writing)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[writing], env=environment, text=True)  # noqa: S603
    os.close(writing)
    if attempts is not None:
        attempts.hold(process)
    with os.fdopen(reading, encoding="utf-8") as messages:
        for line in messages:
            if line.endswith("\n"):  # what a process that died was about to say is not whole
                hear(json.loads(line))
    code = process.wait()
    Path(file.name).unlink(missing_ok=True)
    return code


def main(job_path: str, descriptor: str) -> int:
    """What a process does: its job's part, telling of it line by line; exit code 1 where it ended early, and the process is to be replaced."""
    from pipeline.kaggle.bundle import read_bundle
    from pipeline.runtime import die_with, start_logging

    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    die_with(job["parent"])
    start_logging()
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as messages:

        def tell(message: dict[str, Any]) -> None:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        part = Part(
            Path(job["bundle"]),
            Competition.model_validate_json(job["competition"]),
            tuple(job["paths"]),
            job["device"],
            job["workers"],
            tuple(tuple((experiment, network) for experiment, network in keys) for keys in job["groups"]),
            {int(number): tuple(views) for number, views in job["views"].items()},
            Path(job["folder"]),
            job["deadline"],
            job["needed"],
        )
        try:
            import torch

            torch.zeros(1, device=part.device) + 1
        except Exception as error:
            tell({"done": Done(reason=f"{NO_DEVICE}: {in_words(error)}").to_json()})
            return 1
        bundle = read_bundle(part.bundle)
        if job["what"] == "measure":
            tell({"costs": measure(part, bundle)})
            return 0
        done = run_part(part, bundle, tell)
        tell({"done": done.to_json()})
        return 1 if done.reason else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
