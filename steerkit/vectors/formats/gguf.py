"""GGUF control vectors, as llama.cpp and repeng read and write them.

One tensor a layer, ``direction.N`` [H] float32. Both programs add it to the output of decoder block N counted from 0,
which is steerkit's ``layer`` N and HF's ``hidden_states[N + 1]``: the number is the same, nothing is shifted.
llama.cpp has no place for block 0 and refuses a file that names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.models.extras import need
from steerkit.models.gguf_header import architecture_of
from steerkit.store.files import atomic
from steerkit.store.strict_json import loads
from steerkit.vectors.formats import added

if TYPE_CHECKING:
    from steerkit.vectors.info import VectorInfo
    from steerkit.vectors.steering_vector import SteeringVector

ARCHITECTURE = "controlvector"
INFO = "steerkit.info"  # our own key beside llama.cpp's: what the vector is, as JSON
PACKAGE = "gguf>=0.17"


def export_gguf(
    vector: SteeringVector,
    path: Path | str,
    *,
    layers: Iterable[int] | None = None,
    strength: float = 1.0,
    model_hint: str | None = None,
) -> None:
    """Write a control vector for llama.cpp's ``--control-vector`` or repeng's ``ControlVector.import_gguf``.

    What ``--control-vector-scaled FILE:1`` adds is what `strength` adds in steerkit; the other program's own
    multiplier comes on top.

    Args:
        vector: the vector.
        path: the file.
        layers: 0-based blocks to write, all of which are added at once; may be left out for a one-layer vector.
        strength: multiplier of the vector's own scale that goes into the numbers.
        model_hint: the model's architecture (``llama``), for people; the source model's name when left out.

    Raises:
        SteerkitError: no layers named, a layer that the vector lacks, block 0, or gguf is not installed.
    """
    gguf = need("gguf", PACKAGE, "writing GGUF")
    directions = added(vector, layers, strength)
    if 0 in directions:
        raise SteerkitError(
            "layer 0 can't be in a GGUF control vector: llama.cpp steers blocks from 1 on; leave it out"
        )
    with atomic(Path(path)) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint or vector.info.model or "unknown")
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        writer.add_string(INFO, json.dumps({**asdict(vector.info), "strength": strength}))
        for layer, value in directions.items():
            writer.add_tensor(f"direction.{layer}", value.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def import_gguf(path: Path | str, *, label: str | None = None, model: str | None = None) -> SteeringVector:
    """Read a control vector; strength 1 adds it as it is in the file (scale `raw`).

    Args:
        path: the file, written by steerkit, repeng or llama.cpp's cvector-generator.
        label: what it is a direction of; the file's name when the file doesn't say.
        model: name of the model that it is for, to check its width and depth (no weights are loaded).

    Raises:
        SteerkitError: nothing there, no GGUF, cut off, a model instead of a control vector, one for another model, or
            gguf is not installed.
        InputError: every tensor that is no direction of the others' width.
    """
    from steerkit.vectors.steering_vector import SteeringVector

    gguf = need("gguf", PACKAGE, "reading GGUF")
    path = Path(path)
    if not path.is_file():
        raise SteerkitError(f"{path}: no such GGUF file")
    with _whole(path):
        architecture = architecture_of(path, ARCHITECTURE)
        if architecture != ARCHITECTURE:
            kind = f"a GGUF file of architecture {architecture!r}" if architecture else "a GGUF file"
            raise SteerkitError(f"{path}: {kind}, not a control vector ({ARCHITECTURE})")
        reader = gguf.GGUFReader(path)
        vector = SteeringVector(_directions(gguf, reader, path), _info(reader, path, label))
    if model is None:
        return vector
    from steerkit.models.loading import load_shape

    shape = load_shape(model)
    vector.check_model(shape)
    return SteeringVector(vector.directions, replace(vector.info, model=vector.info.model or model, depth=shape.depth))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What reading a damaged file runs into, in words."""
    import numpy as np

    try:
        with np.errstate(over="raise"):
            yield
    except (ValueError, LookupError, TypeError, ArithmeticError, OSError) as error:
        raise SteerkitError(f"{path}: not a whole GGUF file ({error}); was it cut off on the way?") from error


def _text(reader: Any, key: str) -> str | None:
    field = reader.get_field(key)
    value = field.contents() if field else None
    return value if isinstance(value, str) else None


def _directions(gguf: Any, reader: Any, path: Path) -> dict[int, Any]:
    import torch

    found: dict[int, Any] = {}
    problems: list[Problem] = []
    width = None
    for tensor in reader.tensors:
        if not tensor.name.startswith("direction."):
            continue
        where, number = f"{path}: {tensor.name}", re.fullmatch(r"direction\.([0-9]{1,5})", tensor.name)
        if number is None:
            problems.append(Problem(where, "does not end in a layer's number"))
        elif tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            problems.append(Problem(where, f"holds {tensor.tensor_type.name}, not F32"))
        elif len(tensor.shape) != 1:
            problems.append(Problem(where, f"has {len(tensor.shape)} dimensions; a direction has one"))
        elif width is not None and tensor.n_elements != width:
            problems.append(Problem(where, f"has width {tensor.n_elements}; the tensors before it have {width}"))
        else:
            width = tensor.n_elements
            found[int(number[1])] = torch.tensor(tensor.data.astype("float32"))
    if problems:
        raise InputError(str(path), problems)
    if not found:
        raise SteerkitError(f"{path}: a control vector without any direction.N tensor")
    return found


def _info(reader: Any, path: Path, label: str | None) -> VectorInfo:
    from steerkit.vectors.info import VectorInfo, info_from_json

    given = _text(reader, INFO)
    hint = _text(reader, f"{ARCHITECTURE}.model_hint") or ""
    if given is None:
        origin = {"imported": path.name, "model_hint": hint}
        return VectorInfo(
            method="unknown (GGUF)", label=label or path.stem, window=None, scale="raw", provenance=origin
        )
    try:
        values = loads(given)
        origin = {
            **values.get("provenance", {}),
            "imported": path.name,
            "scale": values["scale"],
            "strength": values["strength"],
        }
        known = {f.name: values[f.name] for f in fields(VectorInfo) if f.name in values}
        info = info_from_json(json.dumps({**known, "scale": "raw", "provenance": origin}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SteerkitError(f"{path}: its {INFO} can't be read ({error})") from error
    return replace(info, label=label) if label else info
