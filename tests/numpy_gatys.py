"""The objective of Gatys, Ecker and Bethge (2016) and its image gradient in float64 NumPy, from the formulas alone.

Nothing here comes from fastnst: layers, constants and backward are spelled out again, so that an error in one of them
shows as a difference.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}
MEAN, STD = (np.array(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def layer_names(network: str) -> list[str]:
    names = []
    for block, count in enumerate(CONVOLUTIONS[network], 1):
        names += [f"conv{block}_{index + 1}" for index in range(count)] + [f"pool{block}"]
    return names


def convolve(x: Array, weight: Array, bias: Array, pad: str) -> Array:
    """Of (C, H, W) by 3×3 kernels."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge" if pad == "replicate" else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nckl,chwkl->nhw", weight, windows, optimize=True) + bias[:, None, None]


def convolve_back(upstream: Array, weight: Array, pad: str) -> Array:
    height, width = upstream.shape[1:]
    spread = np.tensordot(weight, upstream, (0, 0))
    padded = np.zeros((len(spread), height + 2, width + 2))
    for i in range(3):
        for j in range(3):
            padded[:, i : i + height, j : j + width] += spread[:, i, j]
    if pad == "replicate":
        padded[:, 1] += padded[:, 0]
        padded[:, -2] += padded[:, -1]
        padded[:, :, 1] += padded[:, :, 0]
        padded[:, :, -2] += padded[:, :, -1]
    return padded[:, 1:-1, 1:-1]


def blocks(x: Array) -> Array:
    """(C, H, W) to (C, H//2, W//2, 4); an odd last row or column is dropped."""
    channels, height, width = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
    even = x[:, : height * 2, : width * 2].reshape(channels, height, 2, width, 2)
    return even.transpose(0, 1, 3, 2, 4).reshape(channels, height, width, 4)


def unblock(parts: Array, shape: tuple[int, ...]) -> Array:
    channels, height, width, _ = parts.shape
    out = np.zeros(shape)
    whole = parts.reshape(channels, height, width, 2, 2).transpose(0, 1, 3, 2, 4)
    out[:, : height * 2, : width * 2] = whole.reshape(channels, height * 2, width * 2)
    return out


@dataclass
class Network:
    name: str
    tensors: dict[str, Array]
    pooling: str
    padding: str

    def forward(self, image: Array, deepest: str) -> dict[str, Array]:
        """The input of the first layer under 'input', then every layer's output up to `deepest`."""
        x = (image - MEAN) / STD
        outputs = {"input": x}
        for name in layer_names(self.name):
            if name.startswith("pool"):
                x = blocks(x).mean(-1) if self.pooling == "avg" else blocks(x).max(-1)
            else:
                pad = self.padding if name == "conv1_1" else "zeros"
                x = np.maximum(convolve(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"], pad), 0)
            outputs[name] = x
            if name == deepest:
                return outputs
        raise KeyError(deepest)

    def backward(self, outputs: dict[str, Array], taps: dict[str, Array]) -> Array:
        """The gradient at the image, given that at each tapped layer's output."""
        names = list(outputs)
        upstream = np.zeros_like(outputs[names[-1]])
        for before, name in zip(reversed(names[:-1]), reversed(names[1:]), strict=True):
            upstream = upstream + taps.get(name, 0)
            if name.startswith("pool"):
                parts = blocks(outputs[before])
                if self.pooling == "avg":
                    share = np.full(parts.shape, 0.25)
                else:
                    share = (np.arange(4) == parts.argmax(-1)[..., None]).astype(float)
                upstream = unblock(share * upstream[..., None], outputs[before].shape)
            else:
                pad = self.padding if name == "conv1_1" else "zeros"
                upstream = convolve_back(upstream * (outputs[name] > 0), self.tensors[name + ".weight"], pad)
        return upstream / STD


def gram_matrix(features: Array) -> Array:
    flat = features.reshape(features.shape[0], -1)
    return flat @ flat.T / flat.shape[1]


def objective(
    network: Network,
    image: Array,
    content: Array,
    styles: list[tuple[Array, float]],
    *,
    content_layers: dict[str, float],
    style_layers: dict[str, float],
    alpha: float,
    beta: float,
    gamma: float,
    relative: bool,
) -> tuple[dict[str, float], Array]:
    """The terms before their weights and the total after, and the gradient of the total: (3, H, W)."""
    order = layer_names(network.name)
    deepest = max([*content_layers, *style_layers], key=order.index)
    seen = network.forward(image, deepest)
    wanted = network.forward(content, deepest)
    painted = [(network.forward(style, deepest), share) for style, share in styles]
    terms = {"content": 0.0, "style": 0.0}
    taps: dict[str, Array] = {}

    for name, weight in content_layers.items():
        difference = seen[name] - wanted[name]
        constant = weight / np.sum(wanted[name] ** 2) if relative else weight / 2
        terms["content"] += constant * np.sum(difference**2)
        taps[name] = taps.get(name, 0) + alpha * 2 * constant * difference

    for name, weight in style_layers.items():
        features = seen[name]
        for style, share in painted:
            target = gram_matrix(style[name])
            difference = gram_matrix(features) - target
            constant = weight * share * (1 / np.sum(target**2) if relative else 1 / (4 * len(features) ** 2))
            terms["style"] += constant * np.sum(difference**2)
            gradient = 4 * constant / features[0].size * np.tensordot(difference, features, 1)
            taps[name] = taps.get(name, 0) + beta * gradient

    gradient = network.backward(seen, taps)
    pixels = image[0].size
    across, down = np.diff(image, axis=2), np.diff(image, axis=1)
    terms["tv"] = (np.sum(across**2) + np.sum(down**2)) / pixels
    smooth = np.zeros_like(image)
    smooth[:, :, 1:] += across
    smooth[:, :, :-1] -= across
    smooth[:, 1:] += down
    smooth[:, :-1] -= down
    terms["total"] = alpha * terms["content"] + beta * terms["style"] + gamma * terms["tv"]
    return terms, gradient + gamma * 2 / pixels * smooth
