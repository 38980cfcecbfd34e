"""Which measurements of a network are signs of which problem.

The thresholds lie between what was measured in networks that learn and in
networks that do not. Each constant says what was seen.
"""

from collections.abc import Iterator

import numpy as np

from keras_capsules.inspection.data_diagnosis import problems_of_images
from keras_capsules.inspection.data_diagnosis import problems_of_labels
from keras_capsules.inspection.kernels import kernels_of
from keras_capsules.inspection.problems import Evidence
from keras_capsules.inspection.problems import Problem
from keras_capsules.layers.base import RoutedLayer
from keras_capsules.routing.fixed import FixedRouting

# A capsule with no higher activation is dead: `CapsuleLength` makes 0.0003 of
# zeros. In networks that learn, all layers had activations of 0.0009 and more;
# layers that had vanished, of 0.00009 and less. (Some types of primary capsules
# die in networks that learn well.)
DEAD = 5e-4
# How much the outputs of a layer that sums votes have to differ between images,
# relative to their size. In networks that learn well it was 0.03 and more, in
# deep ones that learn slowly 0.0003, and in those that do not 0.00004 and less.
LEAST_VARIATION = 1e-4
# Pixels from 0 to 255 that were divided by 255 twice are smaller than this.
SMALL_PIXELS = 0.005
# One minus the entropy of uniform routing. It is 0 without routing, up to
# rounding, and grows in training: to 0.0008 and more in 45 steps.
UNIFORM = 1e-6
# From this number of steps on, a network counts as trained. Routing by trained
# weights is uniform at first, and means of many votes differ little.
TRAINED = 1000
# A kernel that is smaller than this part of its usual size is to blame if the
# activations of its layer, or of a later one, vanish. In networks that learn it
# was 0.9 and more, in those with a kernel that is too small 0.02 and less.
SMALL = 0.2
# Of a dead class, the mean score differs less between its own images and others
# than this part of the difference for other classes: 0.06 and less, for classes
# that stayed dead or were not in the training data. Of those that were learned
# late it was 0.15 and more, once the others were recognized.
LEAST_DIFFERENCE = 0.1
# Before a class is called dead, so many images have to show it, and the network
# has to know the others: their mean scores have to differ that much, this part
# of their images has to be recognized, and more than by guessing, by so many
# standard deviations. Until then most classes never win.
FEWEST_IMAGES = 5
LEAST_SEPARATION, LEAST_ACCURACY, LEAST_DEVIATIONS = 0.1, 0.8, 4.0


def diagnose(evidence: Evidence) -> tuple[Problem, ...]:
    """Finds problems, those first that may cause the others.

    Args:
        evidence: An `Evidence`.
    """
    found = [*problems_of_images(evidence), *problems_of_labels(evidence)]
    if any(each.name == "images_not_finite" for each in found):
        return tuple(found)  # all else follows
    if evidence.broken is not None:
        return (*found, _not_finite(*evidence.broken))
    return (
        *found,
        *_vanished(evidence),
        *_uniform(evidence),
        *_dead_classes(evidence),
    )


def _not_finite(name, share, weights_are_finite):
    seen, remedy = (
        "not finite either: training made them so",
        "Lower the learning rate, and check that all training images are "
        "finite and that no label is out of range.",
    )
    if weights_are_finite:
        seen, remedy = (
            "finite: numbers overflow",
            "Compute this layer in float32, and make its inputs smaller.",
        )
    return Problem(
        "not_finite",
        name,
        f"NaN first seen in {name}: {100 * share:.3g} % of its output is NaN "
        "or infinite (expected 0 %), though its input is not, and its weights "
        f"are {seen}.",
        remedy,
    )


def _vanished(evidence: Evidence) -> Iterator[Problem]:
    images = evidence.images.reshape(len(evidence.images), -1)
    if (images == images[:1]).all():
        return  # nothing could differ
    judged = True
    for sums in evidence.layers:
        highest = float(np.max(sums.highest))
        routing = getattr(sums.layer, "routing", None)
        if getattr(routing, "averages", False):
            # At first, means of many votes hardly differ in any case: only a
            # kernel that is too small is a fault.
            judged = evidence.steps >= TRAINED
        if highest <= DEAD:
            seen = (
                f"the highest activation of all capsules is {highest:.1g} "
                f"(expected more than {DEAD:g})"
            )
        elif sums.variation < LEAST_VARIATION:
            seen = (
                f"images change the output by {sums.variation:.1g} of its size "
                f"(expected at least {LEAST_VARIATION:g})"
            )
        else:
            continue
        small = _small_kernel(evidence, sums.name, seen)
        if small is None and highest > DEAD and not judged:
            continue
        yield small or _vanished_activations(evidence, sums.name, seen)
        return  # later layers have nothing to work with


def _vanished_activations(evidence, name, seen):
    remedy = (
        "Squash shortens short vectors, in each layer again: use fewer "
        'layers, routing="self_attention" and '
        'activation="exponential_squash", which do not, or larger kernels.'
    )
    if evidence.pixels is not None:
        _, least, most = evidence.pixels
        if 0 <= least and most <= SMALL_PIXELS:
            remedy = (
                f"The pixels are at most {most:.2g}: divide them by 255 once, "
                "and not twice."
            )
    return Problem(
        "vanished_activations", name, f"{seen[0].upper()}{seen[1:]}.", remedy
    )


def _small_kernel(evidence, last, seen):
    """A kernel that is to blame for what is seen in the last layer."""
    # Not those of routings, which may begin with zeros.
    kernels = [
        each
        for each in kernels_of(evidence.graph)
        if not isinstance(each.layer, RoutedLayer)
        or each.weight is each.layer.kernel
    ]
    names = [each.name for each in kernels]
    if last in names:
        kernels = kernels[: len(names) - names[::-1].index(last)]
    smallest = min(kernels, key=lambda x: x.size / x.usual, default=None)
    if smallest is None or smallest.size >= SMALL * smallest.usual:
        return None
    return Problem(
        "small_kernel",
        smallest.name,
        f"The kernel has a root mean square of {smallest.size:.1g} (expected "
        f"about {smallest.usual:.1g}), and in {last} {seen}.",
        "Leave out the kernel's initializer, or give it a standard deviation "
        f"of about {smallest.usual:.1g}; also check its regularizer.",
    )


def _uniform(evidence: Evidence) -> Iterator[Problem]:
    stacks = {
        id(layer): call.layer
        for call in evidence.graph.calls
        for layer in getattr(call.layer, "layers", [])
    }
    for sums in evidence.layers:
        entropy = sums.results()["entropy"]
        routing = getattr(sums.layer, "routing", None)
        if (
            entropy is None
            or 1 - entropy >= UNIFORM
            or len(sums.highest) == 1
            or isinstance(routing, FixedRouting)
        ):
            continue
        stack = stacks.get(id(sums.layer))
        if stack is not None and sums.layer is not stack.layers[-1]:
            continue  # there may be no iteration left for it
        source = stack or routing or sums.layer
        iterations = getattr(source, "num_iterations", None)
        seen = (
            f"The entropy of the coupling is {entropy:.7f} (expected less than "
            f"{1 - UNIFORM:g}): it is uniform"
        )
        if iterations == 1:
            yield Problem(
                "uniform_routing",
                sums.name,
                f"{seen}, because num_iterations=1.",
                "Give the routing 2 or 3 iterations.",
            )
        # Shares of all positions of a large grid are nearly equal in any case.
        elif routing is not None and evidence.steps >= TRAINED:
            yield Problem(
                "uniform_routing",
                sums.name,
                f"{seen}, after {evidence.steps} steps of training.",
                "Check that the layer is trainable, and that neither its "
                "kernel nor its input capsules are too short.",
            )


def _dead_classes(evidence: Evidence) -> Iterator[Problem]:
    scores = evidence.scores
    if scores is None or not scores.has_labels:
        return
    differences = scores.own - scores.others
    shown = scores.counts >= FEWEST_IMAGES
    found = []
    for number in np.flatnonzero(shown & (scores.wins == 0)):
        other = shown.copy()
        other[number] = False
        if not other.any() or not _knows(scores, other):
            continue
        usual = differences[other].mean()
        if (
            usual >= LEAST_SEPARATION
            and differences[number] < LEAST_DIFFERENCE * usual
        ):
            found.append((int(number), usual))
    if found:
        numbers = [number for number, _ in found]
        first, usual = found[0]
        yield Problem(
            "dead_class",
            evidence.layers[-1].name,
            f"Class {', '.join(map(str, numbers))} never wins: the mean score "
            f"of class {first} is {scores.own[first]:.3f} for its own "
            f"{scores.counts[first]} images and {scores.others[first]:.3f} for "
            f"others (expected a difference of about {usual:.2f}).",
            "Check that these classes are in the training data, with labels "
            "and weights like others; if so, train again from another seed.",
        )


def _knows(scores, classes):
    """Whether images of these classes are recognized, and not by chance."""
    winners = (scores.wins > 0).sum()
    recall, counts = scores.recall[classes], scores.counts[classes]
    number, hits = counts.sum(), (recall * counts).sum()
    guesses = number / winners
    deviation = np.sqrt(guesses * (1 - 1 / winners))
    return (
        winners > 1
        and recall.mean() >= LEAST_ACCURACY
        and hits >= guesses + LEAST_DEVIATIONS * deviation
    )
