"""What `--judge` means: a language model asked in words, a reward model, or a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.benchmarks.text.judges import TextJudge


def check_judge(source: str) -> dict[str, Any]:
    """What decides of the judge, JSON values. Loads nothing, asks nobody.

    Raises:
        UserError: no such reward model or program.
        ScorerError: options of a language model that make no sense, or its key is not in the environment.
    """
    if _is_options(source):
        from diffdpo.benchmarks.text.llm_judge import read_llm_options
        from scorers.chat.options import read_key

        options = read_llm_options(Path(source))
        read_key(options.api_key_env, options.who)
        kept = ("model", "endpoint", "seed", "max_tokens", "request", "question")
        return {name: getattr(options, name) for name in kept}
    from diffdpo.commands.language_models import content
    from diffdpo.commands.rewards import check_reward

    check_reward(source)
    return {"reward": content(source)}


def open_judge(source: str, device: Any) -> TextJudge:
    """The judge itself.

    Raises:
        UserError, ScorerError: as `check_judge`.
    """
    if _is_options(source):
        from diffdpo.benchmarks.text.llm_judge import LlmJudge, read_llm_options

        return LlmJudge(read_llm_options(Path(source)))
    from diffdpo.benchmarks.text.judges import ScoreJudge
    from diffdpo.commands.rewards import open_reward

    return ScoreJudge(source, open_reward(source, device))


def _is_options(source: str) -> bool:
    return source.endswith(".json")
