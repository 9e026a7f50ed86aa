# SPDX-License-Identifier: MIT
"""The word count of examples/wfreq.py over text that every Debian machine has, checked against a
plain count. Run by scripts/demo."""
import glob
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "examples"))

import wfreq  # noqa: E402

PATTERNS = ["/usr/share/doc/**/copyright", "/usr/share/doc/**/*.txt",
            "/usr/share/common-licenses/*", "/usr/lib/python3*/**/*.py",
            "/usr/share/perl/**/*.p[lm]"]
CHUNK = 50


def main():
    files = sorted({os.path.realpath(name) for pattern in PATTERNS
                    for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)})
    size = sum(os.path.getsize(name) for name in files)
    print(f"{len(files)} files, {size / 1e6:.1f} MB of text; {CHUNK} files at a time on four VMs")
    start = time.time()
    counts = wfreq.count(4, CHUNK, files)
    print(f"counted in {time.time() - start:.2f} s; the most frequent of {len(counts)} words:")
    for word, n in wfreq.top(counts, 10):
        print(f"{n:10} {word}")
    start = time.time()
    plain = wfreq.wordcount(files)
    print(f"plain count in one process: {time.time() - start:.2f} s")
    if counts != plain:
        different = sum(counts.get(word) != plain.get(word) for word in counts.keys() | plain)
        sys.exit(f"DIFFERENT: {different} counts are not the same")
    print(f"all {len(plain)} counts are the same: {sum(plain.values())} words")


main()
