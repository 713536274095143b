"""model.safetensors is a state_dict that PyTorch loads, and its accuracy there is the trainer's."""

import pytest
import reference
import safetensors
import torch

from support import idx, trainer


@pytest.mark.parametrize("evaluation", ["running", "recomputed"])
def test_loads_strictly_and_scores_the_same(mnist_dir, tmp_path, evaluation):
    run = trainer.train(tmp_path / "run", {
        "data.dir": mnist_dir, "data.limit": 6000, "train.epochs": 1, "norm.eval": evaluation,
        "norm.batch": 64}, ranks=2)
    model = reference.build(run.config)
    model.load_state_dict(run.state, strict=True)
    with safetensors.safe_open(run.folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}

    images, labels = (idx.read(mnist_dir / f"{name}.gz") for name in idx.NAMES[2:])
    with torch.no_grad():
        answers = model.eval()(reference.scaled(images, run.config)).argmax(1)
    correct = int((answers.numpy() == labels).sum())
    assert 8000 < correct < 10000
    assert run.rows[-1]["val_accuracy"] * len(labels) == pytest.approx(correct, abs=1e-6)
