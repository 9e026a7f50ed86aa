# SPDX-License-Identifier: MIT
"""The report of a run: report.txt, one page, and report.html, which needs nothing but itself.

    python3 -m live.report DIR      writes both into the run's folder and prints the first

Works on what is there: a run that was killed, or has no verdict yet, has a report that says so.
"""
from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from html import escape

from . import figures, timeline
from .history import AGAIN, CLASS_NAMES, CUT, FAILS, TWICE, History

TEXT_WIDTH = 96
SPARKS = " ▁▂▃▄▅▆▇█"
# Of the verdict's totals, what is said in words; all else is shown under its own name.
TOTAL_NAMES = {"elements": "elements", "attempts": "attempts", "wasted_percent": "wasted work",
               "kills_vm": "VMs killed", "kills_initiator": "initiators killed",
               "planned": "faults planned", "finished_twice": "finished twice"}
TIME_NAMES = {"detection_ms": "VM ended: its element began elsewhere",
              "detection_silent_ms": "VM silent: its element began elsewhere",
              "recovery_ms": "program resumed: work goes on"}


def number(value):
    """For a reader: 12,345 or 1.23."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def command(run):
    """What repeats the run."""
    given = run.get("command")
    if isinstance(given, str):
        return given
    if isinstance(given, list):
        return shlex.join(map(str, given))
    words = ["build/chaos/live"]
    options = {"minutes": run.get("minutes"), "seed": run.get("seed"),
               "workload": run.get("workload")}
    given = run.get("options")
    options |= given if isinstance(given, dict) else {}
    for name, value in options.items():
        if name == "dir" or value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(number(value).replace(",", "") if isinstance(value, float) else str(value))
    return shlex.join(words)


class Report:
    """What both forms of the report say."""

    def __init__(self, history):
        self.history = history
        self.run = history.run
        verdict = history.verdict
        self.checks = [c for c in verdict.get("checks", ()) if isinstance(c, dict)]
        self.checks.sort(key=lambda check: bool(check.get("ok")))  # what failed comes first
        self.is_ok = verdict.get("ok")  # None: no verdict
        self.totals = figures.totals(history)
        self.kinds = Counter(fault.kind for fault in history.faults)
        self.times = self._times()

    @property
    def word(self):
        return {True: "PASSED", False: "FAILED"}.get(self.is_ok, "NO VERDICT")

    def head(self):
        """(name, value) of what run this was."""
        run, facts = self.run, []
        options = run.get("options")
        program = options.get("program") if isinstance(options, dict) else None
        if program:  # of the user's own
            run = run | {"program": shlex.join(map(str, program)), "workload": None,
                         "minutes": None}
        for name in ("seed", "program", "workload", "minutes", "revision", "started"):
            if run.get(name) is not None:
                facts.append((name, str(run[name])))
        return [*facts, ("took", f"{self.history.duration:.1f} s")]

    def numbers(self):
        """(name, value) of the totals that are plain numbers."""
        found = []
        for name, value in self.totals.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                unit = " %" if name.endswith("_percent") else ""
                words = TOTAL_NAMES.get(name, name.removesuffix("_percent").replace("_", " "))
                found.append((words, number(value) + unit))
        kinds = Counter(self.history.attempts.kind)
        found += [(CLASS_NAMES[kind], number(kinds[kind])) for kind in (AGAIN, TWICE, CUT, FAILS)]
        if self.history.duration > 0 and len(self.history.attempts):
            rate = (len(self.history.attempts) - kinds[CUT] - kinds[FAILS]) / self.history.duration
            found.append(("ended per second", number(rate)))
        return found

    def _times(self):
        """(name, spread): the verdict's, then what the folder shows."""
        found = []
        for name, value in self.totals.items():
            if isinstance(value, dict) and name.endswith("_ms") and value.get("count", 1):
                words = TIME_NAMES.get(name, name.removesuffix("_ms").replace("_", " "))
                found.append((words, value))
        said = {name for name, _ in found}
        return found + [(name, value) for name, value in figures.times(self.history).items()
                        if value is not None and name not in said]


# --- text -----------------------------------------------------------------------------------------


def spark(rates):
    most = figures.ceiling(rates) or 1
    steps = [round(min(rate / most, 1) * (len(SPARKS) - 1)) for rate in rates]
    return "".join(SPARKS[max(step, 1) if rate > 0 else 0] for rate, step in zip(rates, steps))


def columns(pairs, width):
    """Pairs of name and value, as many beside each other as fit."""
    cells = [f"{name} {value}" for name, value in pairs]
    size = max(map(len, cells), default=0) + 3
    per_line = max(1, width // size)
    return ["  " + "".join(cell.ljust(size) for cell in cells[i:i + per_line]).rstrip()
            for i in range(0, len(cells), per_line)]


def text_page(report):
    history = report.history
    lines = [f"Trickle chaos: {report.word}", ""]
    lines += columns(report.head(), TEXT_WIDTH)
    if history.bad_lines:
        lines.append(f"  {history.bad_lines} lines of events or attempts could not be read")
    lines += ["", "totals", *columns(report.numbers(), TEXT_WIDTH)]
    width = TEXT_WIDTH - 12
    lines += ["", f"elements that ended, from the start to {timeline.clock(history.duration)}; "
              "below it faults (! of the initiator)",
              "  " + spark(figures.throughput(history, width)), "  " + text_marks(history, width)]
    lines += ["", "faults", *(columns(sorted((kind, number(n)) for kind, n in report.kinds.items()),
                                      TEXT_WIDTH) or ["  none"])]
    if report.times:
        size = max(len(name) for name, _ in report.times)
        lines += ["", f"times in ms{'':{size - 6}}median      99 %     count"]
        for name, value in report.times:
            cells = [value.get("median"), value.get("p99"), value.get("count")]
            lines.append(f"  {name:{size}}" + "".join(
                f"{'-' if cell is None else number(cell):>10}" for cell in cells))
    lines += ["", "checks"]
    for check in report.checks:
        lines.append(f"  {'ok  ' if check.get('ok') else 'FAIL'}  {check.get('name')}: "
                     f"{check.get('detail', '')}")
    if not report.checks:
        lines.append("  none: the run has no verdict")
    lines += ["", f"again: {command(report.run)}", ""]
    return "\n".join(lines)


def text_marks(history, width):
    marks = [" "] * width
    for fault in history.faults:
        at = min(width - 1, max(0, int(fault.t / max(history.duration, 1e-9) * width)))
        if marks[at] != "!":
            marks[at] = "!" if fault.group == "initiator" else "."
    return "".join(marks).rstrip()


# --- HTML -----------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #667079; --rule: #dfe3e8;
  --box: #f5f7f9; --life: #dde3e9; --e0: #5b8db8; --e1: #f0a02c; --e2: #b04fc0; --e3: #d9412f;
  --end: #a30f18; --stop: #8a6500; --come: #1d7a3c; --net: #2f77c0; --disk: #8a5a2b;
  --clock: #6b52c8; --hostile: #a13a7a; --initiator: #d6006c; --good: #1d7a3c; --bad: #b3121d;
  --e4: #b9a3a0; }
@media (prefers-color-scheme: dark) { :root { --back: #14181c; --text: #e4e8ec; --dim: #98a2ac;
  --rule: #30373e; --box: #1d2329; --life: #2c343c; --e0: #5a93c4; --e1: #f0a93f; --e2: #cb7bd9;
  --e3: #f0604e; --end: #ff7a72; --stop: #e0b548; --come: #58c07c; --net: #63a8ee; --disk: #c99663;
  --clock: #a491f2; --hostile: #dd80b8; --initiator: #ff5fa8; --good: #58c07c; --bad: #ff7a72;
  --e4: #7d6c6a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 18px 24px 40px; background: var(--back);
  color: var(--text); font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 21px; margin: 0 0 2px; } h2 { font-size: 15px; margin: 22px 0 6px; }
.good { color: var(--good); } .bad { color: var(--bad); } .dim { color: var(--dim); }
.facts { color: var(--dim); margin: 0 0 12px; } .facts b { color: var(--text); font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; margin: 10px 0 14px; }
.tiles div { background: var(--box); border-radius: 6px; padding: 5px 12px 6px; color: var(--dim);
  font-size: 12px; } .tiles b { display: block; color: var(--text); font-size: 17px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 12px; margin: 0 0 6px; }
.legend svg { width: 14px; height: 12px; vertical-align: -2px; margin-right: 5px; }
.picture { overflow-x: auto; } .picture > svg { width: 100%; min-width: 900px; display: block; }
.tables { display: grid; gap: 0 36px;
  grid-template-columns: minmax(220px, 1fr) minmax(430px, 2fr); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: 3px 10px 3px 0;
  border-bottom: 1px solid var(--rule); vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--dim); font-size: 12px; } .n { text-align: right; }
td.word { font-weight: 600; white-space: nowrap; padding-right: 18px; }
td.word + td:last-child { width: 99%; }
code { background: var(--box); padding: 6px 10px; border-radius: 5px; display: inline-block;
  overflow-wrap: anywhere; font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
svg text { font: 10.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--text); }
svg .row { text-anchor: end; fill: var(--dim); } svg .machine { font-weight: 600; }
svg .tick { text-anchor: middle; fill: var(--dim); } svg .caption { fill: var(--dim); }
svg .label { font-size: 9.5px; paint-order: stroke; stroke: var(--back); stroke-width: 2.5px; }
.grid { stroke: var(--rule); stroke-width: .6; fill: none; } .edge { stroke: var(--dim); }
.life { fill: var(--life); } .program { fill: var(--dim); opacity: .75; }
.e0 { fill: var(--e0); } .e1 { fill: var(--e1); } .e2 { fill: var(--e2); } .e3 { fill: var(--e3); }
.e4 { fill: var(--e4); }
.f { fill: var(--end); opacity: .85; } .g-net { fill: var(--net); } .g-disk { fill: var(--disk); }
.g-clock { fill: var(--clock); } .g-hostile { fill: var(--hostile); }
.g-initiator { fill: var(--initiator); }
.initiator { stroke: var(--initiator); stroke-width: 1; stroke-dasharray: 3 2; fill: none;
  opacity: .75; }
.cut { fill: var(--net); fill-opacity: .35; stroke: var(--net); }
.s { fill: none; stroke: var(--end); stroke-width: 1.6; } .s-stop { stroke: var(--stop); }
.s-add { fill: var(--come); stroke: none; } .s-drain, .s-term { fill: var(--stop); stroke: none; }
.halo { fill: none; stroke: var(--back); stroke-width: 3.6; opacity: .8; }
.curve { fill: none; stroke: var(--e0); stroke-width: 1.3; } .area { fill: var(--e0); opacity: .2; }
"""

LEGEND = (
    [(f'<rect class="{timeline.CLASSES[kind]}" width="14" height="12"/>', text) for kind, text in (
        (0, "element"), (1, "run again after a loss"), (2, "ended twice (duplicate)"),
        (3, "cut off"), (4, "cannot be computed"))] +
    [('<rect class="life" width="14" height="12"/>', "a VM's process"),
     ('<path class="s s-end" d="M3 2l8 8m0-8l-8 8"/>', "killed, crashed, out of memory"),
     ('<path class="s s-stop" d="M3 2v8M7 2v8M3 6H14"/>', "stopped, until it goes on"),
     ('<path class="s s-drain" d="M2 2h10L7 10z"/>', "drained, SIGTERM"),
     ('<path class="s s-add" d="M2 10h10L7 2z"/>', "added"),
     ('<path class="initiator" d="M7 0V12"/>', "fault of the initiator"),
     ('<rect class="cut" width="14" height="12"/>', "partition")])


def page(report):
    history = report.history
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width">',
             f"<title>Trickle chaos: {report.word}</title><style>{STYLE}</style></head><body>"]
    colour = {True: "good", False: "bad"}.get(report.is_ok, "dim")
    parts.append(f'<h1>Trickle chaos: <span class="{colour}">{report.word}</span></h1>')
    parts.append('<p class="facts">' + " · ".join(
        f"{escape(name)} <b>{escape(value)}</b>" for name, value in report.head()) + "</p>")
    failed = [check for check in report.checks if not check.get("ok")]
    if failed:
        parts.append(checks_table(failed))
    parts.append('<div class="tiles">' + "".join(
        f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in report.numbers()) +
        "</div>")
    parts.append('<div class="legend">' + "".join(
        f'<span><svg viewBox="0 0 14 12">{shape}</svg>{text}</span>' for shape, text in LEGEND) +
        "</div>")
    parts.append(f'<div class="picture">{timeline.Picture(history).svg()}</div>')
    parts.append(f'<div class="tables"><div><h2>Faults</h2>{faults_table(report)}</div>'
                 f"<div><h2>Times</h2>{times_table(report)}</div></div>")
    parts.append("<h2>Checks</h2>" + (checks_table(report.checks) if report.checks else
                                      "<p>None: the run has no verdict.</p>"))
    parts.append(f"<h2>The same run again</h2><code>{escape(command(report.run))}</code>")
    if history.bad_lines:
        parts.append(f'<p class="dim">{history.bad_lines} lines of events or attempts could not '
                     "be read.</p>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def checks_table(checks):
    rows = []
    for check in checks:
        word, colour = ("ok", "good") if check.get("ok") else ("FAILED", "bad")
        rows.append(f'<tr><td class="word {colour}">{word}</td><td class="word">'
                    f'{escape(str(check.get("name")))}</td>'
                    f'<td>{escape(str(check.get("detail", "")))}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def faults_table(report):
    if not report.kinds:
        return "<p>None.</p>"
    rows = [f'<tr><td>{escape(kind)}</td><td class="n">{number(count)}</td></tr>'
            for kind, count in sorted(report.kinds.items())]
    return f'<table><tr><th>kind</th><th class="n">times</th></tr>{"".join(rows)}</table>'


def times_table(report):
    if not report.times:
        return "<p>Nothing was lost, so nothing had to be noticed.</p>"
    rows = []
    for name, value in report.times:
        cells = "".join(
            f'<td class="n">{"–" if value.get(key) is None else number(value[key])}</td>'
            for key in ("median", "p99", "count"))
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return ('<table><tr><th></th><th class="n">median, ms</th><th class="n">99 %, ms</th>'
            f'<th class="n">count</th></tr>{"".join(rows)}</table>')


# --- the command ----------------------------------------------------------------------------------


def write(folder):
    """Writes report.txt and report.html of a run. Returns the text."""
    report = Report(History(folder))
    text = text_page(report)
    for name, content in (("report.txt", text), ("report.html", page(report))):
        beside = os.path.join(folder, f".{name}~")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(beside, os.path.join(folder, name))
    return text


def main(args):
    if len(args) != 1 or args[0] in ("-h", "--help"):
        sys.stderr.write("usage: python3 -m live.report DIR\n\nWrites report.txt and report.html "
                         "of the run in DIR, and prints the first.\n")
        return 0 if args in (["-h"], ["--help"]) else 2
    if not os.path.isdir(args[0]):
        sys.stderr.write(f"report: there is no directory {args[0]}\n")
        return 2
    sys.stdout.write(write(args[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
