"""Build hook: compiles the kernels into the wheel, or beside their sources for an editable installation.

Without a C compiler the package is built all the same, for any platform, and numpy and torch do the kernels' work.
``SUPERMASK_REQUIRE_KERNELS=1`` makes that an error instead: wheels for publication must have them.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "src/supermask/kernels"


class KernelsBuildHook(BuildHookInterface[Any]):
    """Adds the shared library to the wheel, which then is one for this platform and every Python."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is written."""
        build = _load(Path(self.root) / KERNELS / "build.py")
        if version == "editable":
            self._told(build.compile_library())
            return
        self.folder = tempfile.TemporaryDirectory(prefix="supermask-wheel-")
        output = Path(self.folder.name) / build.LIBRARY.name
        if self._told(build.compile_library(output)):
            build_data["force_include"][str(output)] = f"supermask/kernels/{output.name}"
            build_data["pure_python"] = False
            platform = self.build_config.builder.get_best_matching_tag().split("-")[-1]
            build_data["tag"] = f"py3-none-{platform}"  # called through ctypes: it knows no version of Python

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was compiled, once it is in the wheel."""
        if version != "editable":
            self.folder.cleanup()

    def _told(self, failure: str | None) -> bool:
        """Whether there is a library; says why not."""
        if failure is None:
            return True
        if os.environ.get("SUPERMASK_REQUIRE_KERNELS") == "1":
            self.app.abort(f"the kernels were not compiled, and SUPERMASK_REQUIRE_KERNELS is 1: {failure}")
        self.app.display_warning(f"the kernels were not compiled, numpy and torch will do their work: {failure}")
        return False


def _load(path: Path) -> ModuleType:
    """A module of a package that is not installed yet."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
