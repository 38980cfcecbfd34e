"""Everything public is in a table, or in `IGNORED` with a reason."""

import importlib
import inspect
import pkgutil
import types

import keras
import pytest

import keras_capsules
from keras_capsules import distribution
from keras_capsules import export
from keras_capsules import plots
from keras_capsules import pruning
from keras_capsules import training
from keras_capsules.layers import CapsuleLayer
from tests.conformance.layers import LAYERS
from tests.conformance.objects import ACTIVATIONS
from tests.conformance.objects import LOSS_FUNCTIONS
from tests.conformance.objects import LOSSES
from tests.conformance.objects import MODELS
from tests.conformance.objects import ROUTINGS

ROWS = [(row.layer, row.kwargs) for row in LAYERS]
ROWS += [*MODELS, *LOSSES, *ROUTINGS]

IGNORED = {
    keras_capsules.export_saved_model: "tested in a file of its own",
    export.export_litert: "tests/test_export_options.py",
    export.export_onnx: "also tested there",
    export.export_openvino: "also tested there",
    distribution.layout_map: "tests/test_distribution.py",
    distribution.distribute: "also tested there",
    keras_capsules.activations.get: "every row of PrimaryCapsules calls it",
    keras_capsules.activations.serialize: "so does its configuration",
    keras_capsules.activations.safe_norm: "drops an axis: for no Dense layer",
    keras_capsules.routing.Routing: "abstract",
    keras_capsules.routing.FixedRouting: "has no name; in a file of its own",
    keras_capsules.routing.Routed: "a tuple of results",
    keras_capsules.routing.RoutingSpec: "a tuple of sizes",
    keras_capsules.routing.Windows: "tested in a file of its own",
    keras_capsules.routing.agreement: "every test of dynamic routing calls it",
    keras_capsules.routing.total: "and this one",
    keras_capsules.routing.weighted_sum: "so does it this one",
    keras_capsules.routing.softmax_over_outputs: "and this one",
    keras_capsules.routing.full_coupling: "and this one",
    keras_capsules.routing.get: "every row of CapsuleLayer calls it",
    keras_capsules.routing.serialize: "every test of a routing calls it",
    keras_capsules.routing.deserialize: "every test of a routing calls it",
    keras_capsules.datasets.DatasetInfo: "a tuple of facts",
    keras_capsules.datasets.info: "tested in a file of its own",
    keras_capsules.datasets.load: "tested in a file of its own",
    keras_capsules.datasets.load_arrays: "also tested there",
    keras_capsules.datasets.multi_mnist: "tested in a file of its own",
    keras_capsules.datasets.affine_mnist: "also tested there",
    keras_capsules.datasets.coil20: "tests/datasets/test_turntable.py",
    keras_capsules.metrics.ExactMatchAccuracy: "tested in a file of its own",
    keras_capsules.callbacks.spread_margin: "tested in a file of its own",
    keras_capsules.callbacks.SpreadMarginSchedule: "also tested there",
    pruning.prune: "tests/pruning",
    pruning.Pruned: "a tuple of results",
    pruning.freeze_routing: "tests/pruning",
    pruning.Frozen: "a tuple of results",
    pruning.FrozenLayer: "also one",
    keras_capsules.callbacks.CapsuleHealth: "tests/test_capsule_health.py",
    keras_capsules.callbacks.CapsuleHealthWarning: "also tested there",
    keras_capsules.inspection.capsule_health: "tests/inspection/test_health.py",
    keras_capsules.inspection.Health: "also tested there",
    keras_capsules.inspection.LayerHealth: "also tested there",
    keras_capsules.inspection.Problem: "also tested there",
    **{
        getattr(keras_capsules.inspection, name): "tests/inspection"
        for name in (
            "perturb interpolate couplings parse_tree support_map equivariance "
            "LayerCouplings Part Equivariance"
        ).split()
    },
    **{
        value: "tests/plots"
        for value in vars(plots).values()
        if inspect.isfunction(value)
    },
    **{
        value: "tests/training and tests/cli"
        for value in vars(training).values()
        if inspect.isfunction(value) or inspect.isclass(value)
    },
    keras_capsules.models.CapsuleNetwork: "takes layers, not options",
    keras_capsules.layers.PoseScores: "outputs of two dtypes; in a network",
    keras_capsules.layers.PropagateNaN: "takes two arguments; in all networks",
}

# The package and every public module in it, those to come as well; of what a
# subpackage holds, what its `__init__.py` names is public.
NAMESPACES = [keras_capsules] + [
    importlib.import_module(f"keras_capsules.{module.name}")
    for module in pkgutil.iter_modules(keras_capsules.__path__)
    if not module.name.startswith("_")
]


def in_a_table():
    return {*(cls for cls, _ in ROWS), *LOSS_FUNCTIONS, *ACTIVATIONS}


def public(namespace):
    """The classes and functions of a package, or made in a module."""
    is_package = hasattr(namespace, "__path__")
    listed = getattr(namespace, "__all__", vars(namespace))
    return {
        f"{namespace.__name__}.{name}": value
        for name, value in vars(namespace).items()
        if name in listed
        and not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and (is_package or value.__module__ == namespace.__name__)
    }


def uncovered(namespaces):
    covered = in_a_table() | set(IGNORED)
    return [
        name
        for namespace in namespaces
        for name, value in public(namespace).items()
        if value not in covered
    ]


def test_everything_public_is_in_a_table():
    assert uncovered(NAMESPACES) == []
    assert not in_a_table() & set(IGNORED)
    everything = [x for one in NAMESPACES for x in public(one).values()]
    assert in_a_table() | set(IGNORED) == set(everything)


def test_coverage_notices_what_is_new():
    namespace = types.ModuleType("new")
    namespace.CapsuleLayer = CapsuleLayer
    namespace.NewLayer = type("NewLayer", (), {"__module__": "new"})
    namespace._Helper = type("_Helper", (), {"__module__": "new"})
    assert uncovered([namespace]) == ["new.NewLayer"]
    # All that a package's __init__.py names is public.
    namespace.__path__ = []
    namespace.new_function = lambda: None
    assert uncovered([namespace]) == ["new.NewLayer", "new.new_function"]


def options_of(cls):
    """Arguments of a constructor and their defaults, by name."""
    constructors = [cls]
    if issubclass(cls, keras.layers.Layer) and not issubclass(cls, keras.Model):
        # Layers hand `**kwargs` to the bases that have these options.
        constructors = [
            vars(base)["__init__"]
            for base in reversed(cls.__mro__)
            if base.__module__.startswith("keras_capsules.")
            and "__init__" in vars(base)
        ]
    return {
        name: parameter.default
        for constructor in constructors
        for name, parameter in inspect.signature(constructor).parameters.items()
        # Neither *args nor **kwargs.
        if parameter.kind
        in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        # Weights are loaded, not an option; see models/test_pretrained.py.
        and name not in ("self", "weights")
    }


@pytest.mark.parametrize("cls", dict.fromkeys(cls for cls, _ in ROWS))
def test_every_option_is_in_a_row(cls):
    options = options_of(cls)
    used = {
        name
        for other, kwargs in ROWS
        for name, value in kwargs.items()
        if other is cls and value != options[name]
    }
    assert used == set(options)
