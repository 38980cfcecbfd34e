"""Copies of models on the devices of a distribution."""

import re

import keras

from keras_capsules.models.saving import walk


def distribute(
    model: keras.Model, layout: keras.distribution.LayoutMap | None = None
) -> keras.Model:
    """Copies a model to the devices of the current distribution.

    Keras places a variable when it makes it. So a model that was made before
    `keras.distribution.set_distribution` stays on one device. The copy has the
    same names and weights and lies where the distribution says. It is not
    compiled. Without a distribution, it lies on the default device.

    Args:
        model: A built functional or sequential model, such as the networks of
            `keras_capsules.models`.
        layout: The `keras.distribution.LayoutMap` of the distribution.
            Each of its keys must match a variable of the model, or a layer of
            it. Defaults to `None`: nothing is checked.

    Returns:
        The copy.

    Raises:
        ValueError: If `model` is not as described, a key of the layout is no
            regular expression or matches nothing, or a layout does not fit its
            variable.

    Example: see `layout_map`.
    """
    if layout is not None:
        _check_keys(layout)  # before Keras looks for places with them
    copy = copied(model)
    if layout is not None:
        _check_layout(copy, layout)
    copy.set_weights(model.get_weights())
    return copy


def copied(model: keras.Model) -> keras.Model:
    """A model with the same names and new weights."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected `model` to be a built Keras model. "
            f"Received: model={model!r}"
        )
    try:
        copy = type(model).from_config(model.get_config())
    except (NotImplementedError, TypeError) as error:
        raise _no_copy(model) from error
    if len(copy.weights) != len(model.weights):  # it is built by its first call
        raise _no_copy(model)
    return copy


def _no_copy(model):
    return ValueError(
        "The model cannot be made again from its configuration. Expected a "
        "functional or Sequential model, and layers with `get_config`. "
        f"Received: model={model!r}"
    )


def check_pattern(pattern: object, received: str) -> None:
    """Raises if something is no regular expression.

    Args:
        pattern: What should be one.
        received: What was received, for the message.
    """
    try:
        if isinstance(pattern, str):
            re.compile(pattern)
            return
        reason = "it is no string"
    except re.error as error:
        reason = str(error)
    raise ValueError(
        "Expected paths or regular expressions, strings. Received: "
        f"{received}, of which {pattern!r} is none: {reason}"
    )


def sizes_of(mesh: keras.distribution.DeviceMesh) -> dict[str, int]:
    """The sizes of the axes of a mesh, by their names."""
    return dict(zip(mesh.axis_names, mesh.shape, strict=True))


def _check_keys(layout):
    """Raises if it is no layout map, or Keras cannot look for a key."""
    if not isinstance(layout, keras.distribution.LayoutMap):
        raise ValueError(
            "Expected `layout` to be a keras.distribution.LayoutMap. "
            f"Received: layout={layout!r}"
        )
    for key in layout:
        check_pattern(key, f"layout with the keys {list(layout)}")


def _check_layout(model, layout):
    """Raises if a key matches nothing, or a layout does not fit."""
    variables = {each.path: each for each in model.variables}
    # Some layers have no path, such as those of inputs.
    layers = {each.path for _, each in walk(model) if each.path}
    for key, each in layout.items():
        matching = [path for path in variables if _matches(key, path)]
        if not matching and not any(_matches(key, path) for path in layers):
            raise ValueError(
                "A key of the layout map matches no variable and no layer of "
                "the model, so that it would be copied to every device. "
                f"Expected a path such as {next(iter(variables))!r}, or a "
                f"regular expression. Received: key={key!r}"
            )
        for path in matching:
            _check_fit(path, variables[path].shape, each)


def _matches(key, path):
    """Whether a key of a layout map is that of a path."""
    return key == path or re.fullmatch(key, path) is not None


def _check_fit(path, shape, layout):
    sizes = sizes_of(layout.device_mesh)
    fits = len(layout.axes) == len(shape) and all(
        name is None or size % sizes[name] == 0
        for size, name in zip(shape, layout.axes, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The layout of {path} does not fit it. Expected an entry for each "
            "of its axes, and sizes that are multiples of the number of "
            f"devices. Received: axes={layout.axes}, shape={tuple(shape)}, "
            f"devices={sizes}"
        )
