"""Options that everything has in common that asks a language model."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from steerkit.interfaces import Config
from steerkit_plugins.llm.cost import Prices

FIXED = (
    *("model", "messages", "temperature", "seed", "max_tokens", "response_format", "logprobs", "top_logprobs"),
    *("stream", "n"),
)


class LLMConfig(Config):
    model_config = ConfigDict(hide_input_in_errors=True)  # a key that was put in the wrong place is not repeated

    how: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_env",
            "max_concurrency",
            "max_retries",
            "timeout",
            "max_cost",
            "input_price",
            "output_price",
            "batch",
            "poll_seconds",
            "cache",
        }
    )
    writes: ClassVar[frozenset[str]] = frozenset({"cache"})
    outward: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env"})

    model: str = Field(default="gpt-4o", min_length=1)
    """Name of the model, as its server knows it; the dated snapshot that answered is in the notes."""
    base_url: str = "https://api.openai.com/v1"
    """Address of an OpenAI-compatible server, up to and with `/v1`."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """NAME of the environment variable that holds the key, never the key; null for a server that asks for none."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Of the sampling; null sends none (some models accept no other than their own)."""
    seed: int | None = None
    """Seed sent along; another one asks anew, at full price."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that an answer may have; the server's own limit when left out."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of a request, as the server names them: {max_completion_tokens: 8000}."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""
    max_retries: int = Field(default=8, ge=0)
    """Times that a request is sent again (rate limit, server error, no connection): waits of 0.5 s doubling to 8 s,
    or as long as the server says (up to 2 minutes)."""
    timeout: float = Field(default=120, gt=0)
    """Seconds without a sign of life from the server."""
    max_cost: float | None = Field(default=None, gt=0)
    """Dollars that the answers in the cache may have cost in all: the estimate must fit in, and no request is sent
    that would go over, were it as dear as the dearest before it."""
    input_price: float | None = Field(default=None, ge=0)
    """Dollars per million input tokens; known for gpt-4o only."""
    output_price: float | None = Field(default=None, ge=0)
    """Dollars per million output tokens; known for gpt-4o only."""
    batch: bool = False
    """Use the server's Batch API: half the price at OpenAI, answers within a day; a stopped run collects them later."""
    poll_seconds: float = Field(default=30, gt=0)
    """Seconds between two looks at a batch."""
    cache: str | None = None
    """Folder of the answers; the run's own when left out. A folder that several runs share asks nothing twice."""

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError("must be the name of an environment variable (such as OPENAI_API_KEY), not a key")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http(s) address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds a password or a query; put the key into the variable that api_key_env names")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits_together(self) -> LLMConfig:
        if taken := [name for name in FIXED if name in self.extra_body]:
            raise ValueError(f"extra_body may not hold {', '.join(taken)}")
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("give both input_price and output_price, or neither")
        if self.max_cost is not None and self.prices() is None:
            raise ValueError(f"max_cost needs input_price and output_price: none are known for {self.model}")
        return self

    def prices(self) -> Prices | None:
        """What a token costs, where that is known."""
        if self.input_price is not None and self.output_price is not None:
            return Prices(self.input_price, self.output_price)
        return Prices.known(self.model, batch=self.batch)

    def asks(self) -> str:
        """The server that gets the texts, and the key; nothing of one on this computer, or of OpenAI's with its key."""
        usual = {name: type(self).model_fields[name].default for name in self.outward}
        if is_here(str(urlsplit(self.base_url).hostname)) or all(getattr(self, k) == v for k, v in usual.items()):
            return ""
        key = f", with the value of {self.api_key_env} as the key" if self.api_key_env else ""
        return f"{self.host()} is sent the run's texts{key}"

    def host(self) -> str:
        """Host and port of the server."""
        return urlsplit(self.base_url).netloc

    def request(self, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        """Body of a chat request: what is not set is not sent."""
        sent = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens, **more}
        return {
            "model": self.model,
            "messages": messages,
            **{name: value for name, value in sent.items() if value is not None},
            **self.extra_body,
        }


def is_here(host: str) -> bool:
    """Whether a host's name is this computer's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
