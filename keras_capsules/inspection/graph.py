"""The layers of a functional model, in the order in which they run."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules.types import Tensor


class Untraceable(ValueError):
    """It cannot be followed which layers make what of a model."""


class Call(NamedTuple):
    """One call of a layer in a model.

    Attributes:
        name: The name of the layer, after the names of the models in the model
            that hold it: `"backbone/primary_capsules"`.
        layer: The layer, or another operation.
        arguments: Its arguments, `(args, kwargs)`.
        inputs: The symbolic tensors among them.
        outputs: Its symbolic results.
    """

    name: str
    layer: Any
    arguments: Any
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class Graph:
    """The calls of a model. Models in it are replaced by their own calls.

    Args:
        model: A functional model, or a Sequential one that is built.
        prefix: String, what the names of calls begin with. Defaults to `""`.

    Raises:
        Untraceable: If the model calls a model several times, or a model that
            begins at one of its own tensors, with another one.
    """

    def __init__(self, model: keras.Model, prefix: str = ""):
        self.inputs = list(model.inputs)
        self.calls: list[Call] = []
        # Tensors of this model itself, and the models in it with their inputs.
        self._own = list(self.inputs)
        self._parts: list[tuple[Graph, Sequence[Tensor]]] = []
        # Tensors on the border of a model, by their ids: the same outside of
        # it, or inside.
        self._same: dict[int, Tensor] = {}
        for node in _nodes(model):
            layer, inputs = node.operation, node.input_tensors
            name = prefix + layer.name
            if isinstance(layer, keras.layers.InputLayer):
                continue
            if isinstance(layer, keras.Model) and getattr(
                layer, "inputs", None
            ):
                self._add_part(layer, name, inputs, node.outputs)
                continue
            arguments = node.arguments.args, node.arguments.kwargs
            self.calls.append(
                Call(name, layer, arguments, inputs, node.outputs)
            )
            self._own += node.outputs
        if self._same.keys() & {id(x) for x in self._own}:
            raise Untraceable(
                "A model in the model begins at a tensor of the model, but is "
                "called with another one. Expected each to begin at a "
                "`keras.Input` of its own. Received: models in the model "
                f"{model.name!r}"
            )
        self._makers = {
            id(x): call for call in self.calls for x in call.outputs
        }

    def _add_part(self, model, name, inputs, outputs):
        part = Graph(model, f"{name}/")
        for inner, outer in zip(part.inputs, inputs, strict=False):
            if id(inner) in self._same:
                raise Untraceable(
                    "A model in the model is called several times, or begins "
                    "at the same `keras.Input` as another. Expected each to "
                    "have inputs of its own, and to be called once. Received: "
                    f"calls of {name!r}"
                )
            if inner is not outer:
                self._same[id(inner)] = outer
        for inner, outer in zip(model.outputs, outputs, strict=True):
            self._same[id(outer)] = inner
        self._same.update(part._same)
        self._parts.append((part, inputs))
        self.calls += part.calls

    def resolve(self, tensor: Tensor) -> Tensor:
        """The same tensor, as the output of a call or an input of the model."""
        while id(tensor) in self._same:
            tensor = self._same[id(tensor)]
        return tensor

    def maker(self, tensor: Tensor) -> Call | None:
        """The call whose output a tensor is; `None` for the model's inputs."""
        return self._makers.get(id(self.resolve(tensor)))

    def reader(
        self, tensors: Iterable[Tensor], compiled: bool = False
    ) -> Callable[[Tensor], dict[int, Tensor]]:
        """Makes a function that computes the values of symbolic tensors.

        Args:
            tensors: Symbolic tensors of this model, and of those in it.
            compiled: Whether the function is compiled, which takes time at the
                first call, and on JAX for each size of a batch, and pays if
                there are many calls. On PyTorch nothing is compiled. While it
                runs, no other thread may use the model.

        Returns:
            A function from a batch of the model's only input to a dictionary
            of values, for `value` and `run`: tensors or, if it is compiled,
            arrays.
        """
        wanted = {id(self.resolve(x)) for x in tensors}
        read = self._reader(wanted, compiled)
        return lambda images: read([images])

    def _reader(self, wanted, compiled):
        own = [x for x in self._own if id(x) in wanted]
        parts = [
            (part._reader(wanted, compiled), inputs)
            for part, inputs in self._parts
            if wanted & {id(x) for call in part.calls for x in call.outputs}
        ]
        needed = [*own, *(x for _, inputs in parts for x in inputs)]
        if not needed:
            return lambda inputs: {}
        function = keras.Model(self.inputs, needed, name="reader")

        def read(inputs):
            results = keras.tree.flatten(
                function.predict_on_batch(inputs)
                if compiled
                else function(inputs, training=False)
            )
            values = dict(zip(map(id, own), results, strict=False))
            rest = iter(results[len(own) :])
            for reader, symbols in parts:
                values.update(reader([next(rest) for _ in symbols]))
            return values

        return read

    def value(self, values: dict[int, Tensor], tensor: Tensor) -> Tensor:
        """The value of a symbolic tensor that a reader has computed."""
        return values[id(self.resolve(tensor))]

    def run(self, call: Call, values: dict[int, Tensor]) -> Any:
        """Calls a layer as in inference, with the values of its inputs."""

        def filled(x):
            is_symbol = isinstance(x, keras.KerasTensor)
            return self.value(values, x) if is_symbol else x

        args, kwargs = keras.tree.map_structure(filled, call.arguments)
        if isinstance(call.layer, keras.layers.Layer):
            # Layers that change images at random do so unless told not to.
            kwargs = {**kwargs, "training": False}
        return call.layer(*args, **kwargs)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor of numbers as an array, in float32."""
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _nodes(model):
    """Keras's records of calls, in an order in which they can run."""
    done = {id(x) for x in model.inputs}
    order, todo = [], list(model.outputs)[::-1]
    while todo:
        tensor = todo[-1]
        if id(tensor) in done:
            todo.pop()
            continue
        # Not `layer.input` and `layer.output`, which are those of its first
        # call alone: `Sequential.add` calls all layers again, and a layer may
        # be part of several models.
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        missing = [x for x in node.input_tensors if id(x) not in done]
        todo += missing[::-1]
        if not missing:
            order.append(node)
            done.update(map(id, node.outputs))
    return order
