"""`edgekit ablate` as it is called: tables, JSON, the page, and one line for what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from edgekit.report.ablation import write_ablation
from edgekit.result import Ablation, AblationCell, Axis, Result, Score
from tests.train.test_ablate import TINY

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgekit(edgekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `edgekit ablate` in a folder with a recipe; gives the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEKIT_DEBUG", raising=False)
    Path("recipe.yaml").write_text(yaml.safe_dump(TINY))
    return lambda *arguments: edgekit("ablate", *arguments)


def test_a_grid_from_the_command_line(edgekit: Run) -> None:
    arguments = ["pretrain.temperature=0.1,0.5", "recipe.yaml", "--set", "pretrain.batch_size=512"]
    code, out, err = edgekit(*arguments)
    assert code == 0
    folder = Path("runs/tiny-ablate-temperature")
    assert f"written to {folder}/ablation.json" in out
    assert re.search(r"\[1/2\] temperature 0.1: linear probe \d+\.\d.%, kNN .* left\)", err)
    saved = Result.read(folder / "ablation.json").measurement
    assert isinstance(saved, Ablation)
    assert [cell.values for cell in saved.cells] == [["0.1"], ["0.5"]]
    page = (folder / "ablation.html").read_text()
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")

    code, out, err = edgekit(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["measurement"]["cells"] == saved.model_dump(mode="json")["cells"]
    assert "up to date" in err


def test_a_failed_cell_is_told_and_the_exit_code_is_1(edgekit: Run) -> None:
    code, _, err = edgekit("pretrain.optimizer.lr=1e30", "recipe.yaml")
    assert code == 1
    assert "[1/1] lr 1e30: pretrain: the loss is" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["pretrain.temperatur=1,2", "recipe.yaml"],  # codespell:ignore
            "unknown key pretrain.temperatur (did you mean temperature?)",  # codespell:ignore
        ),
        (["pretrain.temperature=1,x", "recipe.yaml"], "pretrain.temperature: must be a number; got 'x'"),
        (["pretrain.temperature=", "recipe.yaml"], "a value is missing"),
        (["pretrain.one_branch=[crop],[swirl]", "recipe.yaml"], "pretrain.one_branch"),
        (["augmentation", "recipe.yaml"], "augmentation: not of the form key.path=v1,v2"),
        (["augmentations", "nothing.yaml"], "nothing.yaml: no such recipe"),
        (["augmentations", "recipe.yaml", "--only", "crop,"], "'' is not a transformation"),
        (["augmentations", "seed=1,2", "recipe.yaml"], "cannot be combined with FIELD"),
        (["seed=1,2", "recipe.yaml", "--only", "crop"], "--only is for `augmentations`"),
        (["data.labels=1,2", "recipe.yaml", "--reuse", "nowhere"], "nowhere: no such run"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_trained(edgekit: Run, arguments: list[str], told: str) -> None:
    code, out, err = edgekit(*arguments)
    assert code == 2
    assert told in err
    assert not out
    assert len([line for line in err.splitlines() if line.startswith(("error:", "Error:"))]) == 1
    assert not list(Path().glob("runs/*/cells/*"))


def score(metric: str, value: float) -> Score:
    return Score(model="encoder", metric=metric, value=value, samples=100, protocol="p")


def drawn(ablation: Ablation, path: Path) -> str:
    write_ablation(Result.of(ablation, seed=0), path)
    return path.read_text()


def test_the_matrix_is_drawn_with_every_number_and_holes_where_there_is_none(tmp_path: Path) -> None:
    names = ["crop", "blur", "<b>"]
    cells = [
        AblationCell(values=[a, b], run="r", scores=[score("linear", (i * 3 + j) / 10)], seconds=1.0)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    axes = [Axis(name="first", values=names), Axis(name="second", values=names)]
    ablation = Ablation(
        subject="augmentations", recipe="photos", data="photos", until="pretrain", axes=axes, planned=9, cells=cells[:-1]
    )  # fmt: skip
    page = drawn(ablation, tmp_path / "page.html")
    wide = page[page.index('<svg class="chart wide"') : page.index('<svg class="chart narrow"')]
    # 8 cells and the average of the 2 rows that are complete; a hole, and the average of its row.
    assert len(re.findall(r'class="heat"', wide)) == 8 + 2
    assert len(re.findall(r'class="heat none"', wide)) == 2
    assert re.findall(r'class="heattext[^>]*>([\d.]+)<', wide)[:4] == ["0.0", "10.0", "20.0", "10.0"]
    assert "8 of 9 cells are complete" in page
    assert "Best with blur, then &lt;b&gt;: linear probe 50.0" in page or "Best with &lt;b&gt;, then blur" in page
    assert "<b>," not in page


def test_values_are_drawn_as_lines_and_a_failed_one_is_named(tmp_path: Path) -> None:
    cells = [
        AblationCell(values=[v], run="r", scores=[score("linear", 0.5 + i / 10), score("knn", 0.4)], seconds=2.0)
        for i, v in enumerate(("0.01", "0.1"))
    ]
    cells.append(AblationCell(values=["1.0"], run="r", error="pretrain: the loss is nan in epoch 1"))
    axis = Axis(name="pretrain.temperature", values=["0.01", "0.1", "1.0"])
    ablation = Ablation(
        subject="values", recipe="photos", data="photos", until="pretrain", axes=[axis], planned=3, cells=cells
    )
    page = drawn(ablation, tmp_path / "page.html")
    assert "Best with temperature 0.1: linear probe 60.0" in page
    assert "temperature 1.0: pretrain: the loss is nan in epoch 1" in page
    assert "pretrain.temperature (log scale)" in page
    wide = page[page.index('<svg class="chart wide"') : page.index('<svg class="chart narrow"')]
    assert wide.count('class="dot"') == 4


def test_a_best_that_is_not_shown_to_be_better_is_called_so(tmp_path: Path) -> None:
    """Of 100 images each: 60 % against 58 % is chance, against 30 % is not."""
    from edgekit.report.ablation import ties, verdict

    def of(*values: float, samples: int = 100) -> Ablation:
        named = [f"v{i}" for i in range(len(values))]
        cells = [
            AblationCell(
                values=[n],
                run="r",
                scores=[Score(model="encoder", metric="linear", value=v, samples=samples, protocol="p")],
            )
            for n, v in zip(named, values, strict=True)
        ]
        axis = Axis(name="pretrain.temperature", values=named)
        return Ablation(
            subject="values", recipe="p", data="p", until="pretrain", axes=[axis], planned=len(values), cells=cells
        )  # fmt: skip

    assert [cell.values for cell in ties(of(0.58, 0.6, 0.3))] == [["v0"]]
    assert verdict(of(0.58, 0.6, 0.3)) == "temperature v1; no significant difference to temperature v0"
    assert verdict(of(0.3, 0.6)) == "temperature v1"
    assert verdict(of(0.58, 0.6, samples=100_000)) == "temperature v1"
    assert verdict(of(*[0.6] * 6)).endswith("temperature v3 and 2 more")
    assert "no significant difference to 1 of 2 others" in drawn(of(0.58, 0.6, 0.3), tmp_path / "page.html")
