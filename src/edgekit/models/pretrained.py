"""Weights that timm and torchvision publish: their names, what they were trained with, and their files, fetched once into the libraries' caches.

A file that is in the cache is taken from there without asking the network.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from edgekit.errors import RecipeError, near, reason_of
from edgekit.models.pixels import Statistics
from edgekit.sizes import ImageSize

_SECONDS = 10.0  # for a connection or a pause in a download
_OFFLINE = "connect to the Internet once, or give the path of a file of weights"
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class Published:
    """Published weights.

    Attributes:
        name: `timm:NAME.TAG` or `torchvision:NAME`.
        mean: of the normalization that they were trained with, for pixels in [0, 1].
        std: likewise.
        image_size: size of the images, in pixels.
        repository: on the hub of timm's weights; empty for weights with a URL only.
        file: name in the repository; empty for the library's choice.
        url: of the file outside the hub.
        fixed_size: whether the network takes images of one size only (most transformers).
        classes: number of classes of their classifier; 0 for none.
    """

    name: str
    mean: Statistics
    std: Statistics
    image_size: ImageSize
    repository: str = ""
    file: str = ""
    url: str = ""
    fixed_size: bool = False
    classes: int = 0

    @property
    def of_timm(self) -> bool:
        """Whether they are timm's, in its own names."""
        return self.name.startswith("timm:")

    @property
    def source(self) -> str:
        """Where they come from, for records."""
        return self.repository or self.url


def published(library: str, name: str, where: str) -> Published:
    """Find the published weights of a network, without the network.

    Args:
        library: timm or torchvision.
        name: of timm with or without a tag; without one, timm's default.
        where: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such network or tag, or it has no published weights.
    """
    return _of_torchvision(name, where) if library == "torchvision" else _of_timm(name, where)


@functools.cache
def tagged_names() -> frozenset[str]:
    """The names of timm's networks with published weights, with their tags."""
    import timm

    return frozenset(timm.list_pretrained())


def check_tag(name: str, where: str) -> None:
    """Refuse an unknown tag of a network of timm.

    Raises:
        RecipeError: names the nearest tags.
    """
    network, _, tag = name.partition(".")
    if not tag or name in tagged_names():
        return
    own = sorted(n for n in tagged_names() if n.partition(".")[0] == network)
    listed = ", ".join(n.partition(".")[2] for n in own[:8]) + (", …" if len(own) > 8 else "")
    raise RecipeError(
        f"{where}: timm has no weights {name!r}",
        near(name, own or sorted(tagged_names())) or f"the tags of {network}: {listed}",
    )


def _of_timm(name: str, where: str) -> Published:
    from timm.models import get_pretrained_cfg

    check_tag(name, where)
    config = get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise RecipeError(f"{where}: timm publishes no weights for {name}", "give the path of a file of weights")
    url = config.url if isinstance(config.url, str) else ""
    full = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    return Published(
        f"timm:{full}", three(config.mean), three(config.std), ImageSize.of(tuple(config.input_size[1:])),
        config.hf_hub_id or "", config.hf_hub_filename or "", url, bool(config.fixed_input_size),
        int(config.num_classes or 0),
    )  # fmt: skip


def _of_torchvision(name: str, where: str) -> Published:
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        hint = near(name, sorted(zoo.list_models(module=zoo))) or "see torchvision's list of networks"
        raise RecipeError(f"{where}: torchvision has no network {name!r}", hint)
    weights = zoo.get_model_weights(name).DEFAULT
    transform = weights.transforms()
    return Published(
        f"torchvision:{name}", three(transform.mean), three(transform.std), ImageSize.of(int(transform.crop_size[0])), url=weights.url,
        fixed_size=name.startswith("vit_"), classes=len(weights.meta["categories"]),
    )  # fmt: skip


def three(values: Any) -> Statistics:
    """Statistics of three channels as one number where they are equal (which INT8 runtimes can fuse), else as three."""
    red, green, blue = (float(v) for v in values)
    return red if red == green == blue else (red, green, blue)


def fetch(weights: Published, where: str) -> Path:
    """Return the file of published weights: from the cache of timm or torchvision, else downloaded into it.

    Raises:
        RecipeError: it is not in the cache, and there is no connection, or HF_HUB_OFFLINE forbids one.
    """
    return _from_hub(weights, where) if weights.repository else _from_url(weights.url, weights.name, where)


def _from_hub(weights: Published, where: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    names = [weights.file] if weights.file else [constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME]
    for name in names:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(weights.repository, name, local_files_only=True))
    if constants.HF_HUB_OFFLINE:
        raise _not_fetched(
            weights.name, where, f"is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
        )
    _connect(constants.ENDPOINT, weights.name, where)
    reason = ""
    for name in names:
        try:
            return Path(hf_hub_download(weights.repository, name, etag_timeout=_SECONDS))
        except (HfHubHTTPError, OSError) as error:  # no such file: the next name
            reason = reason or reason_of(error, 160)
    raise _not_fetched(weights.name, where, f"cannot be fetched: {reason}")


def _from_url(url: str, name: str, where: str) -> Path:
    """Download as `torch.hub` does, into its folder and under its name, so that both share the file."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / urlsplit(url).path.rpartition("/")[2]
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _not_fetched(name, where, f"is not in the cache {path.parent}, and HF_HUB_OFFLINE is set")
    _connect(url, name, where)
    digest = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout():
            torch.hub.download_url_to_file(url, str(path), digest if "-" in path.stem else None)
    except (OSError, RuntimeError) as error:
        raise _not_fetched(name, where, f"cannot be fetched: {' '.join(str(error).split())[:160]}") from error
    return path


def _connect(url: str, name: str, where: str) -> None:
    """Fail at once without a connection: the libraries try again for a minute. With a proxy, only they can tell.

    Raises:
        RecipeError: no connection can be made.
    """
    if any(os.environ.get(variable) for variable in _PROXIES):
        return
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_SECONDS).close()
    except OSError as error:
        raise _not_fetched(
            name, where, f"is not in the cache, and {parts.hostname} cannot be reached ({error.strerror or error})"
        ) from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _not_fetched(name: str, where: str, reason: str) -> RecipeError:
    return RecipeError(f"{where}: {name} {reason}", _OFFLINE)


def published_source(name: str, where: str) -> str:
    """Where the published weights of a network of the recipe come from; edgekit's ResNets take torchvision's.

    Raises:
        RecipeError: it has none.
    """
    import torchvision.models as zoo

    library, _, bare = name.rpartition(":")
    if not library:
        library = "torchvision" if bare in zoo.list_models(module=zoo) else "timm"
    return published(library, bare, where).source


def check_size(weights: Published, image_size: ImageSize, interpolate: bool, where: str) -> None:
    """Refuse images of another size than the positional embedding is for, unless it is to be interpolated.

    Raises:
        RecipeError: says which sizes.
    """
    if weights.fixed_size and image_size != weights.image_size and not interpolate:
        raise RecipeError(
            f"{where}: {weights.name} was trained on images of {weights.image_size} px, and its positional embedding is for them; "
            f"here it gets {image_size} px",
            f"use {weights.image_size} px, or set {where}.interpolate_positions to true",
        )
