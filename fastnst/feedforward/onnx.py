"""A network as an ONNX file, for programs without torch, checked against torch by onnxruntime.

Its inputs are `image`, (1, 3, height, width) float32 in 0…1 of any size, and `blend`, (styles,) float32, which sums to
1; its output is `stylized`, of the image's shape.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastnst.errors import OptionError
from fastnst.feedforward.file import NetworkError
from fastnst.feedforward.network import EPSILON, GRID, StyleNetwork, Unit
from fastnst.image.files import check_place
from fastnst.image.write import replacing

SUFFIX = ".onnx"
# Reflection and interpolation as they are here came with 18; runtimes of 2023 know it.
_OPSET, _IR = 18, 9
# Largest difference from torch in float32, of values in 0…1.
_TOLERANCE = 1e-3


def check_onnx(path: str | os.PathLike[str]) -> None:
    """Raises FastnstError where no ONNX file can be written to `path`, or a package of the extra is missing."""
    check_place(os.fsdecode(path), "ONNX file", (SUFFIX,))
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise OptionError(f'--onnx needs {package}; install it with pip install "fastnst[onnx]"')


def export_onnx(path: str | os.PathLike[str], network: StyleNetwork) -> float:
    """Writes the network in float32, and returns the largest difference of what onnxruntime and torch make of noise.

    Raises OptionError where the packages of `fastnst[onnx]` are missing, NetworkError where the two differ by more than
    1e-3: nothing is written then.
    """
    check_onnx(path)
    model = _Graph(network).model()
    data = model.SerializeToString()
    difference = max(_difference(data, network, size) for size in ((32, 40), (45, 33)))
    if not difference <= _TOLERANCE:
        raise NetworkError(
            f"onnxruntime makes pictures that differ by {difference:.2g} from torch's; nothing is written"
        )
    with replacing(Path(os.path.realpath(path))) as file:
        file.write(data)
    return difference


@torch.no_grad()
def _difference(data: bytes, network: StyleNetwork, size: tuple[int, int]) -> float:
    import onnxruntime

    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, *size), generator=generator)
    blend = torch.rand(len(network.names), generator=generator)
    blend /= blend.sum()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (stylized,) = session.run(None, {"image": image.numpy(), "blend": blend.numpy()})
    return float((torch.from_numpy(stylized) - network(image, blend)).abs().max())


class _Graph:
    """The nodes and the constants of a network's graph, one after another; each method returns its output's name."""

    def __init__(self, network: StyleNetwork) -> None:
        import onnx

        self.onnx, self.network = onnx, network
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def model(self) -> Any:
        helper, kind, network = self.onnx.helper, self.onnx.TensorProto.FLOAT, self.network
        size = self.node("Slice", self.node("Shape", "image"), *self.integers([2], [4]))
        lacking = self.node(
            "Mod",
            self.node("Sub", *self.integers([GRID]), self.node("Mod", size, *self.integers([GRID]))),
            *self.integers([GRID]),
        )
        pads = self.node("Concat", *self.integers([0] * 6), lacking, axis=0)
        x = self.node("Sub", "image", self.floats(np.array(0.5)))
        x = self.node("Pad", x, pads, mode="reflect")
        for unit in network.down:
            x = self.unit(unit, x)
        for block in network.blocks:
            x = self.node("Add", x, self.unit(block.second, self.unit(block.first, x)))
        for unit in network.up:
            x = self.unit(unit, x)
        paint = network.paint
        x = self.convolved(x, paint.weight, paint.reach, 1)
        column = self.integers([1, 3, 1, 1])
        scale, shift = (self.node("Reshape", self.mixed(of), *column) for of in (paint.scale, paint.shift))
        x = self.node("Sigmoid", self.node("Add", self.node("Mul", x, scale), shift))
        self.node("Slice", x, *self.integers([0, 0]), size, *self.integers([2, 3]), output="stylized")
        shape = [1, 3, "height", "width"]
        graph = helper.make_graph(
            self.nodes,
            "fastnst",
            [
                helper.make_tensor_value_info("image", kind, shape),
                helper.make_tensor_value_info("blend", kind, [len(network.names)]),
            ],
            [helper.make_tensor_value_info("stylized", kind, shape)],
            [self.onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="fastnst")
        model.ir_version = _IR
        helper.set_model_props(model, {"styles": ", ".join(network.names)})
        self.onnx.checker.check_model(model)
        return model

    def unit(self, unit: Unit, x: str) -> str:
        if unit.enlarges:
            sizes = self.floats(np.array([1, 1, 2, 2]))
            x = self.node("Resize", x, "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
        y = self.convolved(x, unit.weight, unit.reach, unit.stride)
        y = self.node("InstanceNormalization", y, self.mixed(unit.scale), self.mixed(unit.shift), epsilon=EPSILON)
        return self.node("Relu", y) if unit.relu else y

    def convolved(self, x: str, weight: torch.Tensor, reach: int, stride: int) -> str:
        padded = self.node("Pad", x, *self.integers([0, 0, reach, reach] * 2), mode="reflect")
        return self.node("Conv", padded, self.floats(weight.detach().float().numpy()), strides=[stride] * 2)

    def mixed(self, of: torch.Tensor) -> str:
        """The styles' scales or shifts, (styles, C), in the blend: (C,)."""
        return self.node("MatMul", "blend", self.floats(of.detach().float().numpy()))

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def floats(self, values: Any) -> str:
        return self._constant(np.ascontiguousarray(values, np.float32))

    def integers(self, *lists: list[int]) -> list[str]:
        return [self._constant(np.array(values, np.int64)) for values in lists]

    def _constant(self, values: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = values
        return name
