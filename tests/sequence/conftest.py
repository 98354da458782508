"""A folder of its own for the finished clips of every test, and a record of what is really sampled."""

import folder_paths
import pytest
from generative_inbetweening.sequence import run as sequence_run


@pytest.fixture(autouse=True)
def output(tmp_path):
    """The folder of finished clips; it is made when the first one is written."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path / "output" / sequence_run.FOLDER
    folder_paths.set_output_directory(before)


@pytest.fixture
def sampled(monkeypatch) -> list[tuple[int, int]]:
    """(frames, seed) of every clip that is really sampled."""
    clips, original = [], sequence_run.dual_direction_ksampler

    def watched(model, positive, negative, latent, seed, *rest):
        clips.append((len(latent["samples"]), seed))
        return original(model, positive, negative, latent, seed, *rest)

    monkeypatch.setattr(sequence_run, "dual_direction_ksampler", watched)
    return clips
