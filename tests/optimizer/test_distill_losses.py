"""Each loss against a plain loop in float64 over texts of different lengths: value, gradient, padding, halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bantam.errors import StageError
from optimizer.distill import losses

LENGTHS = (5, 2, 4, 1)
BATCH, TOKENS, HEADS, LABELS = len(LENGTHS), max(LENGTHS), 2, 3
MASK = (torch.arange(TOKENS) < torch.tensor(LENGTHS)[:, None]).double()
PROJECTION = nn.Linear(4, 6, dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Of two vectors of probabilities, by its definition."""
    return sum((t * torch.log(t / s) for t, s in zip(teacher, student, strict=True)), torch.zeros(()))


def softmax(scores: list[Tensor]) -> Tensor:
    powers = [torch.exp(score) for score in scores]
    return torch.stack([power / sum(powers) for power in powers])


def rows_of(queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Softmax of the scaled products of each query with all keys, ``[tokens, size]`` each, without padding."""
    return [softmax([(q * k).sum() / math.sqrt(len(q)) for k in keys]) for q in queries]


def plain_divergence(teacher: list[list[Tensor]], student: list[list[Tensor]]) -> Tensor:
    """Mean over heads and rows of the KL of one text."""
    pairs = [(t, s) for heads in zip(teacher, student, strict=True) for t, s in zip(*heads, strict=True)]
    return torch.stack([kl(t, s) for t, s in pairs]).mean()


def plain_transfer(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, n: int) -> Tensor:
    """MiniLM's L_AT of one text: ``[heads, tokens, size]`` each."""
    teacher, student = ([rows_of(q[:n], k[:n]) for q, k in zip(*pair, strict=True)] for pair in ((tq, tk), (sq, sk)))
    return plain_divergence(teacher, student)


def plain_relations(student: Tensor, teacher: Tensor, n: int, heads: int) -> Tensor:
    cut = [
        [x[:n, i * (x.shape[1] // heads) :][:, : x.shape[1] // heads] for i in range(heads)] for x in (student, teacher)
    ]
    own, other = ([rows_of(head, head) for head in x] for x in cut)
    return plain_divergence(other, own)


def plain_hidden(student: Tensor, teacher: Tensor, n: int) -> Tensor:
    squares = [(student[i, j] - teacher[i, j]) ** 2 for i in range(n) for j in range(teacher.shape[1])]
    return torch.stack(squares).mean()


def plain_cosine(student: Tensor, teacher: Tensor, n: int) -> Tensor:
    cosines = [(s * t).sum() / (s.norm() * t.norm()) for s, t in zip(student[:n], teacher[:n], strict=True)]
    return 1 - torch.stack(cosines).mean()


def plain_maps(student: Tensor, teacher: Tensor, n: int) -> Tensor:
    if len(student) != len(teacher):
        student, teacher = student.mean(0)[None], teacher.mean(0)[None]
    squares = [
        (s[i, j] - t[i, j]) ** 2 for s, t in zip(student, teacher, strict=True) for i in range(n) for j in range(n)
    ]
    return torch.stack(squares).mean()


@dataclass(frozen=True)
class Case:
    """A loss of tokens: the function under test, its loop for one text, and shapes after the batch."""

    loss: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    student: tuple[tuple[int, ...], ...]
    teacher: tuple[tuple[int, ...], ...]

    def inputs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Student's tensors, with gradients, and the teacher's."""
        student = [draw(BATCH, *shape, seed=i).requires_grad_() for i, shape in enumerate(self.student)]
        return student, [draw(BATCH, *shape, seed=10 + i) for i, shape in enumerate(self.teacher)]


CASES = {
    "hidden, projected": Case(
        lambda s, t, mask: losses.hidden_states(s, t, mask, PROJECTION),
        lambda s, t, n: plain_hidden(PROJECTION(s), t, n),
        ((TOKENS, 4),),
        ((TOKENS, 6),),
    ),
    "hidden": Case(losses.hidden_states, plain_hidden, ((TOKENS, 4),), ((TOKENS, 4),)),
    "cosine": Case(losses.cosine, plain_cosine, ((TOKENS, 4),), ((TOKENS, 4),)),
    "maps": Case(losses.attention_maps, plain_maps, ((HEADS, TOKENS, TOKENS),), ((HEADS, TOKENS, TOKENS),)),
    "maps, fewer heads": Case(losses.attention_maps, plain_maps, ((HEADS, TOKENS, TOKENS),), ((4, TOKENS, TOKENS),)),
    "transfer": Case(losses.attention_transfer, plain_transfer, ((HEADS, TOKENS, 3),) * 2, ((HEADS, TOKENS, 4),) * 2),
    "values": Case(
        losses.value_relation,
        lambda s, t, n: plain_transfer(s, s, t, t, n),
        ((HEADS, TOKENS, 3),),
        ((HEADS, TOKENS, 4),),
    ),
    "relations": Case(
        lambda s, t, mask: losses.relations(s, t, mask, 2),
        lambda s, t, n: plain_relations(s, t, n, 2),
        ((TOKENS, 4),),
        ((TOKENS, 6),),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def gradients(value: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, of))


def test_it_is_the_mean_over_texts_of_the_plain_loop_and_so_is_its_gradient(case: Case) -> None:
    student, teacher = case.inputs()
    value = case.loss(*student, *teacher, MASK)
    each = [case.plain(*(x[i] for x in (*student, *teacher)), n) for i, n in enumerate(LENGTHS)]
    expected = torch.stack(each).mean()
    assert value.item() > 1e-3
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(value, student), gradients(expected, student), rtol=1e-9, atol=1e-12)


def test_its_gradient_is_that_of_small_differences(case: Case) -> None:
    student, teacher = case.inputs()
    assert torch.autograd.gradcheck(lambda *s: case.loss(*s, *teacher, MASK), student)


def test_padding_counts_for_nothing(case: Case) -> None:
    student, teacher = case.inputs()
    value = case.loss(*student, *teacher, MASK)
    junk = [spoil(x.detach()).requires_grad_() for x in student]
    spoiled = case.loss(*junk, *(spoil(x) for x in teacher), MASK)
    assert spoiled.item() == pytest.approx(value.item(), rel=1e-12)
    for clean, got in zip(gradients(value, student), gradients(spoiled, junk), strict=True):
        torch.testing.assert_close(got, clean, rtol=1e-9, atol=1e-12)
        assert torch.equal(got.masked_fill(at_padding(got), 0), got)


def at_padding(x: Tensor) -> Tensor:
    """Where the tokens of ``x`` are padding; its token dimension, or two, is the one with TOKENS entries."""
    padding = ~MASK.bool()
    found = torch.zeros_like(x, dtype=torch.bool)
    for dim in (d for d in range(1, x.dim()) if x.shape[d] == TOKENS and d >= x.dim() - 2):
        shape = [BATCH if d == 0 else TOKENS if d == dim else 1 for d in range(x.dim())]
        found |= padding.view(shape)
    return found


def spoil(x: Tensor) -> Tensor:
    return torch.where(at_padding(x), draw(*x.shape, seed=99) * 1e3, x)


def test_the_mean_of_halves_is_the_whole(case: Case) -> None:
    student, teacher = case.inputs()
    halves = [case.loss(*(x[part] for x in (*student, *teacher)), MASK[part]) for part in (slice(0, 2), slice(2, 4))]
    assert torch.stack(halves).mean().item() == pytest.approx(case.loss(*student, *teacher, MASK).item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"hidden, projected"}))
def test_it_is_nothing_for_a_student_that_equals_its_teacher(name: str) -> None:
    case = CASES[name]
    student, _ = case.inputs()
    teacher = [x.detach().clone() for x in student]
    assert case.loss(*student, *teacher, MASK).item() == pytest.approx(0, abs=1e-12)


def test_a_bool_mask_float32_and_an_empty_text_are_fine(case: Case) -> None:
    student, teacher = case.inputs()
    mask = MASK.bool()
    mask[-1] = False
    value = case.loss(*student, *teacher, mask)
    rest = case.loss(*(x[:-1] for x in (*student, *teacher)), MASK[:-1])
    assert value.item() == pytest.approx(rest.item() * 3 / 4, rel=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients(value, student))
    if case is not CASES["hidden, projected"]:  # whose projection is float64
        single = case.loss(*(x.float() for x in (*student, *teacher)), MASK.float())
        assert single.item() == pytest.approx(case.loss(*student, *teacher, MASK).item(), rel=1e-5)


TARGETS = {
    "multi_label": torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]),
    "single_label": torch.tensor([2, 0, 1, 1]),
}


def plain_hard(logits: Tensor, target: Tensor, task: str) -> Tensor:
    if task == "single_label":
        return -torch.log(softmax(list(logits))[target])
    yes = 1 / (1 + torch.exp(-logits))
    return -torch.stack([torch.log(p if t else 1 - p) for p, t in zip(yes, target, strict=True)]).mean()


def plain_soft(logits: Tensor, teacher: Tensor, temperature: float, task: str) -> Tensor:
    if task == "single_label":
        return temperature**2 * kl(softmax(list(teacher / temperature)), softmax(list(logits / temperature)))
    yes = [1 / (1 + torch.exp(-z / temperature)) for z in (teacher, logits)]
    labels = [kl(torch.stack([t, 1 - t]), torch.stack([s, 1 - s])) for t, s in zip(*yes, strict=True)]
    return temperature**2 * torch.stack(labels).mean()


@pytest.mark.parametrize("task", TARGETS)
def test_hard_labels(task: str) -> None:
    logits, targets = draw(BATCH, LABELS).requires_grad_(), TARGETS[task]
    each = torch.stack([plain_hard(logits[i], targets[i], task) for i in range(BATCH)])
    value = losses.hard_labels(logits, targets, task)
    torch.testing.assert_close(value, each.mean(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(value, [logits]), gradients(each.mean(), [logits]))
    assert torch.autograd.gradcheck(lambda x: losses.hard_labels(x, targets, task), (logits,))
    some = losses.hard_labels(logits, targets, task, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(some, (each[0] + each[2]) / 4)
    halves = [losses.hard_labels(logits[part], targets[part], task) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), value)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("task", TARGETS)
def test_soft_labels(task: str, temperature: float) -> None:
    logits, teacher = draw(BATCH, LABELS).requires_grad_(), draw(BATCH, LABELS, seed=1)
    value = losses.soft_labels(logits, teacher, temperature, task)
    each = torch.stack([plain_soft(logits[i], teacher[i], temperature, task) for i in range(BATCH)])
    torch.testing.assert_close(value, each.mean(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(value, [logits]), gradients(each.mean(), [logits]))
    assert torch.autograd.gradcheck(lambda x: losses.soft_labels(x, teacher, temperature, task), (logits,))
    halves = [losses.soft_labels(logits[part], teacher[part], temperature, task) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), value)
    assert losses.soft_labels(teacher, teacher, temperature, task).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("task", TARGETS)
def test_certain_teachers_and_students_give_numbers(task: str) -> None:
    logits = torch.tensor([[50.0, -50.0, 50.0], [-50.0, 50.0, -50.0]], requires_grad=True)
    value = losses.soft_labels(logits, -logits.detach(), 1.0, task)
    (gradient,) = gradients(value, [logits])
    # The student gives what the teacher is certain of a probability of exp(-50), or exp(-100) beside another class.
    assert value.item() == pytest.approx(50 if task == "multi_label" else 100, rel=1e-5)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0.1
    mean = losses.average_probabilities([logits.detach(), -logits.detach()], task)
    assert mean.isfinite().all()
    if task == "multi_label":
        assert mean.abs().max() < 1e-6


@pytest.mark.parametrize("task", TARGETS)
def test_the_mean_teacher_has_the_mean_of_their_probabilities(task: str) -> None:
    several = [draw(BATCH, LABELS, seed=i) for i in range(3)]
    probabilities = torch.sigmoid if task == "multi_label" else lambda z: torch.softmax(z, -1)
    expected = torch.stack([probabilities(z) for z in several]).mean(0)
    torch.testing.assert_close(probabilities(losses.average_probabilities(several, task)), expected)
    one = losses.average_probabilities(several[:1], task)
    torch.testing.assert_close(probabilities(one), probabilities(several[0]))


def test_heads_are_cut_as_transformers_cuts_them_and_shared_keys_repeated() -> None:
    states = draw(BATCH, TOKENS, 8)
    heads = losses.split_heads(states, 4)
    assert torch.equal(heads[1, 1, 2], states[1, 2, 4:])
    scores = losses.attention_scores(
        losses.split_heads(states, 2), heads := losses.split_heads(draw(BATCH, TOKENS, 4), 2)
    )
    assert scores.shape == (BATCH, 4, TOKENS, TOKENS)
    expected = (states[0, 3, 4:6] * heads[0, 1, 2]).sum() / math.sqrt(2)  # the third query head has the second key head
    torch.testing.assert_close(scores[0, 2, 3, 2], expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: losses.hidden_states(draw(2, 5, 4), draw(2, 5, 6), MASK[:2]), "4, the teacher 6: give a projection"),
        (lambda: losses.cosine(draw(2, 5, 1), draw(2, 5, 6), MASK[:2]), "1, the teacher 6"),
        (lambda: losses.value_relation(draw(2, 2, 5, 3), draw(2, 4, 5, 3), MASK[:2]), "number of attention heads"),
        (
            lambda: losses.relations(draw(2, 5, 4), draw(2, 5, 6), MASK[:2], 4),
            "4 relation heads do not divide .* 6 wide",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(loss: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(StageError, match=message):
        loss()


def test_numbers_are_compared_by_their_squared_error_whatever_the_temperature() -> None:
    logits, teacher = draw(BATCH, 1).requires_grad_(), draw(BATCH, 1, seed=1)
    expected = (logits - teacher).square().mean()
    for temperature in (1.0, 4.0):
        torch.testing.assert_close(losses.soft_labels(logits, teacher, temperature, "regression"), expected)
    torch.testing.assert_close(losses.hard_labels(logits, teacher[:, 0], "regression"), expected)
    some = losses.hard_labels(logits, teacher[:, 0], "regression", torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(some, (logits - teacher)[0].square().squeeze() / BATCH)
    mean = losses.average_probabilities([logits.detach(), teacher], "regression")
    torch.testing.assert_close(mean, (logits.detach() + teacher) / 2)
