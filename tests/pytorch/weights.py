"""What tests/binary/pytorch.rs asks of the real PyTorch: state dicts to begin with, and a look at the weights that gleaner gives out.

    weights.py initial FOLDER               writes cifar.safetensors and imagenet.safetensors, torchvision's ResNet-18 with either stem
    weights.py compare WEIGHTS PIXELS JSON  holds gleaner's predictions of raw u8 pixels [N, S, S, C] to PyTorch's
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18

TOLERANCE = 1e-4


def cifar_resnet18(class_count: int, channels: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images: a 3×3 first convolution of stride 1, and no max-pool."""
    model = resnet18(num_classes=class_count)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def write_initial(folder: Path) -> None:
    torch.manual_seed(7)
    save_file(cifar_resnet18(1000, 3).state_dict(), folder / "cifar.safetensors")
    save_file(resnet18(num_classes=1000).state_dict(), folder / "imagenet.safetensors")


def compare(weights: Path, pixels: Path, predictions: Path) -> None:
    with safe_open(weights, framework="pt") as file:
        manifest = json.loads(file.metadata()["gleaner"])["manifest"]
    said = json.loads(predictions.read_text())
    size, channels = manifest["image"]["size"], manifest["image"]["channels"]
    model = cifar_resnet18(manifest["class_count"], channels).eval()
    model.load_state_dict(load_file(weights), strict=True)
    images = numpy.frombuffer(pixels.read_bytes(), dtype=numpy.uint8).reshape(-1, size, size, channels)
    mean, std = (torch.tensor(manifest["normalization"][key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    inputs = (torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        logits = model(inputs)
    # Logits are known up to a constant of each image: what is compared are their differences from their log-sum-exp.
    expected = torch.log_softmax(logits.double(), dim=1)
    found = torch.tensor(said, dtype=torch.float64).log()
    worst = (expected - found).abs().max().item()
    print(f"{len(images)} images, {manifest['class_count']} classes: logits differ by {worst:.2e} at most")
    assert len(said) == len(images) and worst < TOLERANCE


if __name__ == "__main__":
    match sys.argv[1]:
        case "initial":
            write_initial(Path(sys.argv[2]))
        case "compare":
            compare(*map(Path, sys.argv[2:5]))
