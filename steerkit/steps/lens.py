"""What the vectors say under both unembeddings, and how alike they are, at every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steerkit.conditions import Planner, VectorKey
from steerkit.store.files import write_jsonl
from steerkit.tables import write_csv
from steerkit.vectors.lens import LogitLens
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

COLUMNS = ("source", "unembedding", "layer", "score", "random_low", "random_high", "final_norm", "norm")
FILES = ["lens.csv", "lens.tokens.jsonl", "cosines.csv"]


def lens(trainer: SteeringTrainer, vectors: Mapping[VectorKey, SteeringVector]) -> None:
    """``lens.csv`` (s(v) of Eq. 2 beside random directions), ``lens.tokens.jsonl`` (top tokens), ``cosines.csv``."""
    args = trainer.args.lens
    if args is None:
        return
    base, reasoning = (vectors[key] for key in Planner(trainer.args, trainer.pair.base.depth, {}).main_vectors())

    def make(key: str) -> tuple[None, list[str]]:
        rows, tokens = [], []
        for unembedding in ("base", "reasoning"):
            reader = LogitLens(trainer.pair[unembedding], args.words, final_norm=args.final_norm)
            for source, vector in (("base", base), ("reasoning", reasoning)):
                for layer in vector.layers:
                    added = vector.unit(layer) * vector.norm(layer)
                    found = reader.score(added, top=args.top, seed=trainer.args.seed)
                    place = {"source": source, "unembedding": unembedding, "layer": layer}
                    rows.append(
                        {
                            **place,
                            "score": found.score,
                            "random_low": found.low,
                            "random_high": found.high,
                            "final_norm": args.final_norm,
                            "norm": vector.norm(layer),
                        }
                    )
                    tokens.append({**place, "tokens": [[token, round(value, 4)] for token, value in found.top]})
        write_csv(trainer.folder / FILES[0], COLUMNS, rows)
        write_jsonl(trainer.folder / FILES[1], tokens)
        alike = [{"layer": layer, "cosine": value} for layer, value in base.cosine(reasoning).items()]
        write_csv(trainer.folder / FILES[2], ("layer", "cosine"), alike)
        return None, FILES

    read = [trainer.identities[name] for role in ("base", "reasoning") for name in (role, f"{role} tokenizer")]
    inputs = [trainer.keys["vectors"], read, args.model_dump(), trainer.args.seed]
    trainer.stage("lens", inputs, make, lambda: None)
