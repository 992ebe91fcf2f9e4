import os
import sys
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

from compare import plan, processes, runner

HERE = Path(__file__).resolve().parent
BENCHES = HERE.parent.parent
CASE = replace(plan.CASES["base"], handler_ms=0, warm_up_s=0.1, window_s=0.4)


def driver(mode, **changes):
    command = (sys.executable, str(HERE / "fake_driver.py"))
    return plan.Driver("fake-" + mode, command, "rust", 0.1, env={"FAKE_MODE": mode}, **changes)


def alive(pid):
    try:
        # A killed process whose parent has not looked yet is no longer alive.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Runs(unittest.TestCase):
    def setUp(self):
        logs = tempfile.TemporaryDirectory()
        self.addCleanup(logs.cleanup)
        self.logs = logs.name
        self.stand_in = [sys.executable, str(HERE / "fake_stand_in.py")]
        self.runner = self.with_stand_in(self.stand_in)

    def with_stand_in(self, command):
        return runner.Runner(str(BENCHES), {"bin": "/none", "venv": "/none"}, command, processes.cores(), self.logs)

    def run_mode(self, mode, case=CASE, **changes):
        return self.runner.run(case, driver(mode, **changes))

    def test_a_run_that_works_has_all_figures(self):
        record = self.run_mode("works")
        self.assertEqual(record["status"], "ok", record)
        found = record["figures"]
        self.assertGreater(found["rate"], 0)
        self.assertAlmostEqual(found["sqs_calls"], 200, delta=10)
        self.assertGreater(found["cpu_us"], 0)
        self.assertGreater(found["stand_in_cpu"], 0)
        self.assertGreaterEqual(found["peak_mb"], found["idle_mb"])
        self.assertGreater(found["idle_mb"], 5)
        self.assertAlmostEqual(found["handled_per_1000"], 1000, delta=50)
        self.assertEqual(record["version"], "1.2")
        self.assertNotIn("latencies_us", record)
        self.assertEqual(os.listdir(self.logs), [])

    def test_latencies_are_kept_where_messages_arrive_at_a_rate(self):
        record = self.run_mode("works", replace(CASE, rate=10))
        self.assertGreater(len(record["latencies_us"]), 10)
        self.assertGreaterEqual(record["latencies_us"][0], 2000)

    def test_what_a_driver_cannot_do_is_told_in_its_words(self):
        record = self.run_mode("cannot")
        self.assertEqual((record["status"], record["reason"]), ("cannot", "order within groups is not known to it"))

    def test_a_failure_is_recorded_with_the_last_lines_of_stderr(self):
        record = self.run_mode("crash")
        self.assertEqual(record["status"], "failed")
        self.assertIn("exit status 1", record["reason"])
        self.assertEqual(record["stderr"], "a first line\nno such queue")
        record = self.run_mode("dies")
        self.assertIn("exit status 7", record["reason"])
        self.assertEqual(record["stderr"], "out of luck")

    def test_a_driver_that_deletes_nothing_has_failed(self):
        self.assertIn("no message was deleted", self.run_mode("idle")["reason"])

    def test_a_line_that_is_not_the_one_asked_for_has_failed(self):
        self.assertIn("2 lines", self.run_mode("chatty")["reason"])
        self.assertIn("exit status after SIGTERM was 5", self.run_mode("late")["reason"])

    def test_a_driver_that_never_receives_or_never_ends_is_given_up(self):
        with mock.patch.object(runner, "FIRST_RECEIVE_S", 0.5):
            self.assertIn("no receive in", self.run_mode("silent")["reason"])
        with mock.patch.object(runner, "STOP_S", 0.5):
            self.assertIn("still there", self.run_mode("deaf")["reason"])

    def test_a_stand_in_that_does_not_start_is_a_failed_run(self):
        self.runner = self.with_stand_in(self.stand_in + ["--mute"])
        record = self.run_mode("works")
        self.assertEqual(record["status"], "failed")
        self.assertIn("no port to be had", record["reason"])

    def test_a_busy_stand_in_is_flagged(self):
        with mock.patch.object(runner, "BUSY_STAND_IN", 0.0):
            self.assertRegex(self.run_mode("works")["flag"], r"busy \d+% of the time")

    def test_nothing_of_a_family_outlives_its_run(self):
        seen = []
        cpu_s = processes.Child.cpu_s

        def looked(child):
            seen.append(child.family())
            return cpu_s(child)

        with mock.patch.object(processes.Child, "cpu_s", looked):
            self.assertEqual(self.run_mode("family")["status"], "ok")
        self.assertEqual(len(seen[0]), 2)
        # The signal is sent by then; the driver's child dies of it in its own time, long before its 600 s.
        until = time.monotonic() + 20
        while any(alive(pid) for pid in seen[0]) and time.monotonic() < until:
            time.sleep(0.02)
        self.assertFalse([pid for pid in seen[0] if alive(pid)])

    def test_an_interrupt_ends_the_children_too(self):
        started = []
        begin = processes.Child.__init__

        def noted(child, *args, **named):
            begin(child, *args, **named)
            started.append(child.pid)

        with mock.patch.object(processes.Child, "__init__", noted):
            with mock.patch.object(runner.Runner, "window", side_effect=KeyboardInterrupt):
                with self.assertRaises(KeyboardInterrupt):
                    self.run_mode("works")
        self.assertEqual(len(started), 2)
        self.assertFalse([pid for pid in started if alive(pid)])

    def test_memory_is_read_when_all_handlers_run(self):
        case = replace(CASE, kind=plan.MEMORY, concurrency=50, handler_ms=20_000)
        found = self.run_mode("works", case)["figures"]
        self.assertGreaterEqual(found["in_flight"], 50)
        self.assertGreaterEqual(found["over_idle_mb"], 0)
        case = replace(case, concurrency=10_000_000, handler_ms=3_200)
        self.assertIn("of 10000000 messages in flight", self.run_mode("works", case)["reason"])

    def test_a_long_run_has_its_tenths(self):
        case = replace(CASE, kind=plan.MILLION, messages=2000)
        record = self.run_mode("works", case)
        self.assertEqual(len(record["tenths"]), 10, record)
        self.assertAlmostEqual(record["figures"]["deleted"], 2000)
        with mock.patch.object(runner, "MILLION_S", 0.2):
            self.assertIn("messages done in", self.run_mode("works", replace(case, messages=10**7))["reason"])

    def test_a_driver_gets_the_case_and_nothing_of_the_callers_settings(self):
        surroundings = {"AWS_PROFILE": "mine", "REDRIVE_LOG": "debug", "https_proxy": "http://proxy", "KEPT": "1"}
        case = replace(plan.CASES["fifo-10"], extra={"limit": "adaptive"})
        with mock.patch.dict(os.environ, surroundings):
            found = self.runner.environment(case, plan.DRIVERS["redrive-inbox"], "http://127.0.0.1:1")
        self.assertFalse({"AWS_PROFILE", "REDRIVE_LOG", "https_proxy"} & found.keys())
        self.assertEqual(found["KEPT"], "1")
        wanted = {
            "BENCH_QUEUE_URL": "http://127.0.0.1:1/000000000000/bench.fifo",
            "BENCH_QUEUE": "bench.fifo",
            "BENCH_HANDLER_MS": "20",
            "BENCH_CONCURRENCY": "64",
            "BENCH_INBOX": "1",
            "BENCH_TABLE": "bench-inbox",
            "BENCH_FIFO": "1",
            "BENCH_FIFO_GROUPS": "10",
            "BENCH_EXTRA": '{"limit": "adaptive"}',
        }
        self.assertEqual({name: found[name] for name in wanted}, wanted)


class Turns(unittest.TestCase):
    def test_each_round_has_every_driver_and_starts_with_another(self):
        case = replace(CASE, drivers=("redrive", "raw", "beavers"), driver_rounds={"beavers": 1})
        turns = list(runner.in_turn(case, 3))
        self.assertEqual(turns[:3], [(1, "redrive"), (1, "raw"), (1, "beavers")])
        self.assertEqual(turns[3:], [(2, "raw"), (2, "redrive"), (3, "redrive"), (3, "raw")])

    def test_the_rest_goes_on_after_failures_and_what_cannot_is_asked_once(self):
        asked = []

        class Drives:
            def missing(self, driver):
                return "drive-beavers is not built" if driver.name == "beavers" else None

            def run(self, case, driver):
                asked.append(driver.name)
                status = {"redrive": "failed", "raw": "cannot"}.get(driver.name, "failed")
                return {"case": case.name, "driver": driver.name, "status": status, "reason": "so it is\nand more"}

        case = replace(CASE, drivers=("redrive", "raw", "beavers", "sqs-consumer"))
        said = []
        records = list(runner.run_all(Drives(), [case], 2, {"sqs-consumer": "node is not there"}, said.append))
        self.assertEqual(asked, ["redrive", "raw", "redrive"])
        told = {(record["driver"], record["status"], record["reason"]) for record in records}
        self.assertIn(("beavers", "skipped", "drive-beavers is not built"), told)
        self.assertIn(("sqs-consumer", "skipped", "node is not there"), told)
        self.assertEqual(len(said), 5)
        self.assertIn("round 1  FAILED: so it is", said[0])


class Processes(unittest.TestCase):
    def test_cpu_time_of_another_process_is_read_and_of_none_is_nothing(self):
        self.assertGreater(processes.cpu_clock_s(os.getpid()), 0)
        self.assertAlmostEqual(processes.cpu_clock_s(os.getpid()), time.process_time(), delta=0.05)
        self.assertEqual(processes.cpu_clock_s(2**22 + 1), 0)
        self.assertEqual(processes.memory_bytes(2**22 + 1, "VmRSS"), 0)

    def test_cores_are_two_of_the_allowed_or_one_twice(self):
        with mock.patch.object(os, "sched_getaffinity", return_value={3}):
            self.assertEqual(processes.cores(), (3, 3))
        with mock.patch.object(os, "sched_getaffinity", return_value={0, 1, 2}):
            with mock.patch.object(processes, "siblings", return_value={0, 1}):
                self.assertEqual(processes.cores(), (0, 2))
            with mock.patch.object(processes, "siblings", return_value={0, 1, 2}):
                self.assertEqual(processes.cores(), (0, 1))


if __name__ == "__main__":
    unittest.main()
