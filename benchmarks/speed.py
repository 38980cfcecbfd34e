"""How fast every routing is, compared with its textbook form, on every backend.

    python benchmarks/speed.py

Prints tables and writes `speed.json` and pictures to `benchmarks/results`:
milliseconds of a layer forward, and with gradients to poses and kernel. Dynamic
routing with three iterations and routings of one or two passes have the shape
of the MNIST CapsNet, 1152 x 8 to 10 x 16; EM and variational Bayes route 288
matrices of 4 x 4 to 10 of them; the batch is 128. Forms of one routing take
turns in one process. TensorFlow runs each form as an ordinary graph and with
XLA, JAX jits it, PyTorch runs it eagerly. With them are the seconds of first
calls, which trace and compile; TensorFlow's eager mode, for one example of a
layer of 1152 x 8 to 200 x 16; and how far our outputs are from the textbook's.

With `--baseline PATH`, our layers and those of the package at PATH take turns
as well, in processes of their own.
"""

import functools

import harness

COLUMNS = "forward", "with gradients"


def main():
    parser = harness.parser(
        __doc__,
        repeats=7,
        baseline_repeats=3,
        batch=0,
        inputs=0,
        outputs=0,
        eager_outputs=200,
    )
    harness.add_backends(parser)
    harness.add_baseline(parser)
    parser.add_argument("--routings", nargs="+", help="by default, all")
    arguments = parser.parse_args()
    if arguments.redraw:
        results = harness.read("speed", arguments.output)
        draw(results, arguments.output)
        return
    sizes = {
        key: getattr(arguments, key) for key in ("batch", "inputs", "outputs")
    }
    results = {
        "forms": {},
        "largest_difference": {},
        "eager": {},
        "against_baseline": {},
    }
    for backend in arguments.backends:
        title = harness.BACKENDS[backend]
        found = harness.call(
            measure,
            arguments.routings,
            arguments.repeats,
            sizes,
            backend=backend,
        )
        tables = {name: _summary(rows) for name, rows in found["forms"].items()}
        results["forms"][backend] = tables
        results["largest_difference"][backend] = found["differences"]
        for name, rows in tables.items():
            harness.show(f"{title}: {name}", harness.medians(rows))
        print(f"\nlargest differences: {found['differences']}")
    if "tensorflow" in arguments.backends and arguments.eager_outputs:
        found = harness.call(
            measure_eager, arguments.eager_outputs, arguments.repeats, sizes
        )
        rows = _summary(found)
        results["eager"] = rows
        harness.show("TensorFlow, one example", harness.medians(rows))
    if arguments.baseline:
        against = compare(arguments, sizes)
        results["against_baseline"] = against
        for backend, tables in against.items():
            title = harness.BACKENDS[backend]
            for name, rows in tables.items():
                harness.show(
                    f"{title}: {name}, two versions", harness.medians(rows)
                )
    draw(results, arguments.output)
    harness.write("speed", results, arguments.output)


def draw(results, folder):
    """Draws the times of all forms, and in another picture of two versions."""
    for name, key in (
        ("speed", "forms"),
        ("speed-versions", "against_baseline"),
    ):
        panels = {}
        for backend, tables in results[key].items():
            _add(panels, harness.BACKENDS[backend], tables)
        if panels:
            units = {row: "ms" for row in panels}
            harness.draw(name, panels, folder, units)


def compare(arguments, sizes):
    """Times of this version and of another, in turn."""
    results = {}
    for backend in arguments.backends:
        chosen = arguments.routings or harness.call(names, backend=backend)
        found = harness.in_turn(
            measure,
            chosen,
            arguments.baseline_repeats,
            sizes,
            which=["ours"],
            baseline=arguments.baseline,
            rounds=arguments.rounds,
            backend=backend,
        )
        results[backend] = {
            name: _summary(
                {
                    version + form.removeprefix("ours"): _joined(
                        [each["forms"][name][form] for each in rounds]
                    )
                    for version, rounds in found.items()
                    for form in rounds[0]["forms"][name]
                }
            )
            for name in chosen
        }
    return results


def _joined(rows):
    """`{column: times}` of several rounds as one."""
    return {
        column: {
            "first": min(row[column]["first"] for row in rows),
            "ms": [each for row in rows for each in row[column]["ms"]],
        }
        for column in rows[0]
    }


def _summary(rows):
    return {
        name: {
            column: {
                **harness.summary(found["ms"]),
                "first_call_seconds": found["first"],
            }
            for column, found in row.items()
        }
        for name, row in rows.items()
    }


def _add(panels, title, tables):
    """Adds the tables of a backend to the panels."""
    for column in COLUMNS:
        panels.setdefault(f"One layer, {column}", {})[title] = {
            name.replace(", ", ",\n"): {
                form: row.get(column, {}).get("median")
                for form, row in rows.items()
            }
            for name, rows in tables.items()
        }


# In processes of their own.


def names():
    """The names of the measured routings."""
    import forms

    return forms.names()


def measure(chosen, repeats, sizes, which=("ours", "textbook")):
    """Times of all forms of some routings, and differences of their outputs.

    Args:
        chosen: Names of routings; `None` for all.
        repeats: How often to time each.
        sizes: Of the layers, other than the usual ones if above 0.
        which: Our layers, textbook forms, or both.
    """
    import forms

    forms.warm_up()
    tables, differences = {}, {}
    for name in chosen or forms.names():
        shape = forms.shape_of(name, **sizes)
        layer = forms.make_layer(name, shape)
        tensors = forms.operands(layer, shape)
        inference = forms.all_forms(name, layer, False, which)
        training = {
            label: forms.with_gradients(form)
            for label, form in forms.all_forms(name, layer, True, which).items()
        }
        found = {
            "forward": forms.times_of(
                forms.with_xla(inference), tensors, repeats
            ),
            "with gradients": forms.times_of(
                forms.with_xla(training), tensors, repeats
            ),
        }
        tables[name] = {
            label: {column: times[label] for column, times in found.items()}
            for label in found["forward"]
        }
        if "textbook" in inference and "ours" in inference:
            differences[name] = forms.difference(inference, tensors)
    return {"forms": tables, "differences": differences}


def measure_eager(outputs, repeats, sizes):
    """Times of dynamic routing of one example, eager and in a graph."""
    import forms

    forms.warm_up()
    sizes = {**sizes, "batch": 1, "outputs": outputs}
    shape = forms.shape_of("dynamic", **sizes)
    layer = forms.make_layer("dynamic", shape)
    tensors = forms.operands(layer, shape)
    found = {}
    for column, wrap in (
        ("forward", lambda form: form),
        ("with gradients", forms.with_gradients),
    ):
        form = wrap(forms.ours(layer, training=column != "forward"))
        steps = {"graph": forms.compiled(form), "eager": form}
        found[column] = forms.timed(
            {
                mode: functools.partial(step, *tensors)
                for mode, step in steps.items()
            },
            repeats,
        )
    return {
        mode: {column: times[mode] for column, times in found.items()}
        for mode in ("graph", "eager")
    }


if __name__ == "__main__":
    main()
