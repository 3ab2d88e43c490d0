"""`vlm-judge`: any vision-language model as a scorer, local or behind a chat-completions endpoint."""
