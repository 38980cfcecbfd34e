"""What all layers have in common in which capsules vote for others."""

import math

import keras
import numpy as np
from keras import ops

from keras_capsules import routing as routings
from keras_capsules.activations import safe_norm
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair


class RoutedLayer(keras.layers.Layer):
    """Weights, options and routing of a layer of capsules.

    A subclass says in `build` how many children a parent has and how large
    the kernel is (`_build_weights`), and in `call` lays its input out as
    children (`_split`, `_route`).

    Args:
        num_capsules: See `CapsuleLayer`.
        capsule_dim: See `CapsuleLayer`.
        routing: See `CapsuleLayer`.
        coordinate_addition: See `CapsuleLayer`.
        use_bias: See `CapsuleLayer`.
        kernel_initializer: See `CapsuleLayer`.
        bias_initializer: See `CapsuleLayer`.
        kernel_regularizer: See `CapsuleLayer`.
        bias_regularizer: See `CapsuleLayer`.
        kernel_constraint: See `CapsuleLayer`.
        bias_constraint: See `CapsuleLayer`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim,
        routing,
        coordinate_addition,
        use_bias,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        kernel_constraint,
        bias_constraint,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = _check_capsule_dim(capsule_dim)
        self._is_matrix = isinstance(self.capsule_dim, tuple)
        # Pose rows and columns; a vector is a matrix of one row.
        self._pose_shape = (
            self.capsule_dim if self._is_matrix else (1, self.capsule_dim)
        )
        self.routing = routings.get(routing)
        self.coordinate_addition = check_boolean(
            coordinate_addition, "coordinate_addition"
        )
        if coordinate_addition and self._pose_shape[not self._is_matrix] < 2:
            raise ValueError(
                "Coordinates are added to two numbers of a pose. Expected a "
                "capsule_dim of at least 2, or with two or more rows. "
                f"Received: capsule_dim={capsule_dim!r}, "
                "coordinate_addition=True"
            )
        self.use_bias = self.routing.takes("bias")
        if use_bias is not None:
            self.use_bias = check_boolean(use_bias, "use_bias")
        if self.use_bias and not self.routing.takes("bias"):
            raise ValueError(
                "This routing adds no bias. Expected use_bias=False or None. "
                f"Received: use_bias={use_bias!r}, routing={self.routing!r}"
            )
        self.kernel_initializer = initializers.get(kernel_initializer, None)
        self.bias_initializer = initializers.get(
            bias_initializer, keras.initializers.Constant(0.1)
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def _build_weights(self, kernel_shape, num_inputs, input_dim):
        """Makes kernel and bias, and the weights of the routing.

        Args:
            kernel_shape: What comes before `[d, j, e]` in the kernel's shape.
            num_inputs: How many children a parent has.
            input_dim: The kernel's d.
        """
        rows, out_dim = self._pose_shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*kernel_shape, input_dim, self.num_capsules, out_dim),
            initializer=self.kernel_initializer
            or self._default_initializer(num_inputs, input_dim),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            autocast=False,  # votes are made in at least float32
        )
        self.bias = None
        if self.use_bias:
            pose = self._pose_shape if self._is_matrix else (out_dim,)
            self.bias = self.add_weight(
                name="bias",
                shape=(self.num_capsules, *pose),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.routing_weights = self.routing.build(
            self,
            routings.RoutingSpec(
                num_inputs,
                self.num_capsules,
                self._pose_shape,
                (rows, input_dim + self._num_coordinates),
            ),
        )

    def _default_initializer(self, num_inputs, input_dim):
        if self.routing.averages:
            return initializers.truncated_normal(1 / math.sqrt(input_dim))
        # Longer votes than input capsules, in layers of many outputs and few
        # inputs, would let the first iteration decide everything by chance.
        gain = min(self.num_capsules / math.sqrt(num_inputs), 1.0)
        out_dim = self._pose_shape[1]
        return initializers.truncated_normal(gain / math.sqrt(out_dim))

    # Coordinates. A vote with the position of its child added to it is still
    # linear in the child's pose, if the position is part of that pose and
    # goes into the vote unchanged.

    @property
    def _num_coordinates(self):
        """How many input dimensions the coordinates take."""
        if not self.coordinate_addition:
            return 0
        return 1 if self._is_matrix else 2

    def _add_coordinates(self, poses):
        """Gives poses on a grid, `[b, h, w, types, p, d]`, their places."""
        if not self.coordinate_addition:
            return poses
        batch, height, width, types, rows, _ = ops.shape(poses)
        x = _centers(width, poses.dtype)[None, :]  # [1, w]
        y = _centers(height, poses.dtype)[:, None]  # [h, 1]
        places = [x + ops.zeros_like(y), y + ops.zeros_like(x)]
        if self._is_matrix:  # in the first two rows
            places += [ops.zeros_like(places[0])] * (rows - 2)
            places = ops.stack(places, axis=-1)[:, :, None, :, None]
        else:
            places = ops.stack(places, axis=-1)[:, :, None, None, :]
        shape = (batch, height, width, types, rows, self._num_coordinates)
        places = ops.broadcast_to(places[None], shape)
        return ops.concatenate([poses, places], axis=-1)

    def _with_coordinates(self, kernel):
        """A kernel `[i, d, j, e]` that hands the coordinates on."""
        if not self.coordinate_addition:
            return kernel
        inputs, _, number, out_dim = kernel.shape
        # To the last column's first two numbers, or a vector's first two.
        columns = [out_dim - 1] if self._is_matrix else [0, 1]
        extra = np.zeros((len(columns), 1, out_dim))
        extra[range(len(columns)), 0, columns] = 1.0
        extra = np.tile(extra, (inputs, 1, number, 1))
        extra = ops.convert_to_tensor(extra, dtype=kernel.dtype)
        return ops.concatenate([kernel, extra], axis=1)

    # Inputs: vectors or matrices, with or without activations.

    def _pose_axes(self):
        """How many axes of the input a pose takes."""
        return 2 if self._is_matrix else 1

    def _split_shape(self, input_shape):
        """The shapes of poses and, or `None`, of activations."""
        activations = None
        poses = input_shape
        if isinstance(input_shape[0], (list, tuple)):
            if len(input_shape) != 2:
                raise ValueError(
                    f"{type(self).__name__} takes one tensor of capsules or a "
                    "pair (poses, activations). Received: "
                    f"input_shape={input_shape}"
                )
            poses, activations = map(tuple, input_shape)
            if not fits(activations, poses[: -self._pose_axes()]):
                raise ValueError(
                    "Expected one activation for each pose, and poses that "
                    f"are {'matrices' if self._is_matrix else 'vectors'}, as "
                    f"capsule_dim={self.capsule_dim} says. Received: "
                    f"poses.shape={poses}, activations.shape={activations}"
                )
        poses = tuple(poses)
        if self._is_matrix and poses[-2:-1] != self._pose_shape[:1]:
            raise ValueError(
                "The poses of input and output capsules must have the same "
                "number of rows, for votes are products with matrices from "
                f"the right. Expected poses of shape (batch, ..., "
                f"{self._pose_shape[0]}, dim). Received: "
                f"input_shape={input_shape}, capsule_dim={self.capsule_dim}"
            )
        return poses, activations

    def _set_input_spec(self, input_shape, fixed=slice(1, None)):
        """Holds later inputs to all sizes of the first one that matter."""
        shapes = self._split_shape(input_shape)
        specs = [
            keras.layers.InputSpec(
                ndim=len(shape),
                axes={
                    axis: shape[axis]
                    for axis in range(len(shape))[fixed]
                    if shape[axis] is not None
                },
            )
            for shape in shapes
            if shape is not None
        ]
        self.input_spec = specs if len(specs) > 1 else specs[0]

    def _split(self, inputs):
        """Poses with a row axis, `[..., p, d]`, and activations or `None`."""
        # The first input was checked when the layer was built.
        self._check_input_shape(shapes_of(inputs))
        activations = None
        if isinstance(inputs, (list, tuple)):
            inputs, activations = inputs
            activations = ops.cast(activations, self.compute_dtype)
        poses = ops.cast(inputs, self.compute_dtype)  # integers, too
        if activations is None and self.routing.activation_from == "routing":
            # Matrices have no length to speak of. All count, but padding.
            activations = (
                ops.ones(ops.shape(poses)[:-2], dtype=poses.dtype)
                if self._is_matrix
                else safe_norm(poses)
            )
        if not self._is_matrix:
            poses = ops.expand_dims(poses, -2)
        return poses, activations

    def _check_outputs(self, outputs, inputs):
        """Raises if there are outputs, and not as the layer returns them."""
        if outputs is None:
            return
        expected = self.compute_output_shape(shapes_of(inputs))
        if self._returns_pair:
            expected, _ = expected
        shape = tuple(np.shape(outputs))
        if not fits(shape, expected):
            raise ValueError(
                "Expected outputs as the layer returns them, poses of shape "
                f"{expected}. Received: outputs.shape={shape}"
            )

    def _route(
        self,
        poses,
        activations,
        kernel,
        training,
        outputs,
        return_coupling,
        windows=None,
    ):
        """Routes `[b, i, p, d]`, `[b, i]` with a kernel `[k, d, j, e]`."""
        size = math.prod(self._pose_shape)
        bias = None
        if self.bias is not None:
            bias = ops.reshape(self.bias, (self.num_capsules, size))
        if outputs is not None:
            outputs = ops.cast(outputs, self.compute_dtype)
            outputs = ops.reshape(outputs, (-1, self.num_capsules, size))
        return self.routing(
            poses,
            self._with_coordinates(kernel),
            activations=activations,
            bias=bias,
            weights=self.routing_weights,
            windows=windows,
            outputs=outputs,
            training=bool(training),
            return_coupling=return_coupling,
        )

    def _outputs(self, routed, axes, return_coupling):
        """What the layer returns: poses, activations, coupling.

        Args:
            routed: What the routing returned.
            axes: Sizes of the axes before the capsules, those of the batch and
                of the grid if there is one.
            return_coupling: Whether to return the coupling as well.
        """
        dtype = self.compute_dtype
        pose = self._pose_shape if self._is_matrix else self._pose_shape[1:]
        shape = (*axes, self.num_capsules)
        outputs = ops.reshape(ops.cast(routed.poses, dtype), (*shape, *pose))
        if self._returns_pair:
            activations = ops.cast(routed.activations, dtype)
            outputs = outputs, ops.reshape(activations, shape)
        if not return_coupling:
            return outputs
        if routed.coupling is None:
            raise ValueError(
                "This routing has no coupling coefficients to return. "
                f"Received: return_coupling=True, routing={self.routing!r}"
            )
        coupling = ops.transpose(routed.coupling, (0, 2, 1))  # [b, i, j]
        coupling = ops.cast(coupling, dtype)
        return outputs, ops.reshape(coupling, (*axes, *ops.shape(coupling)[1:]))

    @property
    def _returns_pair(self):
        return self.routing.activation_from == "routing"

    def _output_shape(self, batch, grid):
        pose = self._pose_shape if self._is_matrix else self._pose_shape[1:]
        poses = (batch, *grid, self.num_capsules, *pose)
        if not self._returns_pair:
            return poses
        return poses, (batch, *grid, self.num_capsules)

    def _output_spec(self, inputs, coupling_shape=None):
        shapes = self.compute_output_shape(shapes_of(inputs))

        def spec(shape):
            return keras.KerasTensor(shape, dtype=self.compute_dtype)

        outputs = (
            tuple(map(spec, shapes)) if self._returns_pair else spec(shapes)
        )
        if coupling_shape is None:
            return outputs
        return outputs, spec(coupling_shape)

    def get_config(self):
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "coordinate_addition": self.coordinate_addition,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer
            and keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
            "kernel_regularizer": keras.regularizers.serialize(
                self.kernel_regularizer
            ),
            "bias_regularizer": keras.regularizers.serialize(
                self.bias_regularizer
            ),
            "kernel_constraint": keras.constraints.serialize(
                self.kernel_constraint
            ),
            "bias_constraint": keras.constraints.serialize(
                self.bias_constraint
            ),
        }
        return {**super().get_config(), **config}


def shapes_of(inputs):
    """The shape of a tensor, or those of a pair."""
    if isinstance(inputs, (list, tuple)):
        return tuple(tuple(each.shape) for each in inputs)
    return tuple(inputs.shape)


def fits_pair(shapes):
    """Whether these may be poses, vectors or matrices, and activations."""
    return len(shapes) == 2 and any(
        fits(shapes[0][:-axes], shapes[1]) for axes in (1, 2)
    )


def fits(shape, other):
    """Whether two shapes may be the same; `None` may be any size."""
    return len(shape) == len(other) and all(
        None in sizes or sizes[0] == sizes[1]
        for sizes in zip(shape, other, strict=True)
    )


def _check_capsule_dim(value):
    """A positive integer for vectors, or a pair of them for matrices."""
    if isinstance(value, (list, tuple)):
        return check_integer_pair(value, "capsule_dim")
    return check_integer(value, "capsule_dim")


def _centers(number, dtype):
    """Where the middle of each of a row of cells is, from 0 to 1."""
    # Cast, a number is no longer one that JAX knows when it compiles.
    cells = ops.cast(ops.arange(number), "float32") + 0.5
    return ops.cast(cells / ops.cast(number, "float32"), dtype)
