"""Commands that write no latents need no optional module."""

import subprocess
import sys


def test_images_are_read_without_pyarrow() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; import app.datasets.images"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
