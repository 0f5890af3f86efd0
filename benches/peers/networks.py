"""The two networks of the comparison in PyTorch, layer for layer those of src/nn/graph.rs."""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(inner)) + shortcut)


class Network(nn.Module):
    """A residual network with a 3 x 3 stem, two blocks a stage, and a linear head."""

    def __init__(self, channels: int, widths: list[int], classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks, inputs = [], widths[0]
        for stage, width in enumerate(widths):
            for place in range(2):
                blocks.append(Block(inputs, width, 2 if place == 0 and stage > 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(self.blocks(x).mean((2, 3)))


# Name -> (network, shape of an image as PyTorch orders it).
NETWORKS = {
    "small": (lambda: Network(1, [16, 32, 64]), (1, 28, 28)),
    "resnet18": (lambda: Network(3, [64, 128, 256, 512]), (3, 32, 32)),
}
