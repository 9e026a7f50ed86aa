#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The word count of the paper at its size, chunks of 100 files, with the same function, the same
merge and the same number of processes on both sides."""
import multiprocessing
import sys

import wfreq_files
from common import ROOT, VMS, Bench, rate

sys.path.insert(1, str(ROOT / "examples"))
CHUNK = 100


def main():
    bench = Bench(__doc__)
    names = wfreq_files.files(bench.size(wfreq_files.FILES), bench.size(wfreq_files.BYTES))
    megabytes = bench.size(wfreq_files.BYTES) / 1e6
    chunks = [names[i:i + CHUNK] for i in range(0, len(names), CHUNK)]
    bench.start_vms()
    from trickle import connect, forkgen, forkwork, inject
    from wfreq import mergecounts, wordcount
    totals = set()

    def merge(parts):
        totals.add(sum(mergecounts(parts).values()))

    with multiprocessing.Pool(VMS) as pool:
        vms = connect(VMS)
        inject(vms, wordcount)
        what = f"word count of {len(names):,} files"

        def timed(function):
            return lambda: rate(megabytes, lambda: merge(function()))

        # All results first, then the merge; and the merge of each result as it comes.
        bench.compare(what, "MB/s", timed(
            lambda: forkwork(vms, wordcount, names, chunksize=CHUNK)), {
                "Pool.map": (timed(lambda: pool.map(wordcount, chunks, 1)), 1)})
        bench.compare(f"{what}, as they come", "MB/s", timed(
            lambda: forkgen(vms, wordcount, names, chunksize=CHUNK)), {
                "Pool.imap_unordered":
                    (timed(lambda: pool.imap_unordered(wordcount, chunks)), 1)})
    assert len(totals) == 1, f"the counts differ: {totals}"
    bench.finish()


if __name__ == "__main__":
    main()
