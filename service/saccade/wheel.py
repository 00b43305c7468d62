"""A build hook of hatchling's: puts `saccade` into the wheel, with copies of what the client needs of `service`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OWN = ("__init__.py", "py.typed")
COPIES = (
    *("client", "connection.py", "errors.py", "public.py", "rpc/__init__.py", "rpc/pb/__init__.py", "rpc/pb/saccade"),
    *("budget.py", "formats.py", "image.py", "manifest.py", "protobuf.py"),
)


class SaccadeInWheel(BuildHookInterface[Any]):
    """Adds the package; an editable install gets no copies, which would grow old."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's names
        """Say what is to be added."""
        service = Path(self.root, "service")
        own = {str(service / "saccade" / name): f"saccade/{name}" for name in OWN}
        build_data["force_include_editable"].update(own)
        # From a folder elsewhere, since hatchling leaves out of `service` what it is to take from there.
        self._folder = TemporaryDirectory()
        for name in COPIES:
            copy = Path(self._folder.name, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(service / name, copy) if (service / name).is_dir() else shutil.copy(service / name, copy)
        build_data["force_include"].update(own | {self._folder.name: "saccade"})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the folder."""
        self._folder.cleanup()
