"""The passes as recipes of launches, eight a step.

Forward: prepare, search, group, smooth columns, attraction; backward: spread, project. Where batch and map are small, prepare,
search, weights, attraction; pull, project. Before them the Gaussian of the neighborhood.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from vitsom_fast.kernels.dense import attraction as dense_attraction
from vitsom_fast.kernels.dense import gradients as dense_gradients
from vitsom_fast.kernels.dense.weights import weigh_units
from vitsom_fast.kernels.factorised import attraction, gradients
from vitsom_fast.kernels.factorised.group import group
from vitsom_fast.kernels.factorised.smooth import smooth_columns
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.configs import Config
from vitsom_fast.kernels.launch.device import family, multiprocessors
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.search.certified import search_certified
from vitsom_fast.kernels.search.distance import distance
from vitsom_fast.kernels.search.prepare import Operands, prepare
from vitsom_fast.kernels.search.search import plan_search, search
from vitsom_fast.kernels.search.squared import prepare_squared, squared_distance

from vitsom_fast.kernels import context as contexts


class Choice(NamedTuple):
    """What a user may choose of the search; in hashable form, as plans are kept by it."""

    certified: bool = False
    config: Config | None = None  # None: the fixed one


def find_bmu(recording: Recording, z: Buffer, prototypes: Buffer, choice: Choice) -> None:
    """Results: BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    inverses = (recording.temporary((x.shape[0],), torch.float32) for x in (z, prototypes))
    inverse_z, inverse_prototypes = inverses
    row_keys, _, _ = _search(recording, z, prototypes, inverse_z, inverse_prototypes, choice)
    distance(recording, z, prototypes, inverse_z, inverse_prototypes, row_keys)


def find_nearest(recording: Recording, z: Buffer, prototypes: Buffer, choice: Choice) -> None:
    """Results: BMU (B,) int64 and squared Euclidean distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    (batch, dim), count = z.shape, prototypes.shape[0]
    config = choice.config or configs.search(family(z.device), True, batch, count, dim, multiprocessors(z.device))
    plan = plan_search(config, batch, count, dim, z.device)
    row_keys = recording.temporary((batch,), torch.int64)
    tickets = recording.temporary((plan.num_tickets,), torch.int32)
    operands, bias = prepare_squared(recording, z, prototypes, row_keys, tickets)
    if choice.certified:
        search_certified(recording, operands, row_keys, bias)
    else:
        search(recording, plan, operands, row_keys, tickets, bias)
    squared_distance(recording, z, prototypes, row_keys)


def forward(
    recording: Recording,
    z: Buffer,
    prototypes: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    scale: float,
    choice: Choice,
) -> None:
    """Results: loss () fp32, BMU (B,) int64, attraction (B, D) fp32, and the context."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    loss = recording.result((), torch.float32)
    bmu = recording.result((batch,), torch.int64)
    attracted = recording.result((batch, dim), torch.float32)
    kept = recording.result((contexts.size(batch, rows, cols),), torch.float32)
    context = contexts.parts(kept, batch, rows, cols)
    factor_sums = recording.temporary((terms * (rows + cols),), torch.float64)
    centre = recording.temporary((dim,), torch.float32)

    row_keys, operands, ticket = _search(recording, z, prototypes, context.inverse_z, context.inverse_prototypes, choice)
    latents = z, context.inverse_z, operands.rest_z
    map_ = prototypes, context.inverse_prototypes, operands.rest_prototypes
    surveyed = row_keys, prototypes, context.inverse_prototypes, row_factors, col_factors, bmu
    if context.weights is not None:
        weigh_units(recording, *surveyed, context.weights, factor_sums, centre)
        dense_attraction.attraction_and_loss(
            recording,
            *latents,
            *map_,
            factor_sums,
            centre,
            bmu,
            context.weights,
            ticket,
            attracted,
            loss,
            scale,
            (terms, rows, cols),
        )
    else:
        group(recording, *surveyed, context.order, context.starts, factor_sums, centre)
        smoothed = smooth_columns(recording, *map_, centre, col_factors)
        attraction.attraction_and_loss(
            recording,
            *latents,
            context.inverse_prototypes,
            row_factors,
            factor_sums,
            centre,
            smoothed,
            bmu,
            context.order,
            ticket,
            attracted,
            loss,
            scale,
        )


def backward(
    recording: Recording,
    grad_loss: Buffer,
    z: Buffer,
    prototypes: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    bmu: Buffer,
    attracted: Buffer,
    context: Buffer,
    scale: float,
    for_z: bool,
    for_prototypes: bool,
) -> None:
    """Results: gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    kept = contexts.parts(context, z.shape[0], row_factors.shape[1], col_factors.shape[1])
    inputs = grad_loss, z, prototypes, kept.inverse_z, kept.inverse_prototypes
    wanted = scale, for_z, for_prototypes
    if kept.weights is not None:
        dense_gradients.gradients(recording, *inputs, kept.weights, attracted, *wanted)
    else:
        gradients.gradients(recording, *inputs, row_factors, col_factors, bmu, kept.order, kept.starts, attracted, *wanted)


def _search(
    recording: Recording, z: Buffer, prototypes: Buffer, inverse_z: Buffer, inverse_prototypes: Buffer, choice: Choice
) -> tuple[Buffer, Operands, Buffer]:
    """Keys of the BMUs (B,) int64, the operands, and a ticket (1,) int32 that is zero. Fills in the inverses of the lengths."""
    (batch, dim), count, split = z.shape, prototypes.shape[0], z.dtype == torch.float32
    config = choice.config or configs.search(family(z.device), split, batch, count, dim, multiprocessors(z.device))
    plan = plan_search(config, batch, count, dim, z.device)
    row_keys = recording.temporary((batch,), torch.int64)
    tickets = recording.temporary((plan.num_tickets + 1,), torch.int32)
    operands = prepare(recording, z, prototypes, inverse_z, inverse_prototypes, row_keys, tickets)
    if choice.certified and split:
        search_certified(recording, operands, row_keys)
    else:
        search(recording, plan, operands, row_keys, tickets)
    return row_keys, operands, tickets.part(plan.num_tickets, (1,), torch.int32)
