"""Rewards score replies, in training and in evaluation alike: rules and trained models, described by YAML cards."""
