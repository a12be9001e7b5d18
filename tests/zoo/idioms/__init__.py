"""The idioms: importing this package fills ``IDIOMS``."""

from tests.zoo.idioms import dense, images, sequences, tensors, uncommon, wrapped
from tests.zoo.idioms.base import IDIOMS, Idiom

__all__ = ["IDIOMS", "Idiom", "dense", "images", "sequences", "tensors", "uncommon", "wrapped"]
