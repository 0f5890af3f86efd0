"""Prints the PyTorch numbers that the tests of nn::ops and nn::native expect: python3 reference.py (torch 2.15)."""

import torch
from torch.nn import functional


def wave(shape, step, phase):
    """0.5 sin(step index + phase) over a row-major tensor, in f64 before it is rounded."""
    count = torch.Size(shape).numel()
    index = torch.arange(count, dtype=torch.float64)
    return (0.5 * torch.sin(step * index + phase)).float().reshape(shape)


def picked(tensor):
    flat = tensor.contiguous().flatten()
    return [round(flat[at].item(), 6) for at in (0, len(flat) // 2, -1)]


def convolutions():
    for (height, width), (inputs, outputs), kernel, stride in [
        ((9, 8), (3, 5), 7, 2),
        ((7, 6), (17, 20), 3, 2),
        ((6, 5), (16, 33), 3, 1),
        ((5, 5), (10, 16), 1, 2),
    ]:
        x = wave((1, height, width, inputs), 0.7, 0.1).permute(0, 3, 1, 2).requires_grad_()
        w = wave((kernel, kernel, inputs, outputs), 1.3, 0.2).permute(3, 2, 0, 1).requires_grad_()
        y = functional.conv2d(x, w, stride=stride, padding=kernel // 2)
        dy = wave((1, y.shape[2], y.shape[3], outputs), 0.9, 0.3).permute(0, 3, 1, 2)
        dx, dw = torch.autograd.grad(y, (x, w), dy)
        numbers = [picked(y.permute(0, 2, 3, 1)), picked(dx.permute(0, 2, 3, 1)), picked(dw.permute(2, 3, 1, 0))]
        print(f"        (geometry(({height}, {width}), ({inputs}, {outputs}), {kernel}, {stride}, {kernel // 2}), {numbers}),")


def optimizers():
    for nesterov in (False, True):
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        optimizer = torch.optim.SGD([p], 0.1, 0.9, weight_decay=0.01, nesterov=nesterov)
        for _ in range(3):
            p.grad = torch.tensor([0.5, 0.25, -1.0])
            optimizer.step()
        print(nesterov, p.tolist())
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = torch.optim.AdamW([p], 0.01, (0.9, 0.999), 1e-8, 0.1)
    for number in (1, 2, 3):
        p.grad = torch.tensor([0.5, 0.25 * number, -1.0])
        optimizer.step()
    print("adamw", p.tolist())


def network():
    """A residual net of widths 4 and 6 over 9 x 9 images, all weights waves; the loss is a weighted sum of features."""
    names, params = [], {}

    def norm(x, name, channels):
        gamma, beta = params[f"{name}.weight"], params[f"{name}.bias"]
        return functional.batch_norm(x, None, None, gamma, beta, True)

    def conv(x, name, inputs, outputs, kernel, stride):
        return functional.conv2d(x, params[f"{name}.weight"], stride=stride, padding=kernel // 2)

    units = [("conv1", "bn1", 1, 4, 3)]
    inputs = 4
    for stage, width in ((1, 4), (2, 6)):
        for place in (0, 1):
            name = f"layer{stage}.{place}"
            units += [(f"{name}.conv1", f"{name}.bn1", inputs, width, 3), (f"{name}.conv2", f"{name}.bn2", width, width, 3)]
            if inputs != width:
                units.append((f"{name}.downsample.0", f"{name}.downsample.1", inputs, width, 1))
            inputs = width
    for number, (c, n, i, o, k) in enumerate(units):
        params[f"{c}.weight"] = wave((o, i, k, k), 1.3, 0.2 + number).requires_grad_()
        params[f"{n}.weight"] = (1 + wave((o,), 0.8, 0.5 + number)).requires_grad_()
        params[f"{n}.bias"] = wave((o,), 1.1, 0.4 + number).requires_grad_()
    x = wave((3, 9, 9, 1), 0.7, 0.1).permute(0, 3, 1, 2)
    x = functional.relu(norm(conv(x, "conv1", 1, 4, 3, 1), "bn1", 4))
    inputs = 4
    for stage, width in ((1, 4), (2, 6)):
        for place in (0, 1):
            name, stride = f"layer{stage}.{place}", 2 if inputs != width else 1
            y = functional.relu(norm(conv(x, f"{name}.conv1", inputs, width, 3, stride), f"{name}.bn1", width))
            y = norm(conv(y, f"{name}.conv2", width, width, 3, 1), f"{name}.bn2", width)
            if inputs != width:
                x = norm(conv(x, f"{name}.downsample.0", inputs, width, 1, stride), f"{name}.downsample.1", width)
            x, inputs = functional.relu(x + y), width
    features = x.mean((2, 3))
    (features * wave((3, 6), 0.9, 0.3)).sum().backward()
    print("features", [round(v, 6) for v in features.flatten().tolist()])
    for name in ("conv1.weight", "bn1.bias", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight", "layer2.1.bn2.weight"):
        print(name, picked(params[name].grad))


if __name__ == "__main__":
    for section in (convolutions, optimizers, network):
        print(section.__name__)
        section()
