"""Opening the page for an annotator, and what is said in the terminal."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from steerkit.annotate.server import Server
from steerkit.annotate.session import OTHER, Session
from steerkit.annotate.store import ADJUDICATED, Store, labels_of
from steerkit.annotate.tasks import Task, shuffled
from steerkit.data.trace import Span, read_rows
from steerkit.errors import SteerkitError
from steerkit.judging.taxonomy import load_taxonomy

IN_TERMINAL = {"www-browser", "links", "elinks", "lynx", "w3m", "browsh"}


def labels_for(run: Path, name: str) -> dict[str, str]:
    """A taxonomy's labels with their glosses, if they are those of the run.

    Raises:
        SteerkitError: there is no such taxonomy, or the run's spans have labels that it lacks.
    """
    taxonomy = dict(load_taxonomy(name))
    path = run / "spans.jsonl"
    used = {span.label for span in read_rows(path, Span)} if path.is_file() else set()
    missing = sorted(used - {*taxonomy, OTHER[0]})
    if missing:
        raise SteerkitError(
            f"{path}: has labels that the taxonomy {name!r} lacks ({', '.join(missing)}): no label by hand could agree "
            "with them; give --taxonomy a YAML file with a line `- label: gloss` for each"
        )
    return taxonomy


def serve(
    run: Path,
    name: str,
    tasks: Sequence[Task],
    taxonomy: dict[str, str],
    *,
    seed: int = 0,
    port: int = 0,
    open_page: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until it is finished there or interrupted here.

    Raises:
        SteerkitError: the annotator is at work in another process, has labels that the taxonomy lacks, or the port
            is taken.
    """
    with Store(run, name) as store:
        strange = sorted({row["label"] for row in labels_of(store.rows).values()} - {*taxonomy, OTHER[0]})
        if strange:
            raise SteerkitError(
                f"{store.path}: has labels that the taxonomy lacks: {', '.join(strange)}; give --taxonomy"
            )
        title = "Which label is right?" if name == ADJUDICATED else "What does the marked part do?"
        session = Session(store, shuffled(tasks, name, seed), taxonomy, title)
        with Server(session, port) as server:
            before = session.state()
            say(f"{before['labelled']} of {before['total']} labelled; every key is kept in {store.path}")
            say(f"open {server.url}\nthe link is good for one browser; end with Finish there or Ctrl-C here")
            if open_page:
                _open(server.url)
            try:
                server.serve_forever(poll_interval=0.1)
            except KeyboardInterrupt:
                say("")
        after = session.state()
        say(f"{after['labelled']} of {after['total']} labelled ({after['labelled'] - before['labelled']} now)")
        if after["labelled"] < after["total"]:
            say("the same command goes on where you were")
        say(f"write them to a file with: steerkit annotate {run} --export labels.jsonl")


def _open(url: str) -> None:
    """Open a browser beside the server; none that would take the terminal."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if Path(getattr(browser, "name", "")).name not in IN_TERMINAL:
        Thread(target=browser.open, args=(url,), daemon=True).start()
