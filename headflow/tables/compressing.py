"""Follow-up questions behind a compressed context."""

from headflow.tables.columns import BOOL, ID, INT, REAL, TEXT
from headflow.tables.schema import Column, Table

_VARIANT = {
    "asking": Column(
        TEXT,
        "how the follow-up is asked: 'turn' (the user's next turn), 'fresh' (in the place of the first question, whose tokens are gone) or 'new' (in a new "
        "conversation about the whole picture: the stock model)",
    ),
    "strategy": Column(
        TEXT,
        "what stays of the context: 'full' (all of the prompt), 'query' (its text), 'image' (some image tokens), 'both', 'description' (the model's own words "
        "as text in the picture's place) or 'none' (nothing stands for the picture)",
    ),
    "chosen_by": Column(TEXT, "what image tokens are chosen by: 'attention', 'attribution' or 'random'; null where none is chosen"),
    "percent": Column(REAL, "K: share of the image tokens that stay in each layer, percent; null where none is chosen"),
}
_TOKENS = "context tokens: those in front of the follow-up whose keys and values are there in any one layer"

COMPRESSED_ANSWERS = Table(
    "compressed answers",
    {
        "id": ID, "picture": Column(INT, "index of the picture among those asked about"), **_VARIANT,
        "number": Column(INT, "of the question, counted from 0 for each picture"),
        "category": Column(TEXT, "kind of question: present, absent, count or colour; of MME, the task"),
        "question": Column(TEXT, "the follow-up"), "expected": Column(TEXT, "the true answer"), "answer": Column(TEXT, "what the model says"),
        "right": Column(BOOL, "it says the true answer: case and punctuation apart; to a yes/no question its first word counts"),
        "tokens": Column(INT, _TOKENS), "bytes": Column(INT, "memory of these keys and values, all layers together, bytes"),
    },
)  # fmt: skip

COMPRESSED_SUMMARY = Table(
    "compressed summary",
    {
        **_VARIANT, "category": Column(TEXT, "kind of question; 'all' = all of them"),
        "accuracy": Column(REAL, "share of right answers, mean over pictures, 0..1"),
        "low": Column(REAL, "lower end of its Wilson interval over pictures"), "high": Column(REAL, "upper end"),
        "plus": Column(REAL, "ACC+: share of pictures with all questions answered rightly, 0..1"),
        "plus_low": Column(REAL, "lower end of its Wilson interval"), "plus_high": Column(REAL, "upper end"),
        "tokens": Column(REAL, _TOKENS + ", mean over pictures"), "bytes": Column(REAL, "memory of these keys and values, bytes, mean over pictures"),
        "pictures": Column(INT, "pictures asked about"), "questions": Column(INT, "questions"),
    },
)  # fmt: skip

COMPRESSED_DIFFERENCES = Table(
    "compressed differences",
    {
        **_VARIANT, "against": Column(TEXT, "what it is compared with: 'full', 'none', or 'random' (as many image tokens, chosen by chance)"),
        "difference": Column(REAL, "accuracy minus that of the other, mean over pictures"),
        "low": Column(REAL, "lower end of the paired Student-t interval over pictures"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "paired t-test of no difference"),
        "p_holm": Column(REAL, "the same, corrected for all comparisons of this way of asking with this other"),
        "pictures": Column(INT, "pictures"),
    },
)  # fmt: skip

COMPRESSED_TIMES = Table(
    "compressed times",
    {
        **_VARIANT, "tokens": Column(REAL, _TOKENS + ", mean over the pictures timed"),
        "bytes": Column(REAL, "memory of these keys and values, bytes, mean"),
        "seconds": Column(REAL, "time to read one follow-up and answer with compressing.max_new_tokens tokens, alone in its batch; median of rounds, seconds"),
        "low": Column(REAL, "the fastest round"), "high": Column(REAL, "the slowest round"),
        "pictures": Column(INT, "pictures timed"),
    },
)  # fmt: skip
