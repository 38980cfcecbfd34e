"""How much memory a training step of a capsule layer takes.

    python benchmarks/memory.py

Prints tables and writes `memory.json` and `memory.png` to `benchmarks/results`:
the peak memory of one step of dynamic routing, forward and with gradients to
poses and kernel, above that of poses and kernel themselves and with that of the
gradients to them, as our operator and as the textbook form, at the shape of the
MNIST CapsNet, and then for all our routings; and a step of a large layer, whose
votes alone would take 6.2 GB. Each is measured in a process of its own, as what
TensorFlow allocates, which it counts where it uses oneDNN.
"""

import statistics

import harness

MNIST = (128, 1152, 8, 10, 16)
LARGE = (128, 3872, 8, 196, 16)


def main():
    arguments = harness.parse(__doc__, repeats=3, large=1, routings=6)
    rows = {}
    for name, options in {
        "textbook": {"textbook": True},
        "operator": {},
        "operator, stop_gradient": {"stop_gradient": True},
    }.items():
        found = [
            harness.peak_memory(MNIST, **options)[0]
            for _ in range(arguments.repeats)
        ]
        rows[name] = {"peak": statistics.median(found)}
    title = "A training step, 1152 x 8 to 10 x 16"
    harness.show(title, rows, "MiB")
    results = {"mnist_mib": rows, "gradients_mib": harness.operands_size(MNIST)}
    panels = {title: rows}
    rows = {
        name: {"peak": harness.peak_memory(MNIST, routing=name)[0]}
        for name in harness.ROUTINGS[: arguments.routings]
    }
    if rows:
        harness.show("All routings, with their default options", rows, "MiB")
        panels["The same step, all routings"] = rows
        results["routings_mib"] = rows
    if arguments.large:
        peak, seconds = harness.peak_memory(LARGE)
        batch, inputs, _, outputs, out_dim = LARGE
        votes = 4 * batch * inputs * outputs * out_dim / harness.MEBIBYTE
        results["large"] = {
            "shape": LARGE,
            "peak_mib": peak,
            "seconds": round(seconds, 2),
            "votes_alone_mib": round(votes),
            "poses_and_kernel_mib": harness.operands_size(LARGE),
        }
        print(f"\nA step of 3872 x 8 to 196 x 16: {results['large']}")
        panels["A training step, 3872 x 8 to 196 x 16"] = {
            "votes alone, float32": {"peak": votes},
            "operator, all that a step takes": {"peak": peak},
        }
    harness.draw("memory", panels, arguments.output, "MiB")
    harness.write("memory", results, arguments.output)


if __name__ == "__main__":
    main()
