"""Recognition by a gallery: which of the images that one holds is nearest to a new one, or that none is. No training, no torch.

A gallery is one file of embeddings, which a bundle's model makes from a few images a class. Classes are added and removed without training.
"""

from edgekit.gallery.content import Gallery
from edgekit.gallery.recognizer import GalleryWarning, Recognition, Recognizer

__all__ = ["Gallery", "GalleryWarning", "Recognition", "Recognizer"]
