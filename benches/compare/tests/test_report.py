import json
import tempfile
import unittest
from pathlib import Path

from compare import __main__, plan, publish, results, tables
from compare.tests import samples
from compare.tests.samples import run
from compare.verdicts import verdicts


def verdict(found, start):
    return next(one for one in verdicts(found) if one.target.startswith(start))


class Reading(unittest.TestCase):
    def test_what_is_written_is_read_back(self):
        whole = samples.whole()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            results.write(path, whole.raw)
            self.assertEqual(results.read(path).raw, json.loads(json.dumps(whole.raw)))
            self.assertEqual(len(path.read_text().split('"runs": [\n')[1].splitlines()), len(whole.raw["runs"]) + 1)

    def test_a_ratio_is_taken_within_a_round_and_without_failed_runs(self):
        found = samples.results(
            [
                run("base", "redrive", 1, 900),
                run("base", "raw", 1, 1000),
                run("base", "redrive", 2, 500),
                run("base", "raw", 2, 500),
                run("base", "redrive", 3, 700),
                run("base", "raw", 3, status="failed", reason="gone"),
            ]
        )
        ratio = found.ratio("base", "redrive", "raw")
        self.assertEqual((ratio.median, ratio.least, ratio.most, ratio.count), (0.95, 0.9, 1.0, 2))
        self.assertEqual(found.spread("base", "raw", "rate").count, 2)

    def test_the_best_peer_is_never_one_of_ours(self):
        found = samples.results([run("base", "redrive", rate=9), run("base", "raw", rate=10), run("base", "beavers", rate=2), run("base", "omniqueue", rate=3)])
        self.assertEqual(found.best_peer("base"), "omniqueue")
        self.assertIsNone(samples.results([run("base", "raw")]).best_peer("base"))


class Again(unittest.TestCase):
    def test_cases_measured_again_replace_only_their_own_runs(self):
        whole = samples.whole()
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder) / "old", Path(folder) / "new"
            old.mkdir(), new.mkdir()
            results.write(old / "results.json", whole.raw)
            newer = samples.results([run("base", "redrive", rate=4321.0)])
            results.write(new / "results.json", newer.raw)
            others = [one for one in whole.raw["runs"] if one["case"] != "base"]
            __main__.merge(old, new)
            merged = results.read(old / "results.json")
            self.assertEqual(merged.median("base", "redrive", "rate"), 4321.0)
            self.assertFalse(merged.measured("base", "raw"))
            self.assertEqual([one for one in merged.raw["runs"] if one["case"] != "base"], json.loads(json.dumps(others)))
            self.assertIn("measured again | base", tables.machine(merged))


class Verdicts(unittest.TestCase):
    def test_a_run_that_meets_all_targets_says_so(self):
        found = verdicts(samples.whole())
        self.assertEqual(len(found), 13)
        self.assertEqual([one for one in found if one.met is not True], [])

    def test_the_worst_case_decides(self):
        records = [run("base", "redrive", rate=950), run("base", "raw"), run("fifo-1", "redrive", rate=890), run("fifo-1", "raw")]
        one = verdict(samples.results(records), "messages/s, inbox off, every backlog case: ≥ 0.90")
        self.assertEqual((one.met, one.word), (False, "**missed**"))
        self.assertEqual(one.figure, "worst 0.89 (fifo-1); base 0.95; 1 of 2 cases")

    def test_a_case_without_figures_leaves_a_target_open(self):
        records = [run("base", "redrive", rate=950), run("base", "raw"), run("fifo-1", "redrive", rate=1), run("fifo-1", "raw", status="failed", reason="x")]
        one = verdict(samples.results(records), "messages/s, inbox off, every backlog case: ≥ 0.90")
        self.assertEqual((one.met, one.figure), (None, "worst 0.95 (base); 1 of 1 cases; not measured: fifo-1"))

    def test_each_bound_is_where_the_target_says(self):
        def bounded(start, inside, outside):
            for records, met in ((inside, True), (outside, False)):
                self.assertIs(verdict(samples.results(records), start).met, met, (start, records))

        base = lambda **figures: [run("base", "redrive", **figures), run("base", "raw")]  # noqa: E731
        bounded("messages/s, inbox off, every backlog case: ≥", base(rate=900), base(rate=899))
        bounded("CPU per message", base(cpu_us=57.5), base(cpu_us=57.6))
        bounded("SQS calls per 1,000", base(sqs_calls=205.0), base(sqs_calls=205.1))
        peers = lambda rate: base(rate=rate) + [run("base", "omniqueue", rate=500)]  # noqa: E731
        bounded("messages/s, inbox off, every backlog case: ahead", peers(501), peers(499))
        limit = lambda rate: [run("limit", "redrive", rate=rate)]  # noqa: E731
        bounded("messages/s, 10 ms latency, 256", limit(4762), limit(4761))
        inbox = lambda rate=600.0, calls=250.0, units=2010.0: [  # noqa: E731
            run("inbox", "redrive"),
            run("inbox", "redrive-inbox", rate=rate, dynamodb_calls=calls, write_units=units),
            run("inbox", "powertools", rate=110),
        ]
        bounded("inbox on: ≤ 250", inbox(), inbox(calls=251.0))
        bounded("inbox on: ≤ 250", inbox(), inbox(units=2030.0))
        bounded("messages/s, inbox on, 5 ms latency: ≥ 5 ×", inbox(), inbox(rate=549))
        bounded("messages/s, inbox on, 5 ms latency: ≥ 0.6 ×", inbox(), inbox(rate=599))
        memory = lambda **figures: [run("memory", "redrive", in_flight=10_000, **figures)]  # noqa: E731
        bounded("memory for 10,000", memory(over_idle_mb=100.0), memory(over_idle_mb=100.1))
        bounded("memory when idle", memory(idle_mb=24.9), memory(idle_mb=25.0))
        trickle = lambda us: [run("trickle", "redrive", latencies_us=[5000] * 98 + [us] * 2)]  # noqa: E731
        bounded("trickle", trickle(20_000), trickle(20_001))
        million = lambda **changes: [run("million", "redrive", tenths=samples.tenths(**changes))]  # noqa: E731
        bounded("1,000,000 messages through one process: rate", million(last=19_000.0), million(last=18_999.0))
        bounded("1,000,000 messages through one process: memory", million(grown=1.09), million(grown=1.11))

    def test_what_was_not_run_is_not_measured(self):
        found = verdicts(samples.results([run("steady", "raw", latencies_us=[])]))
        self.assertEqual({one.word for one in found}, {"not measured"})


class Tables(unittest.TestCase):
    def test_every_table_is_made_of_whole_partial_and_failed_results(self):
        failed = [
            run(name, driver, status="failed", reason="gone\nand more") for name, case in plan.CASES.items() for driver in case.drivers
        ]
        partial = [run("base", "redrive"), run("inbox", "powertools", status="cannot", reason="no")]
        for found in (samples.whole(), samples.results(failed), samples.results(partial)):
            for name, text in tables.made(found).items():
                self.assertTrue(text.strip(), name)
                rows = [line for line in text.splitlines() if line.startswith("|")]
                self.assertEqual(len({line.count("|") for line in rows}), 1 if rows else 0, f"{name}\n{text}")

    def test_a_cell_has_the_median_the_range_or_why_there_is_none(self):
        found = samples.results(
            [run("base", "redrive", 1, 1000), run("base", "redrive", 2, 1220), run("base", "redrive", 3, 1100)]
            + [run("base", "raw", number, 2000) for number in (1, 2, 3)]
            + [run("base", "beavers", status="cannot", reason="no"), run("steady", "raw", latencies_us=[])]
        )
        rate = tables.rate(found).splitlines()
        self.assertEqual(rate[0], "| case | redrive | raw | beavers |")
        self.assertEqual(rate[2], "| base | 1,100 (1,000–1,220) | 2,000 | cannot |")
        ratio = tables.ratio(found).splitlines()
        self.assertEqual(ratio[2], "| base | 0.55 (0.50–0.61) | cannot | – |")
        self.assertEqual(len(rate), 3)

    def test_numbers_have_three_digits_and_separators(self):
        shown = [tables.number(value) for value in (0, 0.0123, 1.234, 12.34, 123.4, 12345.6, None)]
        self.assertEqual(shown, ["0", "0.01", "1.23", "12.3", "123", "12,346", "–"])
        self.assertEqual([tables.usd(value) for value in (0.0804, 1.331, None)], ["0.080", "1.33", "–"])

    def test_latencies_are_pooled_over_the_rounds(self):
        runs = [run("steady", "redrive", number, latencies_us=[number * 1000] * 400) for number in (1, 2, 3)]
        row = tables.latency(samples.results(runs)).splitlines()[2]
        self.assertEqual(row, "| steady | redrive | 2.00 | 3.00 | 3.00 | 1,200 | 201 |")

    def test_notes_tell_failures_once_and_a_busy_stand_in(self):
        found = samples.results(
            [
                run("base", "redrive", 1, flag="busy", stand_in_cpu=0.91),
                run("base", "raw", 1, status="failed", reason="gone\nand more"),
                run("base", "raw", 2, status="failed", reason="gone\nand more"),
                run("base", "raw", 3),
                run("base", "beavers", status="skipped", reason="not built"),
            ]
        )
        notes = tables.notes(found).splitlines()
        self.assertEqual(notes[0][:56], "- base, redrive: the stand-in was busy 91% of the time, ")
        self.assertEqual(notes[1:], ["- base, raw: failed (2 of 3 runs): gone", "- base, beavers: skipped: not built"])

    def test_order_violations_are_summed_and_a_clean_standard_queue_is_left_out(self):
        found = samples.results([run("base", "raw"), run("fifo-10", "raw", 1, violations=2), run("fifo-10", "raw", 2, violations=3)])
        rows = tables.order(found).splitlines()[2:]
        self.assertEqual(rows, ["| fifo-10 | raw | 5 | 0 | 0 | 10,000 |"])


class Publishing(unittest.TestCase):
    TABLES = {"rate": "| r |", "cost": "| c |"}
    PAGE = "# Speed\n\n<!-- figures: rate -->\nold\n\n| x |\n<!-- end -->\n\nbetween\n<!-- figures: cost -->\n<!-- end -->\nafter\n"

    def test_only_the_marked_parts_change_and_twice_is_as_once(self):
        once = publish.filled(self.PAGE, self.TABLES)
        wanted = (
            "# Speed\n\n<!-- figures: rate -->\n\n| r |\n\n<!-- end -->\n\nbetween\n"
            "<!-- figures: cost -->\n\n| c |\n\n<!-- end -->\nafter\n"
        )
        self.assertEqual(once, wanted)
        self.assertEqual(publish.filled(once, self.TABLES), wanted)

    def test_marks_that_do_not_fit_are_told(self):
        for page, told in (
            ("<!-- figures: speed -->\n<!-- end -->", "line 1: there are no figures 'speed'; there are: rate, cost"),
            ("<!-- figures: rate -->\n", "'rate' has no <!-- end -->"),
            ("<!-- figures: rate -->\n<!-- figures: cost -->\n<!-- end -->", "line 2: a part begins within the part 'rate'"),
            ("x\n<!-- end -->\n", "line 2: <!-- end --> without a beginning"),
            ("no marks\n", "no part marked"),
        ):
            with self.assertRaises(publish.Unpublishable) as caught:
                publish.filled(page, self.TABLES)
            self.assertIn(told, str(caught.exception))

    def test_charts_are_copied_and_a_page_that_does_not_fit_changes_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            chart = folder / "rate.svg"
            chart.write_text("<svg/>")
            page, docs = folder / "performance.md", folder / "performance"
            with self.assertRaisesRegex(publish.Unpublishable, "performance.md is not there"):
                publish.publish(self.TABLES, [chart], page, docs)
            page.write_text("no marks\n")
            with self.assertRaises(publish.Unpublishable):
                publish.publish(self.TABLES, [chart], page, docs)
            self.assertFalse(docs.exists())
            page.write_text(self.PAGE)
            written = publish.publish(self.TABLES, [chart], page, docs)
            self.assertEqual(written, [page, docs / "rate.svg"])
            self.assertEqual((docs / "rate.svg").read_text(), "<svg/>")
            self.assertIn("| r |", page.read_text())


try:
    from compare import charts
except ImportError:
    charts = None


@unittest.skipIf(charts is None, "matplotlib is not installed: target/bench/venv-charts/bin/python has it")
class Charts(unittest.TestCase):
    def test_charts_are_small_the_same_twice_and_text_stays_text(self):
        found = samples.whole()
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            files = charts.draw(found, Path(one))
            charts.draw(found, Path(two))
            self.assertEqual([path.stem for path in files], list(charts.CHARTS))
            for path in files:
                text = path.read_text()
                self.assertLess(len(text.encode()), 60_000, path.name)
                self.assertEqual(text, (Path(two) / path.name).read_text())
                self.assertIn("</text>", text)
                self.assertIn("redrive", text)

    def test_what_was_not_measured_leaves_its_charts_out(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(charts.draw(samples.results([run("base", "raw", status="failed", reason="x")]), Path(folder)), [])


if __name__ == "__main__":
    unittest.main()
