"""How time and memory of a layer grow with its sizes, on every backend.

    python benchmarks/growth.py

Quadruples one size at a time, over a factor of 16, and measures a step of
dynamic routing, forward and with gradients to poses and kernel: the time, and
the memory above poses, kernel and the gradients, as `memory.py` does. Fits the
slope of both on logarithmic scales. Prints the results, and writes
`growth.json` and `growth.png` to `benchmarks/results`.
"""

import statistics

import harness
import numpy as np

# Large enough that no measurement is mostly overhead, small for the whole to
# take a few minutes.
BASE = {
    "batch": 32,
    "inputs": 512,
    "pose": [8],
    "outputs": 16,
    "out_pose": [16],
}
SWEEPS = {
    "batch": (16, 64, 256),
    "inputs": (256, 1024, 4096),
    "outputs": (8, 32, 128),
    "out_pose": (8, 32, 128),
}
LABELS = {
    "batch": "batch",
    "inputs": "input capsules",
    "outputs": "output capsules",
    "out_pose": "output pose",
}
KINDS = {"time": "ms", "memory": "mib"}


def main():
    parser = harness.parser(
        __doc__, repeats=5, shrink=1, points=3, routing="dynamic"
    )
    harness.add_backends(parser)
    parser.add_argument(
        "--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS)
    )
    arguments = parser.parse_args()
    if arguments.redraw:
        results = harness.read("growth", arguments.output)
        draw(results["sweeps"], arguments.output)
        return
    results = {}
    for backend in arguments.backends:
        for xla in (False, True) if backend == "tensorflow" else (False,):
            title = harness.BACKENDS[backend] + ", XLA" * xla
            found = harness.call(
                measure,
                arguments.routing,
                {
                    key: _shapes(key, arguments.shrink, arguments.points)
                    for key in arguments.sweeps
                },
                arguments.repeats,
                xla,
                backend=backend,
            )
            results[title] = {
                key: sweep(
                    _sizes(key, arguments.shrink, arguments.points), rows
                )
                for key, rows in found.items()
            }
            for key, each in results[title].items():
                print(f"{title}, {LABELS[key]}: {each}", flush=True)
    draw(results, arguments.output)
    harness.write(
        "growth",
        {"routing": arguments.routing, "base": BASE, "sweeps": results},
        arguments.output,
    )


def _sizes(key, shrink, points):
    return [max(2, size // shrink) for size in SWEEPS[key][:points]]


def _shapes(key, shrink, points):
    return [
        {**BASE, key: [size] if key == "out_pose" else size}
        for size in _sizes(key, shrink, points)
    ]


def sweep(sizes, rows):
    """Measurements at some sizes, with slopes."""
    found = {
        "sizes": sizes,
        "ms": [round(statistics.median(row["ms"]), 3) for row in rows],
        "mib": [row["mib"] for row in rows],
    }
    for kind, key in KINDS.items():
        found[f"slope_of_{kind}"] = slope(sizes, found[key])
    return found


def slope(sizes, values):
    """The exponent of growth by least squares; `None` if a value is zero."""
    if min(values) <= 0:
        return None
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def draw(results, folder):
    """Draws lines: time above memory, backends side by side."""
    figure, axes = harness.plt.subplots(
        len(KINDS),
        len(results),
        figsize=(4.5 * len(results), 4 * len(KINDS)),
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    for row, (kind, key) in zip(axes, KINDS.items(), strict=True):
        for axis, (title, sweeps) in zip(row, results.items(), strict=True):
            for index, (name, found) in enumerate(sweeps.items()):
                values = np.array(found[key])
                if min(values) <= 0:
                    label = f"{LABELS[name]}: not measured"
                    axis.plot([], [], "o-", label=label)
                    continue
                label = f"{LABELS[name]}, slope {found[f'slope_of_{kind}']:.2f}"
                relative = np.array(found["sizes"]) / found["sizes"][0]
                # Later points are smaller, so that all can be seen where they
                # are in one place.
                axis.loglog(
                    relative,
                    values / values[0],
                    "o-",
                    label=label,
                    markersize=10 - 2 * index,
                )
            axis.loglog([1, 16], [1, 16], "k:", label="proportional")
            axis.set_title(f"{title}, {kind}")
            axis.set_xlabel("size, times the smallest")
            axis.set_ylabel(f"{kind} of a step, times the smallest")
            axis.set_xticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
            ticks = [1, 2, 4, 8, 16, 32, 64]
            axis.set_yticks(ticks, ticks)
            axis.minorticks_off()
            axis.legend(loc="upper left")
    harness.save(figure, "growth", folder)


# In processes of their own.


def measure(name, sweeps, repeats, xla):
    """Times and memory at all shapes of `{key: shapes}`."""
    import forms

    return {
        key: [
            forms.in_own_process(measure_one, name, shape, repeats, xla)
            for shape in shapes
        ]
        for key, shapes in sweeps.items()
    }


def measure_one(name, shape, repeats, xla):
    """Times and memory at one shape."""
    import forms

    # First, because TensorFlow's memory depends on its earlier use.
    mebibytes = forms.memory_of(name, "ours", shape, xla)
    layer = forms.make_layer(name, shape)
    form = forms.with_gradients(forms.ours(layer, training=True))
    label = "ours" + ", XLA" * xla
    tensors = forms.operands(layer, shape)
    times = forms.times_of({label: form}, tensors, repeats)
    return {"ms": times[label]["ms"], "mib": mebibytes}


if __name__ == "__main__":
    main()
