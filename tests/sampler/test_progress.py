"""The progress of a run counts evaluations."""

from generative_inbetweening.sampler.progress import EvaluationProgress


def test_progress_learns_what_a_step_costs():
    seen = []

    def callback(done, x0, x, total):
        seen.append((done + 1, total))

    with EvaluationProgress(callback, steps=3, quiet=True) as progress:
        for _ in range(3):
            progress.evaluated(None, None)
            progress.evaluated(None, None)
            progress.stepped(None, None)
    assert seen[0] == (1, 3) and seen[-1] == (6, 6)
    assert all(total == 6 for _, total in seen[1:])
