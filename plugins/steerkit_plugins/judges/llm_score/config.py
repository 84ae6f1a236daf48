"""Options of the judge `llm-score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from steerkit.errors import SteerkitError, nearest
from steerkit_plugins.judges.llm_score.rubric import Better, Rubric, find_rubric, is_file, load_rubric
from steerkit_plugins.llm.judging import JudgingConfig


class LLMScoreConfig(JudgingConfig):
    rubrics: dict[str, str] = Field(default={"coherence": "coherence"}, min_length=1)
    """Name of a metric → its rubric: the name of a shipped one, a YAML file (`ask`, `better`, `about`), or the text
    itself, in which `{text}` stands for the text that is scored."""
    better: dict[str, Better] = Field(default_factory=dict)
    """Name of a metric → the way its points are better, where the rubric's file doesn't say or you want another."""
    method: Literal["auto", "expectation", "number", "mean"] = "auto"
    """How an answer becomes points: the expectation over the numbers that it could have begun with, the number that it
    says, or the mean of several sampled ones. `auto` takes the expectation where a short try shows that the server
    gives log-probabilities and that numbers are one token each, and the number otherwise."""
    samples: int = Field(default=5, ge=2)
    """Numbers that are sampled for a text with `method: mean`, with the seeds `seed` (or 0), `seed` + 1, ..."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Of the sampling: 0 when left out, 1 with `method: mean`; null sends none."""
    max_tokens: int | None = Field(default=16, ge=1)
    """Tokens that an answer with a number may have (a model that reasons first needs many more); null sends none. The
    expectation asks for one."""
    top_logprobs: int = Field(default=20, ge=2)
    """First tokens whose probabilities are asked for; 20 is the most that OpenAI and vLLM give."""
    min_mass: float = Field(default=0.25, gt=0, le=1)
    """A text has no points where the numbers among those tokens have less probability in all; with `method: mean`,
    where a smaller share of the samples says a number."""

    @model_validator(mode="before")
    @classmethod
    def _samples_differ(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("method") == "mean":
            return {"temperature": 1.0, **data}
        return data

    @field_validator("rubrics")
    @classmethod
    def _are_rubrics(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = []
        for name, rubric in value.items():
            try:
                load_rubric(rubric)
            except SteerkitError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> LLMScoreConfig:
        if self.method == "mean" and self.temperature == 0:
            raise ValueError("method: mean needs a temperature above 0, or all samples are the same number")
        if unknown := [name for name in self.better if name not in self.rubrics]:
            fixes = "; ".join(f"{name!r}: {nearest(name, list(self.rubrics))}" for name in unknown)
            raise ValueError(f"better names no metric of rubrics with {fixes}")
        return self

    def loaded(self) -> dict[str, Rubric]:
        """Metric → rubric, with `better` as it is to be."""
        rubrics = {name: load_rubric(rubric) for name, rubric in self.rubrics.items()}
        return {
            name: rubric.model_copy(update={"better": self.better.get(name, rubric.better)})
            for name, rubric in rubrics.items()
        }

    def reads(self) -> dict[str, list[Path]]:
        return {"rubrics": [find_rubric(rubric) for rubric in self.rubrics.values() if is_file(rubric)]}
