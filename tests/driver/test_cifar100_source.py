"""The source cifar100: fine and coarse labels."""

from pathlib import Path

import numpy as np

from netc_runtime.data import class_names_of

from .array_files import opened, said


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (6, 3074), dtype=np.uint8)
    records[:, 0], records[:, 1] = [0, 3, 19, 7, 1, 2], [99, 0, 5, 3, 42, 1]
    (tmp_path / "train.bin").write_bytes(records[:4].tobytes())
    (tmp_path / "test.bin").write_bytes(records[4:].tobytes())
    fine, coarse = opened("cifar100", tmp_path), opened("cifar100", tmp_path, labels="coarse")
    assert fine.train["label"].tolist() == [99, 0, 5, 3]
    assert coarse.test["label"].tolist() == [1, 2]
    assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert (fine.classes[99], coarse.classes[19]) == ("worm", "vehicles_2")
    assert class_names_of({"source": "cifar100", "labels": "coarse"}) == coarse.classes
    assert fine.train["image"][2, 1, 0, 3] == records[2, 2 + 1024 + 3]
    records[1, 0] = 20
    (tmp_path / "train.bin").write_bytes(records[:4].tobytes())
    path = tmp_path / "train.bin"
    assert (
        said("cifar100", tmp_path)[0]
        == f"{path} is not of CIFAR-100: record 1 has the label 20, the classes are 0 to 19"
    )
