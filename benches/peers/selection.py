"""Compares the selections that need distances with plain numpy on this machine: `make bench-selection`.

Both sides get the same features and probabilities, choose as many items, and may use every core: numpy's matrix products
are OpenBLAS's. The numpy versions are what one would write: distances to the last pick for the whole pool, by products of
norms and a matrix-vector product, then the minimum; BADGE uses the factored products as well. Two pools: `clusters` has
ten well-separated classes, as embeddings do; `noise` is standard normal, the worst case for a lazy search. The picks of
core_set must be equal; BADGE draws, so there the mean distance of the picks is compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def pool_of(kind: str, items: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and the probabilities [N, C] of a linear head over them."""
    random = np.random.default_rng(7)
    values = np.empty((items, features), np.float32)
    centres = random.standard_normal((classes, features), np.float32)
    # A few directions carry most of what differs inside a class, as in the features of trained networks.
    directions = random.standard_normal((16, features), np.float32) / 4
    head = random.standard_normal((features, classes), np.float32) / features**0.5
    for start in range(0, items, 65_536):
        rows = values[start : start + 65_536]
        random.standard_normal(dtype=np.float32, out=rows)
        if kind == "clusters":
            rows *= 0.2
            rows += centres[random.integers(classes, size=len(rows))]
            rows += random.standard_normal((len(rows), 16), np.float32) @ directions
    logits = values @ head
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    return values, probabilities / probabilities.sum(1, keepdims=True)


def core_set(features: np.ndarray, probabilities: np.ndarray, count: int) -> list[int]:
    """k-center greedy away from one labelled item at 0."""
    norms = np.einsum("nd,nd->n", features, features)
    nearest = norms.copy()
    picks = []
    for _ in range(count):
        pick = int(nearest.argmax())
        picks.append(pick)
        distances = norms + norms[pick] - 2 * (features @ features[pick])
        np.minimum(nearest, distances, out=nearest)
        nearest[pick] = -1
    return picks


def badge(features: np.ndarray, probabilities: np.ndarray, count: int) -> list[int]:
    """k-means++ over the factored gradient embeddings."""
    random = np.random.default_rng(1)
    errors = probabilities.copy()
    errors[np.arange(len(errors)), probabilities.argmax(1)] -= 1
    norms = np.einsum("nc,nc->n", errors, errors) * np.einsum("nd,nd->n", features, features)
    picks = [int(norms.argmax())]
    nearest = np.full(len(features), np.inf, np.float32)
    while len(picks) < count:
        pick = picks[-1]
        distances = norms + norms[pick] - 2 * (errors @ errors[pick]) * (features @ features[pick])
        np.minimum(nearest, distances, out=nearest)
        np.maximum(nearest, 0, out=nearest)
        nearest[pick] = 0
        sums = nearest.cumsum(dtype=np.float64)
        picks.append(int(sums.searchsorted(random.random() * sums[-1], side="right")))
    return picks


def coverage(features: np.ndarray, probabilities: np.ndarray, picks: list[int]) -> float:
    """Mean squared distance of a sample's gradients from the nearest pick: what k-means++ keeps small."""
    errors = probabilities.copy()
    errors[np.arange(len(errors)), probabilities.argmax(1)] -= 1
    sample = np.arange(0, len(features), max(1, len(features) // 4000))
    norms = np.einsum("nc,nc->n", errors, errors) * np.einsum("nd,nd->n", features, features)
    products = (errors[sample] @ errors[picks].T) * (features[sample] @ features[picks].T)
    distances = norms[sample, None] + norms[None, picks] - 2 * products
    return float(distances.min(1).clip(0).mean())


class Gleaner:
    """The worker process with gleaner's selection."""

    def __init__(self, path: str, threads: int):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def select(self, strategy: str, folder: str, shape: tuple[int, int, int], count: int, repeats: int):
        self.process.stdin.write(f"{strategy} {folder} {shape[0]} {shape[1]} {shape[2]} {count} {repeats}\n")
        self.process.stdin.flush()
        seconds, *picks = self.process.stdout.readline().split()
        return float(seconds), [int(pick) for pick in picks]

    def peak_bytes(self) -> int:
        """The most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="the built bench target `selection`")
    parser.add_argument("--output", default="target/bench-selection.json")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the fastest counts")
    parser.add_argument("--no-numpy", dest="numpy", action="store_false", help="time gleaner alone, for large pools")
    arguments = parser.parse_args()
    shape = (arguments.items, arguments.features, arguments.classes)
    print(f"numpy {np.__version__}, {shape[0]} x {shape[1]}, {shape[2]} classes, choosing {arguments.count}, {arguments.threads} threads")
    rows = []
    for kind in ("clusters", "noise"):
        features, probabilities = pool_of(kind, *shape)
        with tempfile.TemporaryDirectory() as folder:
            features.tofile(f"{folder}/features.f32")
            probabilities.tofile(f"{folder}/probabilities.f32")
            if not arguments.numpy:
                del features, probabilities
            for name, rival in (("core_set", core_set), ("badge", badge)):
                gleaner = Gleaner(arguments.worker, arguments.threads)
                own_seconds, own = gleaner.select(name, folder, shape, arguments.count, arguments.repeats)
                assert len(set(own)) == arguments.count
                row = {"strategy": name, "pool": kind, "gleaner_seconds": own_seconds, "peak_bytes": gleaner.peak_bytes()}
                text = f"{name:9} {kind:9} gleaner {own_seconds:8.3f} s, {row['peak_bytes'] / 2**30:.2f} GiB at most"
                if arguments.numpy:
                    seconds = []
                    for _ in range(arguments.repeats):
                        start = time.perf_counter()
                        picks = rival(features, probabilities, arguments.count)
                        seconds.append(time.perf_counter() - start)
                    row |= {"numpy_seconds": min(seconds), "ratio": min(seconds) / own_seconds}
                    if name == "core_set":
                        row["equal_picks"] = sum(a == b for a, b in zip(own, picks))
                        note = f"{row['equal_picks']} of {arguments.count} picks equal"
                    else:
                        row["coverage"] = [coverage(features, probabilities, chosen) for chosen in (own, picks)]
                        note = "mean squared distance {:.4g} against {:.4g}".format(*row["coverage"])
                    text += f"; numpy {min(seconds):8.3f} s: {row['ratio']:.1f} times; {note}"
                print(text, flush=True)
                rows.append(row)
                gleaner.process.stdin.close()
                gleaner.process.wait()
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.output).write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
