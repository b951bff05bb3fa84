"""How a group shares the ops of a graph: what a member computes and holds, and what members exchange."""

from drlpp.cost.sharding.choice import repriced, shard
from drlpp.cost.sharding.sharded import Move, ShardedGraph

__all__ = ["Move", "ShardedGraph", "repriced", "shard"]
