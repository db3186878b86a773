"""What A1111 calls the samplers and noise schedules that other programs know by names of their own."""

# k-diffusion's names, as ComfyUI, SwarmUI and Fooocus use them.
_SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "dpm_adaptive": "DPM adaptive",
    "dpm_fast": "DPM fast",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "heunpp2": "HeunPP2",
    "ipndm": "IPNDM",
    "lcm": "LCM",
    "lms": "LMS",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    # InvokeAI's, where they differ
    "deis": "DEIS",
    "dpmpp_2s": "DPM++ 2S",
    "euler_a": "Euler a",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "pndm": "PNDM",
    "tcd": "TCD",
    "unipc": "UniPC",
    # and before its version 3
    "k_dpm_2": "DPM2",
    "k_dpm_2_a": "DPM2 a",
    "k_dpmpp_2": "DPM++ 2M",
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_heun": "Heun",
    "k_lms": "LMS",
    "plms": "PLMS",
}
_SCHEDULES = {
    "beta": "Beta",
    "ddim_uniform": "DDIM",
    "exponential": "Exponential",
    "karras": "Karras",
    "kl_optimal": "KL Optimal",
    "normal": "Normal",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
}
_IN_ONE_NAME = ("Karras", "Exponential", "Polyexponential")  # of A1111 before 1.9: "DPM++ 2M Karras"


def sampler_name(name: str | None) -> str | None:
    """Return A1111's name of a sampler, or the given one where A1111 has none."""
    if name is None:
        return None
    # k-diffusion's functions are called so, and ComfyUI's samplers were at first; "_gpu" says where the noise is made.
    return _SAMPLERS.get(name.removeprefix("sample_").removesuffix("_gpu"), name)


def schedule_name(name: str | None) -> str | None:
    """Return A1111's name of a noise schedule, or the given one where A1111 has none."""
    return None if name is None else _SCHEDULES.get(name, name)


def split_sampler(name: str) -> tuple[str, str | None]:
    """Take the schedule out of a sampler's name, InvokeAI's `dpmpp_2m_k` included.

    >>> split_sampler("DPM++ 2M SDE Karras"), split_sampler("dpmpp_2m_k")
    (('DPM++ 2M SDE', 'Karras'), ('DPM++ 2M', 'Karras'))
    """
    first, _, last = name.rpartition(" ")
    if last in _IN_ONE_NAME:
        return first, last
    if name.endswith("_k") and name.removesuffix("_k") in _SAMPLERS:
        return _SAMPLERS[name.removesuffix("_k")], "Karras"
    return sampler_name(name) or name, None
