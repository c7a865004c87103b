"""The directories that the settings name: ``[directory]``, and a file for each further one."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from conf.kinds import did_you_mean
from conf.load import MAX_FILE, BadSetting, kinds
from conf.schema import Directory, Settings, directory_contradiction

MAIN: Final = "main"
"""What the directory of the section itself is called."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def directories(settings: Settings) -> dict[str, Directory]:
    """Every directory, by its name; that of ``[directory]`` only when it has a URL.

    A further one is ``NAME.toml`` in the folder ``directory.more``, with the keys that differ.
    Errors: ``BadSetting``.
    """
    main = settings.directory
    found = {MAIN: main} if main.url else {}
    if main.more is None:
        return found
    try:
        files = sorted(file for file in main.more.iterdir() if file.suffix == ".toml")
    except OSError as error:
        raise BadSetting(f"{main.more}: directory.more: {error.strerror}") from error
    for file in files:
        if not _NAME.fullmatch(file.stem) or file.stem == MAIN:
            raise BadSetting(
                f"{file}: directory.more: a name is 1 to 32 lower-case letters, digits and dashes, "
                f"other than {MAIN}"
            )
        found[file.stem] = _read(file, main, settings.home)
    return found


def _read(file: Path, main: Directory, home: Path) -> Directory:
    try:
        with file.open("rb") as stream:
            document = tomllib.loads(stream.read(MAX_FILE).decode())
    except OSError as error:
        raise BadSetting(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadSetting(f"{file}: not TOML in UTF-8") from error
    known = {
        key.partition(".")[2]: kind for key, kind in kinds().items() if key[:10] == "directory."
    }
    values: dict[str, Any] = {}
    for name, raw in document.items():
        if name not in known or name == "more":
            raise BadSetting(f"{file}: {name}: unknown key{did_you_mean(name, known)}")
        try:
            values[name] = known[name].parse(raw, home)
        except ValueError as error:
            raise BadSetting(f"{file}: {name}: {error}") from error
    directory = replace(main, **values, more=None)
    if "url" not in values or not directory.url:
        raise BadSetting(f"{file}: url: names the directory")
    if (wrong := directory_contradiction(directory)) is not None:
        raise BadSetting(f"{file}: {wrong[0][0].partition('.')[2]}: {wrong[1]}")
    return directory
