"""Training of a policy: corpus, imitation, PPO, and fine-tuning on one problem."""
