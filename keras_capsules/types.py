"""Types of arguments and results, for annotations."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

# A tensor of the backend, a symbolic tensor, or an array.
Tensor: TypeAlias = Any

# Sizes; `None` where one is unknown.
Shape: TypeAlias = tuple[int | None, ...]

# Capsules: one tensor, or a pair of poses and activations.
Capsules: TypeAlias = Any

# One integer for all axes of a grid, or one for each.
Sizes: TypeAlias = int | Sequence[int]

# A pose: the length of a vector, or the rows and columns of a matrix.
CapsuleDim: TypeAlias = int | Sequence[int]

# The arguments of `keras.initializers.get` and similar functions.
InitializerLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | None
RegularizerLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | None
ConstraintLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | None
ActivationLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | None
