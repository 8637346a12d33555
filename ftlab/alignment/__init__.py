"""From preferences to better answers: reward models, DPO and its family, PPO, GRPO, judges.

``preference`` trains on pairs and labels, ``rollouts`` and ``ppo`` on the model's own answers;
``rewards`` and ``judges`` score answers, ``contests`` compares two models by them. Taught in
notebooks/12_reward_model_and_ppo.ipynb, 13_dpo.ipynb and 14_preference_family.ipynb.
"""
