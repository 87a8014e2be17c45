"""Programs that run in processes of their own.

To import packages takes these programs longer than to run. So processes are forked from a server
that has imported them. Only `torchrun` starts all anew, where what torchrun does is tested.
"""

import atexit
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path

import torch
from torch import multiprocessing

TESTS = str(Path(__file__).parents[1])
IMPORTED = ["pytest", "tyro", "rich.progress", "PIL.Image", "safetensors.torch", "torchvision"]
IMPORTED += ["torch.distributed.fsdp", "torch.utils.tensorboard", "lightning_fabric", "sklearn"]
IMPORTED += ["timm.optim", "timm.scheduler"]
SERVER = multiprocessing.get_context("forkserver")
# Without this package: some of it is decided by the environment, when it is imported.
SERVER.set_forkserver_preload(IMPORTED)


def _run(words, environment, folder, output):
    """Do what `python WORDS` does, in a session of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # of loader workers, as everywhere
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, TESTS)  # scripts among the helpers import others as `helpers.name`
        runpy.run_path(words[0], run_name="__main__")


class Program:
    """What `python WORDS` does, in a process for each environment, with one output."""

    def __init__(self, words, environments):
        self.output, words = tempfile.NamedTemporaryFile(), list(map(str, words))  # noqa: SIM115
        self.processes = []
        atexit.register(self.kill)  # a failed test leaves it running
        for environment in environments:
            task = words, environment, os.getcwd(), self.output.name
            self.processes.append(SERVER.Process(target=_run, args=task))
            self.processes[-1].start()

    @property
    def returncode(self):
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else next(filter(None, codes), 0)

    def kill(self):
        for process in self.processes:
            process.kill()

    def communicate(self):
        """Wait for the end; if a process fails, the others are ended, as torchrun does."""
        while self.returncode is None:
            running = [each for each in self.processes if each.exitcode is None]
            wait([process.sentinel for process in running])
            if any(process.exitcode for process in self.processes):
                for process in running:
                    process.join(30)
                self.kill()
        with self.output:
            return self.output.read().decode(), None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(rank, count, port):
    """Name the variables that torchrun sets."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    counts = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    variables = {"RANK": rank, "LOCAL_RANK": rank, **counts, **address}
    return {name: str(value) for name, value in variables.items()}


def alone(*words, **variables):
    """Start `python WORDS` with these variables in its environment."""
    return Program(words, [{**os.environ, **variables}])


def started(count, *words):
    """Start `python WORDS` as several processes that are to find each other."""
    port = free_port()
    places = [place(rank, count, port) for rank in range(count)]
    return Program(words, [{**os.environ, **each} for each in places])


def spread(count, work, *arguments):
    """Call `work(rank, *arguments)` in several processes; an error of one is raised here."""
    multiprocessing.start_processes(work, arguments, count, start_method="forkserver")


def torchrun(count, *words, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "--max-restarts", str(restarts), *words]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    paths = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, **quiet)


def finished(process, code=0):
    said, _ = process.communicate()
    assert process.returncode == code, said
    return said
