"""The source of plugins: loaded from local files, followed through imports, digested for keys."""
