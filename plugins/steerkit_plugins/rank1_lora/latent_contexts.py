"""Where the latents of the run's SAEs are strong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.context import Run
from steerkit.data.trace import Trace
from steerkit.models.devices import choose_device
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.contexts import Contexts, KeptContexts
from steerkit_plugins.rank1_lora.feature_contexts import FeatureContexts
from steerkit_plugins.rank1_lora.interpret_config import first_of, scalars_of, top_of
from steerkit_plugins.rank1_lora.sae.contexts import LatentValues
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.rank1_lora.sae_training import saes_of


class LatentContexts(KeptContexts):
    """``units/latent-contexts.SAE.json``: the strongest contexts of each SAE's latents, and their activity."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "unit-scalars", "saes")

    def names(self, run: Run) -> list[str]:
        return [name for name, _, _ in saes_of(run)]

    def make(
        self, run: Run, traces: list[Trace], scalars: Mapping[str, UnitStore], saes: Mapping[str, TrainedSAE]
    ) -> Contexts:
        c, device = scalars_of(run), choose_device(run.models.loading.device)
        first = {trace.id: first_of(trace, c) for trace in traces}
        found, done = dict[str, Any](), 0
        for name, model, _ in saes_of(run):
            store, variant = scalars[model], name.removeprefix(f"{model}.")
            values = LatentValues(saes[name].to(device), store)
            found[name] = own = FeatureContexts.empty(
                [f"{variant} {latent}" for latent in range(saes[name].latents)], top_of(c), signs=(1,)
            )
            for trace in store.traces:
                own.add(trace, values[trace], first[trace])
                done += 1
                run.progress(done, len(store.traces) * len(saes))
        return found
