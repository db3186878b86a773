"""Configurations with another memory policy for the puppets."""


def with_memory(configs, **changes):
    """Return the configurations with fields of the puppet profile's `memory` changed."""
    profile = configs.profile("puppet")
    return configs.with_profile(profile.model_copy(update={"memory": profile.memory.model_copy(update=changes)}))
