"""Transformer blocks whose attention is PyTorch's fused one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, P, width) (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # Three parts, not one permuted tensor: their gradients are put side by side by one copy in place of three.
        parts = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(*parts)  # of [B, heads, P, d] each
        return self.project(mixed.transpose(1, 2).flatten(2))

    def weights(self, tokens: Tensor) -> Tensor:
        """How much each of the tokens (B, P, width) looks at each, (B, heads, P, P); a row adds up to 1."""
        query, key, _ = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)


class DropPath(nn.Module):
    """A residual branch is left out for a share of the samples in training, and what stays is scaled up (Huang et al. 2016)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return branch
        # Random numbers of the CPU, whose state a checkpoint holds.
        kept = torch.rand(len(branch), 1, 1, dtype=torch.float32, device="cpu").to(branch.device) >= self.share  # [B, 1, 1]
        return branch * (kept / (1 - self.share)).to(branch.dtype)

    def extra_repr(self) -> str:
        return f"share={self.share:g}"


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside a residual path."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.attention_norm(tokens)))
        return tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))

    def weights(self, tokens: Tensor) -> Tensor:
        """Of its attention, (B, heads, P, P)."""
        return self.attention.weights(self.attention_norm(tokens))


def make_blocks(width: int, depth: int, heads: int, mlp_ratio: int, drop_path: float = 0.0) -> nn.Sequential:
    """``depth`` blocks; the share that ``DropPath`` leaves out grows linearly from 0 to ``drop_path`` at the last."""
    shares = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
    return nn.Sequential(*(Block(width, heads, mlp_ratio, share) for share in shares))


def initialize_linear_(module: nn.Module) -> None:
    """Xavier's uniform weights and biases of 0 in every linear layer and every patch embedding."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
