"""How much memory a training step of a layer takes, on every backend.

    python benchmarks/memory.py

Prints tables and writes `memory.json` and `memory.png` to `benchmarks/results`:
the peak memory of one step, forward and with gradients to poses and kernel,
above that of poses, kernel and gradients themselves, of every routing and its
textbook form at the shapes of `speed.py`. In TensorFlow, as ordinary graph and
with XLA, it is the peak of the memory that is allocated in pieces of 256 KiB or
more. TensorFlow counts that where it uses oneDNN; each form has a process of
its own. On JAX, it is the size of the temporary buffers of the compiled step.
In PyTorch, it is the peak of all tensors, as the profiler reports them.

Then one step of a large layer, 3872 x 8 to 196 x 16 with a batch of 128, whose
votes alone would take 5.8 GiB, in TensorFlow: the seconds it takes and the peak
memory of the whole process, which Linux reports. With `--baseline PATH`, the
package at PATH takes the same step.
"""

import time

import harness

LARGE = {"inputs": 3872, "outputs": 196}


def main():
    parser = harness.parser(
        __doc__, batch=0, inputs=0, outputs=0, large_batch=128
    )
    harness.add_backends(parser)
    harness.add_baseline(parser)
    parser.set_defaults(rounds=1)
    parser.add_argument("--routings", nargs="+", help="by default, all")
    arguments = parser.parse_args()
    if arguments.redraw:
        results = harness.read("memory", arguments.output)
        draw(results, arguments.output)
        return
    sizes = {
        key: getattr(arguments, key) for key in ("batch", "inputs", "outputs")
    }
    tables = {}
    for backend in arguments.backends:
        for xla in (False, True) if backend == "tensorflow" else (False,):
            title = harness.BACKENDS[backend] + ", XLA" * xla
            tables[title] = harness.call(
                measure, arguments.routings, sizes, xla, backend=backend
            )
            for name, row in tables[title].items():
                rows = {form: {"MiB": value} for form, value in row.items()}
                harness.show(f"{title}: {name}", rows, "MiB")
    results = {"step_mib": tables}
    if "tensorflow" in arguments.backends and arguments.large_batch:
        found = harness.in_turn(
            measure_large,
            {**LARGE, "batch": arguments.large_batch},
            baseline=arguments.baseline,
            rounds=arguments.rounds,
        )
        results["large_layer"] = {
            version: {
                key: harness.summary([row[key] for row in rows])["median"]
                for key in rows[0]
            }
            for version, rows in found.items()
        }
        print(f"\nA large layer: {results['large_layer']}")
    draw(results, arguments.output)
    harness.write("memory", results, arguments.output)


def draw(results, folder):
    """Draws the memory of a step, and of a process with a large layer."""
    panels = {
        "A training step of one layer, batch 128": {
            title: {
                # Zero is less than can be measured.
                name.replace(", ", ",\n"): {
                    form: value or None for form, value in row.items()
                }
                for name, row in table.items()
            }
            for title, table in results["step_mib"].items()
        }
    }
    if "large_layer" in results:
        kinds = {
            "peak of\nthe process": "peak_mib",
            "before\nthe step": "before_mib",
        }
        panels["A layer of 3872 x 8 to 196 x 16"] = {
            "TensorFlow": {
                kind: {
                    version: row[key]
                    for version, row in results["large_layer"].items()
                }
                for kind, key in kinds.items()
            }
        }
    units = {title: "MiB" for title in panels}
    harness.draw("memory", panels, folder, units)


# In processes of their own.


def measure(chosen, sizes, xla):
    """MiB of a step of each routing in each form."""
    import forms

    return {
        name: {
            label: forms.in_own_process(
                forms.memory_of,
                name,
                label,
                forms.shape_of(name, **sizes),
                xla,
            )
            for label in forms.labels(name)
        }
        for name in chosen or forms.names()
    }


def measure_large(sizes):
    """Seconds and memory of a step of a large layer, in this process."""
    import forms

    shape = forms.shape_of("dynamic", **sizes)
    layer = forms.make_layer("dynamic", shape)
    tensors = forms.operands(layer, shape)
    step = forms.compiled(forms.with_gradients(forms.ours(layer, True)))
    before = harness.status("VmRSS")
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        forms.wait(step(*tensors))
        seconds.append(time.perf_counter() - started)
    return {
        "first_call_seconds": seconds[0],
        "seconds": seconds[1],
        # Not `ru_maxrss`, which may be that of the process before.
        "peak_mib": harness.status("VmHWM") / 1024,
        "before_mib": before / 1024,
    }


if __name__ == "__main__":
    main()
