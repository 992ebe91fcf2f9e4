"""What a driver under Python shares with the others: the settings, the handler, and the one line of the report."""

import json
import os
import sys
import threading
import time

MOST_LATENCIES = 200_000


def _text(name, otherwise=None):
    value = os.environ.get(name, otherwise)
    if value is None:
        sys.exit(f"{name} is not set")
    return value


ENDPOINT = _text("BENCH_ENDPOINT")
REGION = _text("AWS_REGION", "eu-west-1")
QUEUE_URL = _text("BENCH_QUEUE_URL")
TABLE = _text("BENCH_TABLE", "")
HANDLER_S = float(_text("BENCH_HANDLER_MS", "20")) / 1000
CONCURRENCY = max(1, int(_text("BENCH_CONCURRENCY", "64")))
INBOX = _text("BENCH_INBOX", "0") != "0"
FIFO = _text("BENCH_FIFO", "0") != "0"
GROUPS = max(1, int(_text("BENCH_FIFO_GROUPS", "1")))
EXTRA = json.loads(_text("BENCH_EXTRA", "") or "{}")

_latencies = []
_counts = []
_order = threading.Lock()
_groups = {}
_violations = 0
_mine = threading.local()


def _started(message_id):
    """Notes a start and answers the group's state."""
    global _violations
    number = int(message_id.rsplit("-", 1)[-1], 16)
    with _order:
        group = _groups.setdefault(number % GROUPS, {"last": 0, "running": 0})
        if group["running"] > 0 or number <= group["last"]:
            _violations += 1
        group["last"] = number
        group["running"] += 1
    return group


def handle(message_id, text):
    """The handler: parses the body, notes when it started, sleeps and counts."""
    body = json.loads(text)
    sent = body["sent"]
    if sent > 0 and len(_latencies) < MOST_LATENCIES:
        _latencies.append(max(0, time.time_ns() // 1000 - sent))
    group = _started(message_id) if FIFO else None
    if HANDLER_S > 0:
        time.sleep(HANDLER_S)
    if group is not None:
        with _order:
            group["running"] -= 1
    # A count for each thread, as two threads adding to one number lose some.
    count = getattr(_mine, "count", None)
    if count is None:
        count = _mine.count = [0]
        _counts.append(count)
    count[0] += 1


def report(driver, version):
    """Writes the report and ends the process, whatever its threads wait for."""
    line = {
        "driver": driver,
        "version": version,
        "handled": sum(count[0] for count in _counts),
        "order_violations": _violations,
        "latencies_us": _latencies,
    }
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    os._exit(0)
