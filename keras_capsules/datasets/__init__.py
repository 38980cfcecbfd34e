from keras_capsules.datasets.loading import DatasetInfo as DatasetInfo
from keras_capsules.datasets.loading import info as info
from keras_capsules.datasets.loading import load as load
