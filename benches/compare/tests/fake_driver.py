"""A driver as the runner sees one, and, by FAKE_MODE, each way in which one can fail."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time

MODE = os.environ.get("FAKE_MODE", "works")


def main():
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    if MODE == "cannot":
        print("cannot: order within groups is not known to it", file=sys.stderr)
        return 3
    if MODE == "crash":
        print("a first line\nno such queue", file=sys.stderr)
        return 1
    if MODE == "silent":
        time.sleep(60)
    if MODE == "family":
        # A child that would live on, were it not ended with its parent.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
    connection = http.client.HTTPConnection(os.environ["BENCH_ENDPOINT"].split("//")[1])

    def ask(operation, body):
        connection.request("POST", "/", json.dumps(body), {"x-amz-target": "AmazonSQS." + operation})
        return json.loads(connection.getresponse().read())

    handled, latencies = 0, []
    hold = float(os.environ["BENCH_HANDLER_MS"]) > 1000
    while not ended:
        got = ask("ReceiveMessage", {})
        if not got["ids"]:
            time.sleep(0.005)
            continue
        if MODE == "dies":
            print("out of luck", file=sys.stderr)
            return 7
        handled += len(got["ids"])
        if got["sent"]:
            latencies += [time.time_ns() // 1000 - got["sent"]] * len(got["ids"])
        if not hold and MODE != "idle":
            ask("DeleteMessageBatch", {"ids": got["ids"]})
    if MODE == "deaf":
        time.sleep(60)
    if MODE == "chatty":
        print("done!")
    print(json.dumps({"driver": "fake", "version": "1.2", "handled": handled, "order_violations": 0, "latencies_us": latencies[:200_000]}))
    return 5 if MODE == "late" else 0


if __name__ == "__main__":
    sys.exit(main())
