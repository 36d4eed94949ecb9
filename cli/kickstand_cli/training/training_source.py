"""Packs the files of a SageMaker training job: entry point, requirements, both packages and the backbone."""

import gzip
import io
import tarfile
from pathlib import Path

import kickstand
import kickstand_cli
from kickstand_cli.project import MODEL, PROJECT, SHIPPED

ENTRY_POINT = "train.py"
PACKAGES = {package.__name__: Path(str(package.__file__)).parent for package in (kickstand, kickstand_cli)}


def pack_source() -> bytes:
    """sourcedir.tar.gz, as script mode unpacks it into /opt/ml/code. Equal sources give equal bytes."""
    files = {name: PROJECT / "training" / name for name in (ENTRY_POINT, "requirements.txt")}
    for package, home in PACKAGES.items():
        sources = (path for path in home.rglob("*.py") if not path.is_relative_to(SHIPPED))
        files |= {f"{package}/{path.relative_to(home).as_posix()}": path for path in sources}
    files |= {f"model/{name}": MODEL / name for name in ("model.onnx", "model.json")}
    return pack(files)


def pack(files: dict[str, Path]) -> bytes:
    """A tar.gz of these files, by their names in it. Equal files give equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name in sorted(files):
            content = files[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
