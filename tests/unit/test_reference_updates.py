"""References come and go one by one, and nothing that is there is computed or opened again."""

import json
import multiprocessing
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from handmade_pack import REDS, handmade_configs, handmade_manager, plain

from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import InvalidValueError, ReferenceStoreError, UnknownNameError
from imagelab.reference_store import CharacterReferences, read_references, write_references
from imagelab.references import CharacterReferenceManager


def same(a, b):
    return a.provenance == b.provenance and np.array_equal(a.embeddings, b.embeddings)


def test_added_references_are_those_that_creating_all_at_once_gives(manager, folder):
    whole = manager.create_character_embedding("luca", folder / "given")
    manager.create_character_embedding("luca", [folder / "given" / "0.png"])
    added = manager.add_reference_images("luca", [folder / "given" / "1.png", folder / "given" / "2.png"])
    assert same(added, whole)
    assert same(manager.references("luca"), whole)
    assert np.array_equal(added.template, whole.template)


def test_removed_references_leave_those_that_creating_the_rest_gives(manager, folder):
    rest = manager.create_character_embedding("luca", [folder / "given" / f"{index}.png" for index in (0, 2)])
    manager.create_character_embedding("luca", folder / "given")
    removed = manager.remove_reference_images("luca", ["1.png"])
    assert same(removed, rest)
    assert same(manager.references("luca"), rest)


def test_the_pictures_that_are_there_need_not_exist_any_more(manager, folder):
    before = manager.create_character_embedding("luca", folder / "given")
    shutil.rmtree(folder / "given")
    added = manager.add_reference_images("luca", [plain((250, 10, 10))])
    assert np.array_equal(added.embeddings[:3], before.embeddings)
    assert added.names == ("0.png", "1.png", "2.png", "picture 0")
    assert np.array_equal(manager.remove_reference_images("luca", ["picture 0"]).embeddings, before.embeddings)


def test_a_configured_character_gets_a_store_when_a_reference_is_added(manager):
    assert len(manager.add_reference_images("luca", [plain((250, 10, 10))]).names) == 4
    assert manager.store_path("luca").is_file()


def test_a_reference_that_is_there_already_is_refused_under_any_name_and_in_any_format(manager, folder):
    manager.create_character_embedding("luca", folder / "given")
    before = manager.store_path("luca").read_bytes()
    plain(REDS[1]).save(folder / "copy.webp", lossless=True)
    for known in (folder / "given" / "1.png", folder / "copy.webp", plain(REDS[1])):
        with pytest.raises(ReferenceStoreError, match=r"the same as 1\.png"):
            manager.add_reference_images("luca", [plain((250, 10, 10)), known])
    assert manager.store_path("luca").read_bytes() == before


def test_two_references_of_one_file_name_can_be_told_apart(manager, folder):
    plain((250, 10, 10)).save(folder / "0.png")
    manager.create_character_embedding("luca", folder / "given")
    added = manager.add_reference_images("luca", [folder / "0.png", plain((240, 5, 5))])
    assert added.names[3:] == (f"{folder.name}/0.png", "picture 1")
    assert manager.remove_reference_images("luca", ["0.png"]).names == ("1.png", "2.png", *added.names[3:])


def test_an_unknown_reference_is_refused_with_the_nearest_name_and_none_is_removed(manager, folder):
    manager.create_character_embedding("luca", folder / "given")
    with pytest.raises(UnknownNameError, match=r"did you mean '1\.png'"):
        manager.remove_reference_images("luca", ["0.png", "1.pgn"])
    assert len(manager.references("luca").names) == 3


@pytest.mark.parametrize("names", [["0.png", "1.png", "2.png"], [], "0.png"])
def test_the_last_reference_cannot_be_removed(manager, folder, names):
    manager.create_character_embedding("luca", folder / "given")
    with pytest.raises(InvalidValueError, match="names"):
        manager.remove_reference_images("luca", names)
    assert len(manager.references("luca").names) == 3


def test_a_store_is_read_once_and_again_when_it_has_changed(manager, folder):
    manager.create_character_embedding("luca", folder / "given")
    path = manager.store_path("luca")
    before, stat = manager.references("luca"), path.stat()
    path.write_bytes(b"x" * stat.st_size)  # what reading it would stumble over, under the old stamp
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert same(manager.references("luca"), before)
    with pytest.raises(ValueError, match="read-only"):
        before.embeddings[0] = 0
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(ReferenceStoreError, match="damaged"):
        manager.references("luca")
    with handmade_manager(folder) as other:
        renewed = other.create_character_embedding("luca", [folder / "given" / "1.png"])
    assert same(manager.references("luca"), renewed)
    path.unlink()
    assert len(manager.references("luca").names) == 3  # the configured ones


def test_nothing_is_added_to_or_removed_from_a_stranger(manager, folder):
    for update in (manager.add_reference_images, manager.remove_reference_images):
        with pytest.raises(UnknownNameError, match="did you mean 'luca'"):
            update("lucca", [folder / "given" / "0.png"])
    assert not (folder / "store").exists()


def test_a_stale_store_is_not_added_to(manager, folder):
    references = manager.create_character_embedding("luca", folder / "given")
    other = replace(references.provenance.encoder, recogniser_sha256="0" * 64)
    stale = replace(references, provenance=replace(references.provenance, encoder=other))
    write_references(manager.store_path("luca"), stale)
    with pytest.raises(ReferenceStoreError, match="recogniser_sha256"):
        manager.add_reference_images("luca", [plain((250, 10, 10))])


def add_some(folder, first, barrier):
    """Add four references one by one: a process of its own."""
    with handmade_manager(folder) as manager:
        manager.references("luca")
        barrier.wait()
        for shade in range(first, first + 4):
            plain((200 + shade, 0, 0)).save(folder / f"{shade}.png")
            manager.add_reference_images("luca", [folder / f"{shade}.png"])


def test_two_processes_that_update_one_store_lose_no_update(manager, folder):
    manager.create_character_embedding("luca", folder / "given")
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    workers = [spawn.Process(target=add_some, args=(folder, first, barrier)) for first in (10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(250)
    assert [worker.exitcode for worker in workers] == [0, 0]
    names = manager.references("luca").names
    assert sorted(names[3:]) == sorted(f"{shade}.png" for first in (10, 20) for shade in range(first, first + 4))


def test_what_another_process_added_meanwhile_stays(manager, folder):
    """The store changes between the look at it and the update: what the lock is for."""
    manager.create_character_embedding("luca", [folder / "given" / "0.png"])
    faces = manager._reader.faces

    class Interrupted:
        """Finds faces, and before the first of them lets another manager add a picture."""

        encoder = manager.encoder
        pending = True

        def faces(self, picture):
            if self.pending:
                self.pending = False
                with handmade_manager(folder) as other:
                    other.add_reference_images("luca", [folder / "given" / "2.png"])
            return faces(picture)

    reader, manager._reader = manager._reader, Interrupted()
    try:
        assert manager.add_reference_images("luca", [folder / "given" / "1.png"]).names == ("0.png", "2.png", "1.png")
        manager._reader.pending = True
        manager.remove_reference_images("luca", ["2.png"])
        with pytest.raises(ReferenceStoreError, match=r"2\.png already"):
            manager.add_reference_images("luca", [folder / "given" / "2.png"])
    finally:
        manager._reader = reader


# --- the template


def test_with_the_template_max_the_nearest_reference_counts(manager):
    references = manager.create_character_embedding("luca", [plain("red"), plain("lime")], template="max")
    assert references.similarity(references.embeddings[1]) == pytest.approx(1)
    assert manager.check_character_consistency("luca", plain("lime")).similarity_score == pytest.approx(1)
    mean = manager.create_character_embedding("luca", [plain("red"), plain("lime")])
    assert mean.similarity(references.embeddings[1]) < 0.9


def test_the_template_medoid_is_one_of_the_references(manager):
    references = manager.create_character_embedding("luca", [plain("red"), plain("orange"), plain("yellow")], "medoid")
    assert np.array_equal(references.template, references.embeddings[1])
    assert np.array_equal(manager.references("luca").template, references.template)


def test_an_unknown_template_is_refused_before_anything_loads(folder):
    shutil.rmtree(folder / "face")
    with handmade_manager(folder) as manager, pytest.raises(UnknownNameError, match="did you mean 'medoid'"):
        manager.create_character_embedding("luca", folder / "given", template="mediod")


def test_auto_chooses_by_the_other_characters_and_again_when_references_come_or_go(manager, folder):
    alone = manager.create_character_embedding("giulia", [plain("lime"), plain("green")], template="auto")
    assert alone.provenance.template.kind == "mean"
    assert "against 3 references" in alone.provenance.template.why
    manager.create_character_embedding("alberto", [plain("blue")])
    added = manager.add_reference_images("giulia", [plain((10, 240, 10))]).provenance.template
    assert added.requested == "auto"
    assert "against 4 references" in added.why
    assert set(added.eer) == {"mean", "medoid", "max"}
    assert (folder / "store").is_dir()


def test_a_batch_is_judged_by_the_template_too(folder):
    with CharacterConsistencyChecker("cpu", "puppet", handmade_configs()) as checker:
        manager = CharacterReferenceManager(checker, folder / "store")
        references = manager.create_character_embedding("luca", [plain("red"), plain("lime")], template="max")
        (cosine,) = checker.check_batch([plain("lime")], references)
        (distance,) = checker.check_batch([plain("lime")], references, metric="euclidean")
    assert cosine.similarity_score == pytest.approx(1)
    assert distance.similarity_score == pytest.approx(0, abs=1e-3)


# --- what a store is known by, and what isn't one


def test_references_are_known_by_their_encoder_template_and_embeddings_alone(manager, folder):
    made = manager.create_character_embedding("luca", folder / "given")
    shutil.copytree(folder / "given", folder / "elsewhere")
    assert manager.create_character_embedding("luca", folder / "elsewhere").references_sha256 == made.references_sha256
    known = {
        made.references_sha256,
        manager.create_character_embedding("luca", folder / "given", "max").references_sha256,
        manager.remove_reference_images("luca", ["0.png"]).references_sha256,
        CharacterReferences.of(
            replace(made.provenance, encoder=replace(made.provenance.encoder, detector_size_px=(64, 64))),
            made.embeddings,
        ).references_sha256,
    }
    assert len(known) == 4


def test_a_store_of_the_first_schema_is_refused_with_the_fix(manager, folder):
    references = manager.create_character_embedding("luca", folder / "given")
    data = references.provenance.to_dict()
    del data["template"]
    kept = ("name", "sha256", "path")
    old = {**data, "schema_version": 1, "pictures": [{key: one[key] for key in kept} for one in data["pictures"]]}
    np.savez(manager.store_path("luca"), embeddings=references.embeddings, provenance=np.array(json.dumps(old)))
    with pytest.raises(ReferenceStoreError, match=r"schema_version was 1, is 3.*create_character_embedding again"):
        manager.references("luca")


def test_a_store_with_bytes_changed_at_random_is_read_rightly_or_refused(manager, folder):
    made = manager.create_character_embedding("luca", folder / "given")
    path = manager.store_path("luca")
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        for place in rng.integers(len(data), size=rng.integers(1, 9)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert same(read_references(path), made)
        except ReferenceStoreError:
            refused += 1
    assert refused > 100
