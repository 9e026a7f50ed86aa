# SPDX-License-Identifier: MIT
"""The report of a chaos run: what it reads, counts and draws."""
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

import png
from run_folders import VERDICT, Farm, Folder

CHAOS = Path(__file__).resolve().parents[2] / "chaos"
sys.path.insert(0, str(CHAOS))
from live import figures, report, timeline  # noqa: E402
from live.history import AGAIN, CUT, FAILS, FIRST, TWICE, History  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def svg(history):
    """The picture's elements: (tag, class, attributes)."""
    tree = ElementTree.fromstring(timeline.Picture(history).svg())
    return [(node.tag.rpartition("}")[2], node.get("class", ""), node) for node in tree.iter()]


def kinds(folder):
    table = History(folder.write()).attempts
    return {(table.name(i), round(table.begin[i], 3)): table.kind[i] for i in range(len(table))}


def test_attempts_are_told_apart(folder):
    folder.vm("m0", 0, 1, 0.0, 2.0)
    folder.vm("m0", 1, 2, 0.0)
    folder.attempt("m0", 1, 0, 0.1, 0.5)
    folder.attempt("m0", 1, 1, 1.0)            # killed at 2.0
    folder.attempt("m0", 2, 1, 2.1, 3.0)       # again
    folder.attempt("m0", 2, 2, 3.1, 9.0)       # ends after the other one
    folder.attempt("m1", 3, 2, 4.0, 5.0)
    folder.attempt("m1", 3, 3, 6.0)            # still runs at the end
    folder.event(10.0, "program", what="end", pid=9, status=0)
    assert kinds(folder) == {("0", 0.1): FIRST, ("1", 1.0): CUT, ("1", 2.1): AGAIN,
                             ("2", 3.1): TWICE, ("2", 4.0): AGAIN, ("3", 6.0): CUT}
    history = History(folder.path)
    assert history.attempts.end[1] == 2.0  # with its process
    assert history.duration == 10.0


def test_an_attempt_without_end_ends_where_the_next_begins(folder):
    folder.attempt("m0", 1, 0, 1.0)
    folder.attempt("m0", 1, 1, 2.5, 3.0)
    table = History(folder.write()).attempts
    assert [round(t, 6) for t in table.end] == [2.5, 3.0]


def test_wasted_work_is_time_that_brought_no_result(folder):
    folder.vm("m0", 0, 1, 0.0, 2.0)
    folder.attempt("m0", 1, 0, 1.0)
    folder.attempt("m0", 2, 0, 3.0, 6.0)
    assert figures.wasted_percent(History(folder.write())) == pytest.approx(25.0)


def test_times_from_loss_to_re_assignment_and_recovery(folder):
    for vm, pid in ((0, 1), (1, 2)):
        folder.vm("m0", vm, pid, 0.0, 5.0 if pid == 1 else None)
    folder.vm("m0", 0, 3, 5.4)
    folder.attempt("m0", 1, 7, 4.0)
    folder.fault(5.0, "vm.kill", "m0", 0, 1)
    folder.attempt("m0", 2, 7, 5.02, 6.0)
    folder.attempt("m0", 3, 8, 5.5, 6.0)
    folder.event(0.0, "program", what="start", pid=9, status=None)
    folder.fault(7.0, "initiator.kill", pid=9)
    folder.event(7.0, "program", what="end", pid=9, status=-9)
    folder.event(8.0, "program", what="resume", pid=10, status=None)
    folder.attempt("m0", 3, 9, 7.5, 7.6)   # what the VM had: no sign of the new program
    folder.attempt("m0", 3, 10, 8.25, 8.5)
    times = figures.times(History(folder.write()))
    medians = {name: value and round(value["median"]) for name, value in times.items()}
    assert medians == {"VM ended: its element began elsewhere": 20,
                       "VM silent: its element began elsewhere": None,
                       "VM ended: the VM computes again": 500,
                       "program ended: work goes on": 1250}


@pytest.mark.parametrize("values, half, most", [([], None, None), ([3], 3, 3), ([1, 2], 1, 2),
                                                (list(range(1, 101)), 50, 99)])
def test_percentiles(values, half, most):
    assert (figures.percentile(values, 0.5), figures.percentile(values, 0.99)) == (half, most)


def test_an_empty_folder_has_a_report(tmp_path):
    text = report.write(tmp_path)
    assert "NO VERDICT" in text and "NO VERDICT" in (tmp_path / "report.html").read_text()


def test_torn_lines_are_counted_and_the_rest_is_told(folder):
    folder.attempt("m0", 1, 0, 1.0, 2.0)
    folder.fault(1.5, "vm.kill", "m0", 0, 1)
    folder.write(VERDICT)
    for name in ("events.jsonl", "attempts/m0-1.log"):
        with open(folder.path / name, "a") as file:
            file.write('{"t": 2.0, "eve' if name.endswith("l") else "B 0 5")
    text = report.write(folder.path)
    assert "2 lines of events or attempts could not be read" in text
    assert "vm.kill 1" in text and "PASSED" in text


def test_failed_checks_come_first_and_are_escaped(folder):
    checks = [{"name": "a", "ok": True, "detail": "expected 1, saw 1"},
              {"name": "b", "ok": False, "detail": "expected <1>, saw <2>"}]
    folder.write({"ok": False, "checks": checks, "totals": {}})
    text = report.write(folder.path)
    assert "FAILED" in text.split("\n")[0]
    assert text.index("FAIL  b: expected <1>, saw <2>") < text.index("ok    a: expected 1")
    html = (folder.path / "report.html").read_text()
    assert "expected &lt;1&gt;, saw &lt;2&gt;" in html and "<1>" not in html


@pytest.mark.parametrize("run, expected", [
    ({}, "build/chaos/live --minutes 1 --seed 7 --workload 'made up'"),
    ({"minutes": 0.25, "workload": None, "options": {"no_network": True, "vms": 8, "dir": "x"}},
     "build/chaos/live --minutes 0.25 --seed 7 --no-network --vms 8"),
    ({"command": ["trickle", "chaos", "--seed", 3, "a b.py"]}, "trickle chaos --seed 3 'a b.py'")])
def test_the_command_that_repeats_the_run(tmp_path, run, expected):
    assert f"again: {expected}\n" in report.write(Folder(tmp_path / "run", **run).write())


def test_text_is_one_page(folder):
    Farm(folder, 4, 8, 60.0, 0.5, 200)
    for i, kind in enumerate(["net.loss", "disk.full", "clock.step", "hostile.huge"] * 20):
        folder.fault(i * 0.7, kind)
    text = report.write(folder.write(VERDICT))
    assert len(text.split("\n")) < 60 and max(map(len, text.split("\n"))) <= 120


# --- the picture ----------------------------------------------------------------------------------


def test_labels_do_not_overlap():
    for gap in (2, 9, 30, 80):
        items = [(100 + i * gap, 103 + i * gap + i % 3 * 20, f"partition m{i}") for i in range(12)]
        placed = timeline.place_in_lane(items)
        spans = [(line, x0, x1 + 2 + timeline.text_width(label) if has else x1)
                 for (x0, x1, label), (line, has) in zip(items, placed)]
        labelled = [(line, x0, x1) for (line, x0, x1), (_, has) in zip(spans, placed) if has]
        assert labelled
        for line, x0, x1 in labelled:
            under = [s for s in spans if s[0] == line and s != (line, x0, x1) and s[1] < x1
                     and s[2] > x0]
            assert not under, (gap, x0, under)
        assert max(line for line, _ in placed) < timeline.SUBLANES


def test_rows_are_vms_with_a_machines_together(folder):
    for machine, vm, pid in (("m10", 0, 1), ("m2", 1, 2), ("m2", 0, 3), ("m10", 0, 4)):
        folder.vm(machine, vm, pid, pid, pid + 0.5)
    folder.attempt("m2", 77, 0, 1.0, 2.0)  # a process that no event tells of
    rows = timeline.rows_of(History(folder.write()))
    assert [(row.machine, row.vm, len(row.lives)) for row in rows] == [
        ("m2", 0, 1), ("m2", 1, 1), ("m2", None, 1), ("m10", 0, 2)]


def test_what_cannot_be_computed_is_not_taken_for_lost(folder):
    """workloads.poison: elements 2, 4 and 6 of eight."""
    folder.vm("m0", 0, 1, 0.0)
    for index in (1, 2):
        folder.attempt("m0", 1, index, float(index), stage="poison-3")
    folder.attempt("m0", 1, 2, 3.0, stage="gen-3")
    folder.event(4.0, "program", what="end", pid=9, status=0)
    history = History(folder.write())
    assert list(history.attempts.kind) == [CUT, FAILS, CUT]
    assert figures.wasted_percent(history) == 100 and sum(figures.throughput(history, 4)) == 0


def test_very_many_vms_one_after_the_other_share_rows(folder):
    for vm in range(0, 100, 2):
        folder.vm("m0", vm, vm + 1, vm, vm + 2)
        folder.vm("m0", vm + 1, vm + 2, vm, vm + 1.5)
    folder.fault(51.0, "vm.kill", "m0", 50, 51)
    history = History(folder.write())
    rows = timeline.rows_of(history)
    assert [(row.vm, len(row.vms), len(row.lives)) for row in rows] == [(0, 50, 50), (1, 50, 50)]
    marks = [node for _, style, node in svg(history) if style == "s s-end"]
    assert len(marks) == 1


def test_a_few_high_rates_do_not_hide_the_others():
    assert figures.ceiling([10.0] * 39 + [5000.0]) == 15.0
    assert figures.ceiling([10.0, 20.0, 40.0]) == 40.0 and figures.ceiling([0.0]) == 0


def test_few_attempts_are_bars_of_their_own(folder):
    folder.vm("m0", 0, 1, 0.0, 2.0)
    folder.attempt("m0", 1, 0, 0.0, 1.0)
    folder.attempt("m0", 1, 1, 1.0)
    folder.attempt("m1", 2, 1, 2.0, 4.0)
    folder.fault(2.0, "vm.kill", "m0", 0, 1, detail="for <fun>")
    folder.fault(3.0, "initiator.kill")
    folder.fault(1.0, "net.partition", "m1", until=3.0)
    drawn = svg(History(folder.write()))
    bars = [(style, float(node.get("x")), float(node.get("width"))) for tag, style, node in drawn
            if tag == "rect" and re.fullmatch(r"e\d", style)]
    scale = (timeline.WIDTH - timeline.LEFT - timeline.RIGHT) / 4
    at = [timeline.LEFT + t * scale for t in range(5)]
    assert [(style, round(x)) for style, x, _ in bars] == [
        ("e0", round(at[0])), ("e1", round(at[2])), ("e3", round(at[1]))]
    assert bars[1][2] == pytest.approx(2 * scale, abs=1)
    (cut,) = [node for _, style, node in drawn if style == "cut"]
    assert float(cut.get("x")) == pytest.approx(at[1], abs=0.1)
    assert float(cut.get("width")) == pytest.approx(2 * scale, abs=0.1)
    (line,) = [node for _, style, node in drawn if style == "initiator"]
    assert line.get("d").startswith(f"M{at[3]:.1f} ")
    titles = [node.text for tag, _, node in drawn if tag == "title"]
    assert "vm.kill at 2.00 s on m0, VM 0, process 1: for <fun>" in titles


def test_a_big_run_is_drawn_quickly_and_small(folder):
    Farm(folder, 2, 4, 300.0, 300 * 8 / 210_000, 200)
    folder.write(VERDICT)
    begin = time.process_time()
    report.write(folder.path)
    took = time.process_time() - begin
    history = History(folder.path)
    assert len(history.attempts) > 195_000
    size = os.path.getsize(folder.path / "report.html")
    assert size < 1_500_000 and took < 30, (size, took)
    styles = {style for _, style, _ in svg(history)}
    assert {"e0", "e1", "e3"} <= styles  # what was lost and ran again is seen among 200,000


def test_a_hundred_machines_are_drawn_small(folder):
    for m in range(100):
        for v in range(4):
            folder.vm(f"m{m}", v, m * 4 + v + 1, 0.0)
            for i in range(20):
                folder.attempt(f"m{m}", m * 4 + v + 1, (m * 4 + v) * 20 + i, i, i + 0.7)
    report.write(folder.write())
    assert os.path.getsize(folder.path / "report.html") < 1_500_000


def test_html_needs_nothing_from_outside(folder):
    Farm(folder, 1, 2, 10.0, 1.0, 2)
    report.write(folder.write(VERDICT))
    html = (folder.path / "report.html").read_text()
    html = html.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"(src|href)=|url\(|@import|<script|https?://", html)


def test_as_a_command(folder):
    folder.write(VERDICT)
    done = subprocess.run([sys.executable, "-m", "live.report", folder.path], cwd=CHAOS,
                          capture_output=True, text=True, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (folder.path / "report.txt").read_text()
    done = subprocess.run([sys.executable, "-m", "live.report", folder.path / "no"], cwd=CHAOS,
                          capture_output=True, text=True, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2 and "there is no directory" in done.stderr


# --- as a browser shows it ------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
SIZE = (1366, 900)
COLOURS = {"light": {"back": (0xFF, 0xFF, 0xFF), "e1": (0xF0, 0xA0, 0x2C), "e3": (0xD9, 0x41, 0x2F),
                     "disk": (0x8A, 0x5A, 0x2B)},
           "dark": {"back": (0x14, 0x18, 0x1C), "e1": (0xF0, 0xA9, 0x3F), "e3": (0xF0, 0x60, 0x4E),
                    "disk": (0xC9, 0x96, 0x63)}}


def screenshot(html, scheme, place):
    picture = place / f"{scheme}.png"
    command = [CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               f"--user-data-dir={place / 'browser'}", "--force-device-scale-factor=1",
               f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
               f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={picture}", f"file://{html}"]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # it has none for root
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run(command, env={**env, "HOME": str(place)}, capture_output=True, text=True,
                          timeout=100)
    assert picture.exists(), done.stderr
    return png.rows(picture)


def columns_of(rows, colour, least=3):
    """First and last column with at least so many pixels of that colour."""
    counts = [0] * len(rows[0])
    for row in rows:
        if colour in row:
            for x, pixel in enumerate(row):
                counts[x] += pixel == colour
    hits = [x for x, count in enumerate(counts) if count >= least]
    return (hits[0], hits[-1]) if hits else None


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("scheme", COLOURS)
def test_as_a_browser_shows_it(folder, tmp_path, scheme):
    folder.vm("m0", 0, 1, 0.0, 20.0)
    folder.vm("m0", 1, 2, 0.0)
    folder.attempt("m0", 1, 0, 2.0, 8.0)
    folder.attempt("m0", 1, 1, 10.0)
    folder.fault(20.0, "vm.kill", "m0", 0, 1)
    folder.fault(32.0, "initiator.kill")
    folder.fault(5.0, "disk.full", until=15.0)
    folder.attempt("m0", 2, 1, 24.0, 30.0)
    folder.event(40.0, "program", what="end", pid=9, status=0)
    report.write(folder.write(VERDICT))
    rows = screenshot(folder.path / "report.html", scheme, tmp_path)
    assert (len(rows[0]), len(rows)) == SIZE
    colours = COLOURS[scheme]
    assert rows[5][5] == colours["back"]
    content = min(SIZE[0], 1320) - 48
    left, scale = (SIZE[0] - content) / 2, content / timeline.WIDTH

    def at(t):
        return left + scale * (timeline.LEFT + t / 40 *
                               (timeline.WIDTH - timeline.LEFT - timeline.RIGHT))
    picture = rows[190:]  # below the legend, which has the same colours
    for name, start, end in (("e1", 24.0, 30.0), ("e3", 10.0, 20.0)):
        seen = columns_of(picture, colours[name])
        assert seen is not None, f"no bar has the colour {colours[name]} of {name}"
        assert abs(seen[0] - at(start)) <= 2 and abs(seen[1] - at(end)) <= 8, (
            name, seen, at(start), at(end))
    pink = [x for row in picture for x, (r, g, b) in enumerate(row)
            if r > 1.5 * g and b > 1.1 * g and r > 1.2 * b and r > 70]
    line = max(set(pink), key=pink.count)
    assert abs(line - at(32.0)) <= 2 and pink.count(line) > 25, (line, at(32.0), pink.count(line))
