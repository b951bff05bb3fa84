"""The learned agent: graph encoder, recurrent partitioner and pipeline scheduler, trained together with PPO.

`DrlPlanner` plans; `pretrain` makes weights; `train_on_problem` trains on one problem with any source of rewards.
"""

from drlpp.agent.networks.policy import Policy, PolicyConfig
from drlpp.agent.networks.weights_file import initial_policy, load_checkpoint, random_policy, save_checkpoint
from drlpp.agent.planner.planner import DrlConfig, DrlPlanner
from drlpp.agent.sampling.rollout import Rewarder
from drlpp.agent.training.fine_tune import TrainConfig, train_on_problem
from drlpp.agent.training.ppo import PpoConfig
from drlpp.agent.training.pretrain import PretrainConfig, pretrain
from drlpp.agent.view.features import problem_view

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
