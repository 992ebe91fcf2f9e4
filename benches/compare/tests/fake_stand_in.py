"""As much of the stand-in as the runner and the fake driver see: the control interface, receives and batched deletes."""

import json
import resource
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.setup({})

    def setup(self, settings):
        self.settings = settings
        self.open = False
        self.received = self.deleted = 0
        self.first_receive = None
        self.calls = {"sqs": {}, "dynamodb": {}}

    def call(self, name, entries):
        counted = self.calls["sqs"].setdefault(name, {"calls": 0, "entries": 0, "billed": 0, "empty": 0})
        counted["calls"] += 1
        counted["billed"] += 1
        counted["entries"] += entries
        counted["empty"] += name == "ReceiveMessage" and entries == 0

    def receive(self):
        if self.first_receive is None:
            self.first_receive = time.monotonic_ns() // 1000
        left = 10
        if self.settings.get("messages") is not None:
            left = min(10, self.settings["messages"] - self.received)
        count = left if self.open else 0
        ids = list(range(self.received + 1, self.received + count + 1))
        self.received += count
        self.call("ReceiveMessage", count)
        sent = time.time_ns() // 1000 - 2000 if self.settings.get("rate") else 0
        return {"ids": ids, "sent": sent}

    def counts(self):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "now_us": time.monotonic_ns() // 1000,
            "received": self.received,
            "deleted": self.deleted,
            "in_flight": self.received - self.deleted,
            "left": None,
            "redelivered": 0,
            "sent_to_dlq": 0,
            "first_receive_call_us": self.first_receive,
            "calls": self.calls,
            "cpu_us": int((usage.ru_utime + usage.ru_stime) * 1e6),
        }


STATE = State()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def body(self):
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        return json.loads(text) if text else {}

    def do_PUT(self):
        with STATE.lock:
            STATE.setup(self.body())
        self.answer({})

    def do_GET(self):
        with STATE.lock:
            counts = STATE.counts()
            self.answer(counts)

    def do_POST(self):
        body = self.body()
        operation = self.headers.get("x-amz-target", "").split(".")[-1]
        with STATE.lock:
            if self.path.startswith("/control/"):
                STATE.open = self.path.endswith("/open")
                content = {}
            elif operation == "ReceiveMessage":
                content = STATE.receive()
            else:
                STATE.deleted += len(body["ids"])
                STATE.call(operation, len(body["ids"]))
                content = {}
        if operation:
            time.sleep(0.001)
        self.answer(content)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if "--mute" in sys.argv:
        print("no port to be had", file=sys.stderr)
        sys.exit(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
