"""What is measured: the drivers, the cases, and how long all of it takes.

One base case, and one factor varied at a time. Every figure of a case is compared within that case only.
"""

from dataclasses import dataclass, field, replace

ROUNDS = 3
# Rounds that the peers take part in: they are far enough apart.
PEER_ROUNDS = 2
WARM_UP_S = 1.0
WINDOW_S = 3.0
# Between the driver's first receive and the opening of the queue: its memory when idle is read at the end of it.
SETTLE_S = 0.3
# What the whole plan may hold, all drivers and the default rounds.
MOST_CASES = 40
MOST_MINUTES = 45


@dataclass(frozen=True)
class Driver:
    """A program that drains the queue. `command` is relative to `benches/`; {bin} and {venv} are filled in."""

    name: str
    command: tuple
    # What it cannot do without: "rust", "rust-peers", "node" or "python".
    needs: str
    # Seconds from its start to its first receive, for the planned time.
    start_s: float
    inbox: bool = False
    table: str = "bench-inbox"
    env: dict = field(default_factory=dict)

    @property
    def peer(self):
        """Whether it is somebody else's framework, which redrive is to be ahead of."""
        return self.name != "raw" and not self.name.startswith("redrive")


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("redrive", ("{bin}/drive-redrive",), "rust", 0.3),
        Driver("redrive-inbox", ("{bin}/drive-redrive",), "rust", 0.3, inbox=True),
        Driver("raw", ("{bin}/drive-raw",), "rust", 0.3),
        Driver("omniqueue", ("{bin}/drive-omniqueue",), "rust-peers", 0.3),
        Driver("ruststream", ("{bin}/drive-ruststream",), "rust-peers", 0.3),
        Driver("beavers", ("{bin}/drive-beavers",), "rust-peers", 0.3),
        Driver("sqs-consumer", ("peers/node/drive-sqs-consumer",), "node", 1.0),
        Driver("powertools", ("{venv}/bin/python", "peers/python/drive_boto3.py"), "python", 2.0, inbox=True, table="powertools"),
        Driver("boto3", ("{venv}/bin/python", "peers/python/drive_boto3.py"), "python", 2.0, table="powertools"),
    )
}

# Those that take part in every case without inbox.
PLAIN = ("redrive", "raw", "omniqueue", "ruststream", "beavers", "sqs-consumer")
# The window with which a case is measured; the other kinds have a measure of their own in the runner.
WINDOW, MEMORY, MILLION = "window", "memory", "million"


@dataclass(frozen=True)
class Case:
    name: str
    # What makes it differ from the base case, with units.
    title: str
    latency_ms: float = 5
    handler_ms: float = 20
    concurrency: int = 64
    body_bytes: int = 200
    fifo_groups: int = 0
    duplicates: float = 0.0
    visibility_s: int = 30
    # `messages` and `rate` as the stand-in takes them: neither is an endless backlog.
    messages: int | None = None
    rate: float | None = None
    kind: str = WINDOW
    drivers: tuple = PLAIN
    warm_up_s: float = WARM_UP_S
    window_s: float = WINDOW_S
    # Rounds where they are not the default: for all drivers, and for single ones.
    rounds: int | None = None
    driver_rounds: dict = field(default_factory=dict)
    # Free settings for the drivers, given to them as BENCH_EXTRA.
    extra: dict = field(default_factory=dict)

    @property
    def backlog(self):
        """Whether the rate is the driver's own: a queue that is never empty, measured in a window."""
        return self.kind == WINDOW and self.rate is None

    @property
    def fifo(self):
        return self.fifo_groups > 0

    @property
    def limit_per_s(self):
        """The rate nothing can exceed: all handlers run all the time. None where the handler takes no time."""
        if self.handler_ms == 0:
            return None
        at_once = min(self.concurrency, self.fifo_groups) if self.fifo else self.concurrency
        return at_once * 1000 / self.handler_ms

    def rounds_of(self, driver, default):
        """How many rounds the driver takes part in; never more than asked for."""
        usual = PEER_ROUNDS if DRIVERS[driver].peer else default
        return min(default, self.driver_rounds.get(driver, self.rounds or usual))

    def run_s(self, driver):
        """Seconds one run is planned to take."""
        measured = {
            WINDOW: self.warm_up_s + self.window_s,
            # Receiving ten thousand and a second more; then some drivers wait for the handlers.
            MEMORY: 4.0 + self.handler_ms / 1000,
            MILLION: 60.0,
        }[self.kind]
        stop = 0.5 + min(self.handler_ms / 1000, 1.0)
        return 0.2 + DRIVERS[driver].start_s + SETTLE_S + measured + stop

    def setup(self):
        """The body of the stand-in's PUT /control/setup."""
        return {
            "latency_ms": self.latency_ms,
            "body_bytes": self.body_bytes,
            "fifo_groups": self.fifo_groups,
            "duplicates": self.duplicates,
            "visibility_s": self.visibility_s,
            "messages": self.messages,
            "rate": self.rate,
            "inbox_items": 0,
        }


def _cases():
    base = Case("base", "5 ms latency, 20 ms handler, 64 at once, 200 B, standard queue, backlog", drivers=PLAIN + ("boto3",))
    plain = replace(base, drivers=PLAIN)
    inbox = ("redrive", "redrive-inbox", "powertools", "boto3")
    # Longer than the others: Powertools deletes a batch when the last of its messages is done, ten calls and handlers
    # after the first.
    long = replace(plain, warm_up_s=2.0, window_s=8.0)
    return (
        base,
        replace(plain, name="latency-0", title="latency 0 ms", latency_ms=0),
        replace(plain, name="latency-10", title="latency 10 ms", latency_ms=10),
        replace(plain, name="handler-0", title="handler 0 ms", handler_ms=0),
        replace(plain, name="handler-50", title="handler 50 ms", handler_ms=50),
        replace(plain, name="concurrency-16", title="16 at once", concurrency=16),
        replace(plain, name="concurrency-256", title="256 at once", concurrency=256),
        replace(plain, name="concurrency-1000", title="1,000 at once", concurrency=1000),
        replace(plain, name="body-64k", title="64 kB bodies", body_bytes=64_000),
        replace(plain, name="fifo-1", title="FIFO, 1 group", fifo_groups=1),
        replace(plain, name="fifo-10", title="FIFO, 10 groups", fifo_groups=10),
        replace(plain, name="fifo-1000", title="FIFO, 1,000 groups", fifo_groups=1000),
        replace(plain, name="limit", title="10 ms latency, 50 ms handler, 256 at once", latency_ms=10, handler_ms=50, concurrency=256),
        replace(
            plain,
            name="trickle",
            title="10 messages/s arrive",
            rate=10,
            window_s=15.0,
            driver_rounds={name: 1 for name in PLAIN if DRIVERS[name].peer},
        ),
        replace(plain, name="steady", title="1,000 messages/s arrive", rate=1000),
        replace(long, name="inbox", title="duplicates kept out (inbox, idempotency)", drivers=inbox),
        replace(
            long, name="duplicates", title="10 % duplicates", duplicates=0.1, drivers=("redrive-inbox", "powertools", "raw")
        ),
        replace(
            plain,
            name="memory",
            title="10,000 running handlers, 1 kB bodies",
            kind=MEMORY,
            concurrency=10_000,
            body_bytes=1000,
            handler_ms=15_000,
            drivers=("redrive", "raw"),
        ),
        replace(
            plain,
            name="million",
            title="1,000,000 messages, latency 0 ms, handler 0 ms",
            kind=MILLION,
            latency_ms=0,
            handler_ms=0,
            messages=1_000_000,
            rounds=1,
            drivers=("redrive", "raw"),
        ),
    )


CASES = {case.name: case for case in _cases()}
# A backlog, messages that arrive, and the inbox: everything the runner does but the special kinds.
QUICK = ("base", "steady", "inbox")


def quick(case):
    """The case with windows that show no more than that everything works."""
    return replace(case, warm_up_s=case.warm_up_s * 0.3, window_s=case.window_s / 3, driver_rounds={}, rounds=None)


def chosen(only=(), drivers=(), quick_run=False):
    """The cases asked for, in the plan's order, with only the drivers asked for. Raises ValueError on unknown names."""
    for name in only:
        if name not in CASES:
            raise ValueError(f"{name} is no case; the cases: {', '.join(CASES)}")
    for name in drivers:
        if name not in DRIVERS:
            raise ValueError(f"{name} is no driver; the drivers: {', '.join(DRIVERS)}")
    names = only or (QUICK if quick_run else tuple(CASES))
    cases = []
    for case in CASES.values():
        if case.name not in names:
            continue
        case = quick(case) if quick_run else case
        taking_part = tuple(name for name in case.drivers if not drivers or name in drivers)
        if taking_part:
            cases.append(replace(case, drivers=taking_part))
    if not cases:
        raise ValueError(f"none of the drivers {', '.join(drivers)} takes part in any of the cases {', '.join(names)}")
    return cases


def planned_s(cases, rounds):
    """Seconds all runs of the cases are planned to take."""
    return sum(case.run_s(driver) * case.rounds_of(driver, rounds) for case in cases for driver in case.drivers)


def needs(cases):
    """What has to be set up for the cases, as `Driver.needs` names it, sorted."""
    return sorted({DRIVERS[driver].needs for case in cases for driver in case.drivers})
