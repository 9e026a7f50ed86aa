# SPDX-License-Identifier: MIT
"""What a run computes: stages of elements, from a seed alone.

The program asks here what to do, the elements what to compute, and the checker what is right: all
of it is pure, so that nobody has to believe anybody. Of the parts of the mixed workload each round
takes all, in an order of its own.
"""
import collections
import hashlib

# name      of the stage, the same in each run of the program
# kind      what its elements do: see KINDS
# seed      number, all that its elements depend on beside their index
# count     of elements
# call      how it is run: "forkwork", "forkgen" (as they come) or "ordered"
# slow_ms   how long the program looks at each result
Stage = collections.namedtuple("Stage", "name kind seed count call slow_ms")

# kind: (elements in a round, call, ms that the program takes for a result)
KINDS = {
    "trivial": (20_000, "forkgen", 0),  # as little as an element can do
    "steady": (500, "forkgen", 0),      # 10 ms each
    "heavy": (150, "forkwork", 0),      # 1 ms to 5 s, most of them short
    "sizes": (20, "forkgen", 0),        # results of 1 byte to 64 MB
    "first": (300, "forkwork", 0),      # the first of two stages
    "second": (300, "ordered", 0),      # made of the results of the first
    "gen": (300, "forkgen", 4),         # a consumer that is slower than the VMs
    "beside": (200, "forkgen", 0),      # calls, forks and remote objects beside the work
    "words": (40, "forkwork", 0),       # the word count of the paper
    "poison": (24, "forkwork", 0),      # some elements cannot be computed, and have to fail
    "chunks": (100, "ordered", 0),      # lists of elements, one result each
    "crawl": (300, "forkgen", 0),       # elements made of what results there were by then
    "states": (24, "forkwork", 0),      # save how far they have come, and go on from there
    "twice": (60, "forkwork", 0),       # the slow ones run a second time where a VM has time
}
MIXED = {"mix": list(KINDS), "calm": [kind for kind in KINDS if kind != "poison"]}
WORKLOADS = {**MIXED, "stages": ["first", "second"],
             **{kind: [kind] for kind in KINDS if kind not in ("first", "second")}}
WHOLE = {"trivial": 100_000, "steady": 3000}  # a round of it where it is the only kind

# A resumed program goes through all that is recorded: after an hour that would take it longer than
# it has until the next fault. So of some kinds mixed rounds but the first have less, or not always.
LATER = {"trivial": 1000}
PERIODS = {"sizes": 20}  # rounds from one to the next

SIZE_MAX = 64 << 20
LONG_SECONDS = 5.0
STEADY_SECONDS = 0.01
TIMEOUT_SECONDS = 20.0  # of an element; longer than any stop of a process
POISON_TIMEOUT = 2.0
POISON_PERIOD = 8  # of so many elements of that kind 3 cannot be computed
CHUNK = 5          # elements of a chunk
STEPS = 10         # after each of which an element of "states" saves its state
STEP_SECONDS = 0.02
MASK = (1 << 64) - 1


def number(seed, *parts):
    """64 bits that look random (splitmix64)."""
    x = seed & MASK
    for part in parts:
        x = (x + 0x9E3779B97F4A7C15 + (part & MASK) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        x ^= x >> 31
    return x


def unit(seed, *parts):
    """From 0 to less than 1."""
    return (number(seed, *parts) >> 11) / (1 << 53)


def stages(seed, workload, turn, elements=None):
    """The stages of a round of the program. elements: so many in each, instead of the usual."""
    kinds = list(WORKLOADS[workload])
    if workload in MIXED:
        kinds = [kind for kind in kinds if turn % PERIODS.get(kind, 1) == 0]
        kinds.remove("second")
        kinds.sort(key=lambda kind: number(seed, turn, *kind.encode()))
        kinds.insert(kinds.index("first") + 1, "second")  # they belong together
    found = []
    for kind in kinds:
        count, call, slow_ms = KINDS[kind]
        if len(kinds) == 1:
            count = WHOLE.get(kind, count)
        elif turn > 0:
            count = LATER.get(kind, count)
        own = number(seed, turn, *("second" if kind == "first" else kind).encode()) >> 1
        found.append(Stage(f"{kind}-{turn}", kind, own, elements or count, call, slow_ms))
    return found


def seconds(kind, seed, index):
    """How long an element takes on a machine with nothing else to do."""
    if kind == "heavy":  # Pareto, cut off
        return min(LONG_SECONDS, 0.001 * (1 - unit(seed, index)) ** (-1 / 0.6))
    if kind == "twice":
        return 0.5 if index % 20 == 7 else 0.005
    return {"states": STEPS * STEP_SECONDS, "steady": STEADY_SECONDS, "chunks": 0.005,
            "crawl": 0.002, "first": 0.002, "second": 0.002, "gen": 0.002, "beside": 0.01,
            "words": 0.01, "sizes": 0.01}.get(kind, 0.0)


def longest(kind):
    """Seconds that no attempt of such an element is expected to exceed, on a busy machine."""
    return {"heavy": LONG_SECONDS, "poison": POISON_TIMEOUT, "sizes": 3.0, "states": 3.0,
            "twice": 2.0}.get(kind, 0.5)


def size(seed, index):
    """Of a result, in bytes: as many small ones as large ones. The first is the largest."""
    return SIZE_MAX if index == 0 else int(2 ** (26 * unit(seed, index)))


def poison(index):
    """How an element has to fail: "abort", "raise", "loop", or None: it does not."""
    return {2: "abort", 4: "raise", 6: "loop"}.get(index % POISON_PERIOD)


def text(seed, index):
    """A file of words for the word count."""
    return " ".join(f"w{number(seed, index, at) % (1 + at % 97)}" for at in range(2000))


def words(content):
    return dict(sorted(collections.Counter(content.split()).items()))


def answer(kind, seed, index, given=None):
    """What the element has to give; given: the answer that it was made of."""
    if kind == "sizes":
        length = size(seed, index)
        block = hashlib.shake_128(b"%d %d" % (seed, index)).digest(min(length, 4096))
        return (block * (length // len(block) + 1))[:length]
    if kind == "words":
        return words(text(seed, index))
    if kind == "second":
        return number(seed, index, given)
    if kind == "chunks":
        return [number(seed, index * CHUNK + at) for at in range(CHUNK)]
    if kind == "states":
        value = 0
        for at in range(STEPS):
            value = step(seed, index, at, value)
        return value
    return number(seed, index)


def step(seed, index, at, value):
    """One step of an element of "states", from the value of the step before."""
    return number(seed, index, at, value)


def digest(value):
    """A short text for a value: what the program prints of it."""
    if isinstance(value, int):
        return f"{value:x}"
    data = value if isinstance(value, bytes) else repr(value).encode()
    return f"{len(data)}:{hashlib.blake2b(data, digest_size=12).hexdigest()}"


def expected(stage, index):
    """The digest of the right answer; None: the element has to fail."""
    if stage.kind == "poison" and poison(index):
        return None
    given = None
    if stage.kind == "second":
        given = answer("first", stage.seed, index)
    return digest(answer(stage.kind, stage.seed, index, given))

