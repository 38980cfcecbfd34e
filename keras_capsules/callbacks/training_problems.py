"""Problems that are seen in training alone, and what follows from problems."""

from keras_capsules.inspection.problems import Problem

# How far one step may move a kernel, relative to its size: first steps moved it
# by 0.001 to 0.09 in networks that learned well, by 0.27 in one that still
# learned, and by 0.8 and more in those that did not learn.
FARTHEST = 0.5
# A good part, which the recommended learning rate aims at.
_GOOD = 0.02

# What follows from a problem, and is not reported after it.
_UNDEFINED = {"not_finite", "loss_not_finite"}
CONSEQUENCES = {
    "images_not_finite": _UNDEFINED,
    "labels_out_of_range": _UNDEFINED,
    "learning_rate": {
        *_UNDEFINED,
        "small_kernel",
        "vanished_activations",
        "uniform_routing",
        "dead_class",
    },
    "not_finite": {"loss_not_finite"},
}


def high_learning_rate(layer: str, change: float, rate: float) -> Problem:
    """A step that moves a kernel too far.

    Args:
        layer: The name of the layer.
        change: How far one step moves its kernel, relative to its size.
        rate: The learning rate.
    """
    return Problem(
        "learning_rate",
        layer,
        f"A single step moves the kernel by {change:.2g} of its size (expected "
        f"less than {FARTHEST:g}, best about {_GOOD:g}).",
        f"Lower the learning rate from {rate:.2g} to about "
        f"{rate * _GOOD / change:.1g}.",
    )


def undefined_loss(model: str, loss: float) -> Problem:
    """A loss that is not finite, of a network whose outputs are.

    Args:
        model: The name of the model.
        loss: The loss.
    """
    return Problem(
        "loss_not_finite",
        model,
        f"The loss is {loss} (expected a finite number), though the network "
        "makes finite numbers of these images.",
        "Check that no label of the training data is out of range, and that "
        "all its images are finite.",
    )
