"""Pictures of what networks have learned, drawn with Matplotlib.

Each function returns a `matplotlib.figure.Figure`. Nothing is shown and nothing
is saved: call `figure.savefig("name.png")`, or end the cell of a notebook with
it. Matplotlib comes with `pip install "keras-capsules[plots]"`.
"""

from keras_capsules.plots.charts import equivariance as equivariance
from keras_capsules.plots.charts import training_curves as training_curves
from keras_capsules.plots.mistakes import confusion as confusion
from keras_capsules.plots.pictures import interpolations as interpolations
from keras_capsules.plots.pictures import perturbations as perturbations
from keras_capsules.plots.pictures import reconstructions as reconstructions
from keras_capsules.plots.pictures import supports as supports
from keras_capsules.plots.structure import health as health
from keras_capsules.plots.structure import parse_tree as parse_tree
