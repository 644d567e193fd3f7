"""The source lmdb: Caffe's databases, and a sentence for whatever is wrong."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netc_runtime.data import missing_data

from .array_files import HALF, IMAGES, LABELS, encoded, everything, opened, said

pytestmark = pytest.mark.usefixtures("cache")


def datum(**fields: Any) -> bytes:
    """Return one of Caffe's Datum records, written by hand: (number << 3 | kind), value."""
    numbers = {"channels": 1, "height": 2, "width": 3, "data": 4, "label": 5, "float_data": 6, "encoded": 7}

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    content = b""
    for name, value in fields.items():
        number = numbers[name] << 3
        if name == "data":
            content += bytes([number | 2]) + varint(len(value)) + value
        elif name == "float_data":
            content += b"".join(bytes([number | 5]) + struct.pack("<f", one) for one in value)
        else:
            content += bytes([number]) + varint(int(value))
    return content


def write_lmdb(path: Path, records: list[bytes], first: int = 0) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 22) as database, database.begin(write=True) as transaction:
        for index, record in enumerate(records, first):
            transaction.put(b"%08d" % index, record)


def raw(index: int, **fields: Any) -> bytes:
    return datum(
        **{"channels": 2, "height": 3, "width": 4, "data": IMAGES[index].tobytes(), "label": LABELS[index], **fields}
    )


def test_lmdb_of_caffe(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "train_lmdb", [raw(i) for i in range(8)])
    write_lmdb(tmp_path / "test_lmdb", [raw(i) for i in range(8, 12)])
    source = opened("lmdb", tmp_path)
    np.testing.assert_array_equal(source.train["image"], IMAGES[:8])
    np.testing.assert_array_equal(source.train["label"], LABELS[:8])
    np.testing.assert_array_equal(source.test["image"], IMAGES[8:])
    assert source.classes == ("0", "1", "2")
    (tmp_path / "test_lmdb").rename(tmp_path / "validation_lmdb")
    np.testing.assert_array_equal(opened("lmdb", tmp_path).test["image"], IMAGES[8:])
    write_lmdb(
        tmp_path / "floats",
        [datum(channels=1, height=1, width=2, float_data=(i / 2, -1.0), label=300 + i) for i in range(4)],
    )
    floats = opened("lmdb", tmp_path / "floats", split=HALF)
    assert floats.train["image"].dtype == np.float32
    assert everything(floats)[:, 0, 0].tolist() == [[i / 2, -1] for i in range(4)]
    write_lmdb(tmp_path / "packed", [datum(encoded=True, data=encoded(i), label=0) for i in range(4)])
    assert everything(opened("lmdb", tmp_path / "packed", split=HALF))[:, 2, 1, 1].tolist() == [0, 10, 20, 30]
    # Reading leaves the database as it was.
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["data.mdb", "lock.mdb"]


@pytest.mark.parametrize("size", [[2, 3], [5, 9], [3, 4]])
def test_plain_records_are_resized_as_encoded_ones_are(tmp_path: Path, size: list[int]) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (8, 3, 3, 4), dtype=np.uint8)
    pictures[0] = 255
    for index, picture in enumerate(pictures):
        content = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(content, "PNG")
        shape = {"channels": 3, "height": 3, "width": 4, "label": 0}
        records = {
            "plain": datum(data=picture.tobytes(), **shape),
            "floats": datum(float_data=picture.ravel().tolist(), **shape),
            "packed": datum(encoded=True, data=content.getvalue(), label=0),
        }
        for name, record in records.items():
            write_lmdb(tmp_path / name, [record], first=index)
    plain, floats, packed = (
        np.asarray(opened("lmdb", tmp_path / name, split=HALF, resize=size).train["image"])
        for name in ("plain", "floats", "packed")
    )
    assert plain.shape == (4, 3, *size)
    np.testing.assert_array_equal(plain, packed)
    assert (str(plain.dtype), str(floats.dtype)) == ("uint8", "float32")
    np.testing.assert_allclose(floats, plain, rtol=0, atol=0.5)  # bytes are rounded
    # Records of several sizes are brought to one, of either kind.
    write_lmdb(tmp_path / "plain", [raw(0, channels=3, height=2, width=4), records["packed"]], first=8)
    assert opened("lmdb", tmp_path / "plain", split=HALF, resize=size).train["image"].shape == (5, 3, *size)


def test_bad_lmdb_databases_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    cases: list[tuple[list[bytes], str, int]] = [
        ([raw(0), raw(1, data=b"short")], ", key 00000001 has 5 values, but says that its image is [2, 3, 4]", 1),
        ([raw(0), raw(1, channels=0)], ", key 00000001 has 24 values, but says that its image is [0, 3, 4]", 1),
        ([raw(0), b"\xff\xff"], ", key 00000001 is not one of Caffe's Datum records: ", 1),
        ([raw(0), raw(1, height=4, width=3)], ", key 00000001 has an image [2, 4, 3] of uint8, but ", 2),
        ([raw(0), datum(encoded=True, data=b"x")], ", key 00000001 is not an image (", 1),
        ([raw(0, label=2**31 + 5)], ", key 00000000 has the label ", 1),
        ([], "no record can be used: there is none", 1),
    ]
    for number, (records, part, code) in enumerate(cases):
        path = tmp_path / str(number)
        write_lmdb(path, records)
        sentence, found = said("lmdb", path)
        assert sentence.startswith(f"{path / 'data.mdb'}{part}" if part.startswith(",") else part)
        assert found == code
    path = tmp_path / "0" / "data.mdb"
    path.write_bytes(b"no database" * 1000)
    sentence, code = said("lmdb", tmp_path / "0")
    assert (sentence.startswith(f"{path} is not a sound LMDB database: "), code) == (True, 1)
    assert missing_data({"source": "lmdb", "path": str(tmp_path)}) == [
        (("path",), f"{tmp_path} is no LMDB database: it lacks data.mdb")
    ]
