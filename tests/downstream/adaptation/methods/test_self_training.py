"""The mean teacher: ramp, statistics, pseudo-labels; and masked views for the student."""

import copy
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import nn

from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.methods.batchnorm import set_bn_mode, use_domain
from downstream.adaptation.methods.self_training import SelfTraining, Teacher, masked_view
from downstream.network.segmenter import Segmenter


def weight(model: nn.Module) -> float:
    return float(cast(torch.Tensor, model.weight).detach())


def student_of(value: float) -> nn.Conv2d:
    student = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(student.weight, value)
    return student


def test_at_first_the_teacher_is_the_mean_of_its_students() -> None:
    teacher = Teacher(student_of(100.0), 0.999)
    for count, value in enumerate((1.0, 3.0, 8.0), 1):
        teacher.update(student_of(value))
        assert weight(teacher.model) == pytest.approx([1.0, 2.0, 4.0][count - 1])


def test_the_ramp_ends_at_alpha() -> None:
    teacher = Teacher(student_of(0.0), 0.75)
    for _ in range(4):  # 1 - 1 / (t + 1) reaches 0.75 at t = 3
        teacher.update(student_of(0.0))
    for expected in (0.25, 0.4375):
        teacher.update(student_of(1.0))
        assert weight(teacher.model) == pytest.approx(expected)


def test_the_student_neither_changes_nor_gets_gradients() -> None:
    student = student_of(2.0)
    teacher = Teacher(student, 0.9)
    teacher.update(student)
    labels, _ = teacher.pseudo_labels(torch.randn(1, 1, 2, 2), 0.9)
    assert weight(student) == 2.0 and not labels.requires_grad
    assert student.weight.requires_grad and not next(teacher.model.parameters()).requires_grad


def test_other_buffers_follow_and_counts_are_copied() -> None:
    student = nn.Conv2d(1, 1, 1)
    student.register_buffer("scale", torch.zeros(1))
    student.register_buffer("count", torch.tensor(0))
    teacher = Teacher(student, 0.5)
    teacher.update(student)
    student.scale += 1  # type: ignore[operator]
    student.count += 5  # type: ignore[operator]
    teacher.update(student)
    assert teacher.model.scale == 0.5 and teacher.model.count == 5


def norms() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.9), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_the_teachers_statistics_are_of_the_images_that_it_labels() -> None:
    student = norms()
    set_bn_mode(student, "domain")
    teacher = Teacher(student, 0.5)
    source, target = torch.randn(4, 3, 4, 4), torch.randn(4, 3, 4, 4) + 5
    student.train()
    with use_domain(student, "source"):
        student(source)
    student(target * 0)  # a masked view
    teacher.update(student)
    teacher.pseudo_labels(target, 0.9)
    expected = nn.BatchNorm2d(4)
    expected(student[1](target))
    mine, theirs = teacher.model.get_submodule("2"), student[2]
    assert torch.allclose(
        cast(torch.Tensor, mine.running_mean), cast(torch.Tensor, expected.running_mean), atol=1e-6
    )
    assert torch.equal(cast(torch.Tensor, mine.source_mean), cast(torch.Tensor, theirs.source_mean))
    assert mine.num_batches_tracked == mine.source_batches == 1


def test_frozen_statistics_stay_with_the_teacher_too() -> None:
    student = norms()
    set_bn_mode(student, "frozen")
    teacher = Teacher(student, 0.5)
    teacher.update(student)
    before = copy.deepcopy(teacher.model.state_dict())
    teacher.pseudo_labels(torch.randn(4, 3, 4, 4) + 5, 0.9)
    assert all(torch.equal(value, before[n]) for n, value in teacher.model.state_dict().items())


def test_each_image_weighs_by_its_own_sure_pixels() -> None:
    identity = nn.Conv2d(2, 2, 1, bias=False)
    identity.weight.data = torch.eye(2).reshape(2, 2, 1, 1)
    p = torch.tensor([[0.97, 0.96, 0.02, 0.49], [0.9, 0.9, 0.9, 0.9]]).reshape(2, 2, 2)
    logits = torch.stack([(1 - p).log(), p.log()], 1)
    teacher = Teacher(identity, 0.9)
    labels, shares = teacher.pseudo_labels(logits, 0.968)
    assert labels[0].tolist() == [[1, 1], [0, 0]]
    assert shares.tolist() == [0.5, 0.0]
    counted = torch.tensor([[[True, True], [False, False]]] * 2)
    assert teacher.pseudo_labels(logits, 0.968, counted)[1].tolist() == [0.5, 0.0]
    counted[0, 0, 1] = False
    assert teacher.pseudo_labels(logits, 0.968, counted)[1].tolist() == [1.0, 0.0]


def test_blocks_are_hidden_whole_and_all_else_is_unchanged() -> None:
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)) + 1
    view, again, other = (
        masked_view(images, 16, 0.5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(view, again) and not torch.equal(view, other)
    hidden = view == 0
    assert torch.equal(view[~hidden], images[~hidden])
    for top in range(0, 40, 16):
        for left in range(0, 56, 16):
            blocks = hidden[:, :, top : top + 16, left : left + 16].flatten(1)
            assert ((blocks.all(1)) | (~blocks.any(1))).all()


@pytest.mark.parametrize("ratio", [0.0, 0.7, 1.0])
def test_the_hidden_fraction_is_the_ratio(ratio: float) -> None:
    view = masked_view(torch.ones(100, 1, 64, 64), 4, ratio, torch.Generator().manual_seed(0))
    tolerance = 4 * (ratio * (1 - ratio) / (100 * 256)) ** 0.5  # four sigma
    assert abs(float((view == 0).float().mean()) - ratio) <= tolerance


def test_four_of_five_views_are_jittered_depending_on_the_step(config: AdaptConfig) -> None:
    segmenter = Segmenter(nn.Conv2d(3, 2, 1), (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))
    method = SelfTraining(replace(config, mask_ratio=0.0), segmenter, 2)
    images = torch.full((500, 3, 8, 8), 200, dtype=torch.uint8)  # flat: blur changes nothing
    views = [method.student_view(images, step) for step in (0, 0, 1)]
    changed = (views[0] != segmenter.normalise(images)).flatten(1).any(1).float().mean()
    # One factor in 80 of 0.8 to 1.2 rounds to no change; four sigma.
    assert float(changed) == pytest.approx(0.8 * 79 / 80, abs=4 * (0.8 * 0.2 / 500) ** 0.5)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
