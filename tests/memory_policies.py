"""Configurations with another memory policy for the puppets."""

import dataclasses


def with_memory(configs, **changes):
    """Return the configurations with fields of the puppet profile's `memory` changed."""
    profile = configs.profile("puppet")
    memory = profile.memory.model_copy(update=changes)
    profiles = configs.sdxl.profiles | {"puppet": profile.model_copy(update={"memory": memory})}
    return dataclasses.replace(configs, sdxl=configs.sdxl.model_copy(update={"profiles": profiles}))
