"""hqq and bitsandbytes without the compiler that they load at import, until it is needed.

transformers and PEFT import both where they are installed, and both decorate functions with
``torch.compile``, which loads PyTorch's compiler at once: a quarter of the time until a kernel is
ready. Here the decorators wait for the first call; what they do then is the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULES = {"hqq.core.quantize", "bitsandbytes.backends.default.ops"}


class CompileLater(MetaPathFinder):
    """Finds ``MODULES`` as Python would, and loads them with ``compiled_on_call`` in place."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in MODULES else None
        if spec is not None and spec.loader is not None:
            _defer(spec.loader)
        return spec


def install() -> None:
    """Load ``MODULES`` this way from now on; those that are loaded already stay as they are."""
    if not any(isinstance(finder, CompileLater) for finder in sys.meta_path):
        sys.meta_path.insert(0, CompileLater())


def compiled_on_call(compile: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` as a decorator that compiles a function when it is first called."""

    def decorate(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(decorate, **options)
        compiled = functools.cache(lambda: compile(function, **options))
        return functools.wraps(function)(lambda *args, **named: compiled()(*args, **named))

    return decorate


def _defer(loader: Loader) -> None:
    execute = loader.exec_module

    def deferred(module: ModuleType) -> None:
        import torch

        original = torch.compile
        torch.compile = compiled_on_call(original)
        try:
            execute(module)
        finally:
            torch.compile = original

    loader.exec_module = deferred  # type: ignore[method-assign]
