"""Put a fault into a Ray worker: read at the start of every Python process under this folder.

`FAULTS` is JSON: {"kind": "interpreter" | "loop" | "data", "step": n, "once": file}. The first
worker that trains step n takes the file away and stands still.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time


def stand_still(kind: str) -> None:
    """Never come back."""
    if kind == "interpreter":
        import re

        re.match(r"(a+)+$", "a" * 64 + "b")  # one call of C code that holds the interpreter
    elif kind == "loop":
        while True:
            pass
    else:
        time.sleep(1e6)


class Finder(importlib.abc.MetaPathFinder):
    """Lets `trainer.loop` be imported, then puts the fault into it."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        """Find `trainer.loop` as everybody else would, and wrap its loader."""
        if name != "trainer.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            advance = module.Training.advance

            def advanced(self):  # type: ignore[no-untyped-def]
                advance(self)
                if self.step == FAULT["step"]:
                    try:
                        os.unlink(FAULT["once"])
                    except FileNotFoundError:
                        return
                    stand_still(FAULT["kind"])

            module.Training.advance = advanced

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("FAULTS"):
    FAULT = json.loads(os.environ["FAULTS"])
    sys.meta_path.insert(0, Finder())
