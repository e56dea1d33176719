"""Recipes, and what `--set` says: read, written out, and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from edgekit.recipe import Recipe, dump, load
from edgekit.recipe.plain_yaml import Dumper
from tests.helpers import hostile
from tests.helpers.recipe_changes import TINY

from .mutators import Draws, change_file, changed_bytes, changed_tree

MEMORY = 256 << 20  # a recipe is at most 512 kB, and 20,000 values
_KEYS = [
    "seed", "name", "data", "data.mean", "data.labeled", "data.labels", "data.image_size", "data.pixel_range", "pretrain", "pretrain.method",
    "pretrain.optimizer.lr", "pretrain.encoder", "pretrain.encoder.name", "pretrain.augment", "distill.teachers", "distill.student.width",
    "hardware.devices", "finetune", "no.such.key", "a..b", "", ".", "data.mean.0",
]  # fmt: skip
_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def make_corpus(folder: Path) -> None:
    """The recipe with every key, a small one, the examples, and some whose groups are tagged by a method."""
    texts = {"whole": dump(Recipe()), "tiny": yaml.dump(TINY), "empty": "", "seed": "seed: 3\n"}
    texts |= {path.stem: path.read_text() for path in sorted(_EXAMPLES.glob("*.yaml"))}
    for method in ("moco", "byol", "simsiam", "instdisc"):
        texts[method] = f"name: {method}\npretrain: {{method: {method}, epochs: 30}}\n"
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


class Target:
    """One recipe a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._texts = [path.read_bytes() for path in sorted(corpus.glob("*.yaml"))]
        self._trees = [tree for text in self._texts if isinstance(tree := yaml.safe_load(text), dict)]
        self._secret = secret

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make a recipe and the overrides; gives what reads them."""
        path, overrides = folder / "recipe.yaml", list[str]()
        text = draws.choice(self._texts)
        kind = draws.random()
        if kind < 0.3:
            path.write_bytes(hostile.text(draws, text.decode() or "\n").encode(errors="surrogatepass"))
        elif kind < 0.45:
            path.write_bytes(changed_bytes(draws, text, self._texts))
        elif kind < 0.7:
            path.write_bytes(_written(draws, changed_tree(draws, draws.choice(self._trees))))
        elif kind < 0.87:
            path.write_bytes(text)
            overrides = [_override(draws) for _ in range(draws.choice((1, 1, 2)))]
        elif kind < 0.97:
            path.write_bytes(_bomb(draws).encode())
        else:
            path.write_bytes(text)
            change_file(draws, path, self._secret)
        before = (
            path.read_bytes() if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20 else None
        )

        def act() -> None:
            recipe = load(path, overrides)
            again = folder / "again.yaml"
            again.write_text(dump(recipe), encoding="utf-8")
            assert load(again) == recipe, "a recipe changes when it is written and read again"
            assert before is None or path.read_bytes() == before, "the recipe's file was changed"

        return act


def _written(draws: Draws, content: Any) -> bytes:
    """As YAML, in block or flow style, or as JSON, which is YAML, too."""
    try:
        if draws.random() < 0.6:
            text = yaml.dump(
                content,
                Dumper=Dumper,
                sort_keys=False,
                allow_unicode=draws.random() < 0.5,
                default_flow_style=draws.random() < 0.3,
            )
        else:
            text = json.dumps(content, default=str)
    except Exception:  # what cannot be written is drawn as text
        text = str(content)
    return text.encode(errors="surrogatepass")


def _override(draws: Draws) -> str:
    key = draws.choice(_KEYS)
    token = (
        draws.choice(hostile.TOKENS) if draws.random() < 0.7 else json.dumps(draws.choice(hostile.VALUES), default=str)
    )
    form = draws.random()
    if form < 0.9:
        return f"{key}={token}"
    return draws.choice(
        (token, f"{key}", f"={token}", f"{token}={token}", f"{key}={token}={token}", ".".join([key] * 200) + "=1")
    )


def _bomb(draws: Draws) -> str:
    """YAML that is small and stands for much, or nests, in one of the ways that there are."""
    width, depth = draws.choice((2, 9, 40)), draws.choice((3, 8, 40, 300))
    inner = draws.choice(("x", "1", "null", "{a: 1}", "[]"))
    kinds: list[Callable[[], str]] = [
        lambda: "a0: &a0 [" + ",".join([inner] * width) + "]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]\n" for i in range(1, depth)) + f"name: *a{depth - 1}\n",
        lambda: "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * width)}], k{i}: 1}}\n" for i in range(1, depth)),
        lambda: "data: " + "[" * depth * 10 + "]" * draws.choice((0, depth * 10)) + "\n",
        lambda: "data: " + "{a: " * depth * 10 + "1" + "}" * draws.choice((0, depth * 10)) + "\n",
        lambda: "\n".join("  " * i + "a:" for i in range(depth)) + "\n",
        lambda: "- " * depth * 10 + "x\n",
        lambda: "".join(f"k{i}: 1\n" for i in range(width * depth * 10)),
        lambda: "name: " + draws.choice(("n", "é", "\\", "'", '"', "\U0001f600")) * draws.choice((100, 70_000, 600_000)) + "\n",
        lambda: "? " * depth + "a\n",
        lambda: f"seed: {draws.choice('-+')}{draws.choice(('9', '1:', '0b1', '0x', '_', '1_'))}" + "9" * draws.choice((10, 5000, 100_000)) + "\n",
        lambda: "# " + "c" * draws.choice((10, 500_000)) + "\nseed: 1\n",
        lambda: "--- \nseed: 1\n" * width * depth,
        lambda: "%TAG ! tag:x,2000:\n---\nseed: !y 1\n" + "&a " * width + "\n",
        lambda: "name: |" + draws.choice(("", "9", "-", "+", "+2")) + "\n" + " " * depth + "x\n" * width * 100,
        lambda: "*" + "a" * depth * 100 + "\n",
        lambda: "data: &a {b: *a, <<: *a}\n",
        lambda: f"name: 2001-{draws.randrange(100)}-{draws.randrange(100)}T{draws.randrange(99)}:00:00.{'9' * depth}+{draws.randrange(99)}:99\n",
        lambda: os.fsdecode(draws.randbytes(width)).encode(errors="replace").decode(),
    ]  # fmt: skip
    return draws.choice(kinds)()
