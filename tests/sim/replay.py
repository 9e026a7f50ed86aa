# SPDX-License-Identifier: MIT
"""A seed is a story: told again it is the same, also by the build that has marks in it."""
import re
import subprocess
import sys


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
    return done.stdout


def digest(text):
    return re.findall(r"digest ([0-9a-f]+)", text)


def main(sim, marks):
    for seed in ("1", "26", "4711", "99999"):
        first, again = (run(sim, "--seed", seed, "--trace") for _ in range(2))
        story = [line for line in first.splitlines() if " ms  " in line]
        assert len(story) > 10 and story == [x for x in again.splitlines() if " ms  " in x], seed
    plain = digest(run(sim, "--seeds", "1..500", "--no-coverage"))
    assert plain and plain == digest(run(sim, "--seeds", "1..500", "--no-coverage", "--jobs", "1"))
    assert plain == digest(run(marks, "--seeds", "1..500")), "marks change what happens"


if __name__ == "__main__":
    main(*sys.argv[1:])
