"""Distillation losses: short pure functions on tensors, each with its paper and equation.

Each is a mean over texts of one value a text: a text counts the same however long it is, and the mean over a batch is
the mean of the means of its equal parts, on however many processes. ``mask`` is ``[batch, tokens]``, 1 at real tokens;
what stands at padding changes neither value nor gradient. ``student`` carries gradients, ``teacher`` is a constant.

Written by hand, because PyTorch has the pieces (which are used) but no masked means by text, and no maintained library
has these losses apart from its own trainer. Call them outside autocast: relations lose their meaning in 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bantam.errors import StageError


def hard_labels(logits: Tensor, targets: Tensor, task: str, labelled: Tensor | None = None) -> Tensor:
    """Cross-entropy with the data set's labels; binary, and the mean over labels, if ``task`` is ``multi_label``.

    ``logits`` ``[batch, labels]``; ``targets`` 0 or 1 ``[batch, labels]``, or class numbers ``[batch]`` with
    ``single_label``. With ``regression`` the squared error of numbers ``[batch]``, as transformers trains them. Where
    ``labelled`` (``[batch]``, 1 or 0) is 0, a text has no label: its loss is 0, and it counts.
    """
    if task == "multi_label":
        values = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(-1)
    elif task == "regression":
        values = F.mse_loss(logits.squeeze(-1), targets.to(logits.dtype), reduction="none")
    else:
        values = F.cross_entropy(logits, targets, reduction="none")
    return (values if labelled is None else values * labelled).mean()


def soft_labels(logits: Tensor, teacher_logits: Tensor, temperature: float, task: str) -> Tensor:
    """``T^2 KL(teacher || student)`` of the probabilities at temperature T; both arguments ``[batch, labels]``.

    Hinton, Vinyals and Dean 2015 (Distilling the Knowledge in a Neural Network), eq. 1 with the factor of section 2: it
    keeps the gradient's size whatever the temperature. With ``multi_label`` a softmax would make labels exclude each
    other, so each label is a distribution of its own over yes and no, ``sigmoid(z / T)``, and labels are averaged. The
    number of a ``regression`` is no distribution: its loss is the squared error, whatever the temperature.
    """
    if task == "regression":
        return F.mse_loss(logits, teacher_logits)
    student, teacher = logits / temperature, teacher_logits / temperature
    if task == "multi_label":
        values = _divergence(_log_yes_no(student), _log_yes_no(teacher)).mean(-1)
    else:
        values = _divergence(student.log_softmax(-1), teacher.log_softmax(-1))
    return temperature**2 * values.mean()


def average_probabilities(logits: Sequence[Tensor], task: str) -> Tensor:
    """One teacher out of several: logits ``[batch, labels]`` whose probabilities are the mean of theirs.

    Bucila, Caruana and Niculescu-Mizil 2006 (Model Compression). In logarithms, so that no probability becomes 0 or 1.
    Of a ``regression`` the mean of the numbers.
    """
    stacked = torch.stack(list(logits))
    if task == "regression":
        return stacked.mean(0)
    if task == "multi_label":
        return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
    return stacked.log_softmax(-1).logsumexp(0) - math.log(len(stacked))


def hidden_states(student: Tensor, teacher: Tensor, mask: Tensor, projection: nn.Module | None = None) -> Tensor:
    """``MSE(H_S W, H_T)`` over real tokens: TinyBERT, Jiao et al. 2020, eq. 8.

    ``student`` ``[batch, tokens, student width]``, ``teacher`` ``[batch, tokens, teacher width]``; ``projection`` is W,
    learned with the student. Raises :class:`StageError` if the widths differ and there is no projection.
    """
    if projection is not None:
        student = projection(student)
    _expect_equal(student.shape[-1], teacher.shape[-1], "width of hidden states", "give a projection")
    return _mean_over_texts((student - teacher).square().mean(-1), mask)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``1 - cos(h_S, h_T)`` over real tokens; both ``[batch, tokens, width]``. DistilBERT, Sanh et al. 2019, section 3.

    Raises :class:`StageError` if the widths differ.
    """
    _expect_equal(student.shape[-1], teacher.shape[-1], "width of hidden states", "use the loss hidden instead")
    return _mean_over_texts(1 - F.cosine_similarity(student, teacher, dim=-1), mask)


def split_heads(states: Tensor, head_size: int) -> Tensor:
    """``[batch, tokens, heads * head_size]``, as a projection gives it, to ``[batch, heads, tokens, head_size]``."""
    return states.reshape(*states.shape[:-1], -1, head_size).transpose(1, 2)


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """``Q K^T / sqrt(d)``: ``[batch, heads, tokens, d]`` each to ``[batch, heads, tokens, tokens]``.

    Fewer key heads than query heads are repeated, as grouped-query attention does. Models with rotary positions turn
    queries and keys after the projection: for them these are scores of content alone.
    """
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    return queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])


def attention_maps(student_scores: Tensor, teacher_scores: Tensor, mask: Tensor) -> Tensor:
    """``1/h sum_i MSE(A_S,i, A_T,i)`` of the scores before the softmax: TinyBERT, Jiao et al. 2020, eq. 7.

    Both ``[batch, heads, tokens, tokens]`` from :func:`attention_scores`; pairs of real tokens count. If student and
    teacher have different numbers of heads, none belongs to another: the mean over the heads is compared.
    """
    if student_scores.shape[1] != teacher_scores.shape[1]:
        student_scores, teacher_scores = (s.mean(1, keepdim=True) for s in (student_scores, teacher_scores))
    pairs = mask[:, :, None] * mask[:, None, :]
    return _mean_over_texts((student_scores - teacher_scores).square().mean(1), pairs)


def attention_transfer(
    student_queries: Tensor, student_keys: Tensor, teacher_queries: Tensor, teacher_keys: Tensor, mask: Tensor
) -> Tensor:
    """``1/(h |x|) sum_a sum_t KL(A_T,a,t || A_S,a,t)`` with ``A = softmax(Q K^T / sqrt(d))`` over the real tokens.

    MiniLM, Wang et al. 2020, section 3.1 (L_AT). All ``[batch, heads, tokens, head size]``; head sizes may differ.
    Raises :class:`StageError` if the numbers of heads differ.
    """
    student = attention_scores(student_queries, student_keys)
    return _mean_divergence(student, attention_scores(teacher_queries, teacher_keys), mask)


def value_relation(student_values: Tensor, teacher_values: Tensor, mask: Tensor) -> Tensor:
    """``1/(h |x|) sum_a sum_t KL(VR_T,a,t || VR_S,a,t)`` with ``VR = softmax(V V^T / sqrt(d))``.

    MiniLM, Wang et al. 2020, section 3.2 (L_VR). Both ``[batch, heads, tokens, head size]``; head sizes may differ.
    Raises :class:`StageError` if the numbers of heads differ.
    """
    student = attention_scores(student_values, student_values)
    return _mean_divergence(student, attention_scores(teacher_values, teacher_values), mask)


def relations(student: Tensor, teacher: Tensor, mask: Tensor, relation_heads: int) -> Tensor:
    """``1/(r |x|) sum_a sum_t KL(R_T,a,t || R_S,a,t)`` with ``R = softmax(X_a X_a^T / sqrt(d_r))``.

    MiniLMv2, Wang et al. 2021, section 3.1 (multi-head self-attention relations): X is queries, keys or values of all
    heads, ``[batch, tokens, width]``, cut anew into ``relation_heads`` heads, so that neither widths nor numbers of
    heads need to be equal. Raises :class:`StageError` if a width is no multiple of ``relation_heads``.
    """
    for width in (student.shape[-1], teacher.shape[-1]):
        if width % relation_heads:
            raise StageError(
                f"{relation_heads} relation heads do not divide a projection {width} wide. "
                f"Choose relation_heads out of the common divisors of {student.shape[-1]} and {teacher.shape[-1]}."
            )
    cut = (split_heads(x, x.shape[-1] // relation_heads) for x in (student, teacher))
    student_scores, teacher_scores = (attention_scores(x, x) for x in cut)
    return _mean_divergence(student_scores, teacher_scores, mask)


def _mean_divergence(student_scores: Tensor, teacher_scores: Tensor, mask: Tensor) -> Tensor:
    """Mean KL of the rows' softmax over real tokens; scores ``[batch, heads, tokens, tokens]``."""
    hint = "use the loss relations, which cuts heads anew"
    _expect_equal(student_scores.shape[1], teacher_scores.shape[1], "number of attention heads", hint)
    padding = ~mask.bool()[:, None, None, :]
    # Not -inf, of which 0 * (inf - inf) would come.
    student, teacher = (
        scores.masked_fill(padding, torch.finfo(scores.dtype).min).log_softmax(-1)
        for scores in (student_scores, teacher_scores)
    )
    return _mean_over_texts(_divergence(student, teacher).mean(1), mask)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) over the last dimension; both are logarithms of probabilities."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def _log_yes_no(logits: Tensor) -> Tensor:
    """Logarithms of sigmoid(z) and 1 - sigmoid(z) in a new last dimension, exact for large z."""
    return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)


def _mean_over_texts(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over texts of each text's mean where ``mask`` is 1; both ``[batch, ...]``. An empty text counts as 0."""
    real = mask.bool()
    sums = values.masked_fill(~real, 0).flatten(1).sum(1)
    return (sums / real.flatten(1).sum(1).clamp(min=1)).mean()


def _expect_equal(student: int, teacher: int, what: str, hint: str) -> None:
    if student != teacher:
        raise StageError(f"This loss needs one {what}; the student has {student}, the teacher {teacher}: {hint}.")
