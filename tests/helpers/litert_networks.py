"""Random small networks as ONNX, of the operators that LiteRT files can be written of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

CLASSES = 5
Rng = np.random.Generator
Shape = tuple[int, int, int]  # channels, height, width


class Network:
    """An ONNX graph that grows layer by layer, from uint8 images (n, h, w, 3); `value` is what came last, of `shape` (n, c, h, w)."""

    def __init__(self, rng: Rng, size: tuple[int, int], batch: int | None = None) -> None:
        self.rng, self.size, self.batch = rng, size, batch
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        pixels = self.add("Transpose", [self.add("Cast", ["image"], to=TensorProto.FLOAT)], perm=[0, 3, 1, 2])
        self.value = self.add(
            "Sub", [self.add("Mul", [pixels, self.number(1 / 64)]), self.number(rng.normal(2, 1, (3, 1, 1)))]
        )
        self.shape: Shape = (3, *size)

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of what it gives, or the names."""
        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def number(self, value: Any, kind: type = np.float32) -> str:
        """A constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weight(self, *shape: int) -> str:
        """Weights that leave the size of what they multiply about as it is."""
        fan = max(1, int(np.prod(shape[1:])))
        return self.number(self.rng.normal(0, 1.4 / np.sqrt(fan), shape))

    def weight_in(self, inputs: int, outputs: int) -> str:
        """The same for a product from the left."""
        return self.number(self.rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)))

    def pick(self, *choices: Any) -> Any:
        """One of some things."""
        return choices[int(self.rng.integers(len(choices)))]

    def model(self) -> ModelProto:
        """The whole, with a head: mean, and a linear layer."""
        pooled = self.add("Flatten", [self.add("GlobalAveragePool", [self.value])], axis=1)
        head = helper.make_node(
            "Gemm",
            [pooled, self.weight(CLASSES, self.shape[0]), self.weight(CLASSES)],
            ["logits"],
            name="head",
            transB=1,
        )
        free: Any = self.batch or "batch"
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [free, *self.size, 3])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [free, CLASSES])
        graph = helper.make_graph([*self.nodes, head], "random", [image], [logits], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


Layer = Callable[[Network], None]


def _windows(net: Network, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int] | None:
    """Random padding less than the kernel; None where no window fits."""
    pads = [int(net.rng.integers(0, kernel[i % 2])) for i in range(4)]
    _, height, width = net.shape
    for side, k, d, i in ((height, kernel[0], dilations[0], 0), (width, kernel[1], dilations[1], 1)):
        if side + pads[i] + pads[i + 2] < (k - 1) * d + 1:
            return None
    return pads


def _after(
    net: Network,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    ceil: bool = False,
    *,
    last: bool = False,
) -> tuple[int, int]:
    def side(size: int, i: int) -> int:
        room = size + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1
        count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        if ceil and not last and (count - 1) * strides[i] >= size + pads[i]:  # a window must not begin beyond the image
            count -= 1
        return count

    return side(net.shape[1], 0), side(net.shape[2], 1)


def convolution(net: Network) -> None:
    kernel, strides = [net.pick(1, 2, 3, 5), net.pick(1, 2, 3, 5)], [net.pick(1, 2, 3), net.pick(1, 2)]
    dilations = net.pick([1, 1], [1, 1], [2, 2], [1, 2])
    pads = _windows(net, kernel, strides, dilations)
    if pads is None:
        return
    channels = net.shape[0]
    groups = net.pick(1, 1, channels, *[g for g in (2, 3, 4) if channels % g == 0])
    outputs = groups * net.pick(1, 2, 3) if groups > 1 else net.pick(4, 6, 8)
    inputs = [
        net.value,
        net.weight(outputs, channels // groups, *kernel),
        *([net.weight(outputs)] if net.pick(True, False) else []),
    ]
    automatic = net.pick(None, None, None, "SAME_UPPER", "SAME_LOWER", "VALID")
    if (
        automatic
        and (dilations == [1, 1])
        and (automatic != "VALID" or all(s >= k for s, k in zip(net.shape[1:], kernel, strict=True)))
    ):
        net.value = net.add("Conv", inputs, kernel_shape=kernel, strides=strides, group=groups, auto_pad=automatic)
        same = tuple(-(-side // stride) for side, stride in zip(net.shape[1:], strides, strict=True))
        height, width = same if automatic != "VALID" else _after(net, kernel, strides, dilations, [0] * 4)
    else:
        net.value = net.add(
            "Conv", inputs, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=groups
        )
        height, width = _after(net, kernel, strides, dilations, pads)
    net.shape = (outputs, height, width)


def transposed_convolution(net: Network) -> None:
    if net.shape[1] * net.shape[2] > 200:
        return
    stride, kernel = net.pick(1, 2, 3), [net.pick(1, 2, 3, 4), net.pick(1, 2, 3, 4)]
    pads = [int(net.rng.integers(0, min(2, kernel[i % 2]))) for i in range(4)]
    extra = [int(net.rng.integers(0, stride)) for _ in range(2)]
    outputs = net.pick(3, 4, 6)
    sides = [
        (s - 1) * stride + k - pads[i] - pads[i + 2] + extra[i]
        for i, (s, k) in enumerate(zip(net.shape[1:], kernel, strict=True))
    ]
    if min(sides) < 1:
        return
    weights = net.number(net.rng.normal(0, 0.4, (net.shape[0], outputs, *kernel)))
    net.value = net.add(
        "ConvTranspose",
        [net.value, weights, net.weight(outputs)],
        kernel_shape=kernel,
        strides=[stride, stride],
        pads=pads,
        output_padding=extra,
    )
    net.shape = (outputs, sides[0], sides[1])


ACTIVATIONS = (
    "Relu", "Relu6", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Softplus", "Gelu", "Silu", "Mish",
    "GeluTanh", "Clip01", "Abs",
)  # fmt: skip


def activation(net: Network, kind: str = "") -> None:
    kind = kind or net.pick(*ACTIVATIONS)
    x = net.value
    if kind in {"Relu", "HardSwish", "Sigmoid", "Tanh", "Softplus", "Abs", "Elu"}:
        net.value = net.add(kind, [x])
    elif kind == "HardSigmoid":
        net.value = net.add(kind, [x], **net.pick({"alpha": 1 / 6}, {}))
    elif kind == "LeakyRelu":
        net.value = net.add(kind, [x], alpha=0.1)
    elif kind == "PRelu":
        net.value = net.add(kind, [x, net.number(net.rng.uniform(-0.5, 0.5, (net.shape[0], 1, 1)))])
    elif kind.startswith("Clip") or kind == "Relu6":
        low, high = {"Relu6": (0, 6), "Clip01": (0, 1)}.get(kind) or net.pick(
            (-1, 1), (-0.5, 2), (None, 1), (0.25, None)
        )
        net.value = net.add(
            "Clip", [x, "" if low is None else net.number(low), "" if high is None else net.number(high)]
        )
    elif kind == "Gelu":
        inner = net.add("Erf", [net.add("Div", [x, net.number(np.sqrt(2))])])
        net.value = net.add("Mul", [net.add("Mul", [x, net.add("Add", [inner, net.number(1)])]), net.number(0.5)])
    elif kind == "GeluTanh":
        cube = net.add("Pow", [x, net.number(3)])
        inner = net.add(
            "Mul", [net.add("Add", [x, net.add("Mul", [cube, net.number(0.044715)])]), net.number(np.sqrt(2 / np.pi))]
        )
        net.value = net.add(
            "Mul", [net.add("Mul", [x, net.number(0.5)]), net.add("Add", [net.add("Tanh", [inner]), net.number(1)])]
        )
    else:
        gate = net.add("Sigmoid", [x]) if kind == "Silu" else net.add("Tanh", [net.add("Softplus", [x])])
        net.value = net.add("Mul", [x, gate] if net.pick(True, False) else [gate, x])


def pooling(net: Network) -> None:
    kernel, strides = [net.pick(1, 2, 3), net.pick(2, 3)], [net.pick(1, 2), net.pick(1, 2, 3)]
    pads = _windows(net, kernel, strides, [1, 1])
    if pads is None:
        return
    ceil = bool(net.pick(0, 0, 1))
    kind = net.pick("MaxPool", "AveragePool")
    include = {"count_include_pad": net.pick(0, 1)} if kind == "AveragePool" else {}
    height, width = _after(net, kernel, strides, [1, 1], pads, ceil)
    if (height, width) != _after(net, kernel, strides, [1, 1], pads, ceil, last=True):
        return  # onnx and ONNX Runtime count differently there
    net.value = net.add(
        kind, [net.value], kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=int(ceil), **include
    )
    net.shape = (net.shape[0], height, width)


def residual(net: Network) -> None:
    channels = net.shape[0]
    before = net.value
    inner = net.add("Conv", [before, net.weight(channels, channels, 3, 3)], kernel_shape=[3, 3], pads=[1] * 4)
    net.value = net.add("Add", [net.add("Relu", [inner]), before] if net.pick(True, False) else [before, inner])


def squeeze_and_excite(net: Network) -> None:
    channels = net.shape[0]
    pooled = net.add("ReduceMean", [net.value], axes=[2, 3], keepdims=1)
    hidden = net.add("Relu", [net.add("Conv", [pooled, net.weight(4, channels, 1, 1), net.weight(4)])])
    gate = net.add(net.pick("Sigmoid", "HardSigmoid"), [net.add("Conv", [hidden, net.weight(channels, 4, 1, 1)])])
    net.value = net.add("Mul", [net.value, gate] if net.pick(True, False) else [gate, net.value])


def shuffle(net: Network) -> None:
    channels, height, width = net.shape
    groups = next((g for g in (2, 3, 4) if channels % g == 0), 1)
    split = net.add("Reshape", [net.value, net.number([0, groups, channels // groups, height, width], np.int64)])
    turned = net.add("Transpose", [split], perm=[0, 2, 1, 3, 4])
    net.value = net.add("Reshape", [turned, net.number([0, channels, height, width], np.int64)])


def split_and_join(net: Network) -> None:
    channels = net.shape[0]
    first = int(net.rng.integers(1, channels)) if channels > 1 else 0
    if not first:
        return
    sizes = net.number([first, channels - first], np.int64)
    one, other = net.add("Split", [net.value, sizes], outputs=2, axis=1)
    parts = [net.add("Relu", [one]), other, *([net.value] if net.pick(True, False) else [])]
    net.value = net.add("Concat", parts[:: net.pick(1, -1)], axis=1)
    net.shape = (channels + (channels if len(parts) == 3 else 0), *net.shape[1:])


def cut(net: Network) -> None:
    channels, height, width = net.shape
    top, left = int(net.rng.integers(0, 2)), int(net.rng.integers(0, 2))
    step = net.pick(1, 1, 2)
    if height <= top + 1 or width <= left + 1:
        return
    bounds = [net.number(v, np.int64) for v in ([top, left], [height, -1], [2, 3], [step, 1])]
    net.value = net.add("Slice", [net.value, *bounds])
    net.shape = (channels, -(-(height - top) // step), width - 1 - left)


def border(net: Network) -> None:
    mode = net.pick("constant", "reflect", "edge")
    amounts = [int(v) for v in net.rng.integers(0, 3, 4)]
    if mode == "reflect" and max(amounts) >= min(net.shape[1:]):
        return
    inputs = [net.value, net.number([0, 0, *amounts[:2], 0, 0, *amounts[2:]], np.int64)]
    net.value = net.add("Pad", [*inputs, net.number(net.pick(0, 0.5))] if mode == "constant" else inputs, mode=mode)
    net.shape = (net.shape[0], net.shape[1] + amounts[0] + amounts[2], net.shape[2] + amounts[1] + amounts[3])


def resize(net: Network) -> None:
    channels, height, width = net.shape
    if height * width > 200:
        return
    target = net.pick((2 * height, 2 * width), (height, 3 * width), (height // 2 or 1, width), (4 * height, 4 * width))
    mode = net.pick("nearest", "linear", "cubic")
    how = net.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    extra = {"nearest_mode": net.pick("floor", "round_prefer_floor")} if mode == "nearest" else {}
    sizes = net.number([1, channels, *target], np.int64) if net.batch == 1 else ""
    if sizes:
        inputs = [net.value, "", "", sizes]
    else:
        scales = [1, 1, target[0] / height, target[1] / width]
        if any(
            int(side * np.float32(scale)) != wanted
            for side, scale, wanted in zip((height, width), scales[2:], target, strict=True)
        ):
            return
        inputs = [net.value, "", net.number(scales)]
    net.value = net.add("Resize", inputs, mode=mode, coordinate_transformation_mode=how, **extra)
    net.shape = (channels, *target)


def rearrange(net: Network) -> None:
    channels, height, width = net.shape
    if channels % 4 == 0 and net.pick(True, False):
        net.value = net.add("DepthToSpace", [net.value], blocksize=2)
        net.shape = (channels // 4, 2 * height, 2 * width)
    elif height % 2 == 0 and width % 2 == 0:
        net.value = net.add("SpaceToDepth", [net.value], blocksize=2)
        net.shape = (4 * channels, height // 2, width // 2)


def normalization(net: Network) -> None:
    channels = net.shape[0]
    kind = net.pick("batch", "layer", "instance", "l2")
    positive = net.number(net.rng.uniform(0.5, 1.5, channels))
    if kind == "batch":
        statistics = [
            positive,
            net.weight(channels),
            net.weight(channels),
            net.number(net.rng.uniform(0.5, 2, channels)),
        ]
        net.value = net.add("BatchNormalization", [net.value, *statistics])
    elif kind == "layer":
        turned = net.add("Transpose", [net.value], perm=[0, 2, 3, 1])
        normed = net.add("LayerNormalization", [turned, positive, net.weight(channels)], axis=-1, epsilon=1e-3)
        net.value = net.add("Transpose", [normed], perm=[0, 3, 1, 2])
    elif kind == "instance":
        net.value = net.add("InstanceNormalization", [net.value, positive, net.weight(channels)], epsilon=1e-2)
    else:
        length = net.add("Clip", [net.add("ReduceL2", [net.value], axes=[1], keepdims=1), net.number(0.1)])
        net.value = net.add("Div", [net.value, length])


def attention(net: Network) -> None:
    channels, height, width = net.shape
    tokens = height * width
    if tokens > 150:
        return
    heads = net.pick(1, 2)
    inner = heads * 3
    flat = net.add(
        "Transpose", [net.add("Reshape", [net.value, net.number([0, channels, tokens], np.int64)])], perm=[0, 2, 1]
    )
    whole = net.add("Add", [net.add("MatMul", [flat, net.weight_in(channels, 3 * inner)]), net.weight(3 * inner)])
    parts = net.add("Reshape", [whole, net.number([0, tokens, 3, heads, 3], np.int64)])
    turned = net.add("Transpose", [parts], perm=[2, 0, 3, 1, 4])
    query, key, value = (net.add("Gather", [turned, net.number(i, np.int64)], axis=0) for i in range(3))
    scores = net.add("MatMul", [query, net.add("Transpose", [key], perm=[0, 1, 3, 2])])
    shares = net.add("Softmax", [net.add("Mul", [scores, net.number(0.5)])], axis=-1)
    mixed = net.add("Transpose", [net.add("MatMul", [shares, value])], perm=[0, 2, 1, 3])
    joined = net.add("Reshape", [mixed, net.number([0, tokens, inner], np.int64)])
    out = net.add("MatMul", [joined, net.weight_in(inner, channels)])
    residue = net.add("Add", [flat, out])
    back = net.add("Transpose", [residue], perm=[0, 2, 1])
    net.value = net.add("Reshape", [back, net.number([0, channels, height, width], np.int64)])


def along_channels(net: Network) -> None:
    """A one-dimensional convolution over the channels' means (ECA, Wang et al. 2020)."""
    channels = net.shape[0]
    mean = net.add("Reshape", [net.add("GlobalAveragePool", [net.value]), net.number([0, 1, channels], np.int64)])
    mixed = net.add("Conv", [mean, net.weight(1, 1, 3)], kernel_shape=[3], pads=[1, 1])
    gate = net.add("Reshape", [net.add("Sigmoid", [mixed]), net.number([0, channels, 1, 1], np.int64)])
    net.value = net.add("Mul", [net.value, gate])


def turned_sides(net: Network) -> None:
    """Height and width exchanged, and a matrix along one of them."""
    channels, height, width = net.shape
    if net.pick(True, False):
        net.value = net.add("Transpose", [net.value], perm=[0, 1, 3, 2])
        net.shape = (channels, width, height)
    else:
        rows = net.pick(2, 3)
        net.value = net.add("MatMul", [net.weight(rows, height), net.value])
        net.shape = (channels, rows, width)


def arithmetic(net: Network) -> None:
    channels, height, width = net.shape
    kind = net.pick("Add", "Sub", "Mul", "Div", "Max", "Min")
    shape = net.pick((channels, 1, 1), (1, height, width), (width,), (1,), (1, channels, height, width))
    other = net.number(net.rng.uniform(0.5, 1.5, shape))
    pair = [net.value, other] if net.pick(True, False) or kind == "Div" else [other, net.value]
    net.value = net.add(kind, pair)


LAYERS: dict[str, Layer] = {
    layer.__name__: layer
    for layer in (
        convolution, transposed_convolution, activation, pooling, residual, squeeze_and_excite, shuffle, split_and_join, cut, border, resize,
        rearrange, normalization, attention, along_channels, turned_sides, arithmetic,
    )
}  # fmt: skip


def build(layers: list[str], seed: int, batch: int | None = None) -> ModelProto:
    """A network of these layers, in their order; a layer that does not fit where it stands is left out.

    Args:
        layers: names of `LAYERS`.
        seed: of all that is random about them.
        batch: that the graph fixes; None leaves it free.
    """
    rng = np.random.default_rng(seed)
    net = Network(rng, (int(rng.integers(6, 15)), int(rng.integers(6, 15))), batch)
    for name in layers:
        LAYERS[name](net)
    return net.model()


def images(model: ModelProto, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels for it, uint8 (n, h, w, 3)."""
    height, width = (side.dim_value for side in list(model.graph.input[0].type.tensor_type.shape.dim)[1:3])
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
