"""Prompts as chats, traces, spans; tokens and characters; importing and aligning annotations."""
