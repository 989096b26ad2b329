"""A script without a decorator that fails in one of many ways. Arguments: the way, and a folder that all workers share.

The first attempt fails. Every worker has come to the first barrier before anything happens.
"""

import atexit
import ctypes
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

way, folder = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ["RANK"])
TIMEOUT_S = 4 if way in ("hang", "two hang", "all wait") else 120


def train_step() -> None:
    """The loss is no number."""
    raise ValueError("loss is NaN")


def load_batch() -> None:
    """A batch never comes."""
    time.sleep(600)


def step_in_native_code() -> None:
    """Native code reads where nothing is."""
    ctypes.string_at(0)


def check_data() -> None:
    """The program ends with a text."""
    sys.exit("no data")


def wait_in_a_collective() -> None:
    """Wait for all other ranks."""
    dist.all_reduce(torch.ones(1))


def fail() -> None:
    """Do what this rank does in this way."""
    if way == "raise" and rank == 1:
        train_step()
    elif way == "raise first, end late":
        # rank 1 raises and stays in its teardown; then rank 0 raises, and is the first to end
        if rank == 1:
            atexit.register(lambda: ((folder / "raised").touch(), load_batch()))
            train_step()
        while not (folder / "raised").exists():
            time.sleep(0.02)
        raise KeyError("later")
    elif (way == "hang" and rank == 1) or (way == "two hang" and rank in (1, 2)):
        load_batch()
    elif way == "all wait" and rank == 1:
        dist.recv(torch.ones(1), src=0)
    elif way == "crash" and rank == 1:
        step_in_native_code()
    elif way == "exit" and rank == 1:
        check_data()
    elif way == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "data loader" and rank == 1:
        data = torch.utils.data.DataLoader(Items(), num_workers=1, multiprocessing_context="fork")
        for _ in data:
            pass
    wait_in_a_collective()


class Items(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Items, of which one ends the process that loads it."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        return index


print(f"rank {rank} begins", flush=True)
dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
dist.barrier()
first = not (folder / "failed").exists()
dist.barrier()
if first:
    (folder / "failed").touch()
    fail()
dist.barrier()
print(f"rank {rank} is done", flush=True)
