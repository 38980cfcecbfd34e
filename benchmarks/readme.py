"""The tables of errors and of speed in the README, and of costs of routings.

    python benchmarks/readme.py           # or: make results

Reads the records in `benchmarks/results`, and writes the tables between the
marks in `README.md`, that of speed also in `docs/performance.md`, and what each
routing costs on its page in `docs/routings`.
"""

import argparse
import pathlib

import evidence
import harness

TASKS = evidence.TITLES
# The network with capsules and those without that are compared.
NETWORKS = {
    name: evidence.FAMILIES[name]
    for name in ("efficient_capsnet", "conv_net", "squeeze_excitation_net")
}
# Where the name of a row is not that of the task and the network.
ROWS = {("multi_mnist", name): f"multi_mnist-{name}-deep" for name in NETWORKS}
ROUTINGS = [
    "dynamic",
    "self_attention",
    "self_routing",
    "inverted_attention",
    "em",
    "variational_bayes",
]
# The pages, and the marks of their tables.
PAGES = {
    "README.md": ["evidence", "speed"],
    "docs/performance.md": ["speed"],
    **{f"docs/routings/{name}.md": [f"cost of {name}"] for name in ROUTINGS},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=pathlib.Path, default=harness.ROOT)
    root = parser.parse_args().root
    made = tables()
    for page, names in PAGES.items():
        text = (root / page).read_text()
        for name in names:
            text = evidence.put(text, name, made[name])
        harness.write_text(root / page, text)


def tables():
    """The tables by the names of their marks, in Markdown."""
    groups = evidence.grouped(evidence.read(evidence.RUNS))
    forms = harness.read("speed", harness.RESULTS)["forms"]
    mebibytes = harness.read("memory", harness.RESULTS)["step_mib"]
    return {
        "evidence": errors(groups),
        "speed": speed(forms, mebibytes),
        **{
            f"cost of {name}": cost(name, forms, mebibytes) for name in ROUTINGS
        },
    }


def errors(groups):
    """The test errors of all networks, and the least published, for each task.

    Args:
        groups: Lists of records by task and name.
    """
    rows = [["test error, %", *NETWORKS.values(), "published"]]
    for task, title in TASKS.items():
        found = [
            groups.get((task, ROWS.get((task, name), f"{task}-{name}")))
            for name in NETWORKS
        ]
        if not any(found):
            continue
        best = min(
            evidence.PUBLISHED.get(task, ()),
            key=lambda published: published[2],  # its least error
            default=None,
        )
        rows.append(
            [
                title,
                *(
                    evidence.spread([run.get("test_error") for run in runs])
                    + ", one seed" * (len(runs) == 1)
                    if runs
                    else "–"
                    for runs in found
                ),
                f"{best[2]}, {best[0]}" if best else "–",
            ]
        )
    return in_markdown(rows)


def speed(forms, mebibytes):
    """Each routing against its textbook form.

    TensorFlow's textbook form is the faster of graph and XLA. Ours is a graph,
    as Keras compiles it on a machine without a GPU.

    Args:
        forms: Times by backend, routing, form and column.
        mebibytes: Memory by the title of a backend, routing and form.
    """
    titles = harness.BACKENDS
    rows = [
        [
            "speed, forward / with gradients",
            *titles.values(),
            "times less memory, in this order",
        ]
    ]
    for name in ROUTINGS:
        times = [
            " / ".join(
                f"{faster(forms[backend][name], column):.1f}"
                for column in ("forward", "with gradients")
            )
            for backend in titles
        ]
        memory = " / ".join(
            f"{used['textbook'] / used['ours']:.0f}"
            for used in (mebibytes[title][name] for title in titles.values())
        )
        rows.append([f'`"{name}"`', *times, memory])
    return in_markdown(rows)


def cost(name, forms, mebibytes):
    """What a step of the layer costs that the benchmarks measure.

    Args:
        name: Of a routing.
        forms: As that of `speed`.
        mebibytes: As that of `speed`.
    """
    titles = harness.BACKENDS
    rows = [["one layer, 128 examples", *titles.values()]]
    for column in ("forward", "with gradients"):
        times = [forms[each][name]["ours"][column]["median"] for each in titles]
        rows.append([f"{column}, ms", *(f"{time:.0f}" for time in times)])
    used = [mebibytes[title][name]["ours"] for title in titles.values()]
    rows.append(["memory of a step, MiB", *(f"{each:.0f}" for each in used)])
    return in_markdown(rows)


def faster(forms, column):
    """How many times as fast as the textbook form ours is."""
    textbook = min(
        forms[form][column]["median"]
        for form in ("textbook", "textbook, XLA")
        if form in forms
    )
    return textbook / forms["ours"][column]["median"]


def in_markdown(rows):
    """A table; the first row is its head."""
    head, *rest = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


if __name__ == "__main__":
    main()
