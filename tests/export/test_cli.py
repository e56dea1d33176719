"""The command `edgekit export`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from edgekit.bundle import Bundle
from edgekit.cli.export_table import print_table
from edgekit.cli.main import main
from edgekit.run import Run
from tests.helpers import exported
from tests.helpers.tiny_bundle import make_bundle


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return exported.write_run(tmp_path_factory.mktemp("runs") / "digits")


def edgekit(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code if isinstance(ended.value.code, int) else 0


def test_the_default_is_both_runtimes(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgekit(monkeypatch, "export", trained.path, "--zip", "--calibration-images", "60") == 0
    printed = capsys.readouterr()
    bundle = Bundle.open(trained.path / "export")
    assert [v.id for v in bundle.manifest.variants] == ["onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"]
    statuses = {v.id: v.status for v in bundle.manifest.variants}
    assert set(statuses.values()) == {"verified"}
    # A row a variant, its status at the end; what is said about a variant stands below, and may have the word, too.
    rows = dict(re.findall(r"^((?:onnx|openvino)-\w+) .* (\w+) *$", printed.out, re.M))
    assert rows == statuses
    assert str(bundle.path) in printed.out
    assert "warning" not in printed.err.lower()
    assert (trained.path / "export.zip").is_file()
    provenance = bundle.manifest.provenance
    record = trained.require("distill")
    assert provenance["model"] == "student"
    assert provenance["weights_file_sha256"] == record.outputs["model.safetensors"]
    stages = ("data", "pretrain", "finetune", "distill")
    assert provenance["stages"] == {stage: trained.require(stage).digest for stage in stages}
    assert provenance["command"][:2] == ["edgekit", "export"]
    assert bundle.manifest.name == "digits"
    calibration = exported.quantization(bundle).calibration
    assert calibration is not None
    assert calibration.images == 60


def test_json_is_all_that_is_printed(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here"
    code = edgekit(monkeypatch, "export", trained.path, "--precision", "int8", "--output", out, "--json")
    content = json.loads(capfd.readouterr().out)
    assert code == 0
    assert [v["id"] for v in content["variants"]] == ["onnx-int8", "openvino-int8"]
    assert content["bundle"] == str(out)
    assert content["accuracy"]["samples"] == len(exported.splits().test)


def test_a_variant_that_loses_too_much_ends_in_exit_code_1(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported.calibrate_on_black(monkeypatch)
    out = tmp_path / "export"
    # Without a search, which may find layers to leave in float that are enough for some networks.
    options = ("--target", "onnx", "--search-minutes", 0, "--output", out)
    assert edgekit(monkeypatch, "export", trained.path, *options) == 1
    printed = capsys.readouterr()
    assert "rejected" in printed.out
    assert printed.err.splitlines()[-1].startswith("error: 1 of the variants failed verification: onnx-int8: ")
    bundle = Bundle.open(out)  # complete all the same
    assert {v.id: v.status for v in bundle.manifest.variants} == {"onnx-fp32": "verified", "onnx-int8": "rejected"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--compute-capability", "8.6"], "of --target trt-rtx alone"),
        (["--target", "trt-rtx", "--compute-capability", "8.7"], "for a Jetson use --target trt"),
        (["--target", "onnx", "--precision", "fp16"], "no requested target has the precision fp16"),
        (["--model", "supervised"], "the stage supervised is not complete"),
        (["--output", "/dev/null/export"], "cannot be written"),
        (["--target", "coreml"], "coreml"),
        (["--max-drop", "-1"], "max-drop"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert edgekit(monkeypatch, "export", trained.path, *arguments) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_no_such_run_and_a_run_without_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgekit(monkeypatch, "export", tmp_path / "nothing") == 2
    assert "no such run" in capsys.readouterr().err
    run = Run(tmp_path)
    run.recipe_path.write_text("name: early\ndata: {labeled: digits}\n")
    assert edgekit(monkeypatch, "export", tmp_path) == 2
    assert "the stage distill is not complete" in capsys.readouterr().err


def test_damaged_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = exported.write_run(tmp_path / "run")
    weights = run.stage_path("distill") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    assert edgekit(monkeypatch, "export", run.path) == 2
    assert "its digest differs from the recorded one" in capsys.readouterr().err
    assert not (run.path / "export").exists()


def test_several_resolutions_are_a_bundle_each(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", "onnx", "--precision", "fp32", "--image-size", "16", "--image-size", "24", "--json"]
    outputs = ["--embedding", "--batch", "2", "--jobs", "1", "--output", tmp_path / "bundle"]
    assert edgekit(monkeypatch, "export", trained.path, *arguments, *outputs) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(bundle["bundle"]).name for bundle in printed] == ["bundle-16", "bundle-24"]
    recipe = trained.recipe.data.preprocessing()
    for size in (16, 24):
        manifest = Bundle.open(tmp_path / f"bundle-{size}").manifest
        assert manifest.preprocessing.image_size == size
        assert manifest.preprocessing.resize_to == round(recipe.resize_to * size / recipe.image_size.height)
        assert manifest.input.shape == [2, size, size, 3]
        assert [output.name for output in manifest.outputs] == ["logits", "embedding"]
        (variant,) = manifest.variants
        assert variant.status == "verified"  # against the trained network at that very resolution
        assert manifest.accuracy is not None
        assert variant.accuracy is not None
        assert variant.accuracy.top1 == manifest.accuracy.top1
    small, large = (Bundle.open(tmp_path / f"bundle-{size}").manifest.accuracy for size in (16, 24))
    assert small != large  # measured at each, on images decoded for it


def test_a_sentence_that_several_variants_have_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "export")
    shared, own, both = (
        "checked on one kind of CPU; elsewhere, check again",
        "not faster than float",
        "rejected: too far",
    )
    onnx, openvino = bundle.manifest.variants
    variants = [
        onnx.noted(shared).noted(own),
        openvino.noted(shared),
        onnx.model_copy(update={"id": "onnx-int8", "status": "rejected"}).noted(shared).noted(both),
    ]
    bundle.manifest = bundle.manifest.model_copy(update={"variants": variants})
    print_table(bundle, None)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert f"{onnx.id}, {openvino.id}: {shared}" in lines
    assert f"{onnx.id}: {own}" in lines
    assert f"onnx-int8: {shared}; {both}" in lines
    assert not any(line.startswith(f"{openvino.id}: ") for line in lines)
