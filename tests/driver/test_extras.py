"""Sources whose libraries are not installed name the extra that installs them."""

import sys
from pathlib import Path

import pytest

from netc_runtime.errors import ExitCode

from .array_files import said

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("source", "module", "ending", "library"),
    [("hdf5", "h5py", ".h5", "h5py"), ("parquet", "pyarrow", ".parquet", "pyarrow"), ("lmdb", "lmdb", ".mdb", "lmdb")],
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, ending: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / f"a{ending}").write_bytes(b"x")
    sentence, code = said(source, tmp_path / f"a{ending}")
    assert sentence.endswith(f'needs {library}, which is not installed; install it with: pip install "netc[{source}]"')
    assert code == ExitCode.ENVIRONMENT
