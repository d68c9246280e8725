"""Code that a recipe names, `module:Name`: ours always, other code only where it was allowed."""

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Mapping
from typing import Any

from mrt.errors import ConfigError, nearest
from mrt.runs.fields import show

OUR_PACKAGES = ("mrt", "classic_metarl")
SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)  # module:Name
EXAMPLES = {"trainer": "as in mrt.reasoning.training.trainer:MRTTrainer"}


def import_named(spec: str, key: str, allow_code: bool = False, item: bool = True) -> Any:
    """What `module:Name` refers to, or its module alone where the rest is no `item` of it (`module:Id-v0`).

    Code outside `mrt` and `classic_metarl` is imported only with `allow_code`.

    Raises:
        ConfigError: for a spec of another shape, or a module or name that is not there (naming the nearest). `key` is
            the field of the recipe that names it.
    """
    module_name, _, name = str(spec).partition(":")
    if not SPEC.fullmatch(str(spec) if item else f"{module_name}:_"):
        raise ConfigError(f"{key} {show(spec)} must read module:Class, {EXAMPLES.get(key, 'as in my_package:MyEnv')}")
    named = f"{key} {show(spec)}"
    ours = module_name.split(".")[0] in OUR_PACKAGES
    if not ours and not allow_code:
        raise ConfigError(f"{named} is code from outside mrt and classic_metarl: allow it with --allow-code")
    if not ours and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module_name + ".").startswith(missing + "."):
            raise ConfigError(f"{named} needs the package '{missing}', which is not installed") from error
        hint = f"; {nearest(module_name, _modules())}" if ours else " on the path or in this folder"
        raise ConfigError(f"{named}: no module {show(missing)}{hint}") from error
    if not item:
        return module
    found = getattr(module, name, None)
    if found is None:
        classes = {other for other, value in vars(module).items() if isinstance(value, type)}
        raise ConfigError(f"{named}: no such class; {nearest(name, classes)}")
    return found


def import_environments(tasks: Mapping[str, Any], allow_code: bool = False) -> None:
    """Imports what `tasks` name with a module: `env: module:Class`, and Gymnasium's `module:Id-v0`.

    Raises:
        ConfigError: as `import_named`.
    """
    for key in ("env", "gymnasium"):
        if ":" in str(tasks.get(key, "")):
            import_named(tasks[key], f"tasks.{key}", allow_code, item=key == "env")


def _modules() -> set[str]:
    found = set()
    for name in OUR_PACKAGES:
        package = importlib.import_module(name)
        found |= {m.name for m in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda _: None)}
    return found
