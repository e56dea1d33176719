# The types of what `import edgekit` gives; __init__.py imports each name when it is first used. A stub, since `typing` alone would
# double the time of that import, and since imports in __init__.py itself would be arrows from every room to the training stack.
from edgekit.api.benching import bench as bench
from edgekit.api.embedding import embed as embed
from edgekit.api.exporting import export as export
from edgekit.api.predicting import load as load
from edgekit.api.reporting import report as report
from edgekit.api.runs import Run as Run
from edgekit.api.searching import search as search
from edgekit.api.training import evaluate as evaluate
from edgekit.api.training import train as train
from edgekit.bundle import Bundle as Bundle
from edgekit.errors import EdgekitError as EdgekitError
from edgekit.recipe import Recipe as Recipe
from edgekit.result import Result as Result
from edgekit.runtimes.predictor import Predictor as Predictor
from edgekit.tasks.classification import Prediction as Prediction

__version__: str
