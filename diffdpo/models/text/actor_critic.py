"""What PPO trains: a policy and, beside it, a network that says what each state is worth."""

from __future__ import annotations

from torch import Tensor, nn

from diffdpo.models.text.causal_lm import LogProbs
from diffdpo.models.text.reward_model import RewardNetwork


class ActorCritic(nn.Module):
    """One module, so that one optimiser and one wrapper hold both. The policy's parameters come first."""

    def __init__(self, policy: LogProbs, critic: RewardNetwork) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        completion: Tensor,
        *,
        temperature: float = 1.0,
        texts: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of every answer's tokens the log-probability, and the value of the state before it.

        Args:
            ids, mask, completion: [B, L], a `TextBatch`.
            temperature: divides the policy's logits; not those of the texts.
            texts: a `TextBatch` of plain texts.

        Returns:
            [B, L] float32, [B, L] float32, both 0 outside of the answers; and the texts' own log-probabilities.
        """
        logps = self.policy(ids, mask, completion, temperature=temperature)
        # The state that a token is chosen in is the one after the token before it.
        values = self.critic.values(ids, mask).roll(1, dims=1).masked_fill(~completion, 0.0)
        return logps, values, None if texts is None else self.policy(*texts)
