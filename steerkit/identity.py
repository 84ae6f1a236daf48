"""The identity of a plugin with its options: its code, all options, and the files that these name."""

from __future__ import annotations

from typing import Any

from steerkit import registry
from steerkit.artifacts import PluginSpec, specs_in
from steerkit.code.notebook_code import notebook_code
from steerkit.interfaces import Config, Plugin
from steerkit.store.files import file_digest, input_digest
from steerkit.store.identity import Identity, plain, put


def plugin_identity(kind: str, plugin: Plugin, title: str = "") -> Identity:
    """The identity of a plugin with its options: two whose keys are equal give the same results.

    Takes in its name, all options but those that change no result (`Config.how`), its code, the contents of the files
    that its options name (`Config.reads`), and the same of plugins that its options name. Code that it imports by a
    computed name, versions of libraries, and data files that it opens without an option of their own are not known.
    """
    code = plugin.code or notebook_code(type(plugin))
    options = options_of(plugin)
    files: dict[str, str] = {}
    for name, paths in plugin.config.reads().items():
        read = {path.as_posix(): f"sha256:{file_digest(path)}" for path in paths if path.is_file()}
        options |= {name: list(read.values())} if read else {}  # the contents count, whatever the files are called
        files |= read
    versions = dict(code.versions)
    for path, inner, spec in specs_in(plugin.config):
        named = spec_identity(inner, spec)
        put(options, path, named.settings)
        versions |= {file or named.name: version for file, version in named.code.items()}
        files |= named.files
    settings = {"kind": kind, "name": plugin.name, **options}
    return Identity(title or f"{kind} {plugin.name}", settings, versions, files, code.name)


def file_identity(title: str, path: str | None) -> Identity:
    """The identity of a file that the user named in place of a step's work.

    Raises:
        SteerkitError: it isn't there.
    """
    found = input_digest(path)
    return Identity(title, None, {"": f"sha256:{found}"} if found else {}, {}, path or "")


def options_of(plugin: Plugin) -> dict[str, Any]:
    """JSON of a plugin's options, defaults filled in, without those that change no result."""
    config = plugin.config
    return {name: plain(getattr(config, name)) for name in type(config).model_fields if name not in config.how}


def spec_settings(kind: str, spec: PluginSpec) -> dict[str, Any]:
    """Name and all options, defaults filled in, without those that change no result (`Config.how`)."""
    return {"name": spec.name, **options_of(registry.build(kind, spec))}


def spec_identity(kind: str, spec: PluginSpec, title: str = "") -> Identity:
    """What the results of the plugin that a spec names depend on."""
    return plugin_identity(kind, registry.build(kind, spec), title)


def config_inputs(config: Config, key: str = "") -> dict[str, Any]:
    """What results depend on of a group of settings: their values, and the identities of the plugins that they name.

    Args:
        key: what stands before a field's name in the recipe, to name plugins by.
    """
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        if name not in config.how:
            found[name] = plain(getattr(config, name))
    for path, kind, spec in specs_in(config):
        title = ".".join([*([key] if key else []), *map(str, path)])
        put(found, path, spec_identity(kind, spec, f"{title} {spec.name}"))
    for name, paths in config.reads().items():
        files = {path.as_posix(): f"sha256:{file_digest(path)}" for path in paths if path.is_file()}
        if files:  # the contents count, whatever the files are called
            found[name] = Identity(f"{key}.{name}".strip("."), list(files.values()), {}, files)
    return found


def code_identity(kind: str, plugin: Plugin, title: str) -> Identity:
    """A plugin's code alone."""
    code = plugin.code or notebook_code(type(plugin))
    return Identity(f"{kind[:-1]} {title}", [kind, plugin.name], code.versions, {}, code.name)
