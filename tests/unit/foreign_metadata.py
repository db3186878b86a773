"""Metadata as other programs write it, made by hand in their forms."""

import json

A1111 = (
    "a boy on the beach, (smiling:1.2) <lora:luca:0.8> <lora:town:0.5:0.25>\nwaving\n"
    "Negative prompt: blurry,\nlow quality\n"
    "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1234567890123, Size: 832x1216, "
    "Model hash: 31e35c80fc, Model: sd_xl_base_1.0, VAE hash: 63aeecb90f, Denoising strength: 0.4, Clip skip: 2, "
    'Hires upscale: 1.5, ControlNet 0: "Module: canny, Model: control_canny [a1b2c3d4], Weight: 0.7, '
    "Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, "
    'Guidance End: 0.9, Pixel Perfect: True, Control Mode: Balanced", '
    'Lora hashes: "luca: 0123456789ab, town: ba9876543210", Version: v1.10.1, '
    'Hashes: {"model": "31e35c80fc", "lora:luca": "aaaaaaaaaa"}'
)
OLD_A1111 = "a boy\nSteps: 20, Sampler: DPM++ SDE Karras, CFG scale: 7.5, Seed: 1, Size: 512x768, Model hash: 45dee52b"
FORGE = (
    "a boy\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 5, "
    "Size: 1024x1024, Model hash: 31e35c80fc, Model: flux1-dev, Version: f2.0.1v1.10.1-previous-669-gdfdcbab6"
)

COMFYUI = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42, "steps": 25, "cfg": 6.5, "sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "karras",
            "denoise": 1.0, "model": ["11", 0], "positive": ["12", 0], "negative": ["12", 1], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl/sd_xl_base_1.0.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["20", 0], "clip": ["11", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["11", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["30", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "luca.safetensors", "strength_model": 0.8, "strength_clip": 0.6,
            "model": ["4", 0], "clip": ["4", 1],
        },
    },
    "11": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "sub\\town.safetensors", "strength_model": 0.5, "strength_clip": 0.5,
            "model": ["10", 0], "clip": ["10", 1],
        },
    },
    "12": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {
            "strength": 0.7, "start_percent": 0.0, "end_percent": 0.9, "positive": ["6", 0], "negative": ["7", 0],
            "control_net": ["13", 0], "image": ["14", 0],
        },
    },
    "13": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "control_canny.safetensors"}},
    "14": {"class_type": "LoadImage", "inputs": {"image": "edges.png", "upload": "image"}},
    "20": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a boy on the beach"}},
    "30": {  # the second pass, on what the first one left
        "class_type": "KSampler",
        "inputs": {
            "seed": 43, "steps": 10, "cfg": 5.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
            "denoise": 0.4, "model": ["11", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["31", 0],
        },
    },
    "31": {"class_type": "LatentUpscale", "inputs": {"width": 2048, "height": 1536, "samples": ["3", 0]}},
}  # fmt: skip
COMFYUI_IN_PARTS = {  # the sampler's settings in nodes of their own, with SDXL's two texts
    "1": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["2", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0], "latent_image": ["6", 0],
        },
    },
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 18446744073709551615}},
    "3": {
        "class_type": "CFGGuider",
        "inputs": {"cfg": 4.5, "model": ["7", 0], "positive": ["8", 0], "negative": ["9", 0]},
    },
    "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "uni_pc"}},
    "5": {
        "class_type": "BasicScheduler", "inputs": {"scheduler": "beta", "steps": 12, "denoise": 1, "model": ["7", 0]},
    },
    "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 640, "height": 640, "batch_size": 1}},
    "7": {"class_type": "UNETLoader", "inputs": {"unet_name": "model.gguf", "weight_dtype": "default"}},
    "8": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a boy", "text_l": "beach", "clip": ["10", 0]}},
    "9": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["8", 0]}},
    "10": {"class_type": "CLIPLoader", "inputs": {"clip_name": "clip.safetensors", "type": "sdxl"}},
}  # fmt: skip

INVOKEAI = {
    "app_version": "5.6.0",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a boy on the beach",
    "negative_prompt": "blurry",
    "width": 1024,
    "height": 768,
    "seed": 77,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "a-key", "hash": "blake3:0a1b", "name": "sd_xl_base_1.0", "base": "sdxl", "type": "main"},
    "loras": [
        {"model": {"key": "b", "hash": "blake3:2c3d", "name": "luca", "base": "sdxl", "type": "lora"}, "weight": 0.75}
    ],
    "controlnets": [
        {
            "control_model": {"key": "c", "hash": "blake3:4e5f", "name": "canny", "base": "sdxl", "type": "controlnet"},
            "control_weight": 0.7,
            "begin_step_percent": 0,
            "end_step_percent": 0.9,
            "image": {"image_name": "x.png"},
        }
    ],
}

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689",
    "full_negative_prompt": ["blurry", "worst quality"],
    "full_prompt": ["a boy on the beach", "cinematic still"],
    "guidance_scale": 4.0,
    "lora_combined_1": "luca : 0.5",
    "loras": [["luca", 0.5, "0123456789"]],
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "a boy on the beach",
    "refiner_model": "None",
    "resolution": "(896, 1152)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "8246342147951211421",
    "sharpness": 2.0,
    "steps": 30,
    "styles": "['Fooocus V2', 'Fooocus Enhance']",
    "version": "Fooocus v2.5.5",
}
FOOOCUS_A1111 = (
    "a boy on the beach, cinematic still\nNegative prompt: blurry, worst quality\n"
    "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 8246342147951211421, Size: 896x1152, CFG scale: 4, Sharpness: 2, "
    'ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL_v8Rundiffusion, Model hash: aeb7e9e689, Performance: Speed, '
    "Scheduler: karras, VAE: Default (model), Raw prompt: a boy on the beach, Raw negative prompt: blurry, "
    'Lora hashes: "luca: 0123456789", Lora weights: "luca: 0.5", Version: Fooocus v2.5.5'
)

SWARMUI = {
    "sui_image_params": {
        "prompt": "a boy on the beach",
        "negativeprompt": "blurry",
        "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "seed": "123",
        "steps": 20,
        "cfgscale": "7.0",
        "aspectratio": "4:3",
        "width": 1152,
        "height": 896,
        "sampler": "euler_ancestral",
        "scheduler": "sgm_uniform",
        "loras": ["chars/luca"],
        "loraweights": ["0.8"],
        "controlnetmodel": "canny.safetensors",
        "controlnetstrength": "0.7",
        "swarm_version": "0.9.8.0",
    },
    "sui_extra_data": {"date": "2026-01-02", "generation_time": "1.00 (prep) and 4.84 (gen) seconds"},
    "sui_models": [
        {"name": "OfficialStableDiffusion/sd_xl_base_1.0.safetensors", "param": "model", "hash": "0x1234567890ab"},
        {"name": "chars/luca.safetensors", "param": "loras", "hash": "0xfeedbeef"},
    ],
}

# {writer and form: the texts of the picture}
SAMPLES = {
    "a1111": {"parameters": A1111},
    "forge": {"parameters": FORGE},
    "comfyui": {"prompt": json.dumps(COMFYUI), "workflow": json.dumps({"nodes": [], "links": []})},
    "invokeai": {"invokeai_metadata": json.dumps(INVOKEAI), "invokeai_graph": "{}"},
    "fooocus": {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"},
    "fooocus, scheme a1111": {"parameters": FOOOCUS_A1111, "fooocus_scheme": "a1111"},
    "swarmui": {"parameters": json.dumps(SWARMUI, indent=2)},
}
