"""Measure how soon data sources feed the first step, and what memory data beyond it take.

    python benchmarks/data.py [mnist image_folder npz] [--mnist FOLDER] [--gib 4] [--threads 2] [--json results.json]

Each run is a process of its own that trains as `netc train` does; its clock starts where the source is about to be
opened and stops at the end of the first step, so that reading, checking every value and creating the sessions count.

- mnist: LeNet on the 60,000 images of the original gz files; without them, on as many made ones.
- image_folder: 10,000 PNGs of 64 x 64 pixels, made here, with an empty cache and again with the cache.
- npz: an .npz file of --gib GiB, images [3, 64, 64] of unsigned bytes, 200 steps and an evaluation; the most memory
  that the process held.

Exits with 1 if a figure is over its limit.
"""

import argparse
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import description
from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.text import parse_tree

ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
CLASSES = 10
SIDE = 64
IMAGES = 10_000
SPEC = """
netc: 1
name: {name}
inputs:
  image: {{shape: {shape}}}
  label: {{classes: 10}}
data: {{scale: 0.0039, batch_size: 64, {data}}}
layers:
  - {{name: conv1, type: Convolution, num_output: 20, kernel_size: 5, stride: 2}}
  - {{type: ReLU}}
  - {{name: pool1, type: Pooling, pool: max, kernel_size: 2, stride: 2}}
  - {{name: ip1, type: InnerProduct, num_output: 10}}
  - {{name: loss, type: SoftmaxWithLoss}}
  - {{name: accuracy, type: Accuracy, bottom: [ip1, label]}}
solver: {{type: SGD, base_lr: 0.01, max_iter: 200}}
"""


@dataclass(frozen=True)
class Result:
    """One figure and what it should be at most."""

    name: str
    value: float
    unit: str
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the figure is within its limit."""
        return self.value < self.limit


def trained(scratch: Path, name: str, shape: str, data: str, threads: int, first: bool) -> Mapping[str, Any]:
    """Compile a small network for some data, train it in a new process, and return what that says."""
    artifact = scratch / f"{name}_artifact"
    if not artifact.exists():
        write(build(load(parse_tree(SPEC.format(name=name, shape=shape, data=data), name))), artifact)
    run = scratch / f"{name}_run_{len(list(scratch.iterdir()))}"
    command = [sys.executable, "-m", "benchmarks.data_steps", str(artifact), str(run), str(threads)]
    command += ["--first"] if first else []
    environment = {**os.environ, "XDG_CACHE_HOME": str(scratch / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def mnist(scratch: Path, arguments: argparse.Namespace) -> list[Result]:
    folder = arguments.mnist
    if not folder.is_dir():
        folder = scratch / "mnist"
        made_mnist(folder)
    data = f"source: mnist, path: {folder}"
    seconds = trained(scratch, "mnist", "[1, 28, 28]", data, arguments.threads, True)["first_step"]
    return [Result("60,000 images of MNIST from gz to the first step", seconds, "s", 3.0)]


def made_mnist(folder: Path) -> None:
    """Write four gz files like those of MNIST, with smooth blobs, which pack about as well as digits."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.kron(rng.integers(0, 2, (count, 7, 7), dtype=np.uint8) * 200, np.ones((1, 4, 4), np.uint8))
        labels = rng.integers(0, CLASSES, count, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            packed = gzip.compress(head + array.tobytes(), 6)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(packed)


def image_folder(scratch: Path, arguments: argparse.Namespace) -> list[Result]:
    folder = scratch / "images"
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        place = folder / f"class_{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        steps = rng.integers(-6, 7, (SIDE, SIDE, 3))
        pixels = np.clip(128 + steps.cumsum(axis=0) + steps.cumsum(axis=1), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    data = f"source: image_folder, path: {folder}"
    shape = f"[3, {SIDE}, {SIDE}]"
    seconds = [
        trained(scratch, "image_folder", shape, data, arguments.threads, True)["first_step"] for _ in ("cold", "warm")
    ]
    return [
        Result(f"{IMAGES:,} PNGs of {SIDE} x {SIDE} decoded to the first step", seconds[0], "s", 20.0),
        Result("the same from the cache", seconds[1], "s", 20.0),
    ]


def npz(scratch: Path, arguments: argparse.Namespace) -> list[Result]:
    path = scratch / "large.npz"
    count = int(arguments.gib * (1 << 30)) // (3 * SIDE * SIDE)
    written_npz(path, count)
    data = f"source: npz, path: {path}, split: {{test: 0.02}}"
    found = trained(scratch, "npz", f"[3, {SIDE}, {SIDE}]", data, arguments.threads, False)
    size = path.stat().st_size / (1 << 30)
    path.unlink()
    return [
        Result(
            f"an .npz file of {size:.1f} GiB: most memory of 200 steps and an evaluation",
            found["peak"] / 2**20,
            "MiB",
            1024.0,
        ),
        Result("the same: seconds in all", found["all"], "s", float("inf")),
    ]


def written_npz(path: Path, count: int) -> None:
    """Write `count` images and labels as numpy.savez does, without holding them."""
    rng = np.random.default_rng(0)
    chunk = 4096
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, shape in (("image", (count, 3, SIDE, SIDE)), ("label", (count,))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, count, chunk):
                    rows = min(chunk, count - start)
                    most = CLASSES if name == "label" else 256
                    file.write(rng.integers(0, most, (rows, *shape[1:]), dtype=np.uint8).tobytes())


CASES: Mapping[str, Callable[[Path, argparse.Namespace], list[Result]]] = {
    "mnist": mnist,
    "image_folder": image_folder,
    "npz": npz,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how soon data sources feed, and what memory they take.")
    parser.add_argument("cases", nargs="*", help=f"which of {', '.join(CASES)} (default all)")
    parser.add_argument("--mnist", type=Path, default=MNIST, help="folder with the original files")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the .npz file (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training step (default 2)")
    parser.add_argument("--folder", type=Path, help="where made data lie while this runs (default the system's)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    results: list[Result] = []
    for name in arguments.cases or CASES:
        with tempfile.TemporaryDirectory(prefix="netc-", dir=arguments.folder) as scratch:
            results += CASES[name](Path(scratch), arguments)
    print("| What | measured | limit |\n| --- | ---: | ---: |")
    for result in results:
        limit = f"{result.limit:g} {result.unit}" if result.limit < float("inf") else ""
        print(f"| {result.name} | {result.value:.2f} {result.unit} | {limit} |")
    if arguments.json:
        kept = [{**asdict(result), "holds": result.holds, "limit": str(result.limit)} for result in results]
        arguments.json.write_text(json.dumps({"machine": description(), "results": kept}, indent=1) + "\n")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
