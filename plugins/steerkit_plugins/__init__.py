"""The built-in plugins, one method a file. They reach the core through entry points, like a stranger's do."""
