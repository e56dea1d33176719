"""Recipes that nobody would write: each is refused in one line, within bounds of time and memory, or means what it says."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe import Recipe, dump, load, read_yaml
from edgekit.recipe.plain_yaml import MOST_BYTES
from tests.helpers import hostile

CASES = {
    "timestamp": ("seed: 2001-99-99\n", "seed: must be a whole number; got '2001-99-99'"),
    "int": ("seed: !!int abc\n", "line 1, column 7: not a value of the type int: abc"),
    "float": ("seed: !!float abc\n", "not a value of the type float: abc"),
    "bool": ("seed: !!bool maybe\n", "not a value of the type bool: maybe"),
    "tag-timestamp": ("seed: !!timestamp x\n", "the tag timestamp is not allowed in a recipe"),
    "map": ("seed: !!map [1]\n", "the tag map is not allowed in a recipe"),
    "code": ("seed: !!python/object/apply:os.system [x]\n", "the tag python/object/apply:os.system is not allowed in a recipe"),
    "digits": (f"seed: {'9' * 5000}\n", "not a value of the type int: 99999"),
    "large": (f"seed: {2**63}\n", "an integer of more than 64 bits"),
    "nested": ("seed: " + "[" * 4000 + "]" * 4000 + "\n", "nested deeper than 32 levels"),
    "aliases": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
        + "name: *i\n",
        "more than 20,000 values",
    ),
    "deep-aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100)) + "name: *a99\n",
        "nested deeper than 32 levels",
    ),
    "cycle": ("name: &a [*a]\n", "an alias refers to a value that contains it"),
    "merge-cycle": ("data: &a\n  <<: *a\n", "an alias refers to a value that contains it"),
    "long-name": (f"name: {'n' * 10_000_000}\n", f"more than {MOST_BYTES:,} bytes"),
    "name": (f"name: {'n' * 1000}\n", "name: must be shorter; got 'nnnn"),
    "many-keys": ("".join(f"k{i}: 1\n" for i in range(5000)), "and 4990 more"),
    "many-values": (f"name: [{'x,' * 40_000}]\n", "more than 20,000 values"),
    "list-key": ("? [a]\n: 1\n", "a key must be text"),
    "control": ("na\x1bme: 1\n", "special characters are not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, reason = CASES[name]
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as refused:
        load(tmp_path / "recipe.yaml")
    line = str(refused.value)
    assert reason in line
    assert str(tmp_path / "recipe.yaml") in line
    assert len(line) < 2500
    assert line.isprintable()


def test_the_command_refuses_within_bounds_of_memory(tmp_path: Path) -> None:
    """2.8 GB and 100 s once: the whole process may take 1 GB of addresses, of which the interpreter's libraries are most."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        resource.setrlimit(
            resource.RLIMIT_CPU, (60, 60)
        )  # seconds of this process's own, whatever else the machine does

    for name in ("aliases", "long-name", "nested"):
        (tmp_path / "recipe.yaml").write_text(CASES[name][0])
        ended = subprocess.run(
            [sys.executable, "-m", "edgekit", "train", "recipe.yaml"],
            cwd=tmp_path, capture_output=True, text=True, preexec_fn=bounded, check=False,
        )  # fmt: skip
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.startswith("error: recipe.yaml: ")
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/"])
def test_a_file_without_an_end_is_no_recipe(device: str) -> None:
    with pytest.raises(RecipeError, match=device):
        load(device)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=2001-99-99", "seed: must be a whole number; got '2001-99-99'"),
        ("seed=!!int abc", "--set seed=!!int abc: the value is not valid YAML at line 1, column 1: not a value of the type int: abc"),
        (f"seed={'9' * 5000}", "not a value of the type int"),
        ("name=[[[[", "the value is not valid YAML"),
        ("a." * 9999 + "b=1", "the key has too many parts"),
        ("name=&a [*a]", "an alias refers to a value"),
        ("n" * 100_000, "not of the form key.path=value"),
    ],
)  # fmt: skip
def test_so_is_what_set_says(override: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    with pytest.raises(RecipeError) as refused:
        load(tmp_path / "recipe.yaml", [override])
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_what_people_write_still_means_what_it_says() -> None:
    text = "a: 1e-3\nb: 0x1F\nc: [1, two, null, ~, true, no, '3', 2001-01-01]\nd: &d {x: 1}\ne: {<<: *d, y: 2}\nf: |\n  two\n  lines\ng: !!str 3\n"
    assert read_yaml(text) == {
        "a": 1e-3, "b": 31, "c": [1, "two", None, None, True, False, "3", "2001-01-01"], "d": {"x": 1}, "e": {"x": 1, "y": 2},
        "f": "two\nlines\n", "g": "3",
    }  # fmt: skip
    assert read_yaml("") is None
    assert read_yaml(dump(Recipe())) == Recipe().model_dump(mode="json", by_alias=True)


def _refusal(path: Path, overrides: list[str]) -> str:
    """What edgekit says where it refuses, empty where it does not; any other exception passes, and fails the test."""
    try:
        load(path, overrides)
    except EdgekitError as error:
        return str(error)
    return ""


def test_changed_recipes_are_refused_or_read(tmp_path: Path) -> None:
    """Of 400 damaged recipes and overrides each gives a recipe or one error of edgekit's; nothing else is raised."""
    draws, original = random.Random(20260101), dump(Recipe())
    path, outcomes = tmp_path / "recipe.yaml", {"read": 0, "refused": 0}
    for number in range(400):
        if number % 4:
            path.write_bytes(hostile.text(draws, original).encode())
            overrides = []
        elif number % 8:
            path.write_bytes(hostile.damaged(draws, original.encode()))
            overrides = []
        else:
            path.write_text(original)
            key = draws.choice(
                ["seed", "name", "data.mean", "pretrain", "pretrain.optimizer.lr", "distill.teachers", "data.labeled"]
            )
            overrides = [f"{key}={draws.choice(hostile.TOKENS)}"]
        message = _refusal(path, overrides)
        assert len(message) < 4500
        assert message.isprintable()
        outcomes["refused" if message else "read"] += 1
    assert min(outcomes.values()) > 10, outcomes  # the changes are neither all harmless nor all alike
