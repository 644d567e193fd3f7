"""What the examples in the browser and in Node train: a compiled network, and its data in one file.

    python examples/browser/prepare.py

writes, into examples/browser/generated, `model/`, as `netc compile lenet_dsn --target web` does, and
`digits.safetensors` with the training and the test split: `train.image`, `train.label`, `test.image` and `test.label`,
values as the data source gives them, images resized as the spec says.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from netc_runtime.artifact import Artifact
from netc_runtime.data import class_names_of, open_source, value_range_of

HERE = Path(__file__).parent


def main() -> None:
    """Compile the spec and write its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", type=Path, default=HERE / "generated", help="folder to write")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the spec")
    given = parser.parse_args()
    folder: Path = given.generated

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--generated: cannot make the folder {folder}: {error.strerror}; name another one")
    overrides = [word for override in given.set for word in ("--set", override)]
    compile_ = [
        sys.executable,
        "-m",
        "netc.cli",
        "compile",
        "lenet_dsn",
        "--target",
        "web",
        "-o",
        str(folder / "model"),
    ]
    if code := subprocess.run([*compile_, *overrides], check=False).returncode:
        sys.exit(code)  # netc has said why

    data = Artifact.load(folder / "model").spec["data"]
    source = open_source(data)
    splits = (("train", source.train), ("test", source.test))
    tensors = {f"{split}.{name}": np.asarray(field) for split, fields in splits for name, field in fields.items()}
    metadata = {"classes": json.dumps(class_names_of(data)), "value_range": json.dumps(value_range_of(data))}
    save_file(tensors, folder / "digits.safetensors", metadata)
    print(
        f"wrote {folder / 'digits.safetensors'}: {len(source.train['label'])} training and "
        f"{len(source.test['label'])} test samples"
    )


if __name__ == "__main__":
    main()
