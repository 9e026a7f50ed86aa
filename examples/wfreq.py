# SPDX-License-Identifier: MIT
"""Example 7: how often does each word occur in a set of files?

usage: trickle wfreq.py <vmcount> <chunksize> <pattern>

The files are counted in chunks on the VMs, which read them from their own disks; the counts of
the chunks are merged here. What matches <pattern>** is counted: a directory with a slash at its
end stands for everything below it.
"""
import glob
import os
import sys
import time

from trickle import connect, forkwork, inject


def wordcount(files):
    counts = {}
    for name in files:
        with open(name, encoding="utf-8", errors="replace") as file:
            for line in file:
                for word in line.split():
                    counts[word] = counts.get(word, 0) + 1
    return counts


def mergecounts(parts):
    counts = {}
    for part in parts:
        for word, n in part.items():
            counts[word] = counts.get(word, 0) + n
    return counts


def count(vm_count, chunksize, files):
    vms = connect(vm_count)
    inject(vms, wordcount)
    return mergecounts(forkwork(vms, wordcount, files, chunksize=chunksize))


def top(counts, n):
    """The n most frequent words; words that are equally frequent in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]


def main():
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} <vmcount> <chunksize> <pattern>")
    files = sorted(filter(os.path.isfile, glob.glob(sys.argv[3] + "**", recursive=True)))
    start = time.time()
    counts = count(int(sys.argv[1]), int(sys.argv[2]), files)
    print(f"{time.time() - start:.2f} seconds", file=sys.stderr)
    print(f"{len(files)} files, {sum(counts.values())} words, {len(counts)} different ones")
    for word, n in top(counts, 10):
        print(f"{n:8} {word}")


if __name__ == "__main__":
    main()
