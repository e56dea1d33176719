"""Which architectures can be exported: networks of timm and torchvision, in float and INT8, one `edgekit export` each.

    python benchmarks/export_sweep.py [--only resnet18 vit] [--parallel 2] [--again] [--output …]

Each network gets seeded weights that look trained: norms and layer scales differ from channel to channel, BatchNorm has the statistics
of the images, and the logits spread. (A fresh initialization hides faults: all its norms are 1 and its layer scales nearly 0.) The
images are small and generated. INT8 is made without a search: `--max-drop 100` takes the first scheme.

For every variant that was made, the files are then run in batches of 1, 2, 3, 4, 5, 6, 8 and 1, in the order given, in one session of
edgekit, and an OpenVINO file also in plain OpenVINO with its batch axis left free. What each image gets must not depend on the
batch: float to 1e-3 of the logits' reach; INT8 may round a border case otherwise, so its error is held against the error that
quantization itself makes (see `batches`).

A network that cannot be exported must be refused in one line with exit code 2. The result file is written after each network; a second
call goes on with those that are missing. In the file a variant is a list, in the order of `variant_columns`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from edgekit.machine import this_machine
from edgekit.processors import usable_cpus
from edgekit.result import now
from result_files import write_rows

CLASSES, IMAGES = 10, 160
BATCHES = (1, 2, 3, 4, 5, 6, 8, 1)
FLOAT_CLOSE = 1e-3  # of the logits' reach: what the order of float32 additions may change
LIMIT_SECONDS = 900
# Of a variant, as the result file lists them.
COLUMNS = (
    "status", "agreement", "sqnr_db", "batch_error", "same_decisions", "reach", "agree", "quantization_error", "plain_openvino_error", "note",
)  # fmt: skip

# The quick ones first. Family (timm's module, or torchvision's) -> its networks; `@` gives the side of the images in pixels, 64 without.
NETWORKS = {
    "byobnet": "mobileone_s0 repvgg_a0 gernet_s eca_resnext26ts gcresnext26ts test_byobnet",
    "convnext": "convnext_atto convnextv2_atto convnext_zepto_rms test_convnext",
    "cspnet": "cs3darknet_s darknet17",
    "deit": "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "efficientnet": "efficientnet_b0 efficientnet_lite0 mnasnet_050 mobilenetv2_050 fbnetc_100 mixnet_s tinynet_e efficientnet_es "
    "efficientnet_b0_gn tf_efficientnetv2_b0 efficientnet_cc_b0_4e test_efficientnet",
    "efficientvit_mit": "efficientvit_b0",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "inception_next": "inception_next_atto",
    "inception_v3": "inception_v3@96",
    "mambaout": "mambaout_femto test_mambaout",
    "metaformer": "poolformer_s12 poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224@64 resmlp_12_224@64",
    "mobilenetv3": "mobilenetv3_small_050 mobilenetv3_large_075 lcnet_050 mobilenetv4_conv_small_050 "
    "fbnetv3_b tf_mobilenetv3_small_minimal_100",
    "nfnet": "nf_regnet_b0 eca_nfnet_l0 test_nfnet",
    "pit": "pit_ti_224@64",
    "pvt_v2": "pvt_v2_b0",
    "regnet": "regnetx_002 regnety_002 regnetz_005",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "resnest": "resnest14d",
    "resnet": "resnet10t resnet18 resnet50 seresnet18 ecaresnet26t resnetaa34d test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42b",
    "senet": "legacy_seresnet18",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "vgg": "vgg11_bn@64",
    "visformer": "visformer_tiny@64",
    "vision_transformer": "vit_tiny_patch16_224@64 test_vit test_vit2 test_vit3",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224@64",
    "vision_transformer_relpos": "test_vit_relpos",
    "vovnet": "ese_vovnet19b_dw",
    "xception": "legacy_xception@96",
    "torchvision": "torchvision:alexnet torchvision:resnet18 torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 torchvision:mobilenet_v2 "
    "torchvision:mobilenet_v3_small torchvision:efficientnet_b0 torchvision:googlenet torchvision:inception_v3@96 torchvision:regnet_y_400mf "
    "torchvision:mnasnet0_5 torchvision:convnext_tiny torchvision:vit_b_32@64 torchvision:swin_t@64",
    "byoanet": "halonet26t@256 lambda_resnet26t@64",
    "coat": "coat_lite_tiny",
    "edgenext": "edgenext_xx_small@96 edgenext_x_small@96",
    "efficientformer_v2": "efficientformerv2_s0@64",
    "efficientvit_msra": "efficientvit_m0@64",
    "eva": "eva02_tiny_patch14_224@56",
    "hrnet": "hrnet_w18_small",
    "inception_v4": "inception_v4@80",
    "levit": "levit_128s@224",
    "maxxvit": "coatnet_pico_rw_224@64",
    "mobilevit": "mobilevit_xxs@96 mobilevit_s@96 mobilevitv2_050@96",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224@64",
    "tiny_vit": "tiny_vit_5m_224@64",
    "volo": "volo_d1_224@224",
    "xcit": "xcit_nano_12_p16_224@64",
}  # fmt: skip


def networks() -> list[tuple[str, str, int]]:
    """Family, name as `edgekit export` takes it, and side of the images in pixels."""
    found = []
    for family, names in NETWORKS.items():
        for entry in names.split():
            name, _, size = entry.partition("@")
            found.append((family, name if ":" in name else f"timm:{name}", int(size or 64)))
    return found


def shapes(count: int, size: int) -> Any:
    """Colored shapes of low frequency with some noise, different enough that activations spread: uint8 (count, size, size, 3)."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(size)
    found = np.zeros((count, size, size, 3), np.uint8)
    for image in found:
        coarse = random.integers(0, 256, (random.integers(2, 7), random.integers(2, 7), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float32)
        image[:] = (smooth + random.normal(0, random.uniform(0, 25), smooth.shape)).clip(0, 255).astype(np.uint8)
    return found


def write_images(folder: Path, count: int, size: int) -> None:
    """Write `shapes` into a new folder, one PNG each."""
    from PIL import Image

    folder.mkdir()
    for i, image in enumerate(shapes(count, size)):
        Image.fromarray(image).save(folder / f"{i:03}.png")


def build(name: str, size: int) -> Any:
    """The network with random weights and `CLASSES` logits."""
    library, _, plain = name.partition(":")
    if library == "torchvision":
        import torchvision.models as zoo

        # The auxiliary heads of these two are in public files, so they are in this one.
        more = {"init_weights": True} if plain in {"googlenet", "inception_v3"} else {}
        more |= {"image_size": size} if plain.startswith("vit_") else {}
        return zoo.get_model(plain, weights=None, num_classes=CLASSES, **more)
    import timm

    try:
        return timm.create_model(plain, pretrained=False, num_classes=CLASSES, img_size=size)
    except TypeError:  # a network for any size
        return timm.create_model(plain, pretrained=False, num_classes=CLASSES)


def look_trained(network: Any, images: Any) -> None:
    """Norms, layer scales and biases that differ from channel to channel, statistics of the images, logits that spread.

    Args:
        network: of torch; changed.
        images: float32 (n, 3, s, s), normalized.
    """
    import torch
    from torch import nn

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() != max(parameter.shape, default=1) or parameter.numel() < 2 or parameter.std() > 0:
                continue  # neither one number a channel, nor the same for all
            value = float(parameter.flatten()[0])
            noise = torch.randn_like(parameter)
            if value == 0:
                parameter.copy_(0.1 * noise)
            elif value < 0.5:
                parameter.copy_(0.3 * torch.exp(0.5 * noise))  # a layer scale
            else:
                parameter.copy_(value * torch.exp(0.3 * noise))
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None  # an average over all batches
            norm.reset_running_stats()
        network.eval()
        for norm in norms:
            norm.train()
        for batch in images.split(32):
            network(batch)
        network.eval()
        logits = torch.cat([network(batch) for batch in images.split(32)])
        heads = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
        if len(heads) == 1:
            # Not more than the features bear: where they hardly differ between images, float32's own rounding would decide.
            scale = min(3 / logits.std(0).mean().clamp(min=1e-6), 300 / logits.abs().max())
            heads[0].weight.mul_(scale)
            bias = heads[0].bias if heads[0].bias is not None else torch.zeros(CLASSES)
            bias.copy_((bias - logits.mean(0)) * scale)


def write_weights(name: str, size: int, images: Path, path: Path) -> None:
    """The network's seeded weights as safetensors."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = build(name, size)
    pixels = np.stack([np.asarray(Image.open(file)) for file in sorted(images.iterdir())[:96]])
    look_trained(network, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    save_file({key: value.contiguous().clone() for key, value in network.state_dict().items()}, path)


def batches(bundle: Path, images: Path) -> dict[str, Any]:
    """For each variant that runs here: how much the answer for an image depends on the batch that it is in.

    `batch_error` is the largest difference of a logit between a batch and the image alone. For INT8 it is compared with
    `quantization_error`, the largest difference between INT8 and float for the same images: a border case that rounds otherwise
    is smaller than that; another computation is as large.
    """
    import numpy as np

    from edgekit.bundle import Bundle
    from edgekit.runtimes import open_session

    opened = Bundle.open(bundle)
    preprocessing = opened.manifest.preprocessing
    from edgekit.preprocess import read_image

    pixels = np.stack([preprocessing(read_image(file)) for file in sorted(images.iterdir())[-max(BATCHES) :]])
    found: dict[str, Any] = {}
    alone: dict[str, Any] = {}
    for variant in opened.manifest.variants:
        path = bundle / variant.files[0].path
        session = open_session(variant.runtime, path, threads=1, settings=variant.settings)
        singly = np.concatenate([session.run(np.ascontiguousarray(image[None])) for image in pixels])
        session.close()
        alone[variant.id] = singly
        # A session of its own: which graphs it keeps depends on the sizes that it was asked for before.
        session = open_session(variant.runtime, path, threads=1, settings=variant.settings)
        errors, agree = [], []
        for size in BATCHES:
            logits = session.run(np.ascontiguousarray(pixels[:size]))
            errors.append(float(np.abs(logits - singly[:size]).max()))
            agree.append(bool((logits.argmax(1) == singly[:size].argmax(1)).all()))
        session.close()
        reach = float(np.abs(singly).max())
        row: dict[str, Any] = {"batch_error": max(errors), "same_decisions": all(agree), "reach": reach}
        if variant.runtime == "openvino":
            row["plain_openvino_error"] = float(np.abs(plain_openvino(path, pixels) - singly).max())
        other = alone.get(variant.id.replace("int8", "fp32"))
        if variant.precision == "int8" and other is not None:
            row["quantization_error"] = float(np.abs(singly - other).max())
        allowed = FLOAT_CLOSE * reach if variant.precision != "int8" else row.get("quantization_error", reach)
        row["agree"] = max(row["batch_error"], row.get("plain_openvino_error", 0.0)) <= allowed
        found[variant.id] = row
    return found


def plain_openvino(path: Path, pixels: Any) -> Any:
    """What OpenVINO itself gives with a free batch axis: as somebody else's program would read the file."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    return compiled(pixels)[compiled.output("logits")]


def export(arguments: list[object]) -> tuple[int, str, str]:
    """`edgekit export` in this process, which lives for one network: exit code, standard output and standard error."""
    from edgekit.cli.main import main as command_line

    sys.argv = ["edgekit", "export", *map(str, arguments)]
    with redirect_stdout(StringIO()) as told, redirect_stderr(StringIO()) as complaints:
        try:
            command_line()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    return code, told.getvalue(), complaints.getvalue()


def one(name: str, size: int) -> dict[str, Any]:
    """Export one network as a user would, and run what came of it."""
    with tempfile.TemporaryDirectory(prefix="edgekit-sweep-") as scratch:
        folder = Path(scratch)
        images, weights, output = folder / "images", folder / "weights.safetensors", folder / "bundle"
        write_images(images, IMAGES, size)
        (folder / "classes.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
        try:
            write_weights(name, size, images, weights)
        except (
            Exception
        ) as error:  # the library's own network does not run at this size: the list is wrong, not the product
            return {"status": "not built", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        began = time.monotonic()
        code, told, complaints = export(
            [name, "--weights", weights, "--classes", folder / "classes.txt", "--calibrate", images, "--output", output,
             "--size", size, "--resize", size, "--mean", "0.5", "--std", "0.5", "--target", "onnx", "--target", "openvino",
             "--precision", "fp32", "--precision", "int8", "--max-drop", "100", "--json", "--jobs", "1", "--no-timing"]
        )  # fmt: skip
        row: dict[str, Any] = {"exit_code": code, "seconds": round(time.monotonic() - began, 1)}
        if code:
            lines = [line for line in complaints.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("error:")]
            row |= {"status": "refused" if code == 2 else "failed", "message": (errors or lines or ["?"])[-1][:400]}
        if code not in {0, 1}:
            return row
        variants = json.loads(told)["variants"]
        row["variants"] = {
            v["id"]: {
                "status": v["status"],
                "agreement": v.get("agreement"),
                "sqnr_db": (v.get("parity") or {}).get("sqnr_db"),
                "note": v.get("note", ""),
            }
            for v in variants
        }
        for id_, found in batches(output, images).items():
            row["variants"][id_] |= found
        verified = all(v["status"] == "verified" for v in row["variants"].values())
        row["status"] = "verified" if verified else "rejected"
        row["batches_agree"] = all(v["agree"] for v in row["variants"].values())
        return row


def sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    """All networks that are asked for and not in the result file yet; what the file holds of others stays."""
    wanted = [n for n in networks() if not arguments.only or any(part in n[1] for part in arguments.only)]
    rows: dict[str, Any] = {}
    if arguments.output.exists():
        rows = unpacked(json.loads(arguments.output.read_text()))
    content: dict[str, Any] = {
        "created": now(),
        "command": ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]],
        "machine": this_machine().model_dump(),
        "images": {"calibration and judging": IMAGES, "generated": True},
        "variant_columns": COLUMNS,
        "networks": {},
    }

    def run(entry: tuple[str, str, int]) -> None:
        family, name, size = entry
        command = [sys.executable, __file__, "--one", name, str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=environment,
                timeout=LIMIT_SECONDS + 300,
                check=False,
            )
            row = (
                json.loads(done.stdout.splitlines()[-1])
                if done.returncode == 0
                else {"status": "failed", "message": done.stderr[-300:]}
            )
        except subprocess.TimeoutExpired:
            row = {"status": "failed", "message": f"more than {LIMIT_SECONDS} s"}
        rows[name] = {"family": family, "size": size, **row}
        content["networks"] = packed(dict(sorted(rows.items())))
        write_rows(arguments.output, content)
        print(line(name, rows[name]), flush=True)

    missing = [entry for entry in wanted if arguments.again or entry[1] not in rows]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(run, missing))
    return {name: rows[name] for _, name, _ in networks() if name in rows}


def packed(rows: dict[str, Any]) -> dict[str, Any]:
    """The networks' rows with each variant as a list of `COLUMNS`; what is missing at its end is left out."""

    def values(variant: dict[str, Any]) -> list[Any]:
        found = [variant.get(name) if variant.get(name) != "" else None for name in COLUMNS]
        while found and found[-1] is None:
            found.pop()
        return found

    return {
        name: {**row, "variants": {id_: values(v) for id_, v in row["variants"].items()}} if "variants" in row else row
        for name, row in rows.items()
    }


def unpacked(content: dict[str, Any]) -> dict[str, Any]:
    """The networks' rows of a result file, with each variant as a dictionary again."""

    def named(values: list[Any]) -> dict[str, Any]:
        found = zip(content["variant_columns"], values, strict=False)  # shorter where the last ones are missing
        return {name: value for name, value in found if value is not None}

    return {
        name: {**row, "variants": {id_: named(v) for id_, v in row["variants"].items()}} if "variants" in row else row
        for name, row in content["networks"].items()
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One network, for the terminal."""
    said = row.get("message", "")
    if "variants" in row:
        int8 = "; ".join(
            f"{id_} {v['sqnr_db']:.0f} dB {v['agreement']:.0%}"
            for id_, v in row["variants"].items()
            if v.get("sqnr_db") and "int8" in id_
        )
        said = f"{int8}; batches {'agree' if row['batches_agree'] else 'DIFFER'} {said}"
    return f"{name} @{row['size']}: {row['status']} ({row.get('seconds', 0):.0f} s) {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="networks whose name holds one of these")
    parser.add_argument("--parallel", type=int, default=usable_cpus(), help="exports at a time")
    parser.add_argument("--again", action="store_true", help="also those that are in the result file")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "export_sweep.json")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one[0], int(arguments.one[1]))))
        return
    rows = sweep(arguments)
    for status in sorted({row["status"] for row in rows.values()}):
        print(f"{status}: {sum(row['status'] == status for row in rows.values())}")
    made = [row for row in rows.values() if "variants" in row]
    differ = sum(not row["batches_agree"] for row in made)
    print(f"networks {len(rows)}, families {len({row['family'] for row in rows.values()})}; batches differ in {differ}")


if __name__ == "__main__":
    main()
