"""Compares gleaner with PyTorch and onnxruntime on this machine: `make bench-peers`.

Both sides run the same networks, batch sizes and thread counts. Samples alternate (gleaner, peer, gleaner, peer, ...)
in one job, because a shared machine drifts by tens of percent within a minute; a ratio is the median over adjacent
pairs, given with its quartiles. PyTorch stands for the best of its modes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch.nn import functional

from networks import NETWORKS

# How far gleaner's compute threads stand below their process; PyTorch's stand as low.
NICE_STEP = 5


class Gleaner:
    """The worker process with gleaner's kernels."""

    def __init__(self, path: str, threads: int):
        environment = {**os.environ, "GLEANER_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.kernel, found = self.process.stdout.readline().split()
        assert int(found) == threads, f"gleaner runs {found} threads"

    def sample(self, mode: str, net: str, batch: int, passes: int) -> float:
        """Seconds of the median pass."""
        self.process.stdin.write(f"{mode} {net} {batch} {passes}\n")
        self.process.stdin.flush()
        return statistics.median(float(word) for word in self.process.stdout.readline().split())


def measure(run, passes: int) -> float:
    """Seconds of the median pass."""
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def images_of(net: str, batch: int, channels_last: bool) -> torch.Tensor:
    images = torch.randn(batch, *NETWORKS[net][1])
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def training(net: str, batch: int, channels_last: bool, compiled: bool):
    """One training pass of PyTorch: loss, gradients, Nesterov SGD."""
    model = NETWORKS[net][0]().train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=True
    )
    step = model
    if compiled:
        from torch._inductor import config

        config.freezing = False
        torch._dynamo.reset()
        step = torch.compile(model, dynamic=False)
    images, targets = images_of(net, batch, channels_last), torch.arange(batch) % 10

    def run():
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(step(images), targets).backward()
        optimizer.step()

    return run


def scoring(net: str, batch: int, channels_last: bool, compiled: bool):
    """One inference pass of PyTorch."""
    model = NETWORKS[net][0]().eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = images_of(net, batch, channels_last)
    step = model
    if compiled:
        # "Compiled and frozen": weights are constants, so norms fold into them.
        from torch._inductor import config

        config.freezing = True
        torch._dynamo.reset()
        step = torch.compile(model, dynamic=False)

    def run():
        with torch.no_grad():
            step(images)

    return run


def onnx_scoring(net: str, batch: int, threads: int):
    """One inference pass of onnxruntime, with all its graph optimisations."""
    import onnxruntime

    model = NETWORKS[net][0]().eval()
    images = images_of(net, batch, False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "net.onnx")
        torch.onnx.export(model, (images,), path, input_names=["images"], dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    values = images.numpy()
    return lambda: session.run(None, {"images": values})


def peers_of(mode: str, net: str, batch: int, threads: int, with_compiled: bool) -> dict:
    """Each peer's pass, warmed up; a mode that this machine can't run is left out and named."""
    make = training if mode == "train" else scoring
    makers = {
        "pytorch eager": lambda: make(net, batch, False, False),
        "pytorch channels-last": lambda: make(net, batch, True, False),
    }
    if with_compiled:
        # A frozen graph chooses its own layout and refuses another; a training graph is fastest on channels-last.
        makers["pytorch compiled"] = lambda: make(net, batch, mode == "train", True)
    if mode == "score":
        makers["onnxruntime"] = lambda: onnx_scoring(net, batch, threads)
    peers = {}
    for name, maker in makers.items():
        try:
            run = maker()
            run()
            run()
            peers[name] = run
        except Exception as error:  # torch.compile needs a C++ compiler; the table must say that it is missing.
            print(f"  left out: {name} ({type(error).__name__}: {str(error).splitlines()[0][:100]})", flush=True)
    return peers


def compare(gleaner: Gleaner, mode: str, net: str, batch: int, arguments) -> list[dict]:
    """Alternating samples of gleaner and each peer."""
    passes = max(1, arguments.images // batch // (10 if net == "resnet18" else 1))
    peers = peers_of(mode, net, batch, arguments.threads, arguments.compiled)
    gleaner.sample(mode, net, batch, 2)
    own = {name: [] for name in peers}
    theirs = {name: [] for name in peers}
    for _ in range(arguments.rounds):
        for name, run in peers.items():
            own[name].append(batch / gleaner.sample(mode, net, batch, passes))
            theirs[name].append(batch / measure(run, passes))
    rows = []
    for name in peers:
        ratios = [a / b for a, b in zip(own[name], theirs[name])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "net": net,
                "mode": mode,
                "batch": batch,
                "peer": name,
                "gleaner": round(statistics.median(own[name]), 1),
                "peer_rate": round(statistics.median(theirs[name]), 1),
                "ratio": round(middle, 3),
                "ratio_quartiles": [round(low, 3), round(high, 3)],
            }
        )
    modes = [row for row in rows if row["peer"].startswith("pytorch")]
    best = max(modes, key=lambda row: row["peer_rate"])
    rows.append({**best, "peer": "pytorch", "best_mode": best["peer"].removeprefix("pytorch ")})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="the built bench target `peers`")
    parser.add_argument("--output", default="target/bench-peers.json")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7, help="pairs of samples for each peer")
    parser.add_argument("--images", type=int, default=2048, help="images a sample goes through (a tenth for resnet18)")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="leave torch.compile out")
    parser.add_argument("--only", default="", help="for example `train small`")
    arguments = parser.parse_args()
    gleaner = Gleaner(arguments.worker, arguments.threads)
    os.nice(NICE_STEP)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    print(f"torch {torch.__version__}, gleaner kernel {gleaner.kernel}, {arguments.threads} threads, f32", flush=True)
    print(f"{'net':9} {'mode':6} {'batch':>5}  {'peer':22} {'gleaner/s':>10} {'peer/s':>10} {'ratio':>6}  quartiles", flush=True)
    rows = []
    for mode, batches in (("train", (64, 128)), ("score", (256,))):
        for net in NETWORKS:
            for batch in batches:
                if not f"{mode} {net} {batch}".startswith(arguments.only):
                    continue
                found = compare(gleaner, mode, net, batch, arguments)
                rows += found
                for row in found:
                    low, high = row["ratio_quartiles"]
                    print(
                        f"{net:9} {mode:6} {batch:5}  {row['peer']:22} {row['gleaner']:10.1f} {row['peer_rate']:10.1f}"
                        f" {row['ratio']:6.2f}  {low:.2f}-{high:.2f}",
                        flush=True,
                    )
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.output).write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
