# SPDX-License-Identifier: MIT
"""A seeded stand-in for the paper's data: 63,362 files, 285 MB of words whose frequencies fall
as in natural text. Kept in the cache directory, so that it is made once."""
import itertools
import os
import random
import shutil
import sys
from pathlib import Path

FILES, BYTES, VOCABULARY, FILES_PER_FOLDER = 63_362, 285_000_000, 100_000, 100
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words(rng):
    made = set()
    while len(made) < VOCABULARY:
        made.add("".join(rng.choices(SYLLABLES, k=rng.choice([1, 2, 2, 3, 3, 4, 5]))))
    return sorted(made, key=lambda word: (len(word), word))


def make(folder, files=FILES, size=BYTES, seed=2007):
    rng = random.Random(seed)
    vocabulary = words(rng)
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))
    shares = [rng.expovariate(1) + 0.05 for _ in range(files)]
    total = sum(shares)
    for i, share in enumerate(shares):
        if i % FILES_PER_FOLDER == 0:
            place = folder / f"{i // FILES_PER_FOLDER:04}"
            place.mkdir()
        length = max(int(size * share / total), 1)
        chosen = rng.choices(vocabulary, cum_weights=weights, k=length // 4 + 1)
        lines = (" ".join(chosen[at:at + 12]) for at in range(0, len(chosen), 12))
        (place / f"{i:05}.txt").write_text("\n".join(lines)[:length - 1] + "\n")


def files(count=FILES, size=BYTES):
    """The list of file names; makes the files when they are not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trickle-bench"
    folder = cache / f"wfreq-{count}-{size}"
    if not folder.exists():
        print(f"making {count} files in {folder}", file=sys.stderr)
        part = cache / f"part-{os.getpid()}"
        part.mkdir(parents=True)
        try:
            make(part, count, size)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part)
            raise
    return sorted(str(path) for path in folder.glob("*/*.txt"))
