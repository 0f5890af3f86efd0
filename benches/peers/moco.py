"""Holds gleaner's MoCo to a MoCo in PyTorch: `make bench-moco`.

Both learn the same 10,000 images of Fashion-MNIST with the same network, recipe and number of epochs; PyTorch's side follows the published code for CIFAR-10
(split batch norm, shuffled keys, torchvision's transforms on PIL images). gleaner's backbone is then read into the PyTorch network, and both are judged by
the same rule: 200 nearest neighbours by cosine among the images that were learned, weighed with T = 0.1, on the 10,000 test images, which nothing was chosen by.
"""

import argparse
import copy
import gzip
import hashlib
import json
import math
import statistics
import struct
import subprocess
import time
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from networks import NETWORKS

SOURCE = Path("/usr/share/datasets/fashion-mnist")
WIDTH, MOMENTUM, TEMPERATURE, GROUPS = 128, 0.99, 0.1, 8


def read_split(split: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Images [N, 28, 28] and classes of `train` or `t10k`."""

    def read(name: str, header: int) -> numpy.ndarray:
        return numpy.frombuffer(gzip.open(SOURCE / f"{split}-{name}.gz").read(), numpy.uint8)[header:].copy()

    return read("images-idx3-ubyte", 16).reshape(-1, 28, 28), read("labels-idx1-ubyte", 8)


def drawn_pool(images: numpy.ndarray, count: int) -> list[int]:
    """The images that `gleaner simulate --pool` keeps: those whose hashes draw the smallest numbers."""
    name = b"simulate.pool"
    key = struct.pack("<QQ", 0, len(name)) + name
    numbers = {}
    for index, image in enumerate(images):
        content = hashlib.sha256(struct.pack("<III", 28, 28, 1) + image.tobytes()).digest()
        number = struct.unpack("<Q", hashlib.sha256(key + b"\x02" + content).digest()[:8])[0]
        numbers.setdefault(content, (number, content, index))
    return [index for _, _, index in sorted(numbers.values())[:count]]


class SplitNorm(nn.BatchNorm2d):
    """Batch norm over each of eight equal, consecutive parts of the batch; running statistics move by the mean over the parts."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        parts = []
        means, variances = [], []
        for part in x.chunk(GROUPS):
            mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
            parts.append(functional.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)
            variances.append(variance)
        with torch.no_grad():
            self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)
            self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)
        return torch.cat(parts)


def new_encoder() -> nn.Module:
    """The network `small` with split norms and a linear projection head."""
    encoder = NETWORKS["small"][0]()
    encoder.fc = nn.Linear(encoder.fc.in_features, WIDTH)
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SplitNorm(child.num_features))
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return encoder


def cut(count: int) -> tuple[int, int]:
    """Mini-batches of an epoch and images in each: equal ones, nearly all images, as gleaner cuts them."""
    batches = math.ceil(count / min(max(count // 32, 64), 512))
    return batches, count // batches // GROUPS * GROUPS


def train(images: numpy.ndarray, mean: float, deviation: float, epochs: int, seed: int) -> nn.Module:
    """MoCo as published for CIFAR-10."""
    torch.manual_seed(seed)
    look = transforms.Compose(
        [
            transforms.RandomResizedCrop(28, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.ToTensor(),
            transforms.Normalize([mean], [deviation]),
        ]
    )
    pictures = [Image.fromarray(image) for image in images]
    query_encoder = new_encoder()
    key_encoder = copy.deepcopy(query_encoder)
    queue = functional.normalize(torch.randn(min(4096, len(images) // 2), WIDTH))
    batches, batch = cut(len(images))
    rate = 0.06 * batch / 512
    optimizer = torch.optim.SGD(query_encoder.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    place = 0
    for epoch in range(epochs):
        order = torch.randperm(len(images)).tolist()
        losses = []
        for number in range(batches):
            shown = [pictures[index] for index in order[number * batch : (number + 1) * batch]]
            queries, keys = (torch.stack([look(picture) for picture in shown]) for _ in range(2))
            with torch.no_grad():
                for own, leader in zip(key_encoder.parameters(), query_encoder.parameters()):
                    own.mul_(MOMENTUM).add_(leader, alpha=1 - MOMENTUM)
                shuffle = torch.randperm(batch)
                k = functional.normalize(key_encoder(keys[shuffle]))[torch.argsort(shuffle)]
            q = functional.normalize(query_encoder(queries))
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / TEMPERATURE
            loss = functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            places = (place + torch.arange(batch)) % len(queue)
            queue[places] = k
            place = (place + batch) % len(queue)
            losses.append(loss.item())
        print(f"  pytorch seed {seed} epoch {epoch + 1}: loss {statistics.mean(losses):.3f}", flush=True)
    return query_encoder


def read_checkpoint(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Manifest and f32 tensors of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["gleaner"])["manifest"]
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = torch.from_numpy(numpy.frombuffer(content[start:end], numpy.float32).copy()).reshape(entry["shape"])
    return manifest, tensors


def with_weights(tensors: dict[str, Tensor]) -> nn.Module:
    """The PyTorch network with gleaner's weights; every parameter and running statistic must be there."""
    encoder = new_encoder()

    def torchvision_name(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "blocks":
            stage, block = divmod(int(parts[1]), 2)
            parts[:2] = [f"layer{stage + 1}", str(block)]
        return ".".join(parts)

    state = {
        name: tensors[torchvision_name(name)] if value.dtype == torch.float32 else value
        for name, value in encoder.state_dict().items()
    }
    encoder.load_state_dict(state)
    return encoder


def features_of(encoder: nn.Module, images: numpy.ndarray, mean: float, deviation: float) -> Tensor:
    """Pooled features of length 1."""
    encoder = copy.deepcopy(encoder).eval()
    encoder.fc = nn.Identity()
    x = (torch.from_numpy(images).float().unsqueeze(1) / 255 - mean) / deviation
    with torch.no_grad():
        return functional.normalize(torch.cat([encoder(part) for part in x.split(1000)]))


def knn_accuracy(known: Tensor, classes: numpy.ndarray, asked: Tensor, answers: numpy.ndarray) -> float:
    """Share of `asked` whose 200 nearest among `known`, weighed by e^(cosine / 0.1), vote for their class."""
    classes, right = torch.from_numpy(classes).long(), 0
    for part, answer in zip(asked.split(1000), torch.from_numpy(answers).long().split(1000)):
        cosines, nearest = (part @ known.T).topk(200)
        votes = torch.zeros(len(part), 10).scatter_add_(1, classes[nearest], (cosines / 0.1).exp())
        right += (votes.argmax(1) == answer).sum().item()
    return right / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gleaner", required=True, help="the program")
    parser.add_argument("--output", type=Path, default=Path("target/bench-moco"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()

    print(f"gleaner: {arguments.seeds} x {arguments.epochs} epochs of {arguments.images} images", flush=True)
    start = time.monotonic()
    words = f"simulate --dataset fashion-mnist --pretext moco --pretext-epochs {arguments.epochs} --pool {arguments.images}"
    words += f" --seeds {arguments.seeds} --strategies random --budgets 100 --mode head --out {arguments.output}"
    subprocess.run([arguments.gleaner, *words.split()], check=True)
    print(f"  {time.monotonic() - start:.0f} s with reading, one small round a seed and its tables", flush=True)

    (train_images, train_classes), (test_images, test_classes) = read_split("train"), read_split("t10k")
    pool = drawn_pool(train_images, arguments.images)
    images, classes = train_images[pool], train_classes[pool]
    rows = {"gleaner": [], "pytorch": [], "pytorch, untrained": []}
    for seed in range(1, arguments.seeds + 1):
        manifest, tensors = read_checkpoint(arguments.output / "pretext" / f"moco-{seed}.safetensors")
        assert manifest["item_count"] == len(images) and len(manifest["epochs"]) == arguments.epochs
        mean, deviation = manifest["normalization"]["mean"][0], manifest["normalization"]["std"][0]
        measured = (images.astype(numpy.float64) / 255).mean()
        assert abs(measured - mean) < 1e-5, f"other images: mean {measured} against {mean}"
        start = time.monotonic()
        theirs = train(images, mean, deviation, arguments.epochs, seed)
        print(f"  {time.monotonic() - start:.0f} s", flush=True)
        torch.manual_seed(seed)
        for name, encoder in [("gleaner", with_weights(tensors)), ("pytorch", theirs), ("pytorch, untrained", new_encoder())]:
            known, asked = (features_of(encoder, shown, mean, deviation) for shown in (images, test_images))
            rows[name].append(knn_accuracy(known, classes, asked, test_classes))
        losses = ", ".join(f"{epoch['loss']:.3f}" for epoch in manifest["epochs"])
        print(f"  gleaner seed {seed}: losses {losses}", flush=True)
    flat = [torch.from_numpy(shown).float().flatten(1) for shown in (images, test_images)]
    pixels = knn_accuracy(functional.normalize(flat[0]), classes, functional.normalize(flat[1]), test_classes)

    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads; kNN accuracy on {len(test_images)} test images")
    for name, accuracies in rows.items():
        print(f"{name:20} {' '.join(f'{accuracy:.4f}' for accuracy in accuracies)}  mean {statistics.mean(accuracies):.4f}")
    print(f"{'raw pixels':20} {pixels:.4f}")
    difference = 100 * (statistics.mean(rows["gleaner"]) - statistics.mean(rows["pytorch"]))
    print(f"difference           {difference:+.2f} points")


if __name__ == "__main__":
    main()
