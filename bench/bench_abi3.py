#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the limited API costs: the same sources of _trickle built with and without it.

Both are linked with tests/ext/fake_trickle.c, so that nothing but the extension is measured:
nanoseconds per element, the best of several rounds, both builds taking turns. `pickle` is what
the same step costs with pickle.dumps or pickle.loads instead of the codec in C, where there is
such a step.
"""
import argparse
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "ext"))

COUNT = 100_000
VALUES = {
    "int": range(COUNT),
    "int64": range(2**40, 2**40 + COUNT),
    "float": [i + 0.5 for i in range(COUNT)],
    "str": [f"word {i}" for i in range(COUNT)],
    "(int, str)": [(i, "word") for i in range(COUNT)],
}
CHUNK = list(range(100))


def timed(call, count):
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / count * 1e9


def repeat(function, *args, times=COUNT // 10):
    def call():
        for _ in range(times):
            function(*args)
    return timed(call, times)


def measure_loops(trickle, name, values):
    farm = trickle.Farm()
    work = farm.work("bench", b"echo", list=farm.connect(), ahead_elements=2 * COUNT)
    results = []
    yield f"feed {name}", timed(lambda: work.feed(iter(values), None, pickle.dumps), COUNT)
    yield f"collect {name}", timed(lambda: work.collect(results, pickle.loads, None), COUNT)
    assert results == list(values)
    farm.close()


def measure_next(trickle):
    farm = trickle.Farm()
    work = farm.work("bench", b"echo", list=farm.connect(), ahead_elements=2 * COUNT)
    work.feed(iter(VALUES["int"]), None, pickle.dumps)
    yield "next int", repeat(work.next, None, pickle.loads, times=COUNT)
    farm.close()


def measure_codec(trickle):
    for name, value in (("int", 1000), ("100 ints", CHUNK)):
        data = trickle.encode(value, pickle.dumps)
        yield f"encode {name}", repeat(trickle.encode, value, pickle.dumps)
        yield f"decode {name}", repeat(trickle.decode, data, pickle.loads)


def measure_pickle():
    """The same with the pickle module."""
    for name, value in (("int", 1000), ("100 ints", CHUNK)):
        data = pickle.dumps(value, 5)
        yield f"encode {name}", repeat(pickle.dumps, value, 5)
        yield f"decode {name}", repeat(pickle.loads, data)


def measure_run():
    """One element on a VM, from its bytes to the bytes of its result; in a process of its own."""
    element = pickle.dumps(1000, 5).hex()
    lines = [f"stage 1 {b'lambda x: x'.hex()}", f"bench 1 {COUNT} {element}"]
    out = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "ext" / "exercise.py"), "serve"],
        env={"PYTHONPATH": sys.path[0]}, input="\n".join(lines) + "\n", text=True,
        stdout=subprocess.PIPE, check=True).stdout
    yield "run (lambda x: x) on a VM", float(out.splitlines()[1])


def measure_all(folder):
    sys.path.insert(0, folder)
    import _trickle
    for name, values in VALUES.items():
        yield from measure_loops(_trickle, name, values)
    yield from measure_next(_trickle)
    yield from measure_codec(_trickle)
    yield from measure_run()


def best_of(rounds, folders):
    """{name of the build: {what: ns}}."""
    best = {name: {} for name in folders}
    for _ in range(rounds):
        for name, folder in folders.items():
            out = subprocess.run([sys.executable, __file__, "--measure", folder], text=True,
                                 stdout=subprocess.PIPE, check=True).stdout
            for line in out.splitlines():
                what, ns = line.rsplit(" ", 1)
                best[name][what] = min(float(ns), best[name].get(what, 1e9))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured = measure_pickle() if options.measure == "pickle" else measure_all(options.measure)
        for what, ns in measured:
            print(what, ns)
        return
    from ext_build import LIMITED, build
    with tempfile.TemporaryDirectory() as folder:
        folders = {"limited": f"{folder}/limited", "full": f"{folder}/full", "pickle": "pickle"}
        for name, flags in (("limited", [LIMITED]), ("full", [])):
            pathlib.Path(folders[name]).mkdir()
            build(pathlib.Path(folders[name]), *flags)
        best = best_of(options.rounds, folders)
    print(f"{'ns per element':28}{'limited':>10}{'full':>10}{'ratio':>8}{'pickle':>10}")
    for what, ns in best["limited"].items():
        full = best["full"][what]
        other = f"{best['pickle'][what]:10.0f}" if what in best["pickle"] else ""
        print(f"{what:28}{ns:10.0f}{full:10.0f}{ns / full:8.2f}{other}")


if __name__ == "__main__":
    main()
