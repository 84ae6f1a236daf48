"""SteeringVector: directions by layer with everything needed to use and to trace them, kept as safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelHubMixin
from pydantic import TypeAdapter

from steerkit.errors import SteerkitError
from steerkit.models.hub import explained
from steerkit.store.files import save_tensors, write_json
from steerkit.vectors.card import card_of
from steerkit.vectors.info import Scale, VectorInfo, info_from_json

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from torch import Tensor

    from steerkit.interfaces import Steerer
    from steerkit.interventions.edits import Edit, Tokens
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.loading import ModelShape

FILE = "steering_vector.safetensors"
FORMAT = "steerkit-vector-1"

WIDEST = 2**20  # numbers of a direction
DTYPES = ("F32", "F16", "BF16", "F64")


def _place_of(key: str, tensor: Any) -> tuple[str, int]:
    """What a file's tensor is of (`direction` or `mean`), and its layer, before anything of it is read."""
    found = re.fullmatch(r"(direction|mean)\.([0-9]{1,5})", key)
    if not found:
        raise ValueError(f"tensor {key!r} is none of a steering vector's")
    if math.prod(tensor.get_shape()) > WIDEST or tensor.get_dtype() not in DTYPES:
        raise ValueError(f"tensor {key!r} is {tensor.get_dtype()} {tensor.get_shape()}, which no direction is")
    return found[1], int(found[2])


class SteeringVector(ModelHubMixin, library_name="steerkit", tags=["steering-vector"]):
    """One direction [H] a layer, float32, as fitted (not normalised).

    Attributes:
        directions: layer (0-based block) → [H] float32.
        means: layer → [H] float32 mean activation of all spans, the overall-mean baseline of the same source.
        norms: layer → (mean-norm, residual-norm), the lengths that `scale` may refer to.
        info: what it is and where it came from.
    """

    def __init__(
        self,
        directions: Mapping[int, Tensor],
        info: VectorInfo,
        *,
        means: Mapping[int, Tensor] | None = None,
        norms: Mapping[int, tuple[float, float]] | None = None,
    ) -> None:
        import torch

        if not directions:
            raise SteerkitError("a SteeringVector needs at least one layer's direction")
        shapes = {tuple(value.shape) for value in (*directions.values(), *(means or {}).values())}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise SteerkitError(f"directions and means are of one width [H]; these have the shapes {sorted(shapes)}")
        bad = [layer for layer, value in directions.items() if not torch.isfinite(value.float()).all()]
        if bad:
            raise SteerkitError(f"the direction is not finite at layer {', '.join(map(str, bad))}")
        self.directions = {int(k): v.detach().float().clone() for k, v in sorted(directions.items())}
        self.means = {int(k): v.detach().float().clone() for k, v in sorted((means or {}).items())}
        self.norms = dict(norms or {})
        self.info = info
        self._hub_mixin_config = None  # `_save_pretrained` writes its own config.json

    @property
    def width(self) -> int:
        return next(iter(self.directions.values())).numel()

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.directions)

    def __repr__(self) -> str:
        i = self.info
        layers = f"{self.layers[0]}..{self.layers[-1]}" if len(self.layers) > 1 else str(self.layers[0])
        window = f"{i.window[0]}..{i.window[1]}" if i.window else "?"
        return (
            f"SteeringVector({i.label!r} by {i.method}, window {window}, layers {layers}, "
            f"width {self.width}, from {i.source or '?'} model {i.model!r})"
        )

    def only_layer(self) -> int:
        """The layer of a one-layer vector."""
        if len(self.directions) != 1:
            raise SteerkitError(f"name a layer: this vector has {', '.join(map(str, self.layers))}")
        return self.layers[0]

    def direction(self, layer: int) -> Tensor:
        """[H] float32, as fitted."""
        if layer not in self.directions:
            raise SteerkitError(f"the vector has no layer {layer}; it has {', '.join(map(str, self.layers))}")
        return self.directions[layer]

    def unit(self, layer: int) -> Tensor:
        """[H] float32 of length 1."""
        value = self.direction(layer)
        length = value.norm()
        if length == 0:
            raise SteerkitError(f"the vector is zero at layer {layer}: its positive and reference means are the same")
        unit: Tensor = value / length
        return unit

    def norm(self, layer: int, scale: Scale | None = None) -> float:
        """L2 norm that strength 1 adds at a layer."""
        scale = scale or self.info.scale
        if scale == "unit":
            return 1.0
        if scale == "raw":
            return float(self.direction(layer).norm())
        if layer not in self.norms:
            raise SteerkitError(f"scale {scale} needs the source's norms, which this vector was saved without")
        return self.norms[layer][0 if scale == "mean-norm" else 1]

    def mean_unit(self, layer: int) -> Tensor:
        """[H] unit mean activation of the source at a layer (the overall-mean baseline)."""
        if layer not in self.means:
            raise SteerkitError(f"this vector was saved without its source's mean activation at layer {layer}")
        unit: Tensor = self.means[layer] / self.means[layer].norm()
        return unit

    def cosine(self, other: SteeringVector) -> dict[int, float]:
        """Cosine of the two vectors at every layer they share."""
        if self.width != other.width:
            raise SteerkitError(f"vectors of width {self.width} and {other.width} can't be compared")
        shared = [layer for layer in self.layers if layer in other.directions]
        if not shared:
            raise SteerkitError("the vectors share no layer")
        return {layer: float(self.unit(layer) @ other.unit(layer)) for layer in shared}

    def check_model(self, lm: LanguageModel | ModelShape) -> None:
        """Raises: SteerkitError when the vector's width or depth does not fit the model."""
        if self.width != lm.width:
            raise SteerkitError(f"the vector has width {self.width}, {lm.name} has {lm.width}: made for another model")
        if (self.info.depth and self.info.depth != lm.depth) or self.layers[-1] >= lm.depth:
            raise SteerkitError(
                f"the vector was made on a model of {self.info.depth or self.layers[-1] + 1} blocks, "
                f"{lm.name} has {lm.depth}: made for another model"
            )

    def edit(
        self,
        lm: LanguageModel,
        steerer: Steerer,
        strength: float,
        *,
        layer: int | None = None,
        tokens: Tokens = "all",
        key: int = 0,
    ) -> Edit:
        """The Edit that a steerer makes with this vector on a model."""
        from steerkit.interventions.edits import Edit

        self.check_model(lm)
        layer = self.only_layer() if layer is None else layer
        lm.check_layer(layer)
        directions = {"vector": self.unit, "mean": self.mean_unit}
        read = directions.get(steerer.direction)
        return Edit(steerer, layer, strength * self.norm(layer), read(layer) if read else None, tokens, key)

    # --- files -------------------------------------------------------------------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        """The vector, and its info as config.json for people and the hub; the mixin adds the model card."""
        self.save(save_directory / FILE)
        described = {"format": FORMAT, "width": self.width, "layers": self.layers, **asdict(self.info)}
        write_json(save_directory / "config.json", described)
        (save_directory / "README.md").unlink(missing_ok=True)  # the mixin would keep another vector's card

    def generate_model_card(self, *args: Any, repo_id: str | None = None, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` writes; see `card_of`."""
        from huggingface_hub import ModelCard

        return ModelCard(card_of(self, repo_id))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload steering vector",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        **options: Any,
    ) -> str:
        """Upload the vector, its config.json and its model card in one commit.

        Args:
            repo_id: ``USER/NAME``, or ``NAME`` in your own space; made when it isn't there.
            commit_message: of the commit.
            private: whether a repository that is made is private.
            token: of the hub; what `hf auth login` or HF_TOKEN gave when left out.
            branch: to push to; main when left out.
            options: what else `huggingface_hub.ModelHubMixin.push_to_hub` takes (`create_pr`, ...).

        Returns:
            URL of the commit.

        Raises:
            SteerkitError: the hub can't be reached, or refuses.
        """
        from huggingface_hub import HfApi

        with explained(repo_id, "uploaded"):
            full_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
            return super().push_to_hub(
                full_id,
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                model_card_kwargs={"repo_id": full_id},
                **options,
            )

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; `save_pretrained(folder)` adds a model card and the hub."""
        tensors = {f"direction.{layer}": value.contiguous() for layer, value in self.directions.items()}
        tensors |= {f"mean.{layer}": value.contiguous() for layer, value in self.means.items()}
        head = {"format": FORMAT, "info": json.dumps(asdict(self.info)), "norms": json.dumps(self.norms)}
        save_tensors(Path(path), tensors, head)

    @classmethod
    def load(cls, path: Path | str) -> SteeringVector:
        """Read a vector file, or a folder that `save_pretrained` wrote.

        Raises:
            SteerkitError: nothing is there, or it is no steerkit vector.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        file_path = path / FILE if path.is_dir() else path
        if not file_path.is_file():
            raise SteerkitError(f"{file_path}: no such vector file")
        split: dict[str, dict[int, Any]] = {"direction": {}, "mean": {}}
        try:
            with safe_open(file_path, "pt") as file:
                head = file.metadata() or {}
                if head.get("format") != FORMAT:
                    raise SteerkitError(f"{file_path}: a safetensors file, but no steerkit vector (format {FORMAT})")
                for key in file.keys():  # noqa: SIM118
                    kind, layer = _place_of(key, file.get_slice(key))
                    split[kind][layer] = file.get_tensor(key)
            info = info_from_json(head["info"])
            norms = TypeAdapter(dict[int, tuple[float, float]]).validate_json(head["norms"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SteerkitError(f"{file_path}: not a steerkit vector ({error})") from error
        try:
            return cls(split["direction"], info, means=split["mean"], norms=norms)
        except SteerkitError as error:
            raise SteerkitError(f"{file_path}: {error}") from error

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **_: Any,
    ) -> SteeringVector:
        """Load a vector from a folder, a file or the hub.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, a vector file, or ``USER/NAME``.
            revision: branch, tag or commit on the hub.
            token: of the hub; what `hf auth login` or HF_TOKEN gave when left out.
            cache_dir: where downloads are kept.
            force_download: download again what is in the cache.
            local_files_only: use the cache alone.

        Raises:
            SteerkitError: nothing is there, it can't be fetched, or it is no steerkit vector.
        """
        from huggingface_hub import hf_hub_download

        name = str(pretrained_model_name_or_path)
        if Path(name).exists():
            return cls.load(name)
        with explained(name, "downloaded"):
            file = hf_hub_download(
                name,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        return cls.load(file)
