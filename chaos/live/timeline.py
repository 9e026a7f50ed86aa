# SPDX-License-Identifier: MIT
"""The picture of a run, as SVG: time goes to the right.

    lanes       the program's lives, then a lane for each group of faults that are not one VM's
    rows        the VMs, a machine's together: lives faint, elements as bars, faults as marks
    axis
    curve       elements that ended per second

Faults of the initiator are lines through everything, partitions shade the rows of their machine.
Up to DETAILED attempts are drawn as bars of their own, with what they were; more become a density:
for each column of the picture how much of it the VM computed, by kind of attempt, so that the size
of the picture is bounded whatever the run was. Colours are classes: the page has them, for light
and for dark.
"""
from __future__ import annotations

from html import escape

from .figures import ceiling, throughput
from .history import CLASS_NAMES, FIRST

WIDTH = 1200          # of the picture, in its own units; the page scales it
LEFT, RIGHT = 86, 14  # room for the names of rows, and behind the last tick
DETAILED = 4000       # attempts that are drawn one by one
COLUMNS_MAX = 20000   # of all rows together, where they are densities
LANE, LETTER = 15, 5.6  # height of a lane; width of a letter of a label
SUBLANES = 4          # lines that a lane may take to keep its labels apart
ROWS_OWN = 48         # up to which each VM has a row of its own
LINES_MAX = 120       # of faults through everything; more would be a curtain
ROW_LABELS_MAX = 30   # marks in rows that get a label; more only have their symbols
RARE = 0.2            # share of a row's columns up to which a kind of attempt is rare
MANY_MARKS = 60       # marks in rows from which on they are small
BINS = 240            # of the curve
CURVE = 110           # its height
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300,
         600, 900, 1800, 3600, 7200)
CLASSES = {kind: f"e{kind}" for kind in CLASS_NAMES}  # of CSS
GROUP_NAMES = {"initiator": "initiator", "net": "network", "vm": "VMs"}
WHOLE_FARM = {"initiator"}  # groups whose faults are lines over everything
PARTITIONS = ("net.partition", "net.partition_one_way")


def clock(seconds):
    """As ticks have it: 0.5 s, 20 s, 3:30, 1:02:00."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ticks(duration, most=12):
    step = next((s for s in TICKS if duration / s <= most), None)
    if step is None:
        step = 3600 * -(-duration // (3600 * most))
    return [i * step for i in range(int(duration / step + 1e-9) + 1)]


def text_width(text):
    return LETTER * len(text) + 4


def place(items, lines):
    """Puts things with labels into the lines of a lane so that no label meets another label or lies
    under a thing. items: (x0, x1, label), sorted by x0. Gives (line, has its label) for each; what
    finds no room goes without its label to one more line, where things may share their place."""
    taken = [float("-inf")] * lines
    placed = []
    for x0, x1, label in items:
        line = next((line for line in range(lines) if taken[line] <= x0), lines)
        end = x1 + 2 + text_width(label)
        is_labelled = line < lines and bool(label) and end <= WIDTH
        if line < lines:
            taken[line] = end if is_labelled else x1
        placed.append((line, is_labelled))
    return placed


def place_in_lane(items):
    """With as few lines as the labels need, up to SUBLANES."""
    for lines in range(1, SUBLANES + 1):
        placed = place(items, lines)
        if all(line < lines for line, _ in placed):
            return placed
    return place(items, SUBLANES - 1)


class Picture:
    def __init__(self, history):
        self.history = history
        self.duration = max(history.duration, 1e-3)
        self.scale = (WIDTH - LEFT - RIGHT) / self.duration
        self.parts = []
        self.rows = rows_of(history)
        self.y_of = {}        # row -> its top
        self.machine_span = {}  # machine -> (top, bottom) of its rows
        count = len(self.rows)
        self.row_height = 16 if count <= 24 else 11 if count <= 48 else 6 if count <= 120 else 3

    def x(self, t):
        return LEFT + min(max(t, 0.0), self.duration) * self.scale

    def put(self, text):
        self.parts.append(text)

    def svg(self):
        lanes_top = 14
        groups = lanes_of(self.history)
        heights = [self._lane_height(faults) for _, faults in groups]
        rows_top = lanes_top + LANE + sum(heights) + 8
        bottom = self._lay_rows(rows_top)
        axis = bottom + 4
        curve_top = axis + 34
        height = curve_top + CURVE + 22
        self._grid(lanes_top, bottom, curve_top)
        self._lives()
        self._elements()
        self._partitions()
        self._names()
        self._program(lanes_top)
        y = lanes_top + LANE
        for (name, faults), tall in zip(groups, heights):
            self._lane(name, faults, y)
            y += tall
        self._whole_farm(lanes_top, bottom, curve_top)
        self._marks()
        self._axis(axis)
        self._curve(curve_top)
        return (f'<svg viewBox="0 0 {WIDTH} {height:g}" xmlns="http://www.w3.org/2000/svg" '
                f'role="img" aria-label="time line of the run">\n' + "\n".join(self.parts) +
                "\n</svg>")

    # --- rows -----------------------------------------------------------------------------------

    def _lay_rows(self, y):
        last = None
        for row in self.rows:
            if row.machine != last and last is not None:
                y += 8
            last = row.machine
            self.y_of[row] = y
            top = self.machine_span.get(row.machine, (y, y))[0]
            y += self.row_height
            self.machine_span[row.machine] = (top, y)
        return y

    def _grid(self, top, bottom, curve_top):
        path = "".join(f"M{self.x(t):.1f} {top}V{bottom}M{self.x(t):.1f} {curve_top}v{CURVE}"
                       for t in ticks(self.duration))
        self.put(f'<path class="grid" d="{path}"/>')

    def _axis(self, y):
        for t in ticks(self.duration):
            self.put(f'<text class="tick" x="{self.x(t):.1f}" y="{y + 12}">{clock(t)}</text>')

    def _names(self):
        for machine, (top, bottom) in self.machine_span.items():
            self.put(f'<text class="machine" x="2" y="{(top + bottom) / 2 + 4:g}">'
                     f'{escape(machine[:9])}</text>')
            self.put(f'<path class="edge" d="M{LEFT - 22} {top}V{bottom}"/>')
        if self.row_height >= 9:
            for row, y in self.y_of.items():
                name = "?" if row.vm is None else str(row.vm) if len(row.vms) == 1 else ""
                self.put(f'<text class="row" x="{LEFT - 5}" y="{y + self.row_height / 2 + 3.5:g}">'
                         f"{escape(name)}</text>")

    def _partitions(self):
        for fault in self.history.faults:
            if fault.kind in PARTITIONS:
                spans = [self.machine_span[fault.machine]] \
                    if fault.machine in self.machine_span else list(self.machine_span.values())
                x0, x1 = self.x(fault.t), self.x(self._end(fault))
                for top, bottom in spans:
                    self.put(f'<rect class="cut" x="{x0:.1f}" y="{top}" width="{x1 - x0:.1f}" '
                             f'height="{bottom - top}"><title>{tell(fault)}</title></rect>')

    def _end(self, fault):
        """Where a fault's mark ends; one that was never taken back lasts to the end of the run only
        where that is its nature."""
        if fault.until is not None:
            return float(fault.until)
        return self.duration if fault.kind in PARTITIONS else fault.t

    def _lives(self):
        path = []
        inset = 1 if self.row_height > 3 else 0
        for row, y in self.y_of.items():
            for life in row.lives:
                x0, x1 = self.x(life.start), self.x(life.end)
                path.append(f"M{x0:.1f} {y + inset}h{max(x1 - x0 - 0.6, 0.4):.1f}"
                            f"v{self.row_height - 2 * inset}H{x0:.1f}z")
        self.put(f'<path class="life" d="{"".join(path)}"/>')

    def _elements(self):
        table = self.history.attempts
        row_of_life = {id(life): row for row in self.rows for life in row.lives}
        rows = [row_of_life[id(life)] for life in self.history.lives]
        if len(table) <= DETAILED:
            self._bars(table, rows)
        else:
            self._densities(table, rows)

    def _bars(self, table, rows):
        inset = 2.5 if self.row_height > 6 else 0.5
        for kind in CLASS_NAMES:
            for i in range(len(table)):
                if table.kind[i] == kind:
                    x0, x1 = self.x(table.begin[i]), self.x(table.end[i])
                    about = (f"element {table.name(i)}, {CLASS_NAMES[kind]}: "
                             f"{table.begin[i]:.3f} s to {table.end[i]:.3f} s, "
                             f"{(table.end[i] - table.begin[i]) * 1e3:.4g} ms")
                    width = max(x1 - x0 - (0.5 if x1 - x0 > 2 else 0), 0.8)
                    self.put(f'<rect class="{CLASSES[kind]}" x="{x0:.1f}" '
                             f'y="{self.y_of[rows[table.life[i]]] + inset:g}" width="{width:.1f}" '
                             f'height="{self.row_height - 2 * inset:g}">'
                             f"<title>{escape(about)}</title></rect>")

    def _densities(self, table, rows):
        columns = max(60, min(WIDTH - LEFT - RIGHT, COLUMNS_MAX // max(1, len(self.rows))))
        busy = densities(table, rows, self.duration, columns)
        paths = {kind: [] for kind in CLASS_NAMES}
        width = (WIDTH - LEFT - RIGHT) / columns
        inset = 1.5 if self.row_height > 6 else 0.5
        tall = self.row_height - 2 * inset
        for row, by_kind in busy.items():
            stack(paths, by_kind, columns, width, self.y_of[row] + inset + tall, tall)
        for kind, path in paths.items():
            if path:
                self.put(f'<path class="{CLASSES[kind]}" d="{"".join(path)}"/>')

    # --- faults ---------------------------------------------------------------------------------

    def _program(self, y):
        self.put(f'<text class="row" x="{LEFT - 5}" y="{y + 11}">program</text>')
        for start, end in self.history.programs:
            x0, x1 = self.x(start), self.x(end)
            self.put(f'<rect class="program" x="{x0:.1f}" y="{y + 3}" '
                     f'width="{max(x1 - x0 - 0.6, 0.8):.1f}" height="9"><title>the program, '
                     f"{start:.2f} s to {end:.2f} s</title></rect>")

    def _items(self, faults):
        return [(self.x(f.t), max(self.x(self._end(f)), self.x(f.t) + 3),
                 f.action if f.machine is None else f"{f.action} {f.machine}") for f in faults]

    def _lane_height(self, faults):
        items = self._items(faults)
        lines = 1 + max((line for line, _ in place_in_lane(items)), default=0)
        return lines * LANE + 3

    def _lane(self, name, faults, y):
        self.put(f'<text class="row" x="{LEFT - 5}" y="{y + 11}">'
                 f"{escape(GROUP_NAMES.get(name, name))}</text>")
        items = self._items(faults)
        for fault, (x0, x1, label), (line, has) in zip(faults, items, place_in_lane(items)):
            top = y + line * LANE
            self.put(f'<g><title>{tell(fault)}</title><rect class="f g-{escape(fault.group)}" '
                     f'x="{x0:.1f}" y="{top + 3}" width="{x1 - x0:.1f}" height="9"/>')
            if has:
                self.put(f'<text class="label" x="{x1 + 2:.1f}" y="{top + 11}">{escape(label)}'
                         "</text>")
            self.put("</g>")

    def _whole_farm(self, top, bottom, curve_top):
        lines = [f"M{self.x(f.t):.1f} {top}V{bottom}M{self.x(f.t):.1f} {curve_top}v{CURVE}"
                 for f in self.history.faults if f.group in WHOLE_FARM]
        if 0 < len(lines) <= LINES_MAX:
            faint = ' style="opacity:.4"' if len(lines) > MANY_MARKS // 2 else ""
            self.put(f'<path class="initiator"{faint} d="{"".join(lines)}"/>')

    def _marks(self):
        """Of faults of one VM: a symbol in its row, and a label where there are few."""
        by_row = {}
        rows = {(row.machine, vm): row for row in self.rows for vm in row.vms}
        for fault in self.history.faults:
            row = rows.get((fault.machine, fault.vm)) if fault.vm is not None else None
            if fault.group == "vm" and row is not None:
                by_row.setdefault(row, []).append(fault)
        count = sum(map(len, by_row.values()))
        is_labelled = count <= ROW_LABELS_MAX and self.row_height > 9
        size = min(4.5 if count < MANY_MARKS else 2.8, self.row_height / 2.6)
        for row, faults in by_row.items():
            y = self.y_of[row] + self.row_height / 2
            items = [(self.x(f.t) - 4, max(self.x(self._end(f)), self.x(f.t) + 4),
                      f.action if is_labelled else "") for f in faults]
            for fault, item, (_, has) in zip(faults, items, place(items, 1)):
                self.put(f'<g class="mark"><title>{tell(fault)}</title>'
                         f"{symbol(fault, self.x(fault.t), y, size, item[1])}")
                if has and not hides(item, items):
                    self.put(f'<text class="label" x="{item[1] + 1:.1f}" y="{y + 3.5:g}">'
                             f"{escape(fault.action)}</text>")
                self.put("</g>")

    # --- the curve ------------------------------------------------------------------------------

    def _curve(self, top):
        rates = throughput(self.history, BINS)
        most = nice_above(ceiling(rates))
        base = top + CURVE
        step = (WIDTH - LEFT - RIGHT) / BINS
        for part in (0, 0.5, 1):
            y = base - part * CURVE
            self.put(f'<path class="grid" d="M{LEFT} {y:g}H{WIDTH - RIGHT}"/><text class="row" '
                     f'x="{LEFT - 5}" y="{y + 3.5:g}">{most * part:,g}</text>')
        points = [f"{LEFT + i * step:.1f} {base - min(rate / most, 1) * CURVE:.1f}h{step:.2f}"
                  for i, rate in enumerate(rates)]
        line = "M" + "L".join(points)
        self.put(f'<path class="area" d="{line}V{base}H{LEFT}z"/><path class="curve" d="{line}"/>')
        beyond = f", at most {max(rates):,.0f}" if max(rates) > most else ""
        self.put(f'<text class="caption" x="{LEFT}" y="{top - 6}">elements that ended, per second'
                 f"{beyond}</text>")


class Row:
    """One VM; or lives of a machine of which is not known which VM they were, as far as they do not
    overlap; or, where there are very many, VMs that were there one after the other."""

    def __init__(self, machine, vm):
        self.machine = machine
        self.vm = vm       # the first one
        self.vms = {vm}
        self.lives = []

    def span(self):
        return min(life.start for life in self.lives), max(life.end for life in self.lives)


def rows_of(history):
    named, unnamed = {}, []
    for life in history.lives:
        if life.vm is None:
            unnamed.append(life)
        else:
            key = (life.machine, life.vm)
            named.setdefault(key, Row(*key)).lives.append(life)
    spare = []
    for life in sorted(unnamed, key=lambda one: one.start):
        row = next((row for row in spare if row.machine == life.machine
                    and row.lives[-1].end <= life.start), None)
        if row is None:
            spare.append(row := Row(life.machine, None))
        row.lives.append(life)
    rows = [*named.values(), *spare]
    if len(rows) > ROWS_OWN:
        rows = share(rows)
    return sorted(rows,
                  key=lambda row: (natural(row.machine), row.vm is None, natural(str(row.vm))))


def share(rows):
    """As few rows as a machine has had VMs at the same time."""
    found = []  # (row, its end)
    for row in sorted(rows, key=Row.span):
        start, end = row.span()
        at = next((at for at, (other, ended) in enumerate(found)
                   if other.machine == row.machine and ended <= start), None)
        if at is None:
            found.append((row, end))
        else:
            found[at][0].lives += row.lives
            found[at][0].vms |= row.vms
            found[at] = (found[at][0], end)
    return [row for row, _ in found]


def natural(text):
    """m2 before m10."""
    digits = text[len(text.rstrip("0123456789")):]
    return (text[:len(text) - len(digits)], int(digits or -1))


def lanes_of(history):
    """(group, faults) of all faults that are not marks in a row, the initiator's first."""
    vms = {(life.machine, life.vm) for life in history.lives}
    groups = {}
    for fault in history.faults:
        if fault.group != "vm" or fault.vm is None or (fault.machine, fault.vm) not in vms:
            groups.setdefault(fault.group, []).append(fault)
    return sorted(groups.items(), key=lambda item: (item[0] not in WHOLE_FARM, item[0]))


def hides(item, items):
    """Would this thing's label lie over a later thing?"""
    end = item[1] + text_width(item[2])
    return any(item[0] < x0 < end for x0, _, _ in items)


def densities(table, rows, duration, columns):
    """row -> kind -> busy share of each column, 0 to 1."""
    busy = {}
    per_second = columns / duration
    for i in range(len(table)):
        kinds = busy.setdefault(rows[table.life[i]], {})
        shares = kinds.get(table.kind[i])
        if shares is None:
            shares = kinds[table.kind[i]] = [0.0] * columns
        x0 = min(max(table.begin[i] * per_second, 0.0), columns - 1e-6)
        x1 = min(max(table.end[i] * per_second, x0), columns - 1e-6)
        first, last = int(x0), int(x1)
        if first == last:
            shares[first] += x1 - x0
        else:
            shares[first] += first + 1 - x0
            for column in range(first + 1, last):
                shares[column] += 1.0
            shares[last] += x1 - last
    return busy


def stack(paths, by_kind, columns, width, base, tall):
    """Draws the columns of one row, kinds on top of each other, into paths. Equal neighbours become
    one shape. What is rare and matters has all of the height, so that it is seen."""
    runs, least = {}, {FIRST: 1}
    for kind in by_kind.keys() - {FIRST}:
        is_rare = sum(share > 0 for share in by_kind[kind]) < columns * RARE
        least[kind] = tall if is_rare else tall / 4
    for column in range(columns + 1):
        y = base
        for kind in CLASS_NAMES:
            share = by_kind[kind][column] if column < columns and kind in by_kind else 0.0
            high = round(min(share, 1.0) * tall * 2) / 2
            if share > 0:
                high = min(max(high, least[kind]), tall)
            shape = (max(y - high, base - tall), high) if high else None
            y -= high
            start, before = runs.get(kind, (0, None))
            if shape != before:
                if before is not None:
                    paths[kind].append(f"M{LEFT + start * width:.1f} {before[0]:.1f}"
                                       f"h{(column - start) * width:.1f}v{before[1]:.1f}"
                                       f"H{LEFT + start * width:.1f}z")
                runs[kind] = (column, shape)


def symbol(fault, x, y, size, end):
    """Of a fault in a row: a cross for an end, bars for a stop, triangles for come and go."""
    s = size
    shapes = {
        "stop": f"M{x:.1f} {y - s:.1f}v{2 * s:.1f}M{x + s:.1f} {y - s:.1f}v{2 * s:.1f}"
                f"M{x:.1f} {y:.1f}H{end:.1f}",
        "add": f"M{x - s:.1f} {y + s:.1f}h{2 * s:.1f}L{x:.1f} {y - s:.1f}z",
        "drain": f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}L{x:.1f} {y + s:.1f}z",
        "term": f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}L{x:.1f} {y + s:.1f}z",
    }
    path = shapes.get(fault.action, f"M{x - s:.1f} {y - s:.1f}l{2 * s:.1f} {2 * s:.1f}"
                      f"m0 {-2 * s:.1f}l{-2 * s:.1f} {2 * s:.1f}")
    kind = fault.action if fault.action in shapes else "end"
    return f'<path class="halo" d="{path}"/><path class="s s-{kind}" d="{path}"/>'


def tell(fault):
    """A fault's tooltip."""
    where = "" if fault.machine is None else f" on {fault.machine}"
    where += "" if fault.vm is None else f", VM {fault.vm}"
    where += "" if fault.pid is None else f", process {fault.pid}"
    when = f"{fault.t:.2f} s"
    when += "" if fault.until is None else f" to {float(fault.until):.2f} s"
    about = f": {fault.detail}" if fault.detail else ""
    return escape(f"{fault.kind} at {when}{where}{about}")


def nice_above(value):
    """The end of an axis: a number that is easy to read."""
    if value <= 0:
        return 1
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.1
    return next(power * m for m in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if power * m >= value)
