"""Who says what, where several processes know it."""

import os
import subprocess
import sys


def test_one_process_speaks_for_all_but_not_of_what_another_met():
    code = "from sogclr.common.console import say; say('all'); say('mine', for_all=False)"
    for rank, expected in (("0", "all\nmine\n"), ("1", "mine\n")):
        environment = {**os.environ, "RANK": rank, "WORLD_SIZE": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == expected
