"""The targets, and whether the results meet them."""

from dataclasses import dataclass

from . import plan


@dataclass(frozen=True)
class Verdict:
    target: str
    # The figure, with the case that decides it; why there is none where `met` is None.
    figure: str
    met: bool | None

    @property
    def word(self):
        return {True: "met", False: "**missed**", None: "not measured"}[self.met]


def verdicts(results):
    return [judge(results, *rest) for judge, *rest in _TARGETS]


def _worst(values, greatest):
    """(value, case) of the worst of a list of them, None of an empty one."""
    if not values:
        return None
    return max(values) if greatest else min(values)


def _over_cases(target, values, missing, bound, greatest, form):
    """A verdict on every backlog case: the worst decides, and a case without a figure decides nothing."""
    worst = _worst(values, greatest)
    if worst is None:
        return Verdict(target, "no case has it", None)
    inside = [value <= bound if greatest else value >= bound for value, _ in values]
    text = f"worst {form.format(worst[0])} ({worst[1]})"
    base = [value for value, case in values if case == "base"]
    if base and worst[1] != "base":
        text += f"; base {form.format(base[0])}"
    text += f"; {sum(inside)} of {len(inside)} cases"
    if missing:
        text += f"; not measured: {', '.join(missing)}"
    return Verdict(target, text, False if not all(inside) else (None if missing else True))


def _redrive_cases(results):
    return [case for case in results.backlog_cases() if "redrive" in results.cases[case].drivers]


def _raw_cases(results):
    return [case for case in _redrive_cases(results) if "raw" in results.cases[case].drivers]


def rate_to_raw(results, bound):
    found = {case: results.ratio(case, "redrive", "raw") for case in _raw_cases(results)}
    values = [(spread.median, case) for case, spread in found.items() if spread]
    missing = [case for case, spread in found.items() if not spread]
    target = f"messages/s, inbox off, every backlog case: ≥ {bound:.2f} of the raw loop"
    return _over_cases(target, values, missing, bound, False, "{:.2f}")


def ahead_of_peers(results):
    values, missing = [], []
    for case in _raw_cases(results):
        peer = results.best_peer(case)
        ratio = results.ratio(case, "redrive", peer) if peer else None
        if ratio:
            values.append((ratio.median, f"{case}, {peer}"))
        else:
            missing.append(case)
    target = "messages/s, inbox off, every backlog case: ahead of the best peer"
    return _over_cases(target, values, missing, 1.0, False, "{:.2f} ×")


def arithmetic_limit(results, bound):
    target = f"messages/s, 10 ms latency, 256 handlers of 50 ms: ≥ {bound:.2f} of concurrency / handler time"
    case = results.cases.get("limit") or plan.CASES["limit"]
    rate = results.median("limit", "redrive", "rate")
    if rate is None:
        return Verdict(target, "the case was not run", None)
    share = rate / case.limit_per_s
    return Verdict(target, f"{share:.3f} ({rate:,.0f} of {case.limit_per_s:,.0f} messages/s)", share >= bound)


def sqs_calls(results, bound):
    found = {case: results.median(case, "redrive", "sqs_calls") for case in _redrive_cases(results)}
    values = [(value, case) for case, value in found.items() if value is not None]
    missing = [case for case, value in found.items() if value is None]
    return _over_cases(f"SQS calls per 1,000 messages under backlog: ≤ {bound}", values, missing, bound, True, "{:.1f}")


def inbox_calls(results, calls_bound, units_bound):
    target = f"inbox on: ≤ {calls_bound} DynamoDB calls per 1,000 messages, with {units_bound:,} write units"
    calls = results.median("inbox", "redrive-inbox", "dynamodb_calls")
    units = results.median("inbox", "redrive-inbox", "write_units")
    if calls is None:
        return Verdict(target, "the case was not run", None)
    # A hundredth for what is claimed in the window and completed after it.
    met = calls <= calls_bound and units <= units_bound * 1.01
    return Verdict(target, f"{calls:.0f} calls, {units:,.0f} write units", met)


def inbox_rate(results, other, bound, words):
    target = f"messages/s, inbox on, 5 ms latency: ≥ {bound:g} × {words}"
    ratio = results.ratio("inbox", "redrive-inbox", other)
    if ratio is None:
        return Verdict(target, "the case was not run with both", None)
    return Verdict(target, f"{ratio.median:.2f} ×", ratio.median >= bound)


def cpu(results, bound):
    found = {case: results.ratio(case, "redrive", "raw", "cpu_us") for case in _raw_cases(results)}
    values = [(spread.median, case) for case, spread in found.items() if spread]
    missing = [case for case, spread in found.items() if not spread]
    return _over_cases(f"CPU per message, inbox off: ≤ {bound:.2f} of the raw loop", values, missing, bound, True, "{:.2f}")


def memory_running(results, bound):
    target = f"memory for 10,000 running handlers with 1 kB bodies: ≤ {bound} MB over idle"
    over = results.median("memory", "redrive", "over_idle_mb")
    if over is None:
        return Verdict(target, "the case was not run", None)
    return Verdict(target, f"{over:.1f} MB", over <= bound)


def memory_idle(results, bound):
    target = f"memory when idle: under {bound} MB"
    case = next((name for name in ("memory", "base") if results.measured(name, "redrive")), None)
    if case is None:
        return Verdict(target, "no case has it", None)
    # The greatest, since no round may be over it.
    idle = results.spread(case, "redrive", "idle_mb").most
    return Verdict(target, f"{idle:.1f} MB", idle < bound)


def trickle(results, bound):
    target = f"trickle, enqueue to handler start, p99, 5 ms latency: ≤ {bound} ms over the receive itself"
    p99 = results.quantile_ms("trickle", "redrive", 0.99)
    if p99 is None:
        return Verdict(target, "too few messages for a p99", None)
    over = p99 - results.cases["trickle"].latency_ms
    return Verdict(target, f"{over:.1f} ms (p99 {p99:.1f} ms)", over <= bound)


def million_rate(results, bound):
    target = f"1,000,000 messages through one process: rate in the last tenth ≥ {bound:.2f} of the first"
    tenths = _tenths(results)
    if tenths is None:
        return Verdict(target, "the case was not run", None)
    share = tenths[-1]["rate"] / tenths[0]["rate"]
    return Verdict(target, f"{share:.2f} ({tenths[0]['rate']:,.0f}, then {tenths[-1]['rate']:,.0f} messages/s)", share >= bound)


def million_memory(results, bound):
    target = f"1,000,000 messages through one process: memory flat (after the last tenth ≤ {bound:.2f} of after the first)"
    tenths = _tenths(results)
    if tenths is None:
        return Verdict(target, "the case was not run", None)
    share = tenths[-1]["rss_mb"] / tenths[0]["rss_mb"]
    return Verdict(target, f"{share:.2f} ({tenths[0]['rss_mb']:.1f}, then {tenths[-1]['rss_mb']:.1f} MB)", share <= bound)


def _tenths(results):
    for run in results.runs("million", "redrive"):
        return run["tenths"]
    return None


_TARGETS = (
    (rate_to_raw, 0.90),
    (ahead_of_peers,),
    (arithmetic_limit, 0.93),
    (sqs_calls, 205),
    (inbox_calls, 250, 2000),
    (inbox_rate, "powertools", 5, "the Powertools consumer"),
    (inbox_rate, "redrive", 0.6, "our own without inbox"),
    (cpu, 1.15),
    (memory_running, 100),
    (memory_idle, 25),
    (trickle, 15),
    (million_rate, 0.95),
    (million_memory, 1.10),
)
