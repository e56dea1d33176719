"""The recipe: what to train. It is YAML on disk and validated here.

`load(path, overrides)` reads one. Unknown keys, wrong types and impossible combinations are refused with the path of the key,
its value and what would be accepted.
"""

from edgekit.recipe.anomaly import Anomaly
from edgekit.recipe.augmentation import Augmentation, Tiles, Transformation
from edgekit.recipe.budget import auto_epochs, epochs_of, settled, settled_stage, warmup_steps
from edgekit.recipe.data import DataConfig, LabelCount
from edgekit.recipe.method_table import METHODS, Pretrain
from edgekit.recipe.names import PRETRAINED, factory_of, library_of
from edgekit.recipe.networks import OF_PRETRAINING, OWN, Architecture, TeacherSource
from edgekit.recipe.part import SMALL_IMAGE, RecipePart
from edgekit.recipe.plain_yaml import read_yaml
from edgekit.recipe.pretrained import EncoderTeacher
from edgekit.recipe.reading import Overrides, dump, load, parse, recipe_of
from edgekit.recipe.stages import Consistency, Distill, Finetune, Multilabel, Supervised
from edgekit.recipe.training import Hardware, Monitor, Optimizer
from edgekit.recipe.whole import Recipe

__all__ = [
    "METHODS",
    "OF_PRETRAINING",
    "OWN",
    "PRETRAINED",
    "SMALL_IMAGE",
    "Anomaly",
    "Architecture",
    "Augmentation",
    "Consistency",
    "DataConfig",
    "Distill",
    "EncoderTeacher",
    "Finetune",
    "Hardware",
    "LabelCount",
    "Monitor",
    "Multilabel",
    "Optimizer",
    "Overrides",
    "Pretrain",
    "Recipe",
    "RecipePart",
    "Supervised",
    "TeacherSource",
    "Tiles",
    "Transformation",
    "auto_epochs",
    "dump",
    "epochs_of",
    "factory_of",
    "library_of",
    "load",
    "parse",
    "read_yaml",
    "recipe_of",
    "settled",
    "settled_stage",
    "warmup_steps",
]  # fmt: skip
