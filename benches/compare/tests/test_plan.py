import unittest
from dataclasses import replace

from compare import plan


class Plan(unittest.TestCase):
    def test_it_fits_its_bounds(self):
        cases = plan.chosen()
        self.assertEqual(len(cases), len(plan.CASES))
        self.assertLessEqual(len(cases), plan.MOST_CASES)
        # A fifth is kept for drivers slower to start and stop than planned.
        self.assertLessEqual(plan.planned_s(cases, plan.ROUNDS) / 60, plan.MOST_MINUTES * 0.8)

    def test_each_case_differs_from_the_base_case_in_what_its_name_says(self):
        base = plan.CASES["base"]
        same = ("drivers", "name", "title", "warm_up_s", "window_s")
        factors = {
            "latency-0": {"latency_ms": 0},
            "latency-10": {"latency_ms": 10},
            "handler-0": {"handler_ms": 0},
            "handler-50": {"handler_ms": 50},
            "concurrency-16": {"concurrency": 16},
            "concurrency-256": {"concurrency": 256},
            "concurrency-1000": {"concurrency": 1000},
            "body-64k": {"body_bytes": 64_000},
            "fifo-1": {"fifo_groups": 1},
            "fifo-10": {"fifo_groups": 10},
            "fifo-1000": {"fifo_groups": 1000},
            "steady": {"rate": 1000},
            "duplicates": {"duplicates": 0.1},
            "inbox": {},
        }
        for name, differs in factors.items():
            case = plan.CASES[name]
            self.assertEqual(case, replace(base, **differs, **{field: getattr(case, field) for field in same}), name)
        limit = plan.CASES["limit"]
        self.assertEqual((limit.latency_ms, limit.handler_ms, limit.concurrency), (10, 50, 256))
        self.assertEqual(limit.limit_per_s, 5120)

    def test_each_case_knows_its_drivers_and_only_peers_are_peers(self):
        for case in plan.CASES.values():
            for name in case.drivers:
                self.assertIn(name, plan.DRIVERS)
        peers = {name for name, driver in plan.DRIVERS.items() if driver.peer}
        self.assertEqual(peers, {"omniqueue", "ruststream", "beavers", "sqs-consumer", "powertools", "boto3"})

    def test_the_limit_of_a_fifo_queue_is_that_of_its_groups(self):
        self.assertEqual(plan.CASES["fifo-10"].limit_per_s, 500)
        self.assertEqual(plan.CASES["fifo-1000"].limit_per_s, 3200)
        self.assertIsNone(plan.CASES["handler-0"].limit_per_s)

    def test_what_is_asked_for_is_chosen_in_the_order_of_the_plan(self):
        cases = plan.chosen(["steady", "base"], ["raw", "redrive", "boto3"])
        self.assertEqual([case.name for case in cases], ["base", "steady"])
        self.assertEqual([case.drivers for case in cases], [("redrive", "raw", "boto3"), ("redrive", "raw")])
        with self.assertRaisesRegex(ValueError, "nothing is no case; the cases: base"):
            plan.chosen(["nothing"])
        with self.assertRaisesRegex(ValueError, "nobody is no driver"):
            plan.chosen([], ["nobody"])
        with self.assertRaisesRegex(ValueError, "takes part in any"):
            plan.chosen(["memory"], ["beavers"])

    def test_quick_is_three_cases_of_a_few_seconds(self):
        cases = plan.chosen(quick_run=True)
        self.assertEqual([case.name for case in cases], ["base", "steady", "inbox"])
        self.assertLess(plan.planned_s(cases, 1), 90)

    def test_rounds_are_the_default_but_never_more_than_a_case_wants(self):
        trickle = plan.CASES["trickle"]
        self.assertEqual([trickle.rounds_of(name, 3) for name in ("redrive", "beavers")], [3, 1])
        self.assertEqual(plan.CASES["million"].rounds_of("redrive", 3), 1)
        self.assertEqual(plan.CASES["base"].rounds_of("redrive", 5), 5)
        self.assertEqual(trickle.rounds_of("redrive", 1), 1)

    def test_needs_name_what_to_set_up(self):
        self.assertEqual(plan.needs(plan.chosen(["base"], ["raw", "sqs-consumer"])), ["node", "rust"])


if __name__ == "__main__":
    unittest.main()
