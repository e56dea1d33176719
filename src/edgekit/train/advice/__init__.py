"""Advice on a recipe from the numbers of its run: each finding with its number and a suggested change of the recipe.

`facts` measures the numbers; `rules` are pure functions from facts to findings, which are printed and drawn in the report.
"""

from edgekit.train.advice.facts import RunFacts, StageFacts, gather
from edgekit.train.advice.rules import MOST, advise

__all__ = ["MOST", "RunFacts", "StageFacts", "advise", "gather"]
