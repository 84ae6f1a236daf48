"""Labels by people: what is shown (`tasks`), what is kept (`store`), a local page (`session`, `server`, `page/`)."""
