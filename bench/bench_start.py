#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""trickle run --local=2 of a two-line program, from its start to its end."""
import os
import subprocess
import tempfile

from common import BUILD, Bench, rate

PROGRAM = "vms = connect()\nprint(forkwork(vms, abs, [-1, 2, -3]))\n"
LIMIT_MS = 400


def main():
    bench = Bench(__doc__)
    bench.options.rounds *= 3
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(PROGRAM)
        file.flush()

        def run():
            done = subprocess.run([BUILD / "trickle", "run", "--local=2", file.name], check=True,
                                  capture_output=True, text=True, env=os.environ)
            assert done.stdout == "[1, 2, 3]\n", done

        bench.limit("trickle run --local=2, start to end", "ms", lambda: 1000 / rate(1, run),
                    LIMIT_MS)
    bench.finish()


if __name__ == "__main__":
    main()
