"""The usual names of columns and splits. All of them are compared folded: in lower case, letters and digits alone."""

from __future__ import annotations

import re


def fold(name: object) -> str:
    """A name without case and separators: ``sentenceA`` of ``sentence_A``, ``Sentence A`` and ``sentenceA``."""
    return re.sub(r"[\W_]+", "", str(name)).casefold()


TEXT = (
    *("text", "sentence", "review", "content", "comment", "message", "body", "tweet", "document", "utterance"),
    *("question", "query", "input", "sms", "commenttext", "reviewtext", "reviewbody", "tweettext", "fulltext"),
    *(
        "post",
        "abstract",
        "description",
        "passage",
        "paragraph",
        "article",
        "premise",
        "data",
        "texts",
        "sentences",
        "title",
        "headline",
    ),
    # The SMS Spam Collection as it is on Kaggle.
    "v2",
)
LABEL = (
    *("labels", "label", "categories", "category", "targets", "target", "classes", "class", "emotions", "emotion"),
    *("sentiment", "intent", "topic", "tags", "rating", "stars", "labelname", "labeltext", "goldlabel", "gold"),
    *("entailmentjudgment", "judgment", "relatednessscore", "similarityscore", "similarity", "relatedness", "score"),
    *("isduplicate", "quality", "starrating", "relevance", "classindex", "polarity", "verdict", "answer", "v1"),
    *("labelid", "classid", "categoryid", "targetid", "intentid", "topicid"),
)
PAIRS = (
    *(("text", "textpair"), ("sentence", "sentencepair"), ("premise", "hypothesis"), ("question", "sentence")),
    *(("question", "passage"), ("question", "context"), ("question", "answer"), ("query", "passage")),
    *(("query", "document"), ("query", "doc"), ("query", "answer"), ("query", "text"), ("claim", "evidence")),
    *(("prompt", "response"), ("context", "response"), ("q1", "q2"), ("s1", "s2")),
    # As "#1 String" in the files of MRPC.
    ("1string", "2string"),
    *(
        (stem + one, stem + two)
        for stem in (
            *("text", "sentence", "question", "document", "doc", "sent", "string", "passage", "query", "review"),
            *("comment", "title", "tweet", "utterance", "snippet", "statement", "input", "premise", "phrase"),
        )
        for one, two in (("1", "2"), ("a", "b"), ("left", "right"), ("0", "1"), ("", "2"), ("", "b"))
    ),
)
"""First and second text of a pair; which is first matters to a model."""
TEXTS = {*TEXT, *(name for pair in PAIRS for name in pair)}
"""Every name of a column of texts, alone or one of a pair."""
UNDECIDED = {"goldlabel": "-"}
"""What SNLI and MultiNLI write into a label column where raters did not agree."""
SPLIT = ("split", "set", "semevalset", "partition", "subset", "datasplit", "splitname")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "trial", "development", "eval", "evaluation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ID = re.compile(r"(^|.*[\W_])(id|idx|guid|uuid)|.*[a-z]I[dD]|index|unnamed:.*|level_0", re.IGNORECASE)


def is_id(name: str) -> bool:
    """Whether a column numbers the rows, by its name: ``idx``, ``pair_ID``, ``commentId``, ``Unnamed: 0``."""
    return ID.fullmatch(name) is not None and fold(name) not in LABEL


def split_of(name: str) -> str | None:
    """train, dev or test, if the name of a file or split has exactly one of them as a word, as ``dev_matched`` has.

    MNLI's mismatched parts are of other genres than its train, and are none.
    """
    words = re.split(r"[\W_]+", name.lower())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 and "mismatched" not in words else None
