"""The charts, as SVG: text as text, an opaque ground for light and dark pages, the same bytes for the same results."""

import io
import re

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

from . import plan  # noqa: E402
from .tables import OPERATIONS, number, usd  # noqa: E402

INK, FAINT, RULE, GROUND = "#24292f", "#57606a", "#d8dee4", "#ffffff"
OURS, OURS_TOO, FLOOR, PEER = "#b3421b", "#e0936f", "#57606a", "#8fb0cf"
COLOURS = {"redrive": OURS, "redrive-inbox": OURS_TOO, "raw": FLOOR}
OPERATION_COLOURS = dict(zip(OPERATIONS, ("#3f6f9f", "#c98a2b", "#8a5a9e", "#7a9f5a", "#4f7a3a")))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "redrive",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "ytick.left": False,
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    # Points that lie on a line are not written one by one.
    "path.simplify": True,
}
# Inches: 72 of the SVG's points each.
WIDTH = 10.0
# Of the quantiles in figures, in widths of the panel beside which they stand.
COLUMNS = (1.09, 1.18, 1.28)
BASE = f"Base case: {plan.CASES['base'].title}. The other panels differ from it in what they name."


def colour(driver):
    return COLOURS.get(driver, PEER)


def _bars(axes, names, values, labels, most, colours=None):
    """Horizontal bars with what they stand for at their ends; a name without a value has its label alone."""
    places = range(len(names))
    axes.barh(places, [value or 0 for value in values], color=colours or [colour(name) for name in names], height=0.72)
    for place, value, label in zip(places, values, labels):
        axes.text((value or 0) + most * 0.02, place, label, va="center", fontsize=8, color=INK if value is not None else FAINT)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, most)
    axes.set_yticks(list(places), names)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _grid(results, cases, drivers, figure_of, label_of, suptitle, columns=4):
    """Small multiples: a panel for each case, a bar for each driver, the same scale in all."""
    rows = -(-len(cases) // columns)
    height = rows * (0.42 + 0.2 * len(drivers)) + 0.7
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained")
    values = {case: [figure_of(case, driver) for driver in drivers] for case in cases}
    greatest = max([value for row in values.values() for value in row if value is not None])
    for place, axes in enumerate(grid.flat):
        if place >= len(cases):
            axes.set_visible(False)
            continue
        case = cases[place]
        labels = [
            label_of(case, driver) if value is not None else (results.state(case, driver) or "")
            for driver, value in zip(drivers, values[case])
        ]
        _bars(axes, drivers, values[case], labels, greatest * 1.55)
        if place % columns:
            axes.set_yticklabels([])
        axes.set_title(results.cases[case].title if case != "base" else "base case", fontsize=8)
    figure.suptitle(suptitle, x=0.005, ha="left", fontsize=10)
    return figure


def _shown(results, cases):
    return [driver for driver in plan.PLAIN if any(results.measured(case, driver) for case in cases)]


def ratio(results):
    """Messages/s of every backlog case as a ratio to the raw loop."""
    cases = [case for case in results.backlog_cases() if "redrive" in results.cases[case].drivers and results.measured(case, "raw")]
    if not cases:
        return None

    def value(case, driver):
        found = results.ratio(case, driver, "raw")
        return found.median if found else None

    def label(case, driver):
        return f"{value(case, driver):.2f}  {results.median(case, driver, 'rate'):,.0f}/s"

    drivers = _shown(results, cases)
    return _grid(results, cases, drivers, value, label, f"Messages/s: ratio to the raw loop in the same round, and messages/s\n{BASE}")


def cpu(results):
    """CPU per message, where cases differ in it."""
    wanted = ("base", "handler-0", "body-64k", "concurrency-16", "fifo-1000", "steady", "concurrency-1000", "trickle")
    cases = [case for case in wanted if case in results.cases and results.measured(case, "redrive")][:4]
    if not cases:
        return None
    return _grid(
        results,
        cases,
        _shown(results, cases),
        lambda case, driver: results.median(case, driver, "cpu_us"),
        lambda case, driver: f"{number(results.median(case, driver, 'cpu_us'))} µs",
        f"CPU time per message, µs\n{BASE}",
    )


def cost(results):
    """SQS calls by operation, and what a million messages cost, in the base case."""
    if "base" not in results.cases:
        return None
    drivers = [driver for driver in results.drivers("base") if results.measured("base", driver)]
    if not drivers:
        return None
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.0 + 0.28 * len(drivers)), width_ratios=(2, 1), layout="constrained"
    )
    totals = [results.median("base", driver, "sqs_calls") for driver in drivers]
    most = max(totals) * 1.15
    done = [0.0] * len(drivers)
    key = None
    for operation in OPERATIONS:
        values = [results.median("base", driver, "sqs." + operation, 0.0) for driver in drivers]
        # What cannot be seen has no place in the key either.
        if max(values) < most / 400:
            continue
        left.barh(range(len(drivers)), values, left=done, color=OPERATION_COLOURS[operation], height=0.72)
        done = [before + value for before, value in zip(done, values)]
        # The key is a line above the bars, each name after the one before.
        where = {"xy": (0, -0.95), "xycoords": left.get_yaxis_transform()} if key is None else {"xy": (1, 0), "xycoords": key}
        style = {"fontsize": 8, "weight": "bold", "color": OPERATION_COLOURS[operation]}
        key = left.annotate(operation, **where, xytext=(0 if key is None else 12, 0), textcoords="offset points", va="bottom", **style)
    for place, total in enumerate(totals):
        left.text(total + most * 0.01, place, number(total), va="center", fontsize=8)
    left.vlines(200, -0.5, len(drivers) - 0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=3)
    left.set_ylim(len(drivers) - 0.4, -1.3)
    left.set_xlim(0, most)
    left.set_yticks(range(len(drivers)), drivers)
    left.set_xticks([])
    left.spines["bottom"].set_visible(False)
    left.set_title("SQS calls per 1,000 messages, base case (dashed: 200, the floor)", fontsize=9)
    dollars = [results.median("base", driver, "usd") for driver in drivers]
    _bars(right, drivers, dollars, ["$" + usd(value) for value in dollars], max(dollars) * 1.3)
    right.set_ylim(len(drivers) - 0.4, -1.3)
    right.set_yticklabels([])
    right.set_title("$ per million messages", fontsize=9)
    return figure


def latency(results):
    """From enqueue to handler start where messages arrive at a rate: p50, p99 and p99.9 on a line."""
    cases = [name for name, case in results.cases.items() if case.rate is not None and any(results.latencies(name, d) for d in case.drivers)]
    if not cases:
        return None
    drivers = _shown(results, cases)
    figure, grid = plt.subplots(
        1, len(cases), figsize=(WIDTH, 1.3 + 0.36 * len(drivers)), squeeze=False, sharex=True, layout="constrained"
    )
    for place, (axes, name) in enumerate(zip(grid.flat, cases)):
        case = results.cases[name]
        for row, driver in enumerate(drivers):
            found = [(q, results.quantile_ms(name, driver, value)) for q, value in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))]
            found = [(q, value) for q, value in found if value is not None]
            if not found:
                axes.text(0.02, row, results.state(name, driver) or "too few", va="center", transform=axes.get_yaxis_transform(), color=FAINT, fontsize=8)
                continue
            values = [value for _, value in found]
            axes.plot(values, [row] * len(values), color=colour(driver), linewidth=1.5, zorder=2)
            axes.scatter(values, [row] * len(values), color=colour(driver), s=[26, 16, 8][: len(values)], zorder=3)
            for at, value in zip(COLUMNS, values):
                axes.text(at, row, number(value, 2), va="center", ha="right", transform=axes.get_yaxis_transform(), fontsize=8)
        axes.axvline(case.latency_ms, color=FLOOR, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("ms")
        axes.set_ylim(len(drivers) - 0.4, -0.6)
        axes.set_yticks(range(len(drivers)), drivers if place == 0 else [""] * len(drivers))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(case.title, fontsize=9)
        for at, name in zip(COLUMNS, ("p50", "p99", "p99.9")):
            axes.text(at, -0.7, name, ha="right", va="bottom", transform=axes.get_yaxis_transform(), fontsize=7, color=FAINT)
    figure.suptitle("Enqueue to handler start, ms: p50, p99 and p99.9 from the large dot to the small (dashed: the latency of one call)", x=0.005, ha="left", fontsize=10)
    return figure


def million(results):
    """Rate and memory in each tenth of a million messages."""
    if "million" not in results.cases:
        return None
    runs = {driver: results.runs("million", driver)[0]["tenths"] for driver in results.drivers("million") if results.measured("million", driver)}
    if not runs:
        return None
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.9), layout="constrained")
    for axes, what, title in ((panels[0], "rate", "messages/s in each tenth"), (panels[1], "rss_mb", "memory after each tenth, MB")):
        most = max(tenth[what] for tenths in runs.values() for tenth in tenths)
        ends = []
        for driver, tenths in runs.items():
            x = [tenth["tenth"] / 10 for tenth in tenths]
            axes.plot(x, [tenth[what] for tenth in tenths], color=colour(driver), linewidth=1.8, marker="o", markersize=3, clip_on=False)
            ends.append((tenths[-1][what], driver))
        # Labels at the ends of the lines, kept apart.
        at = None
        for value, driver in sorted(ends):
            at = value if at is None else max(value, at + most * 0.09)
            axes.text(1.03, at, f"{driver} {number(value)}", color=colour(driver), va="center", fontsize=8)
        axes.set_ylim(0, most * 1.15)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.set_xlabel("million messages done")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(title, fontsize=9)
    return figure


def inbox(results):
    """What it takes to keep duplicates out."""
    if "inbox" not in results.cases:
        return None
    drivers = [driver for driver in results.drivers("inbox") if results.measured("inbox", driver)]
    if not drivers:
        return None
    panels = (
        ("rate", "messages/s", number),
        ("cpu_us", "CPU per message, µs", number),
        ("dynamodb_calls", "DynamoDB calls per 1,000", number),
        ("write_units", "write units per 1,000", number),
        ("usd", "$ per million messages", lambda value: "$" + usd(value)),
    )
    figure, grid = plt.subplots(1, len(panels), figsize=(WIDTH, 0.9 + 0.3 * len(drivers)), layout="constrained")
    for place, (axes, (name, title, form)) in enumerate(zip(grid, panels)):
        values = [results.median("inbox", driver, name) for driver in drivers]
        _bars(axes, drivers, values, [form(value) for value in values], (max(values) or 1) * 1.6)
        if place:
            axes.set_yticklabels([])
        axes.set_title(title, fontsize=8)
    figure.suptitle("Duplicates kept out: the inbox and Powertools idempotency, with the same consumers without", x=0.005, ha="left", fontsize=10)
    return figure


CHARTS = {"ratio": ratio, "cpu": cpu, "cost": cost, "latency": latency, "million": million, "inbox": inbox}


def slim(svg):
    """The same picture without comments and line breaks, its places in hundredths of a point."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s+<", ">\n<", svg)
    svg = re.sub(r"(-?\d+\.\d{3,})(?![\d.%])", lambda found: f"{float(found.group(1)):.2f}".rstrip("0").rstrip("."), svg)
    return re.sub(r" ?\n(?=[MLCQzZ\"])", " ", svg)


def draw(results, folder, png=False):
    """Draws what the results have figures for; the files' paths. `png` adds pictures of the same, to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    written = []
    with plt.rc_context(STYLE):
        for name, chart in CHARTS.items():
            figure = chart(results)
            if figure is None:
                continue
            path = folder / f"{name}.svg"
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
            path.write_text(slim(drawn.getvalue()))
            if png:
                figure.savefig(folder / f"{name}.png", dpi=110)
            plt.close(figure)
            written.append(path)
    return written
