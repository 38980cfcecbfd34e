"""What trained networks do with images that are not like those in training.

    python benchmarks/claims.py

Measures the networks that `benchmarks/trainings.py` trained on MNIST: how often
they are wrong about turned, noisy, covered, faint and attacked test images; how
sure they are of digits whose quadrants are swapped; and how well scores tell
how often they are right. Nothing is chosen by these figures. TensorFlow makes
the gradients of the attacks.

Reads the records and the weights, see `benchmarks/recorded.py`, and the records
of networks that were trained on few images and on other tasks than MNIST.
Writes `claims.json` to `benchmarks/results`, pictures to `docs`, and tables
between the marks of `docs/claims.md`.

    python benchmarks/claims.py --redraw       # writes tables and pictures only
"""

import collections
import itertools
import math
import statistics

import evidence
import harness
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from recorded import measured
from recorded import of_families
from recorded import parser_of

from keras_capsules.inspection import moves

PAGE = harness.ROOT / "docs" / "claims.md"
FAMILIES = evidence.FAMILIES
# `CapsNet` has forty times as many parameters. What it makes of few images is
# in the table of that.
SAME_SIZE = tuple(each for each in FAMILIES if each != "capsnet")
ANGLES = tuple(range(0, 91, 15))
NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviations
SQUARES = (4, 6, 8, 10, 12, 14)  # sides, in pixels
CONTRASTS = (0.8, 0.6, 0.4, 0.2, 0.1)  # factors of all pixels
ATTACKS = (0.02, 0.05, 0.1, 0.2)  # largest changes of a pixel
ATTACKED = 500  # images
BINS = 15  # of the calibration error


def main():
    arguments = parser_of(__doc__, PAGE, 10_000, SAME_SIZE).parse_args()
    found = measured("claims", measure, arguments, networks=SAME_SIZE)
    records = evidence.read(arguments.records)
    few, others = of_few_images(records), of_tasks(records)
    text = arguments.page.read_text()
    text = evidence.put(text, "figures", "\n".join(tables(found)))
    text = evidence.put(text, "few images", "\n".join(table_of_few(few)))
    text = evidence.put(text, "tasks", "\n".join(table_of_tasks(others)))
    harness.write_text(arguments.page, text)
    folder = arguments.page.parent
    draw(found, folder)
    if few:
        draw_few(few, folder)
    if others:
        draw_tasks(others, folder)


def measure(model, images, labels):
    """All figures of a network, by claim."""
    scores = predict(model, images)
    changes = {
        "rotation": (turned, ANGLES),
        "noise": (noisy, NOISE),
        "occlusion": (covered, SQUARES),
        "contrast": (faint, CONTRASTS),
    }
    found = {
        "error": percent_wrong(scores, labels),
        "wrong": np.flatnonzero(scores.argmax(axis=1) != labels).tolist(),
    }
    for claim, (change, amounts) in changes.items():
        found[claim] = {
            str(amount): percent_wrong(
                predict(model, change(images, amount)), labels
            )
            for amount in amounts
        }
    found |= attacks(model, images[:ATTACKED], labels[:ATTACKED])
    found["quadrants"] = sureness(scores, predict(model, swapped(images)))
    found["calibration"] = calibration(scores, labels)
    return found


def predict(model, images):
    return model.predict(images, batch_size=500, verbose=0)


def percent_wrong(scores, labels):
    return round(100 * float(np.mean(scores.argmax(axis=1) != labels)), 3)


# Changes of images, the same for every network.


def turned(images, degrees):
    """Half of the images to the left, half to the right."""
    sign = np.where(np.arange(len(images)) % 2, -1.0, 1.0)
    return moves.move(images, "rotation", degrees * sign)


def noisy(images, deviation):
    generator = np.random.default_rng(1)
    noise = generator.normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 1).astype("float32")


def covered(images, side):
    """Each image with a black square somewhere in it."""
    generator = np.random.default_rng(2)
    changed = images.copy()
    places = generator.integers(0, images.shape[1] - side + 1, (len(images), 2))
    for image, (row, column) in zip(changed, places, strict=True):
        image[row : row + side, column : column + side] = 0
    return changed


def faint(images, factor):
    return (images * factor).astype("float32")


def swapped(images):
    """Each image with its quadrants elsewhere: none stays in its place."""
    half = images.shape[1] // 2
    rows = (slice(0, half), slice(half, 2 * half))
    places = list(itertools.product(rows, rows))
    orders = [
        order
        for order in itertools.permutations(range(4))
        if all(place != source for place, source in enumerate(order))
    ]
    chosen = np.random.default_rng(3).integers(0, len(orders), len(images))
    changed = images.copy()
    for result, image, number in zip(changed, images, chosen, strict=True):
        for place, source in enumerate(orders[number]):
            result[places[place]] = image[places[source]]
    return changed


# Attacks.


def attacks(model, images, labels):
    """Errors under attacks: in one step, in 20, and under the worst of all."""
    gradients = [attack_gradient(model, lead) for lead in LEADS.values()]

    def is_wrong(images):
        return predict(model, images).argmax(axis=1) != labels

    at_first = is_wrong(images)

    def worst(**options):
        """Which images one of the leads makes wrong."""
        wrong = at_first.copy()
        for gradient in gradients:
            left = np.flatnonzero(~wrong)
            if len(left):
                changed = images.copy()
                changed[left] = attack(
                    gradient, images[left], labels[left], **options
                )
                wrong |= is_wrong(changed)
        return wrong

    found = {"fgsm": {}, "pgd": {}, "any": {}}
    for largest in ATTACKS:
        one_step = worst(largest=largest, steps=1)
        steps = worst(largest=largest, steps=20)
        random = worst(largest=largest, steps=50, seed=4)
        for claim, wrong in (
            ("fgsm", one_step),
            ("pgd", steps),
            ("any", one_step | steps | random),
        ):
            found[claim][str(largest)] = round(100 * float(wrong.mean()), 3)
    return found


def attack_gradient(model, lead):
    """A function from images and labels to the direction that makes them right.

    It raises the lead of the label's score over the best other one. Losses such
    as the margin loss would not do for all networks alike: their gradients
    vanish where a network is sure.

    Args:
        model: A network with ten scores from 0 to 1.
        lead: One of `LEADS`.
    """

    @tf.function(reduce_retracing=True)
    def gradient(images, labels):
        chosen = tf.one_hot(labels, 10)
        with tf.GradientTape() as tape:
            tape.watch(images)
            values = lead(model(images, training=False))
            right = tf.reduce_sum(values * chosen, axis=1)
            other = tf.reduce_max(values - 1e4 * chosen, axis=1)
            total = tf.reduce_sum(right - other)
        return tape.gradient(total, images)

    return gradient


# What an attack may lower; the worst of all counts, for every network. For
# probabilities, differences of logarithms are differences of logits. For
# lengths they would not do: the logarithm of a length near 0 is so steep that
# the length of the right class hardly counts. The last one undoes `squash`.
LEADS = {
    "logarithms": lambda scores: tf.math.log(scores + 1e-9),
    "scores": lambda scores: scores,
    "before squash": lambda scores: -tf.math.log(1 - scores + 1e-7),
}


def attack(gradient, images, labels, largest, steps, seed=None):
    """Images whose pixels are changed by at most `largest`.

    Args:
        gradient: See `attack_gradient`.
        images: From 0 to 1.
        labels: Their classes.
        largest: A number.
        steps: Integer; 1 is FGSM, more are PGD.
        seed: Integer, of a random start; or `None`, to start from the images.
    """
    first, labels = tf.constant(images, "float32"), tf.constant(labels)
    least = tf.maximum(first - largest, 0.0)
    most = tf.minimum(first + largest, 1.0)
    changed = first
    if seed is not None:
        generator = np.random.default_rng(seed)
        noise = generator.uniform(-largest, largest, images.shape)
        changed = tf.clip_by_value(first + noise.astype("float32"), least, most)
    step = largest if steps == 1 else 2.5 * largest / steps
    for _ in range(steps):
        changed = changed - step * tf.sign(gradient(changed, labels))
        changed = tf.clip_by_value(changed, least, most)
    return changed.numpy()


# How sure a network is.


def sureness(scores, of_swapped):
    """How sure a network is of digits, and of digits that are none any more."""
    sure, less_sure = scores.max(axis=1), of_swapped.max(axis=1)
    same = scores.argmax(axis=1) == of_swapped.argmax(axis=1)
    # How often a digit has a higher score than one that is none: 0.5 if the
    # network cannot tell.
    ordered = np.sort(less_sure)
    lower = np.searchsorted(ordered, sure, "left")
    not_higher = np.searchsorted(ordered, sure, "right")
    told = (lower + not_higher).mean() / (2 * len(ordered))  # ties are half
    return {
        "digits": round(float(sure.mean()), 4),
        "swapped": round(float(less_sure.mean()), 4),
        "same_class": round(100 * float(same.mean()), 2),
        "told_apart": round(float(told), 4),
    }


def calibration(scores, labels):
    """Expected calibration errors, in percent, as it is and with temperature.

    The temperature of one half of the images is fitted on the other half. It
    divides the logarithms of the scores before a softmax.
    """
    right = scores.argmax(axis=1) == labels
    halves = np.arange(len(labels)) % 2 == 0
    fitted = np.empty(len(labels))
    temperatures = []
    for half in (halves, ~halves):
        temperature = fit_temperature(scores[~half], labels[~half])
        temperatures.append(temperature)
        fitted[half] = tempered(scores[half], temperature).max(axis=1)
    return {
        "raw": expected_error(scores.max(axis=1), right),
        "tempered": expected_error(fitted, right),
        "temperatures": [round(float(each), 3) for each in temperatures],
    }


def tempered(scores, temperature):
    logs = np.log(scores.astype("float64") + 1e-9) / temperature
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def fit_temperature(scores, labels):
    """The temperature with the least cross-entropy."""
    candidates = np.geomspace(0.02, 10, 200)
    rows = np.arange(len(labels))
    losses = [
        -np.log(tempered(scores, each)[rows, labels] + 1e-12).mean()
        for each in candidates
    ]
    return candidates[int(np.argmin(losses))]


def expected_error(confidence, right):
    """The mean distance of confidence and accuracy, over bins of confidence."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = sum(
        abs(confidence[bins == each].mean() - right[bins == each].mean())
        * np.mean(bins == each)
        for each in np.unique(bins)
    )
    return round(100 * float(total), 3)


# Tables and pictures.

TASKS = {
    "affine_mnist": "affine MNIST",
    "coil20": "COIL-20",
    "multi_mnist": "MultiMNIST, both digits right",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10 (JPEG copy)",
}
TITLES = {
    "rotation": ("Turned by so many degrees", "degrees"),
    "noise": ("Normal noise of this deviation", "standard deviation"),
    "occlusion": ("A black square of this side", "pixels"),
    "contrast": ("All pixels times this factor", "factor"),
    "fgsm": ("FGSM, changes of at most", "largest change"),
    "pgd": ("PGD, changes of at most", "largest change"),
    "any": ("The worst attack, changes of at most", "largest change"),
}


def tables(found):
    """Lines of Markdown."""
    yield "![Test errors against the size of each change](claims.png)\n"
    families = of_families(found)
    for claim, (title, _) in TITLES.items():
        amounts = next(iter(found.values()))[claim]
        yield from table(
            [title, *amounts],
            {
                name: [
                    evidence.spread([r[claim][x] for r in runs])
                    for x in amounts
                ]
                for name, runs in families.items()
            },
        )
    yield from pairs_of(found)
    sure = ("digits", "swapped", "told_apart", "same_class")
    yield from table(
        [
            "Quadrants swapped",
            "mean score of digits",
            "of swapped ones",
            "told apart (0.5: not at all)",
            "same class, %",
        ],
        {
            name: [
                spread([run["quadrants"][key] for run in runs]) for key in sure
            ]
            for name, runs in families.items()
        },
    )
    yield from table(
        ["Calibration error, %", "of the scores", "with temperature"],
        {
            name: [
                spread([run["calibration"][key] for run in runs])
                for key in ("raw", "tempered")
            ]
            for name, runs in families.items()
        },
    )


def pairs_of(found):
    """Which of two networks is wrong, image by image; lines of Markdown."""
    yield (
        "| | | only the first is wrong about | only the second | p, McNemar's "
        "exact test |"
    )
    yield "|---" * 5 + "|"
    for first, second in itertools.combinations(found.values(), 2):
        if first["network"] == second["network"]:
            continue
        one, two = set(first["wrong"]), set(second["wrong"])
        names = [
            f"{FAMILIES[each['network']]}, seed {each['seed']}"
            for each in (first, second)
        ]
        numbers = len(one - two), len(two - one)
        cells = [*names, *map(str, numbers), f"{mcnemar(*numbers):#.2g}"]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def mcnemar(first, second):
    """How likely so large a difference is by chance, of so many images.

    Args:
        first: Integer, the images about which only the first network is wrong.
        second: Integer, those of the second.
    """
    number = first + second
    tail = sum(math.comb(number, x) for x in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**number)


def of_few_images(records):
    """Test errors of all seeds, by network and images of a class."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for each in records:
        number = each["settings"].get("per_class")
        if number and each["task"] == "mnist" and each["network"] in FAMILIES:
            found[FAMILIES[each["network"]]][number].append(each["test_error"])
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def table_of_few(found):
    if not found:
        yield "Not measured yet."
        return
    yield "![Test errors against the number of images](claims-less-data.png)\n"
    numbers = sorted({number for each in found.values() for number in each})
    yield from table(
        ["Test error, %, with images of a class", *map(str, numbers)],
        {
            name: [evidence.spread(errors.get(each, [])) for each in numbers]
            for name, errors in found.items()
        },
    )


def of_tasks(records):
    """Test errors of all seeds, by task and network of the common size.

    A task is left out as long as there is only one network to look at.
    """
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for each in records:
        task, network = each["task"], each["network"]
        # Both networks of MultiMNIST are larger.
        size = "-deep" * (task == "multi_mnist")
        name = f"{task}-{network}{size}-seed{each['seed']}"
        if task in TASKS and network in FAMILIES and each["name"] == name:
            found[task][FAMILIES[network]].append(each["test_error"])
    return {
        task: {
            name: found[task][name]
            for name in FAMILIES.values()
            if name in found[task]
        }
        for task in TASKS
        if len(found[task]) > 1
    }


def table_of_tasks(found):
    if not found:
        yield "Not measured yet."
        return
    yield "![Test errors of several tasks](claims-tasks.png)\n"
    names = [
        name
        for name in FAMILIES.values()
        if any(name in errors for errors in found.values())
    ]
    yield from table(
        ["Test error, %", *(TASKS[task] for task in found)],
        {
            name: [evidence.spread(found[task].get(name, [])) for task in found]
            for name in names
        },
    )


def spread(values):
    """Mean, to three digits, and standard deviation, with as many decimals."""
    mean = statistics.mean(values)
    decimals = 2
    if mean:
        decimals = min(3, max(0, 2 - math.floor(math.log10(abs(mean)))))
    if len(values) == 1:
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"


def table(heads, rows):
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for name, cells in rows.items():
        yield "| " + " | ".join([name, *cells]) + " |"
    yield ""


def draw(found, folder):
    """Draws test errors against the size of each change."""
    figure, axes = plt.subplots(3, 3, figsize=(12, 10), layout="constrained")
    families = of_families(found)
    for axis, (claim, (title, unit)) in zip(
        axes.flat, TITLES.items(), strict=False
    ):
        for name, runs in families.items():
            errors = {
                float(amount): [run[claim][amount] for run in runs]
                for amount in runs[0][claim]
            }
            draw_line(axis, name, errors)
        axis.set(title=title, xlabel=unit, ylabel="test error, %")
        axis.set_xticks(list(errors))
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(fontsize="small")
    for axis, claim, title, keys in (
        (axes[2, 1], "quadrants", "Mean score", ["digits", "swapped"]),
        (
            axes[2, 2],
            "calibration",
            "Calibration error, %",
            ["raw", "tempered"],
        ),
    ):
        draw_bars(axis, families, claim, keys)
        axis.set(title=title)
    axes[2, 2].set_xticklabels(["of the scores", "with temperature"])
    axes[2, 1].set_xticklabels(["digits", "quadrants swapped"])
    harness.save(figure, "claims", folder)


def draw_bars(axis, families, claim, keys):
    """Draws the mean of all seeds as a bar, and each as a dot."""
    names = list(FAMILIES.values())
    width = 0.8 / len(families)
    for number, (name, runs) in enumerate(families.items()):
        colour = f"C{names.index(name)}"
        for place, key in enumerate(keys):
            values = [run[claim][key] for run in runs]
            x = place + (number - (len(families) - 1) / 2) * width
            axis.bar(x, statistics.mean(values), width, color=colour, alpha=0.4)
            axis.plot([x] * len(values), values, "o", color=colour)
    axis.set_xticks(range(len(keys)), keys)


def draw_few(few, folder):
    """Draws test errors against the number of images."""
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name, errors in few.items():
        draw_line(axis, name, errors)
    axis.set(
        title="MNIST with few images",
        xlabel="images of a class",
        ylabel="test error, %",
        xscale="log",
        yscale="log",
    )
    axis.legend(fontsize="small")
    harness.save(figure, "claims-less-data", folder)


def draw_tasks(found, folder):
    """Draws the test error of each seed, a panel for each task."""
    names = list(FAMILIES.values())
    figure, axes = plt.subplots(
        1,
        len(found),
        figsize=(0.6 + 2.7 * len(found), 3.4),
        layout="constrained",
        squeeze=False,
    )
    for axis, (task, errors) in zip(axes.flat, found.items(), strict=True):
        for place, (name, each) in enumerate(errors.items()):
            colour = f"C{names.index(name)}"
            axis.bar(place, statistics.mean(each), color=colour, alpha=0.4)
            axis.plot([place] * len(each), each, "o", color=colour)
        axis.set_xticks(range(len(errors)), errors, rotation=20, fontsize=7)
        axis.set(title=TASKS[task].replace(", ", ",\n"), ylabel="test error, %")
        axis.set_ylim(bottom=0)
    harness.save(figure, "claims-tasks", folder)


def draw_line(axis, name, errors):
    """Draws the mean of all seeds, and a band from the least to the largest."""
    colour = f"C{list(FAMILIES.values()).index(name)}"
    means = [statistics.mean(each) for each in errors.values()]
    axis.plot(list(errors), means, "o-", label=name, color=colour)
    axis.fill_between(
        list(errors),
        [min(each) for each in errors.values()],
        [max(each) for each in errors.values()],
        alpha=0.2,
        color=colour,
    )


if __name__ == "__main__":
    main()
