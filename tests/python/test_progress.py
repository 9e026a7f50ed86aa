# SPDX-License-Identifier: MIT
"""The progress bar: what it shows, and that it stays out of the way."""
import io
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from trickle import _farm, _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """What can be seen: the text with carriage returns carried out."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part):]
            lines.append(shown.rstrip())
        return "\n".join(lines)


def progress(done, added=100, failed=0, vms=4, is_closed=True):
    return {"added": added, "done": done, "failed": failed, "reissued": 0, "vms": vms,
            "is_closed": is_closed}


@pytest.fixture
def bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = _progress.make("wordcount", range(100), None, None)
    yield bar
    bar.finish()


def test_line_says_done_failed_vms_rate_and_time_left(bar):
    bar.history = [(bar.begin, 0)]
    line = bar.line(progress(50, failed=2), bar.begin + 2)
    assert line.startswith("wordcount  50% |####")
    assert line.endswith("50/100, 2 failed, 4 VMs, 25/s, 0:02 left")
    assert len(line) < 80


def test_line_without_a_known_total(bar):
    bar.total = None
    line = bar.line(progress(7, is_closed=False, vms=1), bar.begin + 1)
    assert line == "wordcount 7 done, 1 VM, 7/s"


def test_line_is_never_wider_than_the_terminal(bar, monkeypatch):
    for width in (10, 20, 40, 80, 200):
        monkeypatch.setattr(bar, "_width", lambda width=width: width)
        assert len(bar.line(progress(99, failed=12345), bar.begin + 1)) < width


def test_bar_is_gone_at_the_end(bar):
    bar.update(progress(10))
    assert "wordcount" in bar.stream.screen()
    bar.finish()
    assert bar.stream.screen() == ""


def test_notices_appear_above_the_bar(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", bar.stream)  # once more: pytest puts back its own
    bar.update(progress(10))
    _farm.say("[vm 0] hello\n")
    assert re.fullmatch(r"\[vm 0\] hello\nwordcount .*", bar.stream.screen())
    bar.finish()
    assert bar.stream.screen() == "[vm 0] hello\n"


def test_second_bar_waits_for_the_first(bar):
    bar.update(progress(10))
    other = _progress.make("other", [], None, True)
    other.update(progress(1))
    other.finish()
    assert "wordcount" in bar.stream.screen() and "other" not in bar.stream.screen()


def test_no_bar_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert _progress.make("f", [1], None, None) is None
    assert _progress.make("f", [1], None, False) is None
    assert _progress.make("f", [1], None, True) is not None
    monkeypatch.setattr(sys, "stderr", None)
    assert _progress.make("f", [1], None, None) is None


def test_terminal_that_goes_away_does_not_matter(bar):
    bar.update(progress(10))
    bar.stream.close()
    bar.update(progress(20))
    _farm.say("lost\n")
    bar.finish()


def test_total_counts_chunks():
    assert _progress.make("f", range(10), 3, True).total == 4
    assert _progress.make("f", iter([]), 3, True).total is None


def test_bar_on_a_real_terminal(supervisor, tmp_path):
    path = tmp_path / "p.py"
    path.write_text("""
import time
from trickle import connect, forkwork
def slow(x):
    time.sleep(0.02)
    if x == 20:
        print("from the vm")
    return x
print(len(forkwork(connect(2), slow, range(80))))
""")
    primary, secondary = pty.openpty()
    process = subprocess.Popen([sys.executable, path], env=supervisor.env, stdout=subprocess.PIPE,
                               stderr=secondary, text=True)
    os.close(secondary)
    seen = b""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if select.select([primary], [], [], 1)[0]:
            try:
                seen += os.read(primary, 65536)
            except OSError:
                break
    os.close(primary)
    assert process.stdout.read() == "80\n"
    process.stdout.close()
    assert process.wait() == 0
    text = seen.decode()
    assert re.search(r"slow +\d+% \|#+-*\| \d+/80, 2 VMs, \d+/s, \d:\d\d left", text), text
    terminal = Terminal(text.replace("\r\n", "\n"))
    assert re.fullmatch(r"\[trickle: discovered 2 VMs\]\n\[vm \d\] from the vm\n",
                        terminal.screen())
