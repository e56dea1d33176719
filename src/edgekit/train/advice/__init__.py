"""What a run's own numbers say about its recipe: each finding with its number and the change that it suggests.

`facts` measures, `rules` are pure functions from facts to findings; whoever prints or draws them needs only the findings.
"""

from edgekit.train.advice.facts import RunFacts, StageFacts, gather
from edgekit.train.advice.rules import MOST, advise

__all__ = ["MOST", "RunFacts", "StageFacts", "advise", "gather"]
