"""From two snapshots of the stand-in's counts to the figures of a run. Pure: the runner takes the snapshots."""

from . import prices


class NoMessages(Exception):
    """Nothing was deleted between the snapshots, so that there is nothing to divide by."""


def _of_service(first, last, service):
    """By operation, what was counted between the snapshots."""
    counted = {}
    before = first["calls"].get(service, {})
    for operation, now in last["calls"].get(service, {}).items():
        then = before.get(operation, {})
        counted[operation] = {name: value - then.get(name, 0) for name, value in now.items()}
    return counted


def _sum(operations, name):
    return sum(operation.get(name, 0) for operation in operations.values())


def between(first, last, cpu_s, fifo):
    """The figures of what happened between the snapshots, flat: name to number.

    `cpu_s` is the driver's CPU time in between. Calls, units and requests are for 1,000 deleted messages.
    """
    seconds = (last["now_us"] - first["now_us"]) / 1e6
    deleted = last["deleted"] - first["deleted"]
    if seconds <= 0 or deleted <= 0:
        raise NoMessages(f"no message was deleted in {seconds:.1f} s")
    sqs = _of_service(first, last, "sqs")
    dynamodb = _of_service(first, last, "dynamodb")
    each = 1000 / deleted
    figures = {
        "seconds": seconds,
        "deleted": deleted,
        "rate": deleted / seconds,
        "cpu_us": cpu_s * 1e6 / deleted,
        "driver_cpu": cpu_s / seconds,
        "stand_in_cpu": (last["cpu_us"] - first["cpu_us"]) / 1e6 / seconds,
        "sqs_calls": _sum(sqs, "calls") * each,
        "sqs_billed": _sum(sqs, "billed") * each,
        "empty_receives": sqs.get("ReceiveMessage", {}).get("empty", 0) * each,
        "dynamodb_calls": _sum(dynamodb, "calls") * each,
        "write_units": _sum(dynamodb, "write_units") * each,
        "read_units": _sum(dynamodb, "read_units") * each,
        "failed_conditions": _sum(dynamodb, "failed_conditions") * each,
    }
    for service, operations in (("sqs", sqs), ("dynamodb", dynamodb)):
        for operation, counted in operations.items():
            if counted.get("calls"):
                figures[f"{service}.{operation}"] = counted["calls"] * each
    figures["usd"] = prices.per_million(
        figures["sqs_billed"] / 1000, figures["write_units"] / 1000, figures["read_units"] / 1000, fifo
    )
    return figures


def after(counts, line):
    """The figures of the whole run, from the counts after it and the driver's own line."""
    deleted = counts["deleted"]
    return {
        "redelivered": counts["redelivered"],
        "dead": counts["sent_to_dlq"],
        "handled": line["handled"],
        "handled_per_1000": 1000 * line["handled"] / deleted if deleted else 0,
        "violations": line["order_violations"],
    }


def without_warm_up(latencies_us, rate, warm_up_s):
    """The latencies without those of the messages that came during the warm-up, the first in a driver's list."""
    return sorted(latencies_us[round(rate * warm_up_s) :])


def tenths(points, total):
    """Rate and memory of each tenth of a long run.

    `points` are (seconds, deleted, RSS bytes) in their order, the first at the opening of the queue. The moment in which
    a tenth was done lies on the line between two points.
    """
    done = []
    edge = 1
    began = points[0][0]
    for (s0, d0, _), (s1, d1, rss) in zip(points, points[1:]):
        while edge <= 10 and d1 >= total * edge / 10 > d0:
            target = total * edge / 10
            at = s0 + (s1 - s0) * (target - d0) / (d1 - d0)
            done.append({"tenth": edge, "rate": total / 10 / (at - began), "rss_mb": rss / 1e6, "at_s": at - points[0][0]})
            began = at
            edge += 1
    return done
