"""The Conda recipe asks for what the wheel asks for."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import yaml

RECIPE = Path(__file__).resolve().parents[1] / "packaging" / "conda" / "recipe.yaml"


def normalized(requirement: str) -> str:
    return re.sub(r"\s", "", requirement.partition(";")[0]).lower()


def test_it_requires_the_core_and_one_runtime() -> None:
    requires = metadata.requires("edgekit-vision") or []
    core = {normalized(line) for line in requires if "extra ==" not in line}
    [runtime] = [normalized(line) for line in requires if re.search(r"extra == .ort.$", line)]
    content = yaml.safe_load(RECIPE.read_text())
    asked = {normalized(line) for line in content["requirements"]["run"]}
    assert asked == core | {runtime, f"python{metadata.metadata('edgekit-vision')['Requires-Python']}"}
    [command] = [script for script in metadata.entry_points(group="console_scripts") if script.name == "edgekit"]
    assert content["build"]["python"]["entry_points"] == [f"edgekit = {command.value}"]
