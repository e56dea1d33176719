"""A recipe with another student keeps its comments, and means what it should, however it was written."""

from __future__ import annotations

import pytest

from edgekit.recipe import Recipe, parse, read_yaml
from edgekit.search.recipe_text import with_values

STUDENT = {"name": "resnet10", "width": 0.25}
TEXTS = {
    "nothing": "",
    "comments alone": "# a comment\n",
    "a block": "# head\nname: x\ndistill:\n  # the student\n  student:\n    name: resnet18  # deep\n    width: 0.5  # half\n"
    "  # long\n  epochs: 3  # few\nseed: 1\n",
    "a flow": "distill: {epochs: 3, student: {name: resnet18}}  # here\nname: y\n",
    "no student": "distill:\n  epochs: 3  # few\n",
    "an empty group": "name: z\ndistill:\n  # student: {name: resnet50}\nseed: 3  # end\n",
    "an empty student": "distill:\n  student:\n  epochs: 4 # z\n",
    "no end of line": "distill:\n  student:\n    name: resnet18\n    width: 0.5",
    "the group at the end": "name: z\n# end\ndistill:",
    "a list below": "distill:\n  teachers:\n  - {model: own}\n  student:\n    name: resnet34  # big\n  # after\n",
}


def changed(recipe: Recipe, **data: object) -> Recipe:
    student = recipe.distill.student.model_validate(STUDENT)
    distill = recipe.distill.model_copy(update={"student": student})
    return recipe.model_copy(update={"distill": distill, "data": recipe.data.model_copy(update=data)})


@pytest.mark.parametrize("name", TEXTS)
def test_the_student_is_replaced_and_comments_stay(name: str) -> None:
    text = TEXTS[name]
    wanted = changed(parse(read_yaml(text) or {}), image_size=64, fit="stretch")
    written = with_values(text, {"distill.student": STUDENT, "data.image_size": 64, "data.fit": "stretch"}, wanted)
    assert parse(read_yaml(written)) == wanted
    assert len(written) < len(text) + 120, "written anew"
    inside = {"# deep", "# half", "# big"}  # of the student that is gone, of which the last stays
    comments = [part.strip() for line in text.splitlines() if (part := line[line.find("#") :]) and "#" in line]
    lost = [comment for comment in comments if comment not in written and comment not in inside]
    assert lost == []


def test_anchors_are_written_out_rather_than_changed_for_all() -> None:
    text = "pretrain:\n  encoder: &net {name: resnet18, width: 0.5}\ndistill:\n  student: *net\n"
    wanted = changed(parse(read_yaml(text)))
    written = with_values(text, {"distill.student": STUDENT}, wanted)
    assert parse(read_yaml(written)) == wanted
    assert wanted.pretrain.encoder.name == "resnet18"
