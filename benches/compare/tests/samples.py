"""Results as a run would leave them, made of numbers that can be checked by eye."""

from dataclasses import asdict, replace

from compare import plan
from compare.results import Results


def run(case, driver, round_=1, rate=1000.0, status="ok", **figures):
    """One record; what is not named has a plain value."""
    if status != "ok":
        return {"round": round_, "case": case, "driver": driver, "status": status, "reason": figures["reason"], "took_s": 1}
    found = {
        "rate": rate,
        "cpu_us": 50.0,
        "driver_cpu": 0.5,
        "stand_in_cpu": 0.3,
        "sqs_calls": 201.0,
        "sqs_billed": 201.0,
        "sqs.ReceiveMessage": 101.0,
        "sqs.DeleteMessageBatch": 100.0,
        "empty_receives": 0.0,
        "dynamodb_calls": 0.0,
        "write_units": 0.0,
        "read_units": 0.0,
        "usd": 0.0804,
        "idle_mb": 12.0,
        "peak_mb": 20.0,
        "over_idle_mb": 8.0,
        "redelivered": 0,
        "dead": 0,
        "handled": 5000,
        "handled_per_1000": 1000.0,
        "violations": 0,
    }
    extra = {name: figures.pop(name) for name in ("latencies_us", "tenths", "flag") if name in figures}
    return {
        "round": round_,
        "case": case,
        "driver": driver,
        "status": "ok",
        "figures": found | figures,
        "version": f"{driver} 1.0",
        "took_s": 5.0,
    } | extra


def results(runs, cases=None):
    names = list(dict.fromkeys(record["case"] for record in runs))
    found = cases or [
        replace(plan.CASES[name], drivers=tuple(dict.fromkeys(record["driver"] for record in runs if record["case"] == name)))
        for name in names
    ]
    return Results(
        {
            "started": "2026-01-02 03:04 UTC",
            "minutes": 31.4,
            "rounds": 3,
            "machine": {
                "cpu": "Some CPU",
                "cores": 2,
                "cores_used": {"stand_in": 0, "driver": 1},
                "memory_gb": 8.0,
                "kernel": "Linux 6.1",
                "versions": {"rustc": "rustc 1.95.0", "node": None},
                "commit": "0123456789abcdef",
                "changed": False,
            },
            "cases": [asdict(case) for case in found],
            "runs": runs,
        }
    )


def tenths(first=20_000.0, last=20_000.0, grown=1.0):
    rates = [first] * 9 + [last]
    return [{"tenth": n + 1, "rate": rate, "rss_mb": 20.0 * (1 + (grown - 1) * n / 9), "at_s": 5.0 * n} for n, rate in enumerate(rates)]


def whole():
    """A run of the whole plan in which redrive meets each target."""
    speed = {"redrive": 0.95, "raw": 1.0, "omniqueue": 0.2, "ruststream": 0.15, "beavers": 0.1, "sqs-consumer": 0.05, "boto3": 0.1}
    runs = []
    for name, case in plan.CASES.items():
        for driver in case.drivers:
            for number in range(1, case.rounds_of(driver, 3) + 1):
                top = (case.limit_per_s or 20_000) * 0.995
                figures = {"rate": top * speed.get(driver, 0.5) * (1 + number / 1000)}
                if driver == "powertools":
                    figures |= {"rate": top * 0.05, "dynamodb_calls": 3000.0, "write_units": 2000.0, "read_units": 10.0, "usd": 2.1}
                if driver == "redrive-inbox":
                    figures |= {"rate": top * 0.8, "dynamodb_calls": 210.0, "write_units": 2000.0, "usd": 1.33}
                if name == "limit" and driver == "redrive":
                    figures["rate"] = top * 0.97
                if name == "limit" and driver == "raw":
                    figures["rate"] = top * 0.98
                if plan.DRIVERS[driver].peer:
                    figures |= {"sqs_calls": 1100.0, "sqs_billed": 1100.0, "sqs.DeleteMessage": 1000.0, "sqs.DeleteMessageBatch": 0.0, "usd": 0.44, "cpu_us": 300.0}
                if case.rate:
                    figures["latencies_us"] = [5200 + 3 * step for step in range(round(case.rate * case.window_s))]
                if case.kind == plan.MEMORY:
                    figures |= {"in_flight": 10_000, "filled_s": 2.0, "over_idle_mb": 60.0}
                if case.kind == plan.MILLION:
                    figures["tenths"] = tenths()
                runs.append(run(name, driver, number, **figures))
    return results(runs, list(plan.CASES.values()))
