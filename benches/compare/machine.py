"""Where and with what a run was made."""

import os
import platform
import subprocess
from pathlib import Path


def said(*command, cwd=None):
    """The first line a command prints, None where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=cwd, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().split("\n")[0] or None


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_gb():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / 1e9, 1)
    return None


def described(repository, venv, cores):
    """`venv` holds the Python of the drivers; the Node of its driver comes with its packages."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, cwd=repository, check=False
    )
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_used": {"stand_in": cores[0], "driver": cores[1]},
        "memory_gb": memory_gb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": {
            "rustc": said("rustc", "--version"),
            "cargo": said("cargo", "--version"),
            "node": said(repository / "benches/peers/node/node_modules/.bin/node", "--version"),
            "python": said(f"{venv}/bin/python", "--version") or said("python3", "--version"),
        },
        "commit": said("git", "rev-parse", "HEAD", cwd=repository),
        "changed": bool(changed.stdout.strip()),
    }
