"""The name of the kind in adapter_config.json."""

KIND = "TRANSCODER"
