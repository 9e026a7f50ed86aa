# SPDX-License-Identifier: MIT
"""What a newcomer types first."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../bench"))


def run(*args, timeout=300, **options):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **options)


@pytest.mark.xdist_group("build")
def test_second_setup_does_nothing(root, build):
    done = run(root / "scripts/setup", build)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("build")
def test_demo_counts_the_same_as_one_process(root, build):
    if build != root / "build":
        pytest.skip("the demo is of the ordinary build")
    done = run(root / "scripts/demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counts are the same" in done.stdout and "discovered 4 VMs" in done.stderr


def test_generated_files_are_the_same_each_time(tmp_path):
    import wfreq_files
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        wfreq_files.make(tmp_path / name, files=120, size=500_000)
        files = sorted((tmp_path / name).glob("*/*.txt"))
        assert len(files) == 120
        texts.append([file.read_text() for file in files])
    assert texts[0] == texts[1]
    assert abs(sum(map(len, texts[0])) - 500_000) < 200


@pytest.mark.full
def test_every_benchmark_runs(root, build, tmp_path):
    environment = os.environ | {"TRICKLE_BUILD": str(build), "XDG_CACHE_HOME": str(tmp_path)}
    done = run(root / "bench/run_all", "--quick", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("trivial elements", "one call", "word count", "1 ms", "16 MB", "start to end"):
        assert part in done.stdout


def test_table_of_benchmarks_says_what_was_wanted():
    from common import table
    row = {"what": "x", "unit": "1/s", "ours": (2, 1, 3), "other": "y", "theirs": (1000, 1, 2000),
           "ratio": (2, 1, 3)}
    text = table([row | {"target": 1.5}, row | {"target": 3}, row | {"target": None}])
    assert [line.split("2 (1..3)")[-1].strip() for line in text.splitlines()[1:]] == \
        [">= 1.5  yes", ">= 3  NO", ""]
