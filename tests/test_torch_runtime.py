"""What somebody reads who asks for the torch runtime without torch; needs no torch itself."""

from __future__ import annotations

import importlib
import sys

import pytest

from streamface.errors import BackendUnavailable


@pytest.mark.parametrize(
    "module", ["torch_runtime", "torch_graph", "torch_buckets", "torch_backend"]
)
def test_without_torch_the_runtime_says_what_to_install(monkeypatch, module):
    for name in [name for name in sys.modules if name.startswith("streamface.backends.torch_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        BackendUnavailable, match=r"needs torch .*pip install 'streamface\[torch\]'"
    ):
        importlib.import_module(f"streamface.backends.{module}")
