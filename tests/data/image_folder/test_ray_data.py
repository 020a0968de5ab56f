"""Decoding on Ray Data, passed as the mapper, gives the same bytes as in one process."""

import subprocess
import sys
import textwrap

import pytest

ON_RAY = """
    import ray
    from pathlib import Path
    from toprung import data
    from toprung.data.image_folder import chunks


    def on_ray(function, waiting):
        rows = ray.data.from_items([{"chunk": chunk} for chunk in waiting])
        for row in rows.map(lambda row: {"decoded": function(row["chunk"])}).iter_rows():
            yield row["decoded"]


    chunks.MAX_CHUNK_FILES = 3
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        for name, mapper in (("ray", on_ray), ("here", map)):
            data.prepare_folder("animals", out=Path(name, "animals"), folder=Path("pictures"), mapper=mapper)
    finally:
        ray.shutdown()
"""


@pytest.mark.slow
def test_ray_data_gives_the_same_bytes(tree, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(ON_RAY)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250)
    assert ran.returncode == 0, ran.stderr
    ours, theirs = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "animals").iterdir()} for name in ("ray", "here")
    )
    assert len(ours) == 6
    assert ours == theirs
