"""How fast, and in how much memory, are the closed-form kernels?

    python -m benchmarks.infinite_kernels [NAME ...] [--threads 2] [--device cuda]
    python -m benchmarks.infinite_kernels --old "PYTHON nt_timing.py" --rounds 3

The configurations are those of the timing table of Neural Tangents 0.6.5 (JAX 0.4.25, float32,
jit): W_std = sqrt 2, b_std = 0.1, 3x3 "same" convolutions, NNGP and NTK together unless noted. One
process per configuration; least wall time and processor time of the repetitions, and the peak
memory above the base after imports and inputs.

With ``--old`` (the interpreter of an environment that holds the old library, and its timing
script) both libraries take turns, process by process, and every line holds medians over rounds
of the times and of their ratio within a round. Compilation is not counted on either side.
Without it ``old`` holds the numbers of the old library's own table, from another day.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time

W, B = 2**0.5, 0.1
# name: (inputs n1, n2 or None, channels and positions, repetitions, old run s, old CPU-s, old MiB)
KERNELS = {
    "fcn5_2000": (2000, 2000, (3072,), 5, 0.51, 0.46, 272),
    "fcn5_2000_nngp": (2000, 2000, (3072,), 5, 0.62, 0.61, 117),
    "fcn5_2000_sym": (2000, None, (3072,), 5, 0.47, 0.46, 269),
    "cnn5_flat_32": (64, 64, (3, 32, 32), 5, 0.51, 0.52, 154),
    "cnn5_gap_8": (64, 64, (3, 8, 8), 3, 7.1, 13.6, 585),
    "cnn5_gap_16": (16, 16, (3, 16, 16), 3, 7.4, 13.6, 595),
    "cnn5_gap_32": (4, 4, (3, 32, 32), 3, 9.1, 16.4, 631),
    "myrtle5_16": (16, 16, (3, 16, 16), 3, 2.7, 5.0, 599),
    "wrn1_16": (8, 8, (3, 16, 16), 3, 2.4, 2.6, 219),
    "readme21_flat_32": (64, 64, (3, 32, 32), 3, 1.1, 2.0, 204),
    "readme21_gap_32": (2, 2, (3, 32, 32), 3, 12.0, 21.2, 256),
}
EMPIRICAL = {"emp_fcn": (0.013, 0.018, 38), "emp_cnn": (0.05, 0.08, 70)}
PREDICT = {
    "predict_inf": (None, 0.14, 0.15, 78),
    "predict_t4": ([0.5, 5, 50, 500], 0.42, 0.70, 189),
}


def network(name):
    """Return the composed network of a configuration."""
    from recollect import infinite as inf

    relu, gap = inf.Relu(), inf.GlobalAvgPool()

    def dense(**o):
        return inf.Dense(**{"weight_std": W, "bias_std": B, **o})

    def conv(**o):
        return inf.Conv(**{"weight_std": W, "bias_std": B, **o})

    def block(stride):
        main = inf.Serial(relu, conv(stride=stride), relu, conv())
        return inf.Residual(main, conv(stride=stride))

    pool = inf.AvgPool(size=2)
    kind = name.split("_")[0]
    if kind in ("fcn5", "fcn3"):
        return inf.Serial(inf.Repeat(inf.Serial(dense(), relu), int(kind[3])), dense())
    if kind == "cnn5":
        top = inf.Flatten() if "flat" in name else gap
        return inf.Serial(inf.Repeat(inf.Serial(conv(), relu), 5), top, dense())
    if kind == "readme21":
        plain = inf.Serial(inf.Conv(weight_std=1.0), relu)
        return inf.Serial(inf.Repeat(plain, 21), inf.Flatten() if "flat" in name else gap)
    if kind == "myrtle5":
        return inf.Serial(
            conv(),
            relu,
            conv(),
            relu,
            pool,
            conv(),
            relu,
            pool,
            conv(),
            relu,
            pool,
            pool,
            inf.Flatten(),
            dense(),
        )
    return inf.Serial(
        conv(), block(1), block(2), block(2), gap, dense(weight_std=1.0, bias_std=0.0)
    )


def memory(peak):
    """Return resident memory in MiB."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def task(name, device):
    """Return a function to time, how often, and the old library's numbers."""
    import torch
    from torch import nn

    from recollect import infinite as inf

    torch.manual_seed(0)
    if name in KERNELS:
        n1, n2, shape, times, *old = KERNELS[name]
        x1 = torch.randn(n1, *shape, device=device)
        x2 = None if n2 is None else torch.randn(n2, *shape, device=device)
        get = ("nngp",) if "nngp" in name else ("ntk",) if "readme" in name else ("nngp", "ntk")
        twin = inf.twin(network(name))
        return lambda: twin.kernel(x1, x2, get=get), times, old
    if name in EMPIRICAL:
        if name == "emp_fcn":
            widths = [256, 512, 512, 512]
            pairs = itertools.pairwise(widths)
            layers = [m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())]
            model, x = nn.Sequential(*layers, nn.Linear(512, 10)), torch.randn(64, 256)
        else:
            layers = [m for c in (3, 32, 32) for m in (nn.Conv2d(c, 32, 3, padding=1), nn.ReLU())]
            head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
            model, x = nn.Sequential(*layers, *head), torch.randn(16, 3, 16, 16)
        model, x = model.to(device), x.to(device)
        return (
            (lambda: inf.empirical_kernel(model, x, get="ntk", outputs="full")),
            7,
            EMPIRICAL[name],
        )
    times_to, *old = PREDICT[name]
    x, y, xt = (torch.randn(n, d, device=device) for n, d in ((2000, 256), (2000, 10), (500, 256)))
    twin = inf.twin(network("fcn3"))
    held = {"dd": twin.kernel(x), "td": twin.kernel(xt, x), "tt": twin.kernel(xt)}

    class Known:
        def kernel(self, a, b=None, get=(), tile=None):
            return held["dd" if a is x else "tt" if b is None else "td"]

    def run():
        # The old library solved in float32; our default is float64.
        fit = inf.ensemble(Known(), x, y, regularization=1e-4, algebra=torch.float32)
        return fit.predict(xt, t=times_to)

    return run, 3, old


def one(name, device, threads):
    """Time one configuration in this process."""
    import torch

    torch.set_num_threads(threads)
    run, times, _ = task(name, device)
    base = memory(False)
    run()
    walls, cpus = [], []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    found = {"run_s": min(walls), "cpu_s": min(cpus), "mib": memory(True) - base}
    print(json.dumps(found), flush=True)


def measured(command):
    """Run one process and return its last line of JSON, None if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    found = json.loads(lines[-1])
    if "rss_peak_mb" in found:
        found["mib"] = found["rss_peak_mb"] - found["rss_base_mb"]
    return {key: found[key] for key in ("run_s", "cpu_s", "mib")}


def compared(name, args):
    """Return medians over rounds of one configuration."""
    mine = [sys.executable, __file__, name, "--one", "--device", args.device]
    mine += ["--threads", str(args.threads)]
    other = [*args.old.split(), "--one", f"{name}_impl3" if name in EMPIRICAL else name]
    pairs = []
    for _ in range(args.rounds):
        old = measured(other) if args.old else None
        pairs.append((old, measured(mine)))
    pairs = [(old, new) for old, new in pairs if new and (old or not args.old)]
    if not pairs:
        return {"config": name, "failed": True}

    def median(values):
        return round(statistics.median(values), 4)

    line = {"config": name, "rounds": len(pairs), "load": round(os.getloadavg()[0], 1)}
    line |= {key: median(new[key] for _, new in pairs) for key in ("run_s", "cpu_s", "mib")}
    if args.old:
        line["old"] = {k: median(old[k] for old, _ in pairs) for k in ("run_s", "cpu_s", "mib")}
        line["times_faster"] = median(old["run_s"] / new["run_s"] for old, new in pairs)
        line["times_less_processor"] = median(old["cpu_s"] / new["cpu_s"] for old, new in pairs)
    else:
        known = {**{k: v[4:] for k, v in KERNELS.items()}, **EMPIRICAL}
        known |= {k: v[1:] for k, v in PREDICT.items()}
        line["old"] = dict(zip(("run_s", "cpu_s", "mib"), known[name], strict=True))
    return line


def main():
    """Run every configuration in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--old", default="", help="interpreter and script of the old library")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.names[0], args.device, args.threads)
        return
    for name in args.names or [*KERNELS, *EMPIRICAL, *PREDICT]:
        print(json.dumps(compared(name, args)), flush=True)


if __name__ == "__main__":
    main()
