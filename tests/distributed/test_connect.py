"""Processes that differ are refused by name, and one that ends does not leave others waiting."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch.distributed as dist
from helpers.launching import alone, free_port, place

from sogclr import UserError
from sogclr.distributed.connect import digest_of, option_facts, require_alike

FAST = ["--epochs", "1", "--batch-size", "8", "--image-size", "16", "--device", "cpu"]
FAST += ["--precision", "32-true", "--encoder", "small"]


def compared(*facts):
    """The error of each process, or None."""
    store = dist.HashStore()

    def process(rank):
        try:
            require_alike(store, facts[rank], rank, len(facts))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(facts)) as pool:
        return list(pool.map(process, range(len(facts))))


IDS = np.arange(5, dtype=np.uint64)
SAME = {"sogclr": "1", **option_facts({"seed": 0, "views": {"flip": 0.5}}), "x": digest_of(IDS)}
DIFFERENT = {
    "sogclr is 1 in process 0 and 2 in process": {"sogclr": "2"},
    "--seed is 0 in process 0 and 7 in process": option_facts({"seed": 7}),
    "--views is": option_facts({"views": {"flip": 0.4}}),
    "x is 5 with digest": {"x": digest_of(IDS[:4])},
    "x is 5 with": {"x": digest_of(IDS + np.uint64(1))},  # as many, but others
    "x is 5 w": {"x": digest_of(IDS[::-1])},  # the same in another order
    "--queue-size is unknown in process 0 and 9 in": option_facts({"queue_size": 9}),
}


@pytest.mark.parametrize("message", DIFFERENT)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_all_processes_say_in_what_one_differs(message, place):
    facts = [SAME] * 4
    facts[place] = {**SAME, **DIFFERENT[message]}
    lines = compared(*facts)
    assert len(set(lines)) == 1
    assert lines[0].startswith("processes differ: ")
    if place:
        assert f"{message.removesuffix(' in')}" in lines[0]
        assert f"in process {place};" in lines[0]


def test_equal_processes_go_on():
    assert compared(SAME, dict(SAME), SAME) == [None] * 3


def start(rank, port, *words):
    return alone("-m", "sogclr", *words, **place(rank, 2, port))


def ended(*processes):
    """The exit code and the last line of each process."""
    said = [process.communicate()[0] for process in processes]
    assert not any("Traceback" in text for text in said), said
    return [
        (process.returncode, text.strip().split("\n")[-1])
        for process, text in zip(processes, said, strict=True)
    ]


def test_an_image_that_was_replaced_for_one_process(make_folder, tmp_path):
    folders, port = [make_folder("one"), make_folder("two")], free_port()
    with open(folders[1] / "red" / "000.png", "ab") as image:
        image.write(b"more")
    words = ["--out", tmp_path / "run", *FAST]
    lines = ended(*(start(rank, port, "pretrain", folders[rank], *words) for rank in range(2)))
    for rank, (code, line) in enumerate(lines):
        assert code == 2
        assert line.startswith(f"sogclr: process {rank} of 2: processes differ: the samples is 16")
    assert not (tmp_path / "run" / "settings.json").exists()


def test_a_process_that_cannot_start_says_why_and_the_other_gives_up(make_folder, tmp_path):
    folder, port = make_folder(), free_port()
    words = ["--out", tmp_path / "run", "--process-timeout", 2, *FAST]
    (code, line), (other_code, other) = ended(
        start(0, port, "pretrain", folder, *words), start(1, port, "pretrain", "nowhere", *words)
    )
    assert (code, other_code) == (2, 2)
    assert "process 0 of 2: another process did not answer within 2 seconds" in line
    assert other == "sogclr: process 1 of 2: data: nowhere does not exist; correct the path"


def test_a_port_in_use(make_folder, tmp_path):
    folder = make_folder()
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        words = ["--out", tmp_path / "run", "--process-timeout", 5, *FAST]
        [(code, line)] = ended(start(0, port, "pretrain", folder, *words))
    assert code == 2
    assert "the port of the processes is in use" in line
    assert "MASTER_PORT" in line


def test_a_process_that_is_killed_ends_the_other(make_folder, tmp_path):
    folder, port, run = make_folder(), free_port(), tmp_path / "run"
    words = ["--out", run, "--checkpoint-seconds", 0, *FAST, "--epochs", 100_000]
    first, second = (start(rank, port, "pretrain", folder, *words) for rank in range(2))
    while not (run / "checkpoint.pt").exists() and first.returncode is None:
        time.sleep(0.05)
    second.kill()
    [(code, line)] = ended(first)
    second.communicate()
    assert code == 2
    assert "process 0 of 2: another process ended or did not answer" in line
    assert "--resume" in line
