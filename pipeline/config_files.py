"""From YAML files and `key=value` words to a `Config`, with errors that name file, key and remedy.

Numbers and booleans are YAML 1.2's: `1e-3` is a float and `no` is text. `_base_: other.yaml` (or a
list) is read first, from the same folder; mappings merge, lists replace, and a component whose
`name` changes drops the old one's arguments.
"""

import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Config
from pipeline.config_tuning import KINDS
from pipeline.errors import UserError, did_you_mean

Origins = dict[tuple[str, ...], str]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core schema, in which a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'key "{key}" is given twice', node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 0) if node.value[:2] in {"0o", "0x"} else int(node.value),
)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would read as something other than text."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, source: str) -> Any:
    """YAML 1.2 text to plain data; `source` names it in the error."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
        json.dumps(value)
        return value
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{source}: a value is no plain text, number, list or mapping, or contains itself; write it out") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """The config in `path` with its bases and the `key=value` overrides; UserError for any fault."""
    data, origins = _read(path, ())
    data.setdefault("experiment", path.stem)
    for override in overrides:
        keys, value = _parse_override(override)
        data = _merge(data, _nested(keys, value), origins, f"override {override}")
    try:
        return Config.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, origins, str(path))) from None


def change_config(config: Config, changes: Mapping[str, Any], source: str) -> Config:
    """The config with other values by key, as overrides would give it; a number in a key counts the items of a list, from 0.

    A component's name comes before its arguments, in whatever order they are given. UserError for a key or a value that the schema
    refuses; source: who asks for the changes, in words.
    """
    data: dict[str, Any] = json.loads(config.model_dump_json())
    origins: Origins = {(): source}
    for key, value in sorted(changes.items(), key=lambda change: change[0].rpartition(".")[2] not in ("name", "backbone")):
        parts = key.split(".")
        for place in range(len(parts) - 1, 0, -1):
            items = _found(data, parts[:place])
            if isinstance(items, list):  # lists are replaced whole
                if not parts[place].isdigit() or int(parts[place]) >= len(items):
                    raise UserError(f"{source}: {key}: {'.'.join(parts[:place])} has {len(items)} items, numbered from 0")
                rest = _nested(parts[place + 1 :], value)
                changed = _merge(items[int(parts[place])], rest, {}, "", tuple(parts[: place + 1]))
                value, parts = [*items[: int(parts[place])], changed, *items[int(parts[place]) + 1 :]], parts[:place]
        data = _merge(data, _nested(parts, value), origins, source)
    try:
        return Config.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, origins, source)) from None


def _found(data: Any, parts: Sequence[str]) -> Any:
    """What stands in nested data under these keys; None where there is nothing."""
    for part in parts:
        if isinstance(data, list):
            data = data[int(part)] if part.isdigit() and int(part) < len(data) else None
        else:
            data = data.get(part) if isinstance(data, dict) else None
    return data


def _nested(parts: Sequence[str], value: Any) -> Any:
    for part in reversed(parts):
        value = {part: value}
    return value


def value_at(config: Config, key: str) -> Any:
    """The plain value of a key in dotted form, e.g. train.epochs or augment.train.1.p; None where there is none."""
    return _found(json.loads(config.model_dump_json()), key.split("."))


def write_config(config: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal one."""
    return yaml.dump(json.loads(config.model_dump_json()), Dumper=_Dumper, sort_keys=False)


def write_difference(config: Config, base: Path) -> str:
    """The config as YAML with `_base_` and what differs from that file, beside which it is to lie; the whole where YAML cannot say the difference.

    Its experiment is left out where the base leaves it out: it is the name of the file to be.
    """
    try:
        raw, _ = _read(base, ())
        old = load_config(base)
        changed = _difference(json.loads(old.model_dump_json()), json.loads(config.model_dump_json()), ())
        if "experiment" not in raw:
            changed.pop("experiment", None)
        merged = {"experiment": config.experiment, **_merge(raw, changed, {}, "")}
        if Config.model_validate_json(json.dumps(merged), strict=True) == config:
            return yaml.dump({"_base_": base.name, **changed}, Dumper=_Dumper, sort_keys=False)
    except (UserError, ValidationError):  # the base is no config without its overrides, or not any more
        pass
    return write_config(config)


def _difference(old: dict[str, Any], new: dict[str, Any], at: tuple[str, ...]) -> dict[str, Any]:
    """What of `new` is to be merged over `old`."""
    found = {}
    for key, value in new.items():
        if key in old and json.dumps(old[key], sort_keys=True) == json.dumps(value, sort_keys=True):
            continue
        before, place = old.get(key), (*at, key)
        nested = isinstance(value, dict) and isinstance(before, dict) and not _is_another_component(before, value, place)
        found[key] = _difference(before, value, place) if nested and isinstance(before, dict) else value
    return found


def json_schema() -> str:
    """The config's JSON schema for editors; `experiment` may be left out, `_base_` may be there."""
    schema = Config.model_json_schema()
    schema["required"] = []
    schema["properties"] = {"_base_": {"type": ["string", "array"], "items": {"type": "string"}}} | schema["properties"]
    return json.dumps(schema, indent=1) + "\n"


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    if path.resolve() in above:
        raise UserError(f"{path}: _base_ leads back to the file itself; remove it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config{did_you_mean(path.name, (p.name for p in path.parent.glob('*.yaml')))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    own = parse_yaml(text, str(path)) or {}
    if not isinstance(own, dict):
        raise UserError(f"{path}: a config is a mapping of sections, but got {type(own).__name__}")
    bases = own.pop("_base_", [])
    data: dict[str, Any] = {}
    origins: Origins = {}
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise UserError(f"{path}: _base_: write a file's name or a list of them, but got {_brief(bases)}")
    for base in bases:
        base_data, base_origins = _read(path.parent / base, (*above, path.resolve()))
        data = _merge(data, base_data, origins, "")
        origins.update({at: source for at, source in base_origins.items() if at})
    return _merge(data, own, origins, str(path)), origins


def _merge(old: Any, new: Any, origins: Origins, source: str, at: tuple[str, ...] = ()) -> Any:
    """`new` over `old`; notes in `origins` which source each key came from."""
    if source and (at not in origins or not isinstance(new, dict)):
        origins[at] = source
    if not isinstance(new, dict):
        return new
    if not isinstance(old, dict) or _is_another_component(old, new, at):
        old = {}
    merged = dict(old)
    for key, value in new.items():
        merged[key] = _merge(old.get(key), value, origins, source, (*at, str(key)))
    return merged


def _is_another_component(old: dict[str, Any], new: dict[str, Any], at: tuple[str, ...]) -> bool:
    """Whether the old keys say nothing about the new mapping: another name or backbone, another kind of dimension, or arguments emptied."""
    changed = any(key in new and key in old and new[key] != old[key] for key in ("name", "backbone"))
    changed = changed or (at[:2] == ("tune", "space") and any(key in new and key not in old for key in KINDS) and any(key in old for key in KINDS))
    return (changed and at != ("competition",)) or (not new and at[-1:] == ("arguments",))


def _parse_override(override: str) -> tuple[list[str], Any]:
    key, separator, text = override.partition("=")
    if not separator or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f'override "{override}": write key=value, e.g. train.epochs=3')
    return key.split("."), parse_yaml(text, f"override {override}")


def _explain(error: ValidationError, origins: Origins, source: str) -> str:
    problems = error.errors()
    first = problems[0]
    path = tuple(str(part) for part in first["loc"])
    where = next((origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in origins), source)
    name = ".".join(part for part in path if not re.search(r"[^\w]", part))
    if first["type"] == "extra_forbidden":
        message = f'unknown key "{path[-1]}"{did_you_mean(path[-1], _known_keys(path[:-1]))}'
    elif first["type"] == "missing":
        message = "this key is missing and has no default"
    else:
        text = first["msg"].removeprefix("Value error, ")
        given = "" if "but got" in text else f", but got {_brief(first['input'])}"
        message = text[0].lower() + text[1:] + given
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {name}: {message}{more}" if name else f"{where}: {message}{more}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(path: tuple[str, ...]) -> list[str]:
    """Keys that the section at `path` knows."""
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next(
            (kind for kind in kinds if isinstance(kind, type) and get_origin(kind) not in (Union, types.UnionType) and issubclass(kind, BaseModel)), model
        )
    return list(model.model_fields)
