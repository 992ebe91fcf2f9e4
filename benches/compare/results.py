"""A run's results as a file, and the questions that tables, charts and verdicts ask of them."""

import itertools
import json
from pathlib import Path

from . import plan
from .stats import quantile, spread


def new_folder(parent, name):
    """Makes a folder of that name, or with a number behind it where another run began within the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def write(path, results):
    """One line for each run, so that two files can be compared by eye."""
    head = {name: value for name, value in results.items() if name != "runs"}
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in results["runs"])
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + lines + "\n]}\n"
    Path(path).write_text(text)


def read(path):
    return Results(json.loads(Path(path).read_text()))


class Results:
    def __init__(self, results):
        self.raw = results
        self.machine = results["machine"]
        # Cases as they were run, in their order: those of the plan may have changed since.
        self.cases = {
            case["name"]: plan.Case(**case | {"drivers": tuple(case["drivers"])}) for case in results["cases"]
        }
        self.by_place = {}
        for run in results["runs"]:
            self.by_place.setdefault((run["case"], run["driver"]), []).append(run)

    def all_runs(self, case, driver):
        return self.by_place.get((case, driver), [])

    def runs(self, case, driver):
        """The runs that count."""
        return [run for run in self.all_runs(case, driver) if run["status"] == "ok"]

    def drivers(self, case):
        return [driver for driver in self.cases[case].drivers if self.all_runs(case, driver)]

    def measured(self, case, driver):
        return bool(self.runs(case, driver))

    def state(self, case, driver):
        """Why a driver has no figures in a case, None where it has some."""
        runs = self.all_runs(case, driver)
        if not runs or self.runs(case, driver):
            return None
        return runs[0]["status"]

    def spread(self, case, driver, figure):
        """The spread over the rounds, None where nothing was measured."""
        return spread(run["figures"][figure] for run in self.runs(case, driver) if figure in run["figures"])

    def median(self, case, driver, figure, default=None):
        found = self.spread(case, driver, figure)
        return default if found is None else found.median

    def ratio(self, case, driver, other, figure="rate"):
        """The spread of the driver's figure over the other's, each taken within one round."""
        base = {run["round"]: run["figures"].get(figure) for run in self.runs(case, other)}
        return spread(
            run["figures"][figure] / base[run["round"]]
            for run in self.runs(case, driver)
            if figure in run["figures"] and base.get(run["round"])
        )

    def best_peer(self, case, figure="rate"):
        """The peer with the highest median, None where none was measured."""
        peers = [
            (self.median(case, driver, figure), driver)
            for driver in self.drivers(case)
            if plan.DRIVERS[driver].peer and self.median(case, driver, figure) is not None
        ]
        return max(peers)[1] if peers else None

    def latencies(self, case, driver):
        """Of all rounds together, sorted, in µs."""
        return sorted(us for run in self.runs(case, driver) for us in run.get("latencies_us", ()))

    def quantile_ms(self, case, driver, q):
        found = quantile(self.latencies(case, driver), q)
        return None if found is None else found / 1000

    def backlog_cases(self):
        return [name for name, case in self.cases.items() if case.backlog]

    def version(self, driver):
        for (_, name), runs in self.by_place.items():
            for run in runs:
                if name == driver and run.get("version"):
                    return run["version"]
        return None
