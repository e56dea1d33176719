"""Draws: balanced, nested, seeded, by content; and the label file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.labels import budget_counts, draw, read_label_file, share, shuffled
from edgekit.errors import DataError
from edgekit.recipe import LabelCount

NAMES = [f"{c}/{i}.png" for c in "abc" for i in range(20)]
LABELS = np.repeat(np.arange(3), 20)
DIGESTS = [f"{i:032x}" for i in range(60)]
ALL = np.ones(60, dtype=bool)


def drawn(count: int, seed: int, allowed: np.ndarray = ALL) -> list[int]:
    return draw(shuffled(NAMES, DIGESTS, "labels", seed), LABELS, [count] * 3, allowed).tolist()


@given(st.integers(0, 20), st.integers(0, 2**64))
def test_a_draw_takes_the_same_number_of_each_class(count: int, seed: int) -> None:
    assert np.bincount(LABELS[drawn(count, seed)], minlength=3).tolist() == [count] * 3


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000))
def test_a_smaller_draw_of_a_seed_lies_in_a_larger_one(a: int, b: int, seed: int) -> None:
    assert set(drawn(min(a, b), seed)) <= set(drawn(max(a, b), seed))


def test_the_seed_and_the_purpose_alone_decide() -> None:
    assert drawn(5, 0) == drawn(5, 0)
    assert len({tuple(drawn(5, seed)) for seed in range(20)}) == 20
    assert shuffled(NAMES, DIGESTS, "test", 0) != shuffled(NAMES, DIGESTS, "probe", 0)


def test_a_draw_is_fixed_for_ever() -> None:
    # A change of this list would silently change every published split.
    assert shuffled(NAMES[:8], DIGESTS[:8], "labels", 0) == [7, 5, 4, 1, 6, 3, 2, 0]


def test_renaming_and_reordering_do_not_change_which_pictures_are_drawn() -> None:
    order = np.random.default_rng(0).permutation(60)
    again = draw(
        shuffled([f"new{i}" for i in order], [DIGESTS[i] for i in order], "labels", 3), LABELS[order], [4] * 3, ALL
    )
    assert sorted(order[again]) == drawn(4, 3)


def test_every_image_is_drawn_about_equally_often() -> None:
    counts = np.bincount([i for seed in range(2000) for i in drawn(5, seed)], minlength=60)
    # 2,000 draws at probability 1/4: mean 500, standard deviation 19.4
    assert counts.min() > 500 - 5 * 19.4
    assert counts.max() < 500 + 5 * 19.4


def test_only_what_is_allowed_is_drawn() -> None:
    allowed = ALL.copy()
    allowed[:15] = False
    assert all(allowed[drawn(20, 0, allowed)])
    assert np.bincount(LABELS[drawn(20, 0, allowed)]).tolist() == [5, 20, 20]


@pytest.mark.parametrize(
    ("count", "fraction", "taken"), [(5000, 0.01, 50), (10, 0.01, 1), (5, 0.5, 3), (3, 0.1, 1), (178, 0.1, 18)]
)
def test_a_share_is_rounded_and_at_least_one(count: int, fraction: float, taken: int) -> None:
    assert share(count, fraction) == taken


def test_a_fraction_counts_the_probe_set_in_and_keeps_the_classes_proportions() -> None:
    assert budget_counts(0.01, [5000, 5000], [4500, 4500], ["a", "b"]) == [50, 50]
    assert budget_counts(0.1, [100, 10], [90, 9], ["a", "b"]) == [10, 1]
    assert budget_counts(7, [100, 10], [90, 9], ["a", "b"]) == [7, 7]
    assert budget_counts(1.0, [100, 10], [90, 9], ["a", "b"]) == [90, 9]
    assert budget_counts(LabelCount(per_class=7), [100, 10], [90, 9], ["a", "b"]) == [7, 7]


@pytest.mark.parametrize("each", [1, 9, 10, 90, 1000])
def test_a_rare_class_gives_what_it_has_where_that_is_allowed(each: int) -> None:
    counts = budget_counts(LabelCount(per_class=each, at_most=True), [100, 10], [90, 9], ["a", "b"])
    assert counts == [min(each, 90), min(each, 9)]
    if each > 9:
        with pytest.raises(DataError, match=rf"class b has 9 .*asks for {each}.*at_most: true"):
            budget_counts(LabelCount(per_class=each), [100, 10], [90, 9], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (30, r"class b has 9 .* the budget \(30\) asks for 30"),
        (0.95, r"class b has 9 .* \(0\.95\) asks for 10; 1 more class"),
    ],
)
def test_a_budget_that_a_class_cannot_pay_names_the_class_what_it_has_and_what_is_asked(
    labels: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        budget_counts(labels, [100, 10], [90, 9], ["a", "b"])


def read(path: Path, text: str) -> list[int]:
    path.write_text(text, encoding="utf-8")
    return read_label_file(path, NAMES, LABELS, ["a", "b", "c"]).tolist()


def test_a_label_file_is_read_with_or_without_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    assert read(path, "file\na/1.png\nb/0.png\nc/2.png\n") == [1, 20, 42]
    assert read(path, "class,file\nc,c/2.png\na,a/1.png\nb,b/0.png\na,a/1.png\n") == [1, 20, 42]
    assert read(path, "\ufefffile,class\r\n./a/1.png,a\r\nb\\0.png,\r\n c/2.png ,c\r\n") == [1, 20, 42]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column `file`, its columns are none"),
        ("image,class\na/1.png,a\n", "no column `file`, its columns are image, class"),
        ("file\na/1.png\na/99.png\n", "line 3: a/99.png is no image of the labeled folder.*did you mean a/9.png"),
        ("file\na/1.png\nb/0.png\n", "lists no image of c"),
        ("file,class\na/1.png,b\n", "line 2: a/1.png is in the folder of a, not b"),
        ("file,class\n,b\n", "line 2: an empty name is no image"),
    ],
)
def test_a_wrong_label_file_is_one_line_with_the_line_s_number(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.labels: .*labels\.csv.*{message}"):
        read(tmp_path / "labels.csv", text)


def test_a_label_file_that_is_missing_or_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file \(give a fraction"):
        read_label_file(tmp_path / "nope.csv", NAMES, LABELS, ["a", "b", "c"])
    (tmp_path / "bytes.csv").write_bytes(b"file\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_label_file(tmp_path / "bytes.csv", NAMES, LABELS, ["a", "b", "c"])
    with pytest.raises(DataError, match="cannot be read"):
        read_label_file(tmp_path, NAMES, LABELS, ["a", "b", "c"])
