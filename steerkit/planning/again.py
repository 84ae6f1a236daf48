"""Which steps of a run folder a run would keep, and which it would do again."""

from __future__ import annotations

from steerkit.run import SteeringTrainer
from steerkit.settings import Recipe


def again_text(recipe: Recipe) -> str:
    """The steps by what would become of them, in words.

    Raises:
        SteerkitError: a model can't be loaded, or a file of the run was changed.
    """
    trainer = SteeringTrainer.from_recipe(recipe)
    found = trainer.pending()
    lines = [f"steps in {trainer.folder.path}"]
    for fate in dict.fromkeys(("kept", "done again", "perhaps", "not done yet", *found.values())):
        if titles := [title for title, own in found.items() if own == fate]:
            said = "done again, if those before them find something else" if fate == "perhaps" else fate
            lines.append(f"  {said}: {', '.join(titles)}")
    return "\n".join(lines)
