"""Models in files that other runtimes read."""

from keras_capsules.export.litert import export_litert as export_litert
from keras_capsules.export.onnx import export_onnx as export_onnx
from keras_capsules.export.openvino import export_openvino as export_openvino
from keras_capsules.export.saved_model import (
    export_saved_model as export_saved_model,
)
