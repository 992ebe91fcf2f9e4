"""The tables, in Markdown. Each has a name, by which a page takes it in (see `publish`)."""

from . import plan, prices
from .verdicts import verdicts

NONE = "–"
OPERATIONS = ("ReceiveMessage", "DeleteMessageBatch", "DeleteMessage", "ChangeMessageVisibilityBatch", "ChangeMessageVisibility")


def table(head, rows, left=1):
    """A Markdown table; the first `left` columns are text, the others numbers."""
    align = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, align, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value, digits=3):
    """With so many significant digits at least, and separators for thousands."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 10 ** (digits - 1) or value == 0:
        return f"{value:,.0f}"
    places = digits - 1
    while size >= 10:
        size, places = size / 10, places - 1
    return f"{value:,.{max(0, places)}f}"


def ranged(spread, form=number):
    """The median, and what the rounds lie between where it can be told from it."""
    if spread is None:
        return NONE
    median, least, most = form(spread.median), form(spread.least), form(spread.most)
    return median if least == most == median else f"{median} ({least}–{most})"


def _columns(results, cases):
    seen = {driver for case in cases for driver in results.drivers(case)}
    return [driver for driver in plan.DRIVERS if driver in seen]


def _by_case(results, cases, cell):
    """Cases down, drivers across."""
    columns = _columns(results, cases)
    rows = []
    for case in cases:
        taking_part = results.drivers(case)
        cells = [(results.state(case, driver) or cell(case, driver)) if driver in taking_part else "" for driver in columns]
        rows.append([f"{case}", *cells])
    return table(["case", *columns], rows)


def _backlog(results):
    return [case for case in results.backlog_cases()]


def _windows(results):
    return [name for name, case in results.cases.items() if case.kind == plan.WINDOW]


def verdict_table(results):
    rows = [(verdict.target, verdict.figure, verdict.word) for verdict in verdicts(results)]
    return table(["target", "measured", "verdict"], rows, left=3)


def cases_table(results):
    rows = []
    for name, case in results.cases.items():
        limit = case.limit_per_s if case.kind == plan.WINDOW and case.rate is None else None
        rows.append((f"{name}", case.title, number(limit, 1)))
    return table(["case", "what differs from the base case", "limit: handlers / handler time, messages/s"], rows, left=2)


def rate(results):
    return _by_case(results, _backlog(results), lambda case, driver: ranged(results.spread(case, driver, "rate")))


def ratio(results):
    cases = [case for case in _backlog(results) if results.measured(case, "raw")]
    columns = [driver for driver in _columns(results, cases) if driver != "raw"]
    rows = []
    for case in cases:
        cells = []
        for driver in columns:
            if driver not in results.drivers(case):
                cells.append("")
                continue
            cells.append(results.state(case, driver) or ranged(results.ratio(case, driver, "raw"), "{:.2f}".format))
        best = results.best_peer(case)
        ours = results.ratio(case, "redrive", best) if best else None
        cells.append(f"{ours.median:.1f} × {best}" if ours else NONE)
        rows.append([f"{case}", *cells])
    return table(["case", *columns, "redrive to the best peer"], rows)


def cpu(results):
    return _by_case(results, _windows(results), lambda case, driver: ranged(results.spread(case, driver, "cpu_us")))


def calls(results):
    return _by_case(results, _windows(results), lambda case, driver: ranged(results.spread(case, driver, "sqs_calls")))


def operations(results, case="base"):
    """Calls per 1,000 messages by operation, in the base case."""
    if case not in results.cases:
        return NONE
    drivers = [driver for driver in results.drivers(case) if results.measured(case, driver)]
    seen = {name for driver in drivers for run in results.runs(case, driver) for name in run["figures"] if name.startswith("sqs.")}
    names = [name for name in OPERATIONS if "sqs." + name in seen]
    names += sorted(name[4:] for name in seen if name[4:] not in OPERATIONS)
    rows = []
    for driver in drivers:
        each = [number(results.median(case, driver, "sqs." + name)) for name in names]
        rows.append([driver, *each, number(results.median(case, driver, "sqs_calls")), number(results.median(case, driver, "sqs_billed"))])
    return table(["driver", *names, "all", "billed requests"], rows)


def usd(value):
    return NONE if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def cost(results):
    return _by_case(results, _windows(results), lambda case, driver: usd(results.median(case, driver, "usd")))


def memory(results):
    def cell(case, driver):
        idle, peak = results.median(case, driver, "idle_mb"), results.median(case, driver, "peak_mb")
        return f"{number(peak)} ({number(idle)})"

    return _by_case(results, list(results.cases), cell)


def latency(results):
    rows = []
    for name, case in results.cases.items():
        if case.rate is None:
            continue
        for driver in results.drivers(name):
            state = results.state(name, driver)
            if state:
                rows.append([f"{name}", driver, state, "", "", "", ""])
                continue
            quantiles = [number(results.quantile_ms(name, driver, q)) for q in (0.5, 0.99, 0.999)]
            samples = len(results.latencies(name, driver))
            rows.append([f"{name}", driver, *quantiles, f"{samples:,}", number(results.median(name, driver, "sqs_calls"))])
    return table(["case", "driver", "p50, ms", "p99, ms", "p99.9, ms", "messages", "SQS calls per 1,000"], rows, left=2)


def inbox(results):
    rows = []
    for case in ("inbox", "duplicates"):
        if case not in results.cases:
            continue
        for driver in results.drivers(case):
            state = results.state(case, driver)
            figure = lambda name: results.median(case, driver, name)  # noqa: E731
            if state:
                rows.append([f"{case}", driver, state, *[""] * 7])
                continue
            rows.append(
                [
                    f"{case}",
                    driver,
                    ranged(results.spread(case, driver, "rate")),
                    number(figure("cpu_us")),
                    number(figure("sqs_calls")),
                    number(figure("dynamodb_calls")),
                    number(figure("write_units")),
                    number(figure("read_units")),
                    usd(figure("usd")),
                    number(figure("handled_per_1000")),
                ]
            )
    head = ["case", "driver", "messages/s", "CPU µs", "SQS calls", "DynamoDB calls", "write units", "read units", "$ per million", "handled"]
    return table(head, rows, left=2)


def order(results):
    """Over all rounds: what was started out of order, received again, or came to the dead-letter queue."""
    rows = []
    for name in _windows(results):
        for driver in results.drivers(name):
            runs = results.runs(name, driver)
            sums = [_sum(runs, figure) for figure in ("violations", "redelivered", "dead", "handled")]
            if results.cases[name].fifo and runs or any(sums[:3]):
                rows.append([f"{name}", driver, *(NONE if value is None else f"{value:,}" for value in sums)])
    head = ["case", "driver", "order violations", "received again", "dead letters", "handled"]
    return table(head, rows, left=2)


def _sum(runs, figure):
    """None where a driver cannot tell: not every framework shows its handlers the MessageId."""
    values = [run["figures"][figure] for run in runs]
    return None if None in values else sum(values)


def running(results):
    if "memory" not in results.cases:
        return NONE
    rows = []
    for driver in results.drivers("memory"):
        state = results.state("memory", driver)
        names = ("idle_mb", "peak_mb", "over_idle_mb", "in_flight")
        rows.append([driver, *([state, "", "", ""] if state else [ranged(results.spread("memory", driver, name)) for name in names])])
    return table(["driver", "idle, MB", "peak, MB", "over idle, MB", "messages in flight"], rows)


def million(results):
    runs = [(driver, run) for driver in _columns(results, ["million"] if "million" in results.cases else []) for run in results.runs("million", driver)[:1]]
    if not runs:
        return NONE
    head = ["tenth"]
    for driver, _ in runs:
        head += [f"{driver}, messages/s", f"{driver}, MB"]
    rows = []
    for tenth in range(10):
        cells = [str(tenth + 1)]
        for _, run in runs:
            cells += [number(run["tenths"][tenth]["rate"]), number(run["tenths"][tenth]["rss_mb"])]
        rows.append(cells)
    return table(head, rows)


def machine(results):
    about = results.machine
    commit = (about["commit"] or "unknown")[:12] + (", changed" if about["changed"] else "")
    used = about["cores_used"]
    pinned = "one core for both" if used["stand_in"] == used["driver"] else "one core for the stand-in, one for the driver"
    rows = [
        ("processor", f"{about['cpu']}, {about['cores']} cores; {pinned}"),
        ("memory", f"{about['memory_gb']} GB"),
        ("kernel", about["kernel"]),
    ]
    rows += [(name, version or "none") for name, version in about["versions"].items()]
    rows += [(driver, results.version(driver)) for driver in plan.DRIVERS if results.version(driver) and driver != "redrive-inbox"]
    rows += [("commit", commit), ("time", f"{results.raw['started']}, {results.raw['minutes']:.0f} minutes")]
    for note in results.raw.get("again", []):
        rows.append(("measured again", f"{', '.join(note['cases'])}: {note['started']}, commit {(note['commit'] or 'unknown')[:12]}"))
    return table(["what", "which"], rows, left=2)


def notes(results):
    """What was not measured and why, and what to take with care, as a list."""
    lines = []
    for (case, driver), runs in results.by_place.items():
        for reason in dict.fromkeys((run["status"], run["reason"].splitlines()[0]) for run in runs if run["status"] != "ok"):
            count = sum(1 for run in runs if (run["status"], run.get("reason", "").splitlines()[:1]) == (reason[0], [reason[1]]))
            times = f" ({count} of {len(runs)} runs)" if reason[0] == "failed" else ""
            lines.append(f"- {case}, {driver}: {reason[0]}{times}: {reason[1]}")
        flagged = [run for run in runs if run.get("flag")]
        if flagged:
            busiest = max(run["figures"]["stand_in_cpu"] for run in flagged)
            lines.append(f"- {case}, {driver}: the stand-in was busy {busiest:.0%} of the time, so that the driver may be faster than shown")
    return "\n".join(lines) or "Every driver was measured in every case, and the stand-in was never the limit."


def prices_note(_results):
    return (
        f"SQS: ${prices.SQS_STANDARD:.2f} (standard) and ${prices.SQS_FIFO:.2f} (FIFO) for a million requests, each 64 KiB of a request "
        f"being one. DynamoDB on demand: ${prices.DYNAMODB_WRITE} for a million write units, ${prices.DYNAMODB_READ} for a million "
        "read units. us-east-1, without free tiers and discounts: <https://aws.amazon.com/sqs/pricing/>, "
        "<https://aws.amazon.com/dynamodb/pricing/on-demand/>."
    )


# Name: (title, what makes it).
TABLES = {
    "verdicts": ("Targets", verdict_table),
    "cases": ("Cases", cases_table),
    "rate": ("Messages/s: median (least–greatest of the rounds)", rate),
    "ratio": ("Messages/s as a ratio to the raw loop, in the same round", ratio),
    "cpu": ("CPU µs per message", cpu),
    "memory": ("Memory, MB: peak (idle)", memory),
    "calls": ("SQS calls per 1,000 messages", calls),
    "operations": ("SQS calls per 1,000 messages by operation, base case", operations),
    "cost": ("$ per million messages", cost),
    "prices": ("Prices", prices_note),
    "latency": ("Enqueue to handler start, all rounds together", latency),
    "inbox": ("Inbox; calls, units and handlers run are per 1,000 messages", inbox),
    "order": ("Order and redelivery", order),
    "running": ("10,000 running handlers", running),
    "million": ("1,000,000 messages", million),
    "machine": ("Machine and versions", machine),
    "notes": ("Not measured, or with care", notes),
}


def made(results):
    """Every table, by its name."""
    return {name: make(results) for name, (_, make) in TABLES.items()}


def document(results):
    """All of them as one page."""
    parts = ["# Results of `benches/run`"]
    tables = made(results)
    for name, (title, _) in TABLES.items():
        parts += [f"## {title}", tables[name]]
    return "\n\n".join(parts) + "\n"
