"""The learned agent: graph encoder, recurrent partitioner and pipeline scheduler, trained together with PPO.

`DrlPlanner` plans; `pretrain` makes weights; `train_on_problem` trains on one problem with any source of rewards.
"""

from drlpp.agent.checkpoint import initial_policy, load_checkpoint, random_policy, save_checkpoint
from drlpp.agent.features import problem_view
from drlpp.agent.planner import DrlConfig, DrlPlanner
from drlpp.agent.policy import Policy, PolicyConfig
from drlpp.agent.ppo import PpoConfig
from drlpp.agent.pretrain import PretrainConfig, pretrain
from drlpp.agent.rollout import Rewarder
from drlpp.agent.train import TrainConfig, train_on_problem

__all__ = [
    "DrlConfig",
    "DrlPlanner",
    "Policy",
    "PolicyConfig",
    "PpoConfig",
    "PretrainConfig",
    "Rewarder",
    "TrainConfig",
    "initial_policy",
    "load_checkpoint",
    "pretrain",
    "problem_view",
    "random_policy",
    "save_checkpoint",
    "train_on_problem",
]
