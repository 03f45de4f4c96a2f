"""A network as an ONNX file, for programs without torch, checked against torch by onnxruntime.

Its inputs are `image`, (1, 3, height, width) float32 in 0…1 of any size, and `blend`, (styles,) float32, which sums to
1; its output is `stylized`, of the image's shape.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from fastnst.errors import check_package
from fastnst.feedforward.file import NetworkError
from fastnst.feedforward.network import StyleNetwork
from fastnst.image.files import check_place
from fastnst.replacing import replacing

SUFFIX = ".onnx"
# Reflection and interpolation as they are here came with 18; runtimes of 2023 know it.
_OPSET = 18
# Largest difference from torch in float32, of values in 0…1.
_TOLERANCE = 1e-3
# Sides that are and are not whole positions of the innermost maps.
_SIZES = ((32, 40), (45, 33))


def check_onnx(path: str | os.PathLike[str]) -> None:
    """Raises FastnstError where no ONNX file can be written to `path`, or a package of the extra is missing."""
    check_place(os.fsdecode(path), "ONNX file", (SUFFIX,))
    for package in ("onnxscript", "onnxruntime"):
        check_package(package, "--onnx", "onnx")


def export_onnx(path: str | os.PathLike[str], network: StyleNetwork) -> float:
    """Writes the network in float32, and returns the largest difference of what onnxruntime and torch make of noise.

    Raises OptionError where the packages of `fastnst[onnx]` are missing, NetworkError where the two differ by more than
    1e-3: nothing is written then.
    """
    check_onnx(path)
    data = _model(network)
    difference = max(_difference(data, network, size) for size in _SIZES)
    if not difference <= _TOLERANCE:
        raise NetworkError(
            f"onnxruntime makes pictures that differ by {difference:.2g} from torch's, so nothing was written; "
            "install another version of onnxruntime"
        )
    with replacing(Path(os.path.realpath(path))) as file:
        file.write(data)
    return difference


def _model(network: StyleNetwork) -> bytes:
    any_size = torch.export.Dim.DYNAMIC
    # Of packages that are not there, and of what the exporter does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            _noise(network, _SIZES[1]),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["image", "blend"],
            output_names=["stylized"],
            dynamic_shapes=({2: any_size, 3: any_size}, None),
            verbose=False,
        )
    program.model.metadata_props["styles"] = ", ".join(network.names)
    data: bytes = program.model_proto.SerializeToString()
    return data


def _noise(network: StyleNetwork, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, blend = (torch.rand(shape, generator=generator) for shape in ((1, 3, *size), (len(network.names),)))
    return image, blend / blend.sum()


@torch.no_grad()
def _difference(data: bytes, network: StyleNetwork, size: tuple[int, int]) -> float:
    import onnxruntime

    image, blend = _noise(network, size)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (stylized,) = session.run(None, {"image": image.numpy(), "blend": blend.numpy()})
    return float((torch.from_numpy(stylized) - network(image, blend)).abs().max())
