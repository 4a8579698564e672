import io

from rich.console import Console

from experiments.progress import Progress
from experiments.screen import clock

RECORD = {"step": 100, "loss": 1.25, "accuracy": 0.5, "sparsity": 0.41, "bad": "text"}


def shown(terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, soft_wrap=True)
    steps = {"dense": 400, "stepwise": 300}
    with Progress(steps, console=console) as bar:
        bar.start("dense", 0, 400, batch_size=32)
        bar.show(RECORD, 320.0)
        bar.show({**RECORD, "step": 110}, 320.0)
        bar.epoch({**RECORD, "epoch": 1.0, "test_accuracy": 0.625})
    return file.getvalue()


def test_plain_lines_come_now_and_then():
    assert shown(terminal=False).splitlines() == [
        "dense  25 % · step 100/400 · 320 images/s · loss 1.250 · accuracy 50.0 % · "
        "sparsity 0.41 · 0:30 (1:00 in all) left",
        "dense epoch 1 · loss 1.250 · accuracy 50.0 % · sparsity 0.41 · "
        "test accuracy 62.50 %",
    ]


def test_a_terminal_shows_every_update():
    text = shown(terminal=True)
    assert "step 100/400" in text
    assert "step 110/400" in text


def test_going_on_and_skipping_are_said():
    file = io.StringIO()
    bar = Progress({"dense": 400}, console=Console(file=file, soft_wrap=True))
    bar.start("dense", 120, 400, batch_size=32)
    bar.skip("dense")
    assert file.getvalue().splitlines() == [
        "dense: going on at step 120 of 400",
        "dense: finished before, loaded",
    ]


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3723)] == ["0:00", "1:00", "1:02:03"]
