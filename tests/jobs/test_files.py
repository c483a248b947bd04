"""Files are whole or not there, on a full disk too."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.files import once, open_arrow, whole, write_arrow, write_table

TABLE = pa.table({"a": list(range(200_000)), "b": ["x" * 20] * 200_000})


def test_an_arrow_file_is_read_where_it_lies(tmp_path):
    write_arrow(TABLE, tmp_path / "deep/er/t.arrow")
    assert open_arrow(tmp_path / "deep/er/t.arrow").read_all().equals(TABLE)
    assert open_arrow(tmp_path / "deep/er/t.arrow").num_record_batches == 1
    empty = TABLE.slice(0, 0)
    write_arrow(empty, tmp_path / "empty.arrow")
    assert open_arrow(tmp_path / "empty.arrow").read_all().equals(empty)


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(TABLE, path)

    def interrupted():
        with whole(path) as fresh:
            fresh.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert pq.read_table(path).equals(TABLE)
    assert [found.name for found in tmp_path.iterdir()] == ["t.parquet"]


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path):
    # No file may grow beyond 64 KiB in that process: to a writer it is a disk without room.
    code = f"""
import resource, signal
from pathlib import Path
from jobs.files import write_table, write_arrow, NoSpaceError
from tests.jobs.test_files import TABLE
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
for write, name in ((write_table, "t.parquet"), (write_arrow, "t.arrow")):
    try:
        write(TABLE, Path({str(tmp_path)!r}) / name)
    except NoSpaceError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 2, done
    assert all("no space left to write it" in line for line in told)
    assert not list(tmp_path.iterdir())


def test_work_that_is_done_is_not_done_again(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"n": 3}

    assert once(tmp_path / "x/done.json", make) == {"n": 3}
    assert once(tmp_path / "x/done.json", make) == {"n": 3}
    assert len(calls) == 1
