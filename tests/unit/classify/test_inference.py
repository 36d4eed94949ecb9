"""What loading the model leaves behind."""

import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_keeps_nothing_in_the_home_folder_that_it_would_send(tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", "import kickstand.classify.inference"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
