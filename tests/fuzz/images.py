"""Images of every format that can be written here, as `predict` reads them on a device and as training reads them; tar shards of them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.data.decode import decode
from edgekit.data.image_folders import unlabeled_folder
from edgekit.data.images import content_digest
from edgekit.data.source import ImageSource, RangeNeeded
from edgekit.data.sources import open_labeled, open_pool
from edgekit.image_files import extensions
from edgekit.pixel_range import Depth
from edgekit.preprocess import Preprocessing
from tests.helpers.tiny_bundle import make_bundle, some_images

from .judge import Broken, run_command
from .mutators import Draws, change_file, changed_bytes, changed_tree, json_bytes

# An image of 100 million pixels (`image_files.MAX_PIXELS`) at 4 bytes, as much for what is made of it, and the libraries' buffers.
MEMORY = 1200 << 20
_WAYS = [
    Preprocessing(image_size=16, resize_to=18),
    Preprocessing(image_size=16, resize_to=16, fit="stretch", interpolation="bicubic"),
    Preprocessing(image_size=16, resize_to=18, geometry="torchvision", fit="border", pixel_range=(0, 4095)),
    Preprocessing(image_size=16, resize_to=18, geometry="torchvision", pixel_range="dtype"),
]


def make_corpus(folder: Path) -> None:
    """Every mode in every format that Pillow writes and edgekit reads, with the options that change how a file is laid out."""
    images = folder / "images"
    images.mkdir()
    pixels = some_images(2, 24)
    rgb, other = (Image.fromarray(p) for p in pixels)
    deep = Image.fromarray(pixels[0, ..., 0].astype(np.uint16) << 4)
    modes = {m: rgb.convert(m) for m in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")}
    modes |= {"I;16": deep, "I": deep.convert("I"), "F": deep.convert("F"), "PA": modes["P"].convert("PA")}
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    more = {
        "JPEG": [{"progressive": True}, {"exif": exif}, {"subsampling": 0, "quality": 95}, {"icc_profile": b"\x00" * 200}],
        "PNG": [{"transparency": 3}, {"exif": exif}, {"compress_level": 0}, {"save_all": True, "append_images": [other]},
                {"icc_profile": b"\x00" * 200}],
        "GIF": [{"save_all": True, "append_images": [other], "loop": 0}, {"transparency": 0}],
        "TIFF": [{"compression": c} for c in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4", "zstd")]
        + [{"save_all": True, "append_images": [other]}],
        "WEBP": [{"lossless": True}, {"save_all": True, "append_images": [other]}, {"exif": exif}],
        "TGA": [{"compression": "tga_rle"}],
        "JPEG2000": [{"irreversible": True}],
        "ICO": [{"sizes": [(16, 16), (24, 24)]}, {"bitmap_format": "bmp"}],
    }  # fmt: skip
    known = extensions()
    suffixes = {kind: suffix for suffix, kind in reversed(Image.registered_extensions().items()) if suffix in known}
    for kind, suffix in sorted(suffixes.items()):
        for mode, image in modes.items():
            for number, options in enumerate([{}, *more.get(kind, [])]):
                stream = io.BytesIO()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        image.save(stream, kind, **options)
                except Exception:  # the format has no such mode or option
                    continue
                name = mode.replace(";", "")
                (images / f"{kind.lower()}-{name}-{number}{suffix}").write_bytes(stream.getvalue())
    (images / "png-interlaced.png").write_bytes(_interlaced(np.asarray(modes["L"])[:8, :8]))
    make_bundle(folder / "bundle", openvino=False)


class Target:
    """One image a case, or a shard of some."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._files = sorted((corpus / "images").iterdir())
        self._content = {path: path.read_bytes() for path in self._files}
        formats = sorted({path.name.partition("-")[0] for path in self._files})
        self._of = {kind: [path for path in self._files if path.name.startswith(f"{kind}-")] for kind in formats}
        self._bundle = corpus / "bundle"
        self._secret = secret

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make an image file; gives what reads it."""
        kind, way = draws.random(), draws.random()
        if kind > 0.9:
            return self._gathered(draws, folder)
        kept = draws.choice(self._of[draws.choice(sorted(self._of))])
        path = folder / f"image{kept.suffix}"
        path.write_bytes(self._changed(draws, kept))
        if kind > 0.87:
            change_file(draws, path, self._secret)
        if way < 0.1:
            good = draws.choice(self._of["png"])
            (folder / good.name).write_bytes(self._content[good])
            given = [folder] if draws.random() < 0.5 and path.is_file() else [path, folder / good.name]
            return lambda: run_command("predict", self._bundle, *given, "--batch", draws.choice((1, 2)))
        if way < 0.55:
            preprocessing = draws.choice(_WAYS)
            return lambda: _device(preprocessing, path)
        return lambda: _train(unlabeled_folder(str(folder)))

    def _changed(self, draws: Draws, kept: Path) -> bytes:
        content = self._content[kept]
        if content.startswith(b"\x89PNG") and draws.random() < 0.7:
            return _png(draws, content)
        others = [self._content[path] for path in draws.sample(self._of[kept.name.partition("-")[0]], 1)]
        return changed_bytes(draws, content, [*others, self._content[draws.choice(self._files)]])

    def _gathered(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """A tar shard, a Parquet table or class folders of some images, as training reads them."""
        kind = draws.choice(("tar", "tar", "parquet", "folders"))
        files = [draws.choice(self._files) for _ in range(draws.choice((2, 3, 6)))]
        contents = [self._content[file] if draws.random() < 0.7 else self._changed(draws, file) for file in files]
        if kind == "folders":
            path = folder / "classes"
            for i, (file, content) in enumerate(zip(files, contents, strict=True)):
                made = path / f"class{i % 2}{draws.choice(('', '', chr(27), chr(10), 'é'))}" / f"{i}{file.suffix}"
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_bytes(content)
            if draws.random() < 0.4:
                change_file(draws, made, self._secret)
        else:
            path = folder / f"data.{kind}"
            path.write_bytes((_tar if kind == "tar" else _parquet)(draws, [file.suffix for file in files], contents))
            if draws.random() < 0.7:
                path.write_bytes(changed_bytes(draws, path.read_bytes()))
            elif draws.random() < 0.1:
                change_file(draws, path, self._secret)
        labeled, share = draws.random() < 0.5, draws.choice((0.01, 1.0))

        def act() -> None:
            source = (open_labeled if labeled else open_pool)(str(path))
            for pixel_range in ("auto", None):
                try:
                    decode(source.ranged(pixel_range), _WAYS[0], share)
                    return
                except RangeNeeded:
                    pass

        return act


def _tar(draws: Draws, suffixes: list[str], contents: list[bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=draws.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as archive:
        for i, (suffix, content) in enumerate(zip(suffixes, contents, strict=True)):
            name = draws.choice((f"{i:04}", f"{i:04}", "../up", "/root", "n" * 200, "\x1b[2J", "é", ""))
            label = draws.choice((b"1", b"0", b"cat", b"", b"\xff", b"9" * 5000, draws.randbytes(5)))
            about = draws.choice(
                (b"{}", json_bytes(draws, changed_tree(draws, {"label": 1, "more": [1, {"a": None}]})))
            )
            for extension, data in ((suffix, content), (".cls", label), (".json", about)):
                if extension != suffix and draws.random() < 0.4:
                    continue
                member = tarfile.TarInfo(name + extension)
                member.size = len(data)
                if draws.random() < 0.05:
                    member.type, member.linkname = (
                        draws.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)),
                        "/etc/passwd",
                    )
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _parquet(draws: Draws, suffixes: list[str], contents: list[bytes]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names: object = draws.choice((["cat", "dog"], ["cat"], [], "cat", [1, 2], {"a": 1}, ["\x1b[2J", "dog"]))
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = draws.choice(
        (
            json.dumps({"info": {"features": features}}),
            json_bytes(draws, {"info": {"features": changed_tree(draws, features)}}),
            "",
        )
    )
    rows = [
        None if draws.random() < 0.1 else {"bytes": content, "path": f"x{suffix}"}
        for suffix, content in zip(suffixes, contents, strict=True)
    ]
    labels = [draws.choice((0, 1, None, -1, 2**40)) for _ in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())]).with_metadata({"huggingface": metadata})
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": labels}, schema=schema), stream, row_group_size=2)
    return stream.getvalue()


def _device(preprocessing: Preprocessing, path: Path) -> None:
    pixels = preprocessing.read(path)
    if pixels.shape != (16, 16, 3) or pixels.dtype != np.uint8:
        raise Broken(f"pixels {pixels.dtype} of shape {pixels.shape}")


def _train(source: ImageSource) -> None:
    """As the data stage reads images: those that are deep twice, when their range is known."""
    for i in range(len(source.names)):
        depth = Depth()
        try:
            image = source.rgb(i, depth)
        except RangeNeeded:
            image = source.ranged((0.0, 4095.0)).rgb(i, depth)
        if image.mode != "RGB":
            raise Broken(f"an image of mode {image.mode}")
        content_digest(image)
        _WAYS[0](image)


def _png(draws: Draws, content: bytes) -> bytes:
    """A PNG whose chunks are changed, with checksums that are right: what a checksum does not stop."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    where = draws.randrange(len(chunks))
    name, data = chunks[where]
    change = draws.randrange(7)
    if change == 0:
        header = bytearray(chunks[0][1])
        field = draws.randrange(7)
        if field < 2:
            size = draws.choice((0, 1, 5, 1000, 9999, 20_000, 100_000, 2**31 - 1, 2**32 - 1))
            header[4 * field : 4 * field + 4] = size.to_bytes(4, "big")
        else:
            header[6 + field] = draws.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (chunks[0][0], bytes(header))
    elif change == 1:
        chunks[where] = (name, changed_bytes(draws, data))
    elif change == 2:
        chunks.insert(where, draws.choice(chunks))
    elif change == 3:
        del chunks[where]
    elif change == 4:
        other = draws.randrange(len(chunks))
        chunks[where], chunks[other] = chunks[other], chunks[where]
    elif change == 5:
        bomb = zlib.compress(bytes(draws.choice((1 << 10, 1 << 24, 1 << 26))))
        chunks.insert(
            1,
            draws.choice(
                (
                    (b"zTXt", b"k\0\0" + bomb),
                    (b"iCCP", b"k\0\0" + bomb),
                    (b"iTXt", b"k\0\1\0\0\0" + bomb),
                    (b"IDAT", bomb),
                )
            ),
        )
    else:
        made = draws.choice(((b"acTL", struct.pack(">II", draws.choice((0, 1, 2**31)), 0)), (b"tRNS", draws.randbytes(draws.choice((1, 2, 6, 300)))),
                             (b"eXIf", b"MM\0*" + draws.randbytes(60)), (b"PLTE", draws.randbytes(draws.choice((3, 7, 900)))),
                             (b"fcTL", draws.randbytes(26))))  # fmt: skip
        chunks.insert(1, made)
    packed = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return content[:8] + packed


def _interlaced(gray: np.ndarray) -> bytes:
    """An Adam7 PNG of gray pixels, which Pillow reads and does not write (PNG specification, 8.2)."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in gray[y::dy, x::dx])
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 1)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )
