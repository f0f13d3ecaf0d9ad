"""TOML files that state only what they change: read, checked against a schema, resolved, written, compared.

A file without `extends` is a base and states every value; any other names its parent and states its diff.
Recipes and workloads are two kinds of such files and differ in nothing but their schema. Whatever a file says
that would be silently ignored, or that says nothing, is refused here, in one line that names file and key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench import BenchError, assets

Values = Mapping[str, Mapping[str, Any]]
_UNSAID = object()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One resolved file. Two are equal when they say the same, wherever they lie.

    `values`: section -> key -> value, every section of the schema, the parent's values filled in.
    `changes`: "section.key" -> value, what the file itself states against `parent`; empty for a base.
    `fingerprint`: 12 hex digits that depend on `values` alone.
    """

    name: str
    title: str
    why: str = ""
    parent: str | None = None
    values: Values
    changes: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str
    path: Path | None = field(default=None, compare=False)


# ---------------------------------------------------------------------------------------- what a value may be


@dataclass(frozen=True)
class Rule:
    """What one value may be: `wanted` in words, `accepts` as a test; `convert` gives its canonical type."""

    wanted: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    choices: tuple[Any, ...] = ()


FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text in quotes", lambda value: isinstance(value, str))
LINE = Rule(
    "one line of text in quotes",
    lambda value: isinstance(value, str) and value.isprintable() and value.strip() == value != "",
)


def choice(*options: str | int) -> Rule:
    """One of a few values, the type included: 8.0 is not 8, and true is not 1."""
    shown = [show(option) for option in options]
    return Rule(
        " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])),
        lambda value: any(type(value) is type(option) and value == option for option in options),
        choices=options,
    )


def count(at_least: int) -> Rule:
    """A whole number that fits 64 bits; true and 8.0 are none."""
    return Rule(f"a whole number, {at_least} or more", lambda value: _is_count(value, at_least))


def number(wanted: str, within: Callable[[float], bool]) -> Rule:
    """A finite number for which `within` holds, `wanted` in words; a whole one is taken as a float."""

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) <= sys.float_info.max and within(float(value))

    return Rule(wanted, accepts, float)


def counts(*lengths: int) -> Rule:
    """A list of whole numbers above 0, of one of these lengths."""
    return Rule(
        f"a list of {' or '.join(map(str, lengths))} whole numbers above 0",
        lambda value: (
            isinstance(value, list) and len(value) in lengths and all(_is_count(item, 1) for item in value)
        ),
    )


def names(at_least: int, at_most: int) -> Rule:
    """A list of different names, so many of them."""

    def accepts(value: Any) -> bool:
        if not isinstance(value, list) or not all(LINE.accepts(item) for item in value):
            return False
        return at_least <= len(value) <= at_most and len(set(value)) == len(value)

    return Rule(f"a list of {at_least} to {at_most} different names in quotes", accepts)


def _is_count(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and at_least <= value < 2**63


# ------------------------------------------------------------------------------------------ a kind of files

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """What tells one kind of files from the other.

    `header` and `sections` are the schema; a base states all sections but `overlays`, a section -> who
    gives its values instead. `make` is the class of the result, `folders` where the shipped files are (for
    `assets.folder`; no name is in two of them), `listing` the command that shows them, where there is one.
    `later`: "section.key" -> what every file meant before it could say so.
    """

    word: str
    folders: tuple[str, ...]
    make: type[S]
    header: Mapping[str, Rule]
    sections: Mapping[str, Mapping[str, Rule]]
    listing: str = ""
    overlays: Mapping[str, str] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)


def shipped(kind: Kind[Any]) -> dict[str, Path]:
    """Name -> file of what travels with segbench, folder by folder, in the order of the file names."""
    return {name: path for each in kind.folders for name, path in files_in(assets.folder(each)).items()}


def files_in(folder: Path) -> dict[str, Path]:
    """Name -> file of the TOML files right in `folder`, but hidden ones, in the order of the names."""
    return {path.stem: path for path in sorted(folder.glob("[!.]*.toml"))}


def load(kind: Kind[S], wanted: str | Path) -> S:
    """The file called `wanted`: a shipped name, the unambiguous beginning of one, or a path (it contains a
    separator or ends in .toml). BenchError for everything the file must not say."""
    if is_path(wanted):
        return _resolve(kind, Path(wanted), ())
    known = shipped(kind)
    fitting = [name for name in known if name.startswith(str(wanted))]
    if wanted not in known and len(fitting) != 1:
        if wanted and fitting:
            raise BenchError(
                f'"{wanted}" could be any of {", ".join(fitting)}', "type enough of the name to leave one"
            )
        here = [path.name for path in files_in(Path()).values()]
        raise BenchError(
            f"there is no {kind.word} {show(wanted)}", _hint_at(kind, str(wanted), [*known, *here])
        )
    return _resolve(kind, known[str(wanted) if wanted in known else fitting[0]], ())


def is_path(wanted: str | Path) -> bool:
    """Whether `wanted` names a file rather than something shipped."""
    return isinstance(wanted, Path) or "/" in wanted or os.sep in wanted or wanted.endswith(".toml")


def difference(a: Settings, b: Settings) -> list[tuple[str, Any, Any]]:
    """("section.key", value in a, value in b) wherever the two differ; None where one does not state it."""
    return differing(a.values, b.values)


def differing(a: Values, b: Values) -> list[tuple[str, Any, Any]]:
    """The same of values alone."""
    rows = []
    for section in dict.fromkeys([*a, *b]):
        ours, theirs = a.get(section, {}), b.get(section, {})
        for key in dict.fromkeys([*ours, *theirs]):
            if ours.get(key) != theirs.get(key):
                rows.append((f"{section}.{key}", ours.get(key), theirs.get(key)))
    return rows


def fingerprint(values: Values, later: Mapping[str, Any] | None = None, *, empty_lists: bool = False) -> str:
    """12 hex digits of SHA-256 over the values in canonical JSON; names, titles and comments do not count.

    Nor do empty sections, empty lists and values that are those of `later` (see `Kind`): a list that came
    with a later version, and lists nothing, or a switch that is off, leaves the fingerprint of older files
    what it was. With `empty_lists` they count, as they did in the first records.
    """
    meant = {} if later is None else later
    told = {
        section: {
            key: value
            for key, value in keys.items()
            if (value != [] or empty_lists) and meant.get(f"{section}.{key}", _UNSAID) != value
        }
        for section, keys in values.items()
    }
    stated = {section: keys for section, keys in told.items() if keys}
    canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


# -------------------------------------------------------------------------------------------- reading a file


def _resolve(kind: Kind[S], path: Path, children: tuple[Path, ...]) -> S:
    """The file at `path` with its ancestors' values filled in; `children` are the files that led here."""
    origin = _shown(path)
    header, stated = _read(kind, path)
    location = path.resolve()
    if location in children:
        circle = [file.name for file in (*children[children.index(location) :], location)]
        raise BenchError(
            f"{_shown(children[-1])}: extends goes round in a circle: {' -> '.join(circle)}",
            f"let one of them extend a {kind.word} outside the circle",
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        raise BenchError(
            f"{origin}: {show(path.stem)} cannot name a {kind.word} and its results folder",
            "rename the file: letters, digits, dots, hyphens and underscores",
        )
    extends = header.pop("extends", None)
    if extends is None:
        _check_base(kind, stated, origin)
        parent = None
    else:
        parent = _resolve(kind, _find_parent(kind, path, extends), (*children, location))
        _check_diff(kind, stated, parent, origin)
    values = _lay_over(kind, parent, stated)
    settings = kind.make(
        name=path.stem,
        values=values,
        fingerprint=fingerprint(values, kind.later),
        parent=parent.name if parent else None,
        changes=_dotted(stated) if parent else {},
        path=path,
        **header,
    )
    _refuse_namesake(kind, settings, location)
    return settings


def _read(kind: Kind[Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(header, sections) as the file states them, every key known and every value as its rule wants it."""
    origin = _shown(path)
    document = _parse(_text(kind, path), origin)
    header: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        if key in kind.header:
            header[key] = _checked(kind.header[key], value, key, origin)
        elif key not in kind.sections:
            raise _unknown(kind, None, key, isinstance(value, dict), origin)
        elif not isinstance(value, dict):
            raise BenchError(f"{origin}: {key} is a section, not a value", f"write [{key}] on its own line")
        else:
            sections[key] = {}
            for name, item in value.items():
                if name not in kind.sections[key]:
                    raise _unknown(kind, key, name, False, origin)
                sections[key][name] = _checked(kind.sections[key][name], item, f"[{key}] {name}", origin)
    if "title" not in header:
        raise BenchError(f"{origin}: title is missing", 'add a first line such as title = "batch 128"')
    return header, sections


def _text(kind: Kind[Any], path: Path) -> str:
    """The text of the file. BenchError: missing, unreadable, or no UTF-8."""
    origin = _shown(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        others = [*map(str, files_in(path.parent).values()), *shipped(kind)]
        hint = suggest(str(path), others, f"check the path, or use what is shipped: {_listing(kind)}")
        raise BenchError(f"there is no {kind.word} file {origin}", hint) from None
    except UnicodeDecodeError as error:
        raise BenchError(
            f"{origin} is not UTF-8 text (byte {error.start + 1})", "save it again with the encoding UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BenchError(f"{origin} cannot be read: {reason}", "name a TOML file that you may read") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        last = text.rstrip("\n").count("\n") + 1
        reason = str(error).replace("(at end of document)", f"(at the end, line {last})")
    raise BenchError(f"{origin} is not valid TOML: {reason}", "correct that line") from None


def _checked(rule: Rule, value: Any, key: str, origin: str) -> Any:
    if rule.accepts(value):
        return rule.convert(value)
    shown = show(value)
    raise BenchError(
        f"{origin}: {key} is {shown if len(shown) < 80 else shown[:76] + ' ...'}; it must be {rule.wanted}",
        suggest(value, rule.choices, "correct that line") if isinstance(value, str) else "correct that line",
    )


def _unknown(kind: Kind[Any], section: str | None, key: str, is_section: bool, origin: str) -> BenchError:
    """The error for a key or section that the schema does not have; its right place, where it has one."""
    homes = [name for name, rules in kind.sections.items() if key in rules]
    if is_section:
        what, known = f"section [{_bare(key)}]", list(kind.sections)
        otherwise = f"the sections are {', '.join(f'[{name}]' for name in known)}"
    else:
        known = list(kind.sections[section] if section else kind.header)
        what = f"key {show(key)} in [{section}]" if section else f"key {show(key)} before the first section"
        otherwise = f"the keys there are {', '.join(known)}"
    if homes and not is_section:
        hint = f"it belongs in [{homes[0]}]"
    elif section and key in kind.header:
        hint = "it belongs above the first section"
    else:
        hint = suggest(key, known, otherwise)
    return BenchError(f"{origin}: unknown {what}", hint)


def _check_base(kind: Kind[Any], stated: Values, origin: str) -> None:
    """A base states every value, and no section that only lies over values given elsewhere."""
    for section, giver in kind.overlays.items():
        if section in stated:
            raise BenchError(
                f"{origin}: a base does not state [{section}]: {giver} gives it",
                f"delete the section, or move it to a {kind.word} that extends this one",
            )
    lacking = []
    for section, rules in kind.sections.items():
        missing = [key for key in rules if key not in stated.get(section, {})]
        if missing and section not in kind.overlays:
            lacking.append(f"[{section}] {', '.join(missing)}")
    if lacking:
        raise BenchError(
            f"{origin} extends nothing and lacks {'; '.join(lacking)}",
            f'state every value, or name the {kind.word} it starts from with extends = "..."',
        )


def _check_diff(kind: Kind[Any], stated: Values, parent: Settings, origin: str) -> None:
    """A file with a parent changes something, and every line of it does."""
    for section, keys in stated.items():
        for key, value in keys.items():
            if key in parent.values[section] and parent.values[section][key] == value:
                raise BenchError(
                    f"{origin}: [{section}] {key} = {show(value)} is what {parent.name} says already",
                    "delete that line: a file states only what it changes",
                )
    if not any(stated.values()):
        raise BenchError(
            f"{origin} changes nothing: it would be {parent.name} under another name",
            f"state at least one value that differs, or use {parent.name}",
        )


def _find_parent(kind: Kind[Any], path: Path, extends: str) -> Path:
    """The file that `extends` in `path` means: a relative path, a neighbour's name, or a shipped name."""
    if is_path(extends):
        beside = (path.parent / extends).parent
        known = {str(Path(extends).parent / file.name): file for file in files_in(beside).values()}
        found = path.parent / extends if (path.parent / extends).is_file() else None
    else:
        known = shipped(kind) | files_in(path.parent)
        found = known.get(extends)
    if found is None:
        raise BenchError(
            f"{_shown(path)}: extends = {show(extends)} names no {kind.word} that there is",
            _hint_at(kind, extends, known),
        )
    return found


def _refuse_namesake(kind: Kind[Any], settings: Settings, location: Path) -> None:
    """Results lie in a folder with the file's name, so one name must not have two meanings."""
    official = shipped(kind).get(settings.name)
    if official is None or official.resolve() == location:
        return
    if _resolve(kind, official, ()).fingerprint != settings.fingerprint:
        raise BenchError(
            f"{_shown(location)}: segbench ships a {kind.word} named {settings.name} with other values",
            "rename the file: its name is the name of its results folder",
        )


def _lay_over(kind: Kind[Any], parent: Settings | None, stated: Values) -> Values:
    """The parent's values with the stated ones over them, in the order of the schema."""
    values = {}
    for section, rules in kind.sections.items():
        merged = {**(parent.values[section] if parent else {}), **stated.get(section, {})}
        values[section] = {key: merged[key] for key in rules if key in merged}
    return values


def _dotted(stated: Values) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in stated.items() for key, value in keys.items()}


# -------------------------------------------------------------------------- the resolved file in a run folder


def dump(settings: Settings) -> str:
    """The resolved file as TOML: first what it is and what it changes, then every value."""
    header = {
        "extends" if entry.name == "parent" else entry.name: getattr(settings, entry.name)
        for entry in fields(settings)
        if entry.name not in ("values", "changes", "path")
    }
    tables = {**({"changes": settings.changes} if settings.changes else {}), **settings.values}
    lines = [f"{key} = {show(value)}" for key, value in header.items() if value is not None]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_bare(key)} = {show(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def parse(kind: Kind[S], text: str, origin: str) -> S:
    """What `dump` wrote, as the equal object. The schema of today is not asked, so that old records can be
    read: the fingerprint vouches for the values. BenchError: not such a file, or edited since."""
    document = _parse(text, origin)
    aside = "move that run's folder away and run it again"
    rules = {"name": LINE, "fingerprint": LINE, **kind.header}
    header = {key: value for key, value in document.items() if not isinstance(value, dict)}
    values = {key: value for key, value in document.items() if isinstance(value, dict)}
    changes, parent = values.pop("changes", {}), document.get("extends")
    sound = all(key in rules and rules[key].accepts(value) for key, value in header.items())
    if not sound or not {"name", "title", "fingerprint"} <= header.keys():
        raise BenchError(f"{origin} is not the resolved {kind.word} of a run", aside)
    if not _vouches(header["fingerprint"], values, kind.later):
        raise BenchError(f"{origin} was edited or damaged: its fingerprint does not fit its values", aside)
    header.pop("extends", None)
    return kind.make(values=values, changes=changes, parent=parent, **header)


def _vouches(claimed: str, values: Values, later: Mapping[str, Any]) -> bool:
    try:
        return claimed in (fingerprint(values, later), fingerprint(values, later, empty_lists=True))
    except (TypeError, ValueError):  # a date, or a number that is not finite: `dump` writes neither
        return False


def show(value: Any) -> str:
    """A value as TOML writes it, on one line; what no schema here accepts is only named."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a whole number of more than 64 bits"  # Python refuses to print the longest of them
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(show(item) for item in value)}]"
    return "a section" if isinstance(value, dict) else str(value)


def _hint_at(kind: Kind[Any], word: str, known: Iterable[str]) -> str:
    near = suggest(word, known, "")
    return f"{near} {_listing(kind)}".strip()


def _listing(kind: Kind[Any]) -> str:
    return f"`{kind.listing}` lists them all" if kind.listing else f"there are: {', '.join(shipped(kind))}"


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else show(key)


def suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean "..."?` with the entry of `known` that is most like `word`, or `otherwise`."""
    options = [option for option in known if isinstance(option, str)]
    close = difflib.get_close_matches(word, options, n=1)
    within = [option for option in options if word and word.casefold() in option.casefold()]
    best = next(iter(close + within), None)
    return f"did you mean {show(best)}?" if best is not None else otherwise


def _shown(path: Path) -> str:
    """The path as a person in the current folder would write it."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return str(path) if str(path).isprintable() else show(str(path))
