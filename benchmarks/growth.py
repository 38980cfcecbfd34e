"""How time and memory of a capsule layer grow with its sizes.

    python benchmarks/growth.py

Quadruples one size at a time, over a factor of 16, and measures a step of
dynamic routing, forward and with gradients to poses and kernel: the time, and
the peak memory above poses and kernel. Fits the slope of both on logarithmic
scales. Then traces layers of 100 and of 1,000 output capsules. Prints what it
finds, and writes `growth.json` and `growth.png` to `benchmarks/results`. Memory
is what TensorFlow allocates, which it counts where it uses oneDNN.
"""

import time

import harness
import matplotlib.pyplot as plt
import numpy as np

NAMES = ("batch", "input capsules", "input pose", "output capsules", "pose")
# Large enough that no measurement is mostly overhead, small for the whole to
# take a few minutes.
BASE = (32, 512, 8, 16, 16)
SWEEPS = {
    "batch": (16, 64, 256),
    "input capsules": (256, 1024, 4096),
    "output capsules": (8, 32, 128),
    "pose": (8, 32, 128),
}


def main():
    arguments = harness.parse(
        __doc__, repeats=7, shrink=1, points=3, sweeps=len(SWEEPS)
    )
    sweeps = {}
    for name in list(SWEEPS)[: arguments.sweeps]:
        sizes = [
            max(2, size // arguments.shrink)
            for size in SWEEPS[name][: arguments.points]
        ]
        rows = [measure(name, size, arguments.repeats) for size in sizes]
        sweeps[name] = {
            "sizes": sizes,
            "ms": [row[0] for row in rows],
            "mib": [row[1] for row in rows],
            "operands_mib": [row[2] for row in rows],
            "slope_of_time": slope(sizes, [row[0] for row in rows]),
            "slope_of_memory": slope(sizes, [row[1] for row in rows]),
        }
        print(f"\n{name}: {sweeps[name]}")
    results = {"base": dict(zip(NAMES, BASE, strict=True)), "sweeps": sweeps}
    results["tracing"] = {
        number: trace(number)
        for number in (100 // arguments.shrink, 1000 // arguments.shrink)
    }
    print(f"\ntracing, by output capsules: {results['tracing']}")
    draw(sweeps, arguments.output)
    harness.write("growth", results, arguments.output)


def measure(name, size, repeats):
    """Median ms of a step, its peak MiB, and MiB of what it takes."""
    shape = [
        size if each == name else base
        for each, base in zip(NAMES, BASE, strict=True)
    ]
    peak, seconds = harness.peak_memory(shape, repeats=repeats)
    return round(1e3 * seconds, 3), peak, harness.operands_size(shape)


def slope(sizes, values):
    """The exponent of growth, by least squares."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def trace(num_outputs):
    """Seconds to trace a step, and how many operations its graph has."""
    _, *sizes = BASE
    shape = (2, *sizes[:2], max(2, num_outputs), sizes[3])
    step = harness.make_step(harness.dynamic(), shape)
    started = time.perf_counter()
    graph = step.get_concrete_function().graph
    seconds = time.perf_counter() - started
    definition = graph.as_graph_def()
    number = len(definition.node) + sum(
        len(function.node_def) for function in definition.library.function
    )
    return {"seconds": round(seconds, 2), "operations": number}


def draw(sweeps, folder):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name, sweep in sweeps.items():
        relative = np.array(sweep["sizes"]) / sweep["sizes"][0]
        for axis, key, which in zip(
            axes, ("ms", "mib"), ("time", "memory"), strict=True
        ):
            values = np.array(sweep[key]) / sweep[key][0]
            label = f"{name}, slope {sweep[f'slope_of_{which}']:.2f}"
            axis.loglog(relative, values, "o-", label=label)
    for axis, title in zip(axes, ("time", "peak memory"), strict=True):
        axis.loglog([1, 16], [1, 16], "k:", label="proportional")
        axis.set_xlabel("size, times the smallest")
        axis.set_ylabel(f"{title} of a step, times the smallest")
        axis.set_xticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
        axis.set_yticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
        axis.minorticks_off()
        axis.legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "growth.png", dpi=120)


if __name__ == "__main__":
    main()
