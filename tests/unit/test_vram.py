"""GPU memory is read where there is any, and is zero where there isn't."""

import subprocess
import sys

import pytest
import torch

from imagelab.character import CharacterGenerator
from imagelab.results import GenerationRequest
from imagelab.vram import VramReading, read_vram, release_memory, reset_peak


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_cpu_has_no_gpu_memory(device):
    reset_peak(device)
    assert read_vram(device) == VramReading(allocated_gib=0.0, reserved_gib=0.0, peak_gib=0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_every_reading_is_zero():
    reset_peak()
    release_memory()
    assert read_vram() == VramReading()


def test_a_reading_does_not_import_torch():
    script = "import sys; from imagelab.vram import *; read_vram(); release_memory(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_what_is_allocated_is_read_and_given_back():
    before = read_vram()
    block = torch.zeros(2**28, device="cuda")  # 1 GiB
    assert read_vram().allocated_gib == pytest.approx(before.allocated_gib + 1, abs=0.01)
    del block
    release_memory()
    after = read_vram(torch.device("cuda"))
    assert after.allocated_gib == pytest.approx(before.allocated_gib, abs=0.01)
    assert after.peak_gib >= before.allocated_gib + 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_record_tells_the_peak_of_its_picture(configs):
    with CharacterGenerator(profile="puppet", configs=configs) as generator:
        generator.load()
        loaded_gib = generator.vram().allocated_gib
        record = generator.generate(GenerationRequest(character=None, scene_description="the sea", steps=2)).record
        assert 0 < loaded_gib < record.peak_vram_gib == generator.vram().peak_gib
    assert generator.vram().allocated_gib < loaded_gib


def test_a_picture_that_a_cpu_draws_takes_no_gpu_memory(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        request = GenerationRequest(character=None, scene_description="the sea", steps=2)
        assert generator.generate(request).record.peak_vram_gib == 0
        assert generator.vram() == VramReading()
