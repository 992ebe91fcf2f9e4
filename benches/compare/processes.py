"""Children that never outlive their run, and what the kernel tells of them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def uninterrupted():
    """Puts signals off, so that what is begun is known before one ends this process; gives the signals blocked until then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """A program in a process group of its own, on one core, its output in files. Leaving the `with` kills the group."""

    def __init__(self, name, command, core, log_dir, env=None, cwd=None):
        self.name = name
        log_dir = Path(log_dir)
        self.stdout = log_dir / f"{name}.stdout"
        self.stderr = log_dir / f"{name}.stderr"

        def before_exec():
            # It dies with the runner even where that is killed without warning.
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if core is not None:
                os.sched_setaffinity(0, {core})

        with open(self.stdout, "wb") as out, open(self.stderr, "wb") as err, uninterrupted() as signals:

            def prepare():
                signal.pthread_sigmask(signal.SIG_SETMASK, signals)
                before_exec()

            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=prepare,
            )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def running(self):
        return self.process.poll() is None

    def kill(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()

    def stop(self, seconds):
        """Sends SIGTERM and waits; the exit status, or None where it had to be killed."""
        if self.running():
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def output(self):
        return self.stdout.read_text(errors="replace")

    def errors(self, lines=8):
        """The last lines it wrote to stderr."""
        return "\n".join(self.stderr.read_text(errors="replace").strip().splitlines()[-lines:])

    def first_line(self, seconds):
        """The first line of its output, None where it ends or takes longer than that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            text = self.output()
            if "\n" in text:
                return text.split("\n", 1)[0]
            if not self.running():
                return None
            time.sleep(0.01)
        return None

    def family(self):
        """Its own process id and those of all its descendants."""
        family = [self.pid]
        for pid in family:
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    family += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
        return family

    def cpu_s(self):
        """CPU seconds so far, its threads (ended ones too) and its children's."""
        return sum(cpu_clock_s(pid) for pid in self.family())

    def rss_bytes(self):
        return sum(memory_bytes(pid, "VmRSS") for pid in self.family())

    def peak_bytes(self):
        return sum(memory_bytes(pid, "VmHWM") for pid in self.family())


def cpu_clock_s(pid):
    """CPU seconds of all threads of a process, to the nanosecond: its CPU-time clock, as clock_getcpuclockid(3) names it."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def memory_bytes(pid, name):
    """A line of /proc/<pid>/status in bytes; 0 where the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def cores():
    """(the stand-in's core, the driver's core): two that do not share a physical one where that can be had.

    Both are the same where this process may use a single one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    first = allowed[0]
    others = [core for core in allowed[1:] if core not in siblings(first)] or allowed[1:]
    return first, (others[0] if others else first)


def siblings(core):
    """The cores that share a physical one with this core."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return set()
    found = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found
