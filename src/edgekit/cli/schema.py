"""`edgekit schema`: print the JSON schema of a file format."""

from __future__ import annotations

import json

import click

from edgekit.terminal import echo_json


@click.command(name="schema")
@click.argument("what", type=click.Choice(["recipe", "bundle", "result"]))
def command(what: str) -> None:
    """Print the JSON schema (draft 2020-12) of a recipe, a bundle's manifest, or a result file.

    \b
    For example, to let an editor complete and check recipes:
      edgekit schema recipe > recipe.schema.json
    """
    from pydantic import BaseModel

    from edgekit.bundle import Manifest
    from edgekit.recipe import Recipe
    from edgekit.result import Result

    models: dict[str, type[BaseModel]] = {"recipe": Recipe, "bundle": Manifest, "result": Result}
    model = models[what]
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    echo_json(json.dumps(dialect | model.model_json_schema(by_alias=True), indent=2))
