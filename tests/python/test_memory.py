# SPDX-License-Identifier: MIT
"""What a program keeps of large results when it is done with them: next to nothing."""
import os

import pytest

PROGRAM = """
from trickle import _trickle

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("RssAnon"))

before = anonymous()
block = bytes(24 << 20)  # glibc would take such ones from the heap from now on
del block
blocks, between = [], []
for i in range(50):
    blocks.append(b"x" * (3 << 20))
    between.append(bytearray(2000))
del blocks
print(anonymous() - before)
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="another allocator")
def test_large_blocks_go_back_to_the_system(run_program):
    done = run_program(PROGRAM)
    assert done.status == 0, done.err
    assert int(done.out) < 20, f"{done.out} MB more than before, of 150 MB that were freed"
