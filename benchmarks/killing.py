"""Killing writers with SIGKILL at random moments, round after round, on one memory."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path


def kill_writers(folder, number, longest, write, first, ready, durability="process", seed=0):
    """Kill a writer ``number`` times; yield (seconds until the kill, memory's path, log).

    Args:
        folder: for the memory and the log.
        number: rounds.
        longest: seconds between a writer's being ready and its end, drawn up to this.
        write: run in a process of its own with (path, log, first, durability); never ends.
        first: (turn, log) -> what a round's writer is told to begin with.
        ready: (log, its size when the round began, a random generator) -> a test, without
            arguments, of whether the writer is far enough to be killed.
        durability: of the memory.
        seed: of the moments.
    """
    path, log = Path(folder) / "killed.recollect", Path(folder) / "log"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "recollect.memory", "recollect.sketching.sketches"])
    rng = random.Random(seed)
    for turn in range(number):
        size = log.stat().st_size if log.exists() else 0
        arguments = (path, log, first(turn, log), durability)
        far_enough = ready(log, size, rng)
        child = context.Process(target=write, args=arguments, daemon=True)
        child.start()
        while child.is_alive() and not far_enough():
            time.sleep(0.001)
        wait = rng.random() * longest
        time.sleep(wait)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        if child.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the writer ended by itself with code {child.exitcode}")
        yield wait, path, log


def noted(log, size, word):
    """Number of times that a word was noted after the log had a size."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(size)
        return file.read().count(word)


def run(description, longest, header, rounds, row):
    """Run the rounds from the command line, a row each; exit with 1 if any found problems.

    Args:
        description: of the benchmark.
        longest: default of seconds until the kill.
        header: of the table.
        rounds: yields tuples whose last item is a list of problems.
        row: such a tuple as a line of the table.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--longest", type=float, default=longest, help="seconds until the kill")
    parser.add_argument("--durability", default="process", choices=("process", "power"))
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        print(header)
        for found in rounds(folder, options.rounds, options.longest, options.durability):
            print(row(found), flush=True)
            bad += bool(found[-1])
    print(f"{options.rounds} kills, {bad} with problems")
    raise SystemExit(bool(bad))
