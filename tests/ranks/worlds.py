"""Real processes that talk over gloo: forked from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

PRELOAD = ["torch", "torch.distributed", "equipoise", "tests.ranks.programs"]


def processes() -> Any:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def run_world(size: int, program: Callable, *args: Any, folder: Any, limit: float = 120) -> list:
    """What `program(rank, size, *args)` returned on each rank, or the exception it ended with."""
    context = processes()
    rendezvous = str(folder / f"rendezvous-{os.urandom(6).hex()}")
    running = []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        child = context.Process(
            target=_run, args=(there, rank, size, rendezvous, program, args), daemon=True
        )
        child.start()
        there.close()
        running.append((child, here))
    results = []
    for _, here in running:
        try:
            results.append(here.recv() if here.poll(limit) else TimeoutError(f"after {limit} s"))
        except EOFError:
            results.append(EOFError("the process ended without a word"))
    for child, here in running:
        child.join(5)
        if child.is_alive():
            child.kill()
        here.close()
    return results


def _run(pipe: Any, rank: int, size: int, rendezvous: str, program: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    try:
        if size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size
            )
        result = program(rank, size, *args)
    except Exception as error:
        result = error
        if not isinstance(error, ValueError | RuntimeError):
            traceback.print_exc()
    pipe.send(result)
    pipe.close()
    if size > 1 and not isinstance(result, Exception):
        dist.barrier()
        dist.destroy_process_group()
