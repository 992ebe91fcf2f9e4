import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from compare import __main__ as command
from compare import results

HERE = Path(__file__).resolve().parent
BENCHES = HERE.parent.parent


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        release = self.folder / "release"
        release.mkdir()
        for name, script in (("stand-in", "fake_stand_in"), ("drive-redrive", "fake_driver"), ("drive-raw", "fake_driver")):
            program = release / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / script}.py" "$@"\n')
            program.chmod(0o755)

    def start(self, *arguments, **environment):
        surroundings = os.environ | {"BENCH_TARGET": str(self.folder), "CARGO_TARGET_DIR": str(self.folder)} | environment
        return subprocess.Popen(
            [sys.executable, "-m", "compare", *arguments],
            cwd=BENCHES,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def children(self):
        """What runs with this test's folder in its environment."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str(self.folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def assert_nothing_is_left(self):
        """What dies with the runner does so a moment after it."""
        until = time.monotonic() + 10
        while self.children() and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(self.children(), [])

    def test_a_quick_run_leaves_results_tables_and_no_process(self):
        run = self.start("--quick", "--drivers", "redrive,raw,omniqueue,sqs-consumer", BENCH_ABSENT="node: npm is not there\n")
        said, _ = run.communicate(timeout=120)
        self.assertEqual(run.returncode, 0, said)
        self.assertIn("3 cases, 9 runs, planned", said.splitlines()[0])
        self.assertIn("SKIPPED: drive-omniqueue is not built", said)
        self.assertIn("SKIPPED: npm is not there", said)
        (folder,) = (self.folder / "results").iterdir()
        found = json.loads((folder / "results.json").read_text())
        self.assertEqual({run["status"] for run in found["runs"] if run["driver"] in ("redrive", "raw")}, {"ok"})
        self.assertGreater(len(found["machine"]["commit"]), 30)
        tables = (folder / "tables.md").read_text()
        self.assertIn("| messages/s, inbox off, every backlog case: ≥ 0.90 of the raw loop | worst ", tables)
        self.assertIn("- base, sqs-consumer: skipped: npm is not there", tables)
        self.assertEqual(self.children(), [])
        again = self.start("--report", str(folder))
        self.assertEqual((again.communicate(timeout=60)[0][:20] != "", again.returncode), (True, 0))
        self.assertEqual((folder / "tables.md").read_text(), tables)

    def test_an_interrupted_run_ends_its_children_and_keeps_what_it_measured(self):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            run = self.start("--only", "base", "--drivers", "redrive,raw")
            try:
                until = time.monotonic() + 30
                # The runner, the stand-in and the driver.
                while len(self.children()) < 3 and time.monotonic() < until:
                    time.sleep(0.05)
                self.assertEqual(len(self.children()), 3)
                run.send_signal(number)
                said, _ = run.communicate(timeout=20)
            finally:
                run.kill()
                run.wait()
            self.assertEqual(run.returncode, status, said)
            self.assert_nothing_is_left()

    def test_even_a_killed_runner_leaves_no_process(self):
        run = self.start("--only", "base", "--drivers", "redrive")
        until = time.monotonic() + 30
        while len(self.children()) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        run.kill()
        run.communicate()
        self.assert_nothing_is_left()

    def test_without_a_stand_in_it_says_so(self):
        (self.folder / "release" / "stand-in").unlink()
        run = self.start("--quick")
        said, _ = run.communicate(timeout=30)
        self.assertEqual(run.returncode, 1)
        self.assertIn("the stand-in is not built", said)

    def test_only_a_whole_run_is_published(self):
        for arguments in (["--quick"], ["--only", "base"], ["--drivers", "raw"], ["--rounds", "2"]):
            with self.assertRaises(SystemExit), open(os.devnull, "w") as nowhere:
                stderr, sys.stderr = sys.stderr, nowhere
                try:
                    command.arguments(["--publish", *arguments])
                finally:
                    sys.stderr = stderr
        self.assertTrue(command.arguments(["--publish", "--rounds", "5"]).publish)
        self.assertTrue(command.arguments(["--publish", "--report", "x"]).publish)

    def test_runs_of_the_same_second_have_folders_of_their_own(self):
        folders = [results.new_folder(self.folder / "results", "2026-01-01T00-00-00Z").name for _ in range(3)]
        self.assertEqual(folders, ["2026-01-01T00-00-00Z", "2026-01-01T00-00-00Z-2", "2026-01-01T00-00-00Z-3"])

    def test_lists_are_taken_together(self):
        found = command.arguments(["--only", "base,steady", "--only", "inbox", "--drivers", "raw"])
        self.assertEqual((found.only, found.drivers), (["base", "steady", "inbox"], ["raw"]))


if __name__ == "__main__":
    unittest.main()
