"""The registered routings, for tables of tests.

A routing is in every table by being registered in `keras_capsules.routing`. It
needs an entry here only if its default options test too little.
"""

from keras_capsules.routing import ROUTINGS

# With these options, shares of few votes are neither all alike nor all or
# nothing, activations matter, and examples do not depend on each other.
OPTIONS = {
    "em": {
        "num_iterations": 2,
        "inverse_temperature": 1.0,
        "min_variance": 1.0,
    },
    "variational_bayes": {"num_iterations": 2, "batch_normalization": False},
}

# Options that change how a routing is run.
VARIANTS = {
    "leaky": ("dynamic", {"num_iterations": 2, "leaky": True}),
    "stopped": ("dynamic", {"stop_gradient": True}),
}


def all_routings():
    """An instance of each registered routing and of each variant, by label."""
    cases = {name: (name, OPTIONS.get(name, {})) for name in ROUTINGS}
    return {
        label: ROUTINGS[name](**options)
        for label, (name, options) in (cases | VARIANTS).items()
    }
