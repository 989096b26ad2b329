"""How many files a reader has to open to follow one spool to the timeline's JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path
from types import FrameType

import pytest

import torchelastic_otel
from tests.support.recordings import DIRECTORY
from torchelastic_otel.cli.timeline import Timeline

PACKAGE = Path(torchelastic_otel.__file__).parent
MOST = 16


def files_run(arguments: list[str]) -> set[str]:
    """The package's files of which a function runs from reading the input to printing, by their paths."""
    command, parser = Timeline(), argparse.ArgumentParser()
    command.prepare_parser(parser)
    options = parser.parse_args(arguments)
    names: set[str] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            names.add(frame.f_code.co_filename)

    command.run(options)  # imports; what they run is no part of the path
    sys.setprofile(profile)
    try:
        command.run(options)
    finally:
        sys.setprofile(None)
    return {str(Path(name).relative_to(PACKAGE)) for name in names if name.startswith(str(PACKAGE))}


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_the_path_of_a_spool_to_json_goes_through_few_files(
    node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node of a real job with a failed worker and a restart; its spool is as its agent closed it."""
    with tarfile.open(DIRECTORY.parent / "recordings" / "spools-b323570" / "fails-once.tar.xz") as archive:
        archive.extractall(tmp_path)
    [spool] = (tmp_path / node).glob("*.spool")
    files = files_run(["--json", str(spool)])
    [run] = json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "\n}")["runs"]
    assert run["rounds"][0]["outcome"] == "failed", "the path is that of a whole history"
    assert len(files) <= MOST, "\n".join(sorted(files))
