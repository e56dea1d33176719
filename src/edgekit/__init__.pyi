# What `import edgekit` gives: the names that __init__.py imports when they are first used.
from edgekit.bundle import Bundle as Bundle
from edgekit.runtimes.predictor import Predictor as Predictor

__version__: str
