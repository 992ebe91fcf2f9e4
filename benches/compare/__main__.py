"""The command behind `benches/run`, which sets up what this needs and passes its own arguments on."""

import argparse
import datetime
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from . import machine, plan, processes, publish, results, runner, tables
from .verdicts import verdicts

BENCHES = Path(__file__).resolve().parent.parent
REPOSITORY = BENCHES.parent


def words(text):
    return [word for word in text.split(",") if word]


def arguments(given):
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description="Drains the same queue with redrive, a loop over the bare SDK and other frameworks, one after the other, "
        "on a stand-in for SQS and DynamoDB, and writes figures, tables and charts to target/bench/results/.",
    )
    parser.add_argument("--quick", action="store_true", help="three cases, one round, short windows: shows only that all works")
    parser.add_argument("--only", action="append", type=words, default=[], metavar="CASE,…", help="only these cases")
    parser.add_argument("--drivers", action="append", type=words, default=[], metavar="NAME,…", help="only these drivers")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each case (default {plan.ROUNDS})")
    parser.add_argument("--publish", action="store_true", help="put tables and charts into docs/performance.md and docs/performance/")
    parser.add_argument("--report", metavar="FOLDER", help="measure nothing: make tables and charts of the results in this folder anew")
    parser.add_argument("--again", metavar="FOLDER", help="put the cases of --only, measured again, into the results in this folder")
    parser.add_argument("--list", action="store_true", help="tell the cases, their drivers and the planned time")
    # For benches/run: what has to be set up for these arguments.
    parser.add_argument("--needs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    args.only, args.drivers = sum(args.only, []), sum(args.drivers, [])
    # benches/run works in benches/; its caller's folders are the caller's.
    for name in ("again", "report"):
        if folder := getattr(args, name):
            setattr(args, name, str(Path(os.environ.get("BENCH_FROM", ".")) / folder))
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds: at least 1")
    if args.again and (args.quick or args.drivers or args.rounds or args.report or not args.only):
        parser.error("--again takes --only CASE,…: these cases are measured with all their drivers and rounds")
    if args.publish and not args.report and not args.again and (args.quick or args.only or args.drivers or (args.rounds or plan.ROUNDS) < plan.ROUNDS):
        parser.error("--publish takes a whole run: the tables of docs/performance.md would lose what was left out")
    return args


def listed(cases, rounds):
    lines = []
    for case in cases:
        lines.append(f"{case.name:17} {case.title}")
        each = [f"{name} × {case.rounds_of(name, rounds)}" for name in case.drivers]
        lines.append(f"{'':17} {', '.join(each)}; {plan.planned_s([case], rounds) / 60:.1f} min")
    return "\n".join(lines)


def planned(cases, rounds):
    runs = sum(case.rounds_of(driver, rounds) for case in cases for driver in case.drivers)
    return f"{len(cases)} cases, {runs} runs, planned {plan.planned_s(cases, rounds) / 60:.1f} minutes"


def measure(args, cases, rounds, bench):
    """Runs everything and writes results.json after each run, so that nothing measured is lost; its folder."""
    release = Path(os.environ.get("CARGO_TARGET_DIR") or bench) / "release"
    venv = bench / "venv"
    cores = processes.cores()
    if cores[0] == cores[1]:
        print("!! one core for both the stand-in and the drivers: the figures show their sum", flush=True)
    absent = {}
    # Lines of "need: why it is not there".
    for line in os.environ.get("BENCH_ABSENT", "").splitlines():
        need, _, why = line.partition(": ")
        absent |= {name: why for name, driver in plan.DRIVERS.items() if driver.needs == need}
    stand_in = [str(release / "stand-in"), "--port", "0"]
    if not os.access(stand_in[0], os.X_OK):
        sys.exit(f"the stand-in is not built: {stand_in[0]}")
    started = datetime.datetime.now(datetime.timezone.utc)
    folder = results.new_folder(bench / "results", started.strftime("%Y-%m-%dT%H-%M-%SZ"))
    began = time.monotonic()
    found = {
        "format": 1,
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": 0.0,
        "quick": args.quick,
        "rounds": rounds,
        "machine": machine.described(REPOSITORY, venv, cores),
        "cases": [asdict(case) for case in cases],
        "runs": [],
    }
    # What watches must not disturb what is watched: the runner stays on the stand-in's core.
    os.sched_setaffinity(0, {cores[0]})
    drives = runner.Runner(BENCHES, {"bin": str(release), "venv": str(venv)}, stand_in, cores, bench)
    for record in runner.run_all(drives, cases, rounds, absent, lambda line: print(line, flush=True)):
        found["runs"].append(record)
        found["minutes"] = round((time.monotonic() - began) / 60, 2)
        results.write(folder / "results.json", found)
    return folder


def merge(folder, again):
    """Puts what was measured `again` into the folder's results, in place of what they have of these cases."""
    path = folder / "results.json"
    found, newer = results.read(path).raw, results.read(again / "results.json").raw
    names = [case["name"] for case in newer["cases"]]
    unknown = set(names) - {case["name"] for case in found["cases"]}
    if unknown:
        sys.exit(f"benches/run: {folder} has no {', '.join(sorted(unknown))}")
    newer_cases = {case["name"]: case for case in newer["cases"]}
    found["cases"] = [newer_cases.get(case["name"], case) for case in found["cases"]]
    found["runs"] = [run for run in found["runs"] if run["case"] not in names] + newer["runs"]
    note = {"started": newer["started"], "cases": names, "commit": newer["machine"].get("commit")}
    found["again"] = [*found.get("again", []), note]
    results.write(path, found)


def report(folder):
    """Makes tables and charts from the results in the folder; the results, and the charts' files."""
    read = results.read(folder / "results.json")
    (folder / "tables.md").write_text(tables.document(read))
    try:
        from . import charts
    except ImportError as error:
        print(f"!! no charts: {error}", flush=True)
        return read, []
    return read, charts.draw(read, folder / "charts")


def main(given):
    args = arguments(given)
    rounds = args.rounds or (1 if args.quick else plan.ROUNDS)
    bench = Path(os.environ.get("BENCH_TARGET") or REPOSITORY / "target" / "bench")
    try:
        cases = plan.chosen(args.only, args.drivers, args.quick)
    except ValueError as error:
        sys.exit(f"benches/run: {error}")
    if args.needs:
        print(" ".join([] if args.report else plan.needs(cases)))
        return 0
    if args.list:
        print(listed(cases, rounds) + "\n" + planned(cases, rounds))
        return 0
    if args.report:
        folder = Path(args.report)
        if not (folder / "results.json").is_file():
            sys.exit(f"benches/run: there is no results.json in {folder}")
    elif args.again and not (Path(args.again) / "results.json").is_file():
        sys.exit(f"benches/run: there is no results.json in {args.again}")
    else:
        print(planned(cases, rounds), flush=True)
        folder = measure(args, cases, rounds, bench)
        if args.again:
            merge(Path(args.again), folder)
            folder = Path(args.again)
    read, charts = report(folder)
    for verdict in verdicts(read):
        print(f"{verdict.word.strip('*'):13} {verdict.target}: {verdict.figure}")
    print("\n" + tables.notes(read))
    print(f"\n{folder}/tables.md")
    if args.publish:
        try:
            written = publish.publish(tables.made(read), charts, REPOSITORY / "docs/performance.md", REPOSITORY / "docs/performance")
        except publish.Unpublishable as error:
            sys.exit(f"benches/run --publish: {error}")
        print(f"published: {', '.join(str(path.relative_to(REPOSITORY)) for path in written)}")
    # The measuring itself worked where any run counted: a target missed is a result, not an error.
    return 0 if any(run["status"] == "ok" for run in read.raw["runs"]) else 1


def ended(number, _frame):
    # As an exception, so that every `with` on the way ends its children.
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted: what was measured until then is in results.json; --report makes tables of it", file=sys.stderr)
        sys.exit(130)
