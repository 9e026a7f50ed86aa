# SPDX-License-Identifier: MIT
"""Every example of the paper prints what it should, on four VMs."""
import pytest

EXAMPLES = ["ex1_simple", "ex2_inject", "ex3_data", "ex4_functions", "ex5_objects", "ex6_async"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_what_it_should(name, root, trickle_command):
    result = trickle_command("run", "--local=4", root / "examples" / f"{name}.py")
    assert result.stdout == (root / "examples/expected" / f"{name}.txt").read_text(), result.stderr
    assert "[trickle: discovered 4 VMs]" in result.stderr
    assert result.returncode == 0


def test_word_count_prints_what_it_should(root, trickle_command):
    result = trickle_command("run", "--local=4", root / "examples/wfreq.py", 4, 5,
                             f"{root}/examples/text/")
    assert result.stdout == (root / "examples/expected/wfreq.txt").read_text(), result.stderr
    assert "seconds" in result.stderr
    assert result.returncode == 0


def test_word_count_says_how_it_is_used(root, trickle_command):
    result = trickle_command("run", "--local=1", root / "examples/wfreq.py")
    assert "usage: " in result.stderr and "<vmcount> <chunksize> <pattern>" in result.stderr
    assert result.returncode == 1


def test_all_examples_are_tested(root):
    assert {p.stem for p in (root / "examples").glob("*.py")} == {*EXAMPLES, "wfreq"}
