"""What the page may ask and do: the next task, a label, a skip, an undo. One lock: several tabs take turns."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from typing import Any

from steerkit.annotate.store import Store
from steerkit.annotate.tasks import Task
from steerkit.errors import SteerkitError

KEYS = "123456789abcdefghijklmnqtvwyz"  # those left over are the page's own: o p r s u x
OTHER = ("other", "It fits none of these.", "o")
ELSEWHERE = "You went on in another tab; this one has caught up."


class Session:
    """An annotator at work on shuffled tasks."""

    def __init__(self, store: Store, tasks: Mapping[str, Task], taxonomy: Mapping[str, str], title: str) -> None:
        if len(taxonomy) > len(KEYS):
            raise SteerkitError(f"the taxonomy has {len(taxonomy)} labels; a page has keys for {len(KEYS)}")
        self.store, self.tasks, self.title = store, tasks, title
        self.labels = [*((name, gloss, key) for (name, gloss), key in zip(taxonomy.items(), KEYS, strict=False)), OTHER]
        self._ids = {task.place: name for name, task in tasks.items()}
        self._lock = RLock()

    def state(self, notice: str = "") -> dict[str, Any]:
        """All that the page shows: labels, progress and the next task; `version` grows with everything done."""
        with self._lock:
            labelled = sum(bool(self.store.label(task)) for task in self.tasks.values())
            skipped = sum(self.store.skipped(task) for task in self.tasks.values())
            open_ = (n for n, t in self.tasks.items() if not self.store.label(t) and not self.store.skipped(t))
            following = next(open_, None)
            return {
                "title": self.title,
                "annotator": self.store.judge.partition(":")[2],
                "file": str(self.store.path),
                "labels": [{"label": name, "gloss": gloss, "key": key} for name, gloss, key in self.labels],
                "total": len(self.tasks),
                "labelled": labelled,
                "skipped": skipped,
                "undo": self.store.undoable in self._ids,
                "version": len(self.store.rows),
                "notice": notice,
                "task": None if following is None else {"id": following, **shown(self.tasks[following])},
            }

    def act(self, action: str, task: str = "", label: str = "", version: int = -1) -> dict[str, Any]:
        """Do what a key asks for, and answer the new state.

        Args:
            version: that of the state which the page shows; an older one means that another tab went on.

        Raises:
            SteerkitError: there is no such action, task or label, or it can't be written; nothing is changed then.
        """
        with self._lock:
            stale = version != len(self.store.rows)
            if action in ("label", "skip"):
                return self._answer(action, task, label, stale)
            if action not in ("undo", "again"):
                raise SteerkitError(f"{action!r} is nothing that can be done here")
            place = self.store.undoable
            if stale:
                return self.state(ELSEWHERE)
            if action == "again":
                self.store.put("again", *filter(self.store.skipped, self.tasks.values()))
            elif place in self._ids:
                self.store.undo(self.tasks[self._ids[place]])
            return self.state()

    def _answer(self, action: str, name: str, label: str, stale: bool) -> dict[str, Any]:
        if name not in self.tasks:
            raise SteerkitError("this span is not among those to label; reload the page")
        task = self.tasks[name]
        before = self.store.label(task)
        if action == "skip":
            if before:
                return self.state(ELSEWHERE)  # a skip takes no label away
            self.store.put("skip", task)
        elif label not in [known for known, *_ in self.labels]:
            raise SteerkitError(f"{label!r} is not one of the labels")
        else:
            self.store.put("label", task, label=label)
        late = "You had labelled this span in another tab; the last label counts." if before else ELSEWHERE
        return self.state(late if stale else "")


def shown(task: Task) -> dict[str, Any]:
    """What the page is told of a task. Cut here: its characters are not the browser's UTF-16 units."""
    text, (_, start, end), (first, last) = task.text.text, task.place, task.context
    return {
        "parts": [text[:first], text[first:start], text[start:end], text[end:last], text[last:]],
        "prompt": task.text.prompt,
        "votes": list(task.votes),
    }
