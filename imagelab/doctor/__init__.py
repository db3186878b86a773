"""Can this machine run a profile? Every check says what it found and, where something is wrong, what to do."""

from imagelab.config import Configs, load_configs
from imagelab.doctor.memory import check_memory
from imagelab.doctor.report import Check, Report
from imagelab.doctor.software import check_software, read_vram_gib
from imagelab.errors import ConfigError

__all__ = ["Check", "Report", "examine"]


def examine(profile: str | None = None) -> Report:
    """Look at this machine, for a profile (None: the default one).

    Raises UnknownNameError for a profile that doesn't exist; everything else that is wrong is in the report.
    """
    software = tuple(check_software())
    try:
        configs = load_configs()
    except ConfigError as error:
        fix = "Correct these lines, or set IMAGELAB_CONFIGS to a folder with the four files"
        broken = Check(name="configuration", status="problem", found=str(error), fix=fix)
        return Report(profile=profile or "default", checks=(*software, broken))
    chosen = configs.profile(profile)
    from imagelab.doctor.weights import check_models  # after torch: it brings the CUDA libraries of onnxruntime

    vram_gib = read_vram_gib()
    checks = (
        *software,
        _configuration(configs),
        *check_memory(chosen, vram_gib),
        *check_models(configs, chosen, vram_gib),
    )
    return Report(profile=chosen.name, checks=checks)


def _configuration(configs: Configs) -> Check:
    counts = {
        "profiles": len(configs.sdxl.profiles),
        "LoRAs": len(configs.lora_registry.loras),
        "characters": len(configs.character_presets.characters),
    }
    found = ", ".join(f"{count} {what}" for what, count in counts.items())
    return Check(name="configuration", status="ok", found=f"valid: {found}", details=counts)
