import unittest

from compare import figures, prices, stats


def counts(now_s, deleted, cpu_s=0.0, sqs=None, dynamodb=None):
    return {
        "now_us": now_s * 1e6,
        "deleted": deleted,
        "redelivered": 2,
        "sent_to_dlq": 1,
        "cpu_us": cpu_s * 1e6,
        "calls": {"sqs": sqs or {}, "dynamodb": dynamodb or {}},
    }


class Statistics(unittest.TestCase):
    def test_a_spread_is_the_median_between_the_least_and_the_greatest(self):
        self.assertEqual(stats.spread([3, 1, 2]), stats.Spread(2, 1, 3, 3))
        self.assertEqual(stats.spread([4, 1, 2, 3]).median, 2.5)
        self.assertIsNone(stats.spread([]))

    def test_a_quantile_is_the_value_at_its_rank(self):
        hundred = list(range(1, 101))
        self.assertEqual([stats.quantile(hundred, q) for q in (0.5, 0.9, 0.99)], [50, 90, 99])
        self.assertEqual(stats.quantile(list(range(1, 1001)), 0.999), 999)
        self.assertEqual(stats.quantile([7, 8], 0.5), 7)
        with self.assertRaises(ValueError):
            stats.quantile(hundred, 1)

    def test_too_few_values_have_no_such_quantile(self):
        self.assertIsNone(stats.quantile(list(range(99)), 0.99))
        self.assertIsNone(stats.quantile(list(range(999)), 0.999))
        self.assertIsNone(stats.quantile([], 0.5))


class Window(unittest.TestCase):
    def test_figures_are_of_what_happened_between_the_snapshots(self):
        receive = lambda calls: {"calls": calls, "entries": 10 * calls, "billed": calls, "empty": calls // 10}  # noqa: E731
        first = counts(10, 5000, 1.0, {"ReceiveMessage": receive(500)})
        last = counts(
            12,
            7000,
            1.5,
            {"ReceiveMessage": receive(700), "DeleteMessageBatch": {"calls": 200, "entries": 2000, "billed": 400}},
            {"BatchExecuteStatement": {"calls": 400, "entries": 4000, "write_units": 4000, "read_units": 200, "failed_conditions": 6}},
        )
        found = figures.between(first, last, 0.1, fifo=False)
        self.assertEqual(found["rate"], 1000)
        self.assertAlmostEqual(found["cpu_us"], 50)
        self.assertAlmostEqual(found["driver_cpu"], 0.05)
        self.assertAlmostEqual(found["stand_in_cpu"], 0.25)
        self.assertEqual((found["sqs_calls"], found["sqs_billed"]), (200, 300))
        self.assertEqual((found["sqs.ReceiveMessage"], found["sqs.DeleteMessageBatch"]), (100, 100))
        self.assertEqual((found["empty_receives"], found["failed_conditions"]), (10, 3))
        self.assertEqual((found["dynamodb_calls"], found["write_units"], found["read_units"]), (200, 2000, 100))
        self.assertEqual(found["dynamodb.BatchExecuteStatement"], 200)
        self.assertAlmostEqual(found["usd"], 0.3 * 0.40 + 2 * 0.625 + 0.1 * 0.125)
        self.assertAlmostEqual(figures.between(first, last, 0.1, fifo=True)["usd"], 0.3 * 0.50 + 2 * 0.625 + 0.1 * 0.125)

    def test_nothing_deleted_is_no_figure(self):
        with self.assertRaisesRegex(figures.NoMessages, "no message was deleted in 3.0 s"):
            figures.between(counts(1, 5), counts(4, 5), 0.1, fifo=False)

    def test_handlers_run_are_told_for_a_thousand_messages(self):
        found = figures.after(counts(1, 2000), {"handled": 1800, "order_violations": 4})
        self.assertEqual((found["handled_per_1000"], found["violations"], found["redelivered"], found["dead"]), (900, 4, 2, 1))
        self.assertEqual(figures.after(counts(1, 0), {"handled": 5, "order_violations": 0})["handled_per_1000"], 0)

    def test_latencies_of_the_warm_up_are_left_out(self):
        self.assertEqual(figures.without_warm_up([900, 800, 5, 4, 6], 2, 1.0), [4, 5, 6])

    def test_tenths_lie_between_the_points_that_were_taken(self):
        # 10 messages: a tenth each second, then one each half second, with points that fall beside the edges.
        points = [(100.0, 0, 0), (102.5, 2.5, 20e6), (105.0, 5, 21e6), (106.0, 7, 22e6), (107.5, 10, 23e6)]
        found = figures.tenths(points, 10)
        self.assertEqual([tenth["tenth"] for tenth in found], list(range(1, 11)))
        for tenth, rate in zip(found, [1] * 5 + [2] * 5):
            self.assertAlmostEqual(tenth["rate"], rate, msg=tenth)
        self.assertEqual((found[0]["rss_mb"], found[-1]["rss_mb"]), (20, 23))
        self.assertAlmostEqual(found[-1]["at_s"], 7.5)


class Prices(unittest.TestCase):
    def test_the_floor_of_two_calls_for_ten_messages_costs_eight_cents(self):
        self.assertAlmostEqual(prices.per_million(0.2, 0, 0, fifo=False), 0.08)
        self.assertAlmostEqual(prices.per_million(0.2, 2, 1, fifo=True), 0.1 + 1.25 + 0.125)


if __name__ == "__main__":
    unittest.main()
