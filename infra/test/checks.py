"""Counts checks and prints a line for each."""

import traceback


class Checks:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    def that(self, what, holds, why=""):
        if holds:
            self.passed += 1
            print(f"ok: {what}")
        else:
            self.failed += 1
            print(f"FAILED: {what}{why}")

    def equal(self, what, found, expected):
        self.that(what, found == expected, f"\n    expected {expected!r}\n    found    {found!r}")

    def part(self, part):
        """Runs a group of checks. One that cannot go on fails, and the others go on."""
        try:
            part()
        except Exception:
            self.failed += 1
            print(f"FAILED: {part.__name__} could not be checked to its end:\n{traceback.format_exc()}")

    def end(self):
        print(f"{self.passed} checks passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
