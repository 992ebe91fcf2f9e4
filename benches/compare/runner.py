"""Runs the drivers against the stand-in, one at a time, and records every run, the failed ones too."""

import http.client
import json
import os
import re
import tempfile
import time
from urllib.parse import urlsplit

from . import figures, plan
from .processes import Child

FIRST_RECEIVE_S = 30.0
# A driver may take 5 s to finish what it runs.
STOP_S = 10.0
MILLION_S = 150.0
BUSY_STAND_IN = 0.85
CANNOT = 3


class Failed(Exception):
    """The run cannot be counted; the text says why."""


class Cannot(Exception):
    """The driver says that its framework does not do what the case asks for."""


class StandIn:
    """The stand-in's process and its control interface."""

    def __init__(self, command, core, log_dir):
        self.child = Child("stand-in", command, core, log_dir)

    def __enter__(self):
        try:
            line = self.child.first_line(10.0)
            found = re.search(r"(http://[^\s/]+:\d+)", line or "")
            if not found:
                raise Failed(f"the stand-in did not start: {line or self.child.errors() or 'it printed nothing in 10 s'}")
            self.endpoint = found.group(1)
            address = urlsplit(self.endpoint)
            self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
            return self
        except BaseException:
            self.child.kill()
            raise

    def __exit__(self, *_):
        self.connection.close()
        self.child.kill()

    def ask(self, method, path, body=None):
        text = json.dumps(body) if body is not None else None
        try:
            self.connection.request(method, "/control/" + path, text, {"content-type": "application/json"})
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the stand-in did not answer {method} {path}: {error} {self.child.errors(2)}") from error
        if answer.status >= 300:
            raise Failed(f"the stand-in answered {method} {path} with {answer.status}: {content[:200]!r}")
        return json.loads(content) if content.strip() else None

    def counts(self):
        return self.ask("GET", "counts")


class Runner:
    """`paths` fills {bin} and {venv} of the drivers' commands; `benches` is where they are started."""

    def __init__(self, benches, paths, stand_in, cores, log_dir=None):
        self.benches = benches
        self.paths = paths
        self.stand_in = stand_in
        self.stand_in_core, self.driver_core = cores
        self.log_dir = log_dir

    def command(self, driver):
        return [part.format(**self.paths) for part in driver.command]

    def missing(self, driver):
        """Why the driver cannot be started at all, None where it can."""
        program = self.command(driver)[0]
        if "/" in program and not os.access(os.path.join(self.benches, program), os.X_OK):
            return f"{os.path.basename(program)} is not built"
        return None

    def environment(self, case, driver, endpoint):
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("AWS_", "REDRIVE_", "BENCH_"))}
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            kept.pop(name, None)
            kept.pop(name.lower(), None)
        queue = "bench.fifo" if case.fifo else "bench"
        return kept | {
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": endpoint,
            "BENCH_ENDPOINT": endpoint,
            "BENCH_QUEUE_URL": f"{endpoint}/000000000000/{queue}",
            "BENCH_QUEUE": queue,
            "BENCH_TABLE": driver.table,
            "BENCH_HANDLER_MS": f"{case.handler_ms:g}",
            "BENCH_CONCURRENCY": str(case.concurrency),
            "BENCH_INBOX": "1" if driver.inbox else "0",
            "BENCH_FIFO": "1" if case.fifo else "0",
            "BENCH_FIFO_GROUPS": str(case.fifo_groups),
            "BENCH_EXTRA": json.dumps(case.extra),
        } | driver.env

    def run(self, case, driver):
        """One run, as a record for the results: never raises for what a driver or the stand-in does."""
        record = {"case": case.name, "driver": driver.name, "status": "ok"}
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.log_dir) as logs:
            child = None
            try:
                with StandIn(self.stand_in, self.stand_in_core, logs) as stand_in:
                    stand_in.ask("PUT", "setup", case.setup())
                    environment = self.environment(case, driver, stand_in.endpoint)
                    with Child("driver", self.command(driver), self.driver_core, logs, environment, self.benches) as child:
                        record |= self.measure(case, stand_in, child)
            except Cannot as error:
                record |= {"status": "cannot", "reason": str(error)}
            except (Failed, figures.NoMessages, OSError, KeyError, ValueError) as error:
                reason = str(error) if isinstance(error, (Failed, figures.NoMessages)) else f"{type(error).__name__}: {error}"
                record |= {"status": "failed", "reason": reason}
                if child is not None and child.errors():
                    record["stderr"] = child.errors()
        record["took_s"] = round(time.monotonic() - began, 2)
        return record

    def measure(self, case, stand_in, child):
        self.wait_for_first_receive(stand_in, child)
        time.sleep(plan.SETTLE_S)
        idle = child.rss_bytes()
        measured = {plan.WINDOW: self.window, plan.MEMORY: self.memory, plan.MILLION: self.million}[case.kind]
        record = measured(case, stand_in, child)
        peak = child.peak_bytes()
        self.must_run(child)
        stand_in.ask("POST", "close")
        # Where handlers take seconds, a driver that waits for them all is not to blame for it.
        line = self.stop(child, STOP_S + case.handler_ms / 1000)
        found = record["figures"]
        found |= {"idle_mb": idle / 1e6, "peak_mb": peak / 1e6, "over_idle_mb": (peak - idle) / 1e6}
        found |= figures.after(stand_in.counts(), line)
        latencies = line.get("latencies_us") or []
        if case.rate is not None:
            record["latencies_us"] = figures.without_warm_up(latencies, case.rate, case.warm_up_s)
        if found.get("stand_in_cpu", 0) > BUSY_STAND_IN:
            record["flag"] = f"the stand-in was busy {found['stand_in_cpu']:.0%} of the time"
        record["version"] = line.get("version")
        return record

    def wait_for_first_receive(self, stand_in, child):
        until = time.monotonic() + FIRST_RECEIVE_S
        while stand_in.counts()["first_receive_call_us"] is None:
            self.must_run(child)
            if time.monotonic() > until:
                raise Failed(f"no receive in {FIRST_RECEIVE_S:.0f} s")
            time.sleep(0.02)

    @staticmethod
    def must_run(child):
        """Raises for a driver that has ended by itself."""
        if child.running():
            return
        status = child.process.returncode
        said = re.search(r"^cannot: *(.+)$", child.output() + "\n" + child.errors(1000), re.MULTILINE)
        if status == CANNOT:
            raise Cannot(said.group(1).strip() if said else "it does not say why")
        raise Failed(f"it ended by itself with exit status {status}")

    @staticmethod
    def stop(child, seconds):
        """Ends the driver, and gives its line."""
        status = child.stop(seconds)
        if status is None:
            raise Failed(f"it was still there {seconds:.0f} s after SIGTERM")
        if status != 0:
            raise Failed(f"its exit status after SIGTERM was {status}")
        lines = child.output().strip().splitlines()
        if len(lines) != 1:
            raise Failed(f"it printed {len(lines)} lines instead of one")
        try:
            line = json.loads(lines[0])
        except ValueError:
            line = None
        if not isinstance(line, dict) or not {"handled", "order_violations"} <= line.keys():
            raise Failed(f"its line is not the JSON object asked for: {lines[0][:120]}")
        return line

    def window(self, case, stand_in, child):
        """The figures of a stretch of time after a warm-up."""
        stand_in.ask("POST", "open")
        time.sleep(case.warm_up_s)
        cpu, first = child.cpu_s(), stand_in.counts()
        time.sleep(case.window_s)
        cpu, last = child.cpu_s() - cpu, stand_in.counts()
        self.must_run(child)
        return {"figures": figures.between(first, last, cpu, case.fifo)}

    def memory(self, case, stand_in, child):
        """Memory with as many handlers running as the case allows. The handler is so long that none of them ends."""
        opened = time.monotonic()
        stand_in.ask("POST", "open")
        running = 0
        while running < case.concurrency:
            self.must_run(child)
            if time.monotonic() - opened > case.handler_ms / 1000 - 3:
                raise Failed(f"{running} of {case.concurrency} messages in flight after {time.monotonic() - opened:.0f} s")
            time.sleep(0.05)
            running = stand_in.counts()["in_flight"]
        filled = time.monotonic() - opened
        # Answers on their way, and what it fetches beyond the running handlers.
        time.sleep(1.0)
        counts = stand_in.counts()
        return {"figures": {"in_flight": counts["in_flight"], "filled_s": filled, "running_mb": child.rss_bytes() / 1e6}}

    def million(self, case, stand_in, child):
        """The whole of a long backlog, with rate and memory on the way."""
        stand_in.ask("POST", "open")
        cpu, first = child.cpu_s(), stand_in.counts()
        last = first
        points = []
        while True:
            points.append(((last["now_us"] - first["now_us"]) / 1e6, last["deleted"], child.rss_bytes()))
            if last["deleted"] >= case.messages:
                break
            self.must_run(child)
            if points[-1][0] > MILLION_S:
                raise Failed(f"{last['deleted']:,} of {case.messages:,} messages done in {MILLION_S:.0f} s")
            time.sleep(0.05)
            last = stand_in.counts()
        cpu = child.cpu_s() - cpu
        return {
            "figures": figures.between(first, last, cpu, case.fifo),
            "tenths": figures.tenths(points, case.messages),
        }


def in_turn(case, rounds):
    """(round, driver name) in the order of the runs: each round has every driver once, starting with another one."""
    for number in range(rounds):
        turn = number % len(case.drivers)
        for name in case.drivers[turn:] + case.drivers[:turn]:
            if number < case.rounds_of(name, rounds):
                yield number + 1, name


def run_all(runner, cases, rounds, absent, say):
    """Yields the record of every run. `absent` tells why drivers are left out, by name; `say` takes lines of progress."""
    total = sum(1 for case in cases for _ in in_turn(case, rounds))
    width = max(len(name) for case in cases for name in (case.name, *case.drivers))
    number = 0
    for case in cases:
        given_up = set()
        for turn, name in in_turn(case, rounds):
            number += 1
            driver = plan.DRIVERS[name]
            reason = absent.get(name) or runner.missing(driver)
            if name in given_up:
                continue
            if reason:
                record = {"case": case.name, "driver": name, "status": "skipped", "reason": reason, "took_s": 0}
                given_up.add(name)
            else:
                record = runner.run(case, driver)
                if record["status"] == "cannot":
                    given_up.add(name)
            record = {"round": turn} | record
            say(f"[{number:3d}/{total}] {case.name:{width}} {name:{width}} round {turn}  {told(record)}")
            yield record


def told(record):
    """A run in a few words."""
    if record["status"] != "ok":
        return f"{record['status'].upper()}: {record['reason'].splitlines()[0]}"
    found = record["figures"]
    words = []
    if "rate" in found:
        words.append(f"{found['rate']:8,.0f} messages/s  {found['cpu_us']:6.0f} µs CPU each  {found['sqs_calls']:5.0f} calls per 1,000")
    else:
        words.append(f"{found['in_flight']:,} in flight")
    words.append(f"{found['peak_mb']:.0f} MB")
    if record.get("flag"):
        words.append(f"(! {record['flag']})")
    return "  ".join(words)
