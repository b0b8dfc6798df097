"""Seconds of a training step by how OpenMP's threads wait for each other, idle and busy.

    python bench/waiting.py

A step of the built-in recipe (ResNet-18 W2A2 of width 16, 32 images at 96, 72 and 48 pixels) in a
process of its own for each policy, beside no, two and twenty processes that only compute. Policies
take turns, so that a disturbance hits all of them. Writes bench/results/waiting.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

RESULT = Path(__file__).parent / "results" / "waiting.json"
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
POLICIES: dict[str, dict[str, str]] = {
    "torch's own": {},
    "sleep at once": {**PASSIVE, "GOMP_SPINCOUNT": "0"},
    "spin 1,000, then sleep": {**PASSIVE, "GOMP_SPINCOUNT": "1000"},
    "spin 10,000, then sleep": {**PASSIVE, "GOMP_SPINCOUNT": "10000"},
    "spin 100,000, then sleep": {**PASSIVE, "GOMP_SPINCOUNT": "100000"},
}


def steps(threads: int, seconds: float) -> list[float]:
    """Times of training steps in this process."""
    import torch

    import rsquant
    from rsquant.train.losses import mred

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = rsquant.create("resnet18", 2, 2, (96, 72, 48), num_classes=12, width=16).train()
    model = model.to(memory_format=torch.channels_last)
    images = [
        torch.randn(32, 3, r, r).contiguous(memory_format=torch.channels_last) for r in (96, 72, 48)
    ]
    labels = torch.arange(32) % 12
    alpha = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        loss = mred(model.forward_all(images), labels, alpha, "full").total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return times[2:]  # the first two allocate


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that only compute, inside the block."""
    # They end by themselves should this process be killed.
    code = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
    command = [sys.executable, "-P", "-c", code]
    loops = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(policy: dict[str, str], threads: int, seconds: float) -> list[float]:
    """`steps` in a process of its own, under a policy."""
    environment = {k: v for k, v in os.environ.items() if k not in NAMES} | policy
    command = [sys.executable, "-P", __file__, "--child", str(threads), "--seconds", str(seconds)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    times: list[float] = json.loads(result.stdout)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=4.0, help="per process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", default="0,2,20", help="numbers of busy processes")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--policies", type=int, nargs="*", help="which of them, from 0; all")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(steps(options.child, options.seconds)))
        return
    from rsquant.machine import describe

    chosen = list(POLICIES.items())
    if options.policies:
        chosen = [chosen[i] for i in options.policies]
    rows = []
    for processes in (int(n) for n in options.busy.split(",")):
        for threads in (int(n) for n in options.threads.split(",")):
            times: dict[str, list[float]] = {name: [] for name, _ in chosen}
            with busy(processes):
                for _ in range(options.rounds):
                    for name, policy in chosen:
                        times[name] += measure(policy, threads, options.seconds)
            for name, values in times.items():
                q1, median, q3 = (round(float(v), 4) for v in np.percentile(values, (25, 50, 75)))
                rows.append(
                    {
                        "policy": name,
                        "busy_processes": processes,
                        "threads": threads,
                        "median_s": median,
                        "q1_s": q1,
                        "q3_s": q3,
                        "steps": len(values),
                    }
                )
                print(
                    f"{processes:2} busy  {threads} threads  {name:26} {median:.3f} s "
                    f"({q1:.3f} to {q3:.3f})",
                    flush=True,
                )
    result = {"machine": describe(), "command": "python " + shlex.join(sys.argv), "rows": rows}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
