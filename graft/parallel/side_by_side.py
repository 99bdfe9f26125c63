"""Seeds side by side: each in a process of its own, with its share of the threads, and a GPU where there are several.

A seed leaves its results in a file, which is how a run that was broken off goes on as well: nothing but a failure comes
back from its process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess, parent_process
from typing import Any

import torch
from tqdm import tqdm

from graft.errors import GraftError

Work = Callable[[int, str], None]  # seed and device; picklable, as a new interpreter runs it
_PATIENCE = 20.0  # seconds that a process has to take down what it was writing


def run_side_by_side(
    work: Work, seeds: Sequence[int], places: Sequence[int], jobs: int, device: str, label: str
) -> None:
    """Run seeds in processes of their own, `jobs` at a time; the first failure ends the others and is raised here.

    Args:
        work: what runs one seed.
        seeds: all seeds of the recipe, done or not: threads go by a seed's place among them, so that it has the same
            number in a run that goes on as in one that was never broken off.
        places: of those that are to run.
        jobs: how many at a time; each holds models of its own.
        device: as asked for; where it is left to the toolkit and there are several GPUs, each process has one.
        label: of the progress bar.

    Raises:
        GraftError: what a seed raised, or a seed's process was killed, as by a system out of memory.
    """
    waiting, slots = list(places), list(range(jobs))
    running: dict[Any, tuple[int, int, BaseProcess]] = {}  # the pipe of a process -> its seed, slot and self
    bar = tqdm(total=len(seeds), initial=len(seeds) - len(places), desc=label, unit="seed", disable=None)
    with bar, _ended(running):
        while waiting or running:
            while waiting and slots:
                place, slot = waiting.pop(0), slots.pop(0)
                threads = threads_of(place, len(seeds), jobs)
                pipe, process = _start(work, seeds[place], slot, device, threads)
                running[pipe] = seeds[place], slot, process
            for pipe in connection.wait(list(running)):
                seed, slot, process = running[pipe]
                _receive(pipe, seed, process)
                process.join()
                del running[pipe]
                slots.append(slot)
                bar.update()


def _start(work: Work, seed: int, slot: int, device: str, threads: int) -> tuple[Any, BaseProcess]:
    """Start a seed's process; return the end of the pipe on which it tells how it ended, and the process."""
    context = get_context("spawn")  # a fork would inherit threads in the middle of their work
    reader, writer = context.Pipe(duplex=False)
    arguments = (writer, work, seed, device_of(slot, device), threads)
    process = context.Process(target=_work, args=arguments, daemon=True)
    with _bars_at(slot + 1, seed):
        process.start()
    writer.close()  # the process has its own, which goes with it
    return reader, process


def threads_of(place: int, n_seeds: int, jobs: int) -> int:
    """Return how many threads a seed has: all, shared among the seeds of its round."""
    at_once = min(jobs, n_seeds - place // jobs * jobs)
    return max(1, torch.get_num_threads() // at_once)


def device_of(slot: int, device: str) -> str:
    """Return the device of a slot: a GPU of its own where there are several and none was named."""
    n_gpus = torch.cuda.device_count()
    return f"cuda:{slot % n_gpus}" if device in ("auto", "cuda") and n_gpus > 1 else device


def _receive(pipe: Any, seed: int, process: BaseProcess) -> None:
    """Wait for the end of a seed's process; raise its failure."""
    try:
        failure = pipe.recv()
    except EOFError:
        process.join()
        killed = "was killed; where memory ran out, run fewer seeds side by side"
        unguarded = 'ended before its work; a script keeps what it does under `if __name__ == "__main__":`'
        raise GraftError(f"seed {seed}: its process {killed if (process.exitcode or 0) < 0 else unguarded}") from None
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _ended(running: Mapping[Any, tuple[int, int, BaseProcess]]) -> Iterator[None]:
    """End the processes that still run when the block is left: first by a signal on which they clean up."""
    try:
        yield
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join(_PATIENCE)
            process.kill()


@contextlib.contextmanager
def _bars_at(line: int, seed: int) -> Iterator[None]:
    """Have the progress bars of a process that starts now on a line of their own, with its seed (tqdm's variables)."""
    names = {"TQDM_POSITION": str(line), "TQDM_POSTFIX": f"seed {seed}", "TQDM_LEAVE": ""}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _follow() -> None:
    """End this process once the one that started it is gone, which may have been killed."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _work(writer: Connection, work: Work, seed: int, device: str, threads: int) -> None:
    """Run a seed in the process that was started for it; send its failure, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first ends the others
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception, on which half-written outputs go
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work(seed, device)
    except KeyboardInterrupt:
        return  # the process that started this one tells of it
    except Exception as error:
        writer.send(_portable(error, seed))
    else:
        writer.send(None)


def _portable(error: Exception, seed: int) -> Exception:
    """Return an error as it can be sent, with where it was raised as a note, which --debug shows."""
    where = f"in the process of seed {seed}:\n{traceback.format_exc()}"
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # it holds what no pickle does, or is made of other arguments than it keeps
        sent = GraftError(f"seed {seed}: {type(error).__name__}: {error}")
    sent.add_note(where)
    return sent
