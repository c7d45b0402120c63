"""The terms of the article, each in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headflow.attribution.rankings import MEANINGS
from headflow.charts.faithfulness import NAMES
from headflow.reporting.html import tag


@dataclass(frozen=True)
class Term:
    """A term and what it means."""

    name: str
    meaning: str


TERMS = {
    "head": Term(
        "attention head",
        "One of several units in a layer of the language model that look back at earlier tokens and copy something from them. Layers and heads "
        "are counted from 0; L3 H5 is head 5 of layer 3. Where only some layers read the picture (cross-attention), only those are shown, under their own "
        "numbers. Under grouped-query attention several heads share keys and values; each query head is "
        "still cut alone.",
    ),
    "token": Term(
        "token and role",
        "A model reads a prompt as a row of tokens. Those before the picture are system tokens; those of the picture form the image span, any "
        "separators between them included, and those of several tiles too; then come the question, the role marker (such as ASSISTANT) and the final "
        "token, after which the answer is generated. Models with cross-attention read the picture beside the prompt.",
    ),
    "target": Term(
        "target",
        "The number that is explained. Read at the last token of the prompt: the logit of the answer's first token, or its log-probability, or its "
        "margin over the best other candidate answer. Or, with the answer fed to the model token by token, the log-probability of the whole of it. The "
        "answer is the true one or the model's own; the parameters say which. A logit is the model's raw score for a token; a rise by 1 multiplies its "
        "odds against every other token by e ≈ 2.7. Log-probabilities are in nats.",
    ),
    "ablation": Term(
        "cutting a head",
        "A cut (ablated) head reads baseline keys and values at the picture's positions in place of the real ones, for every token after the "
        "picture. It still runs and still reads the text; it no longer sees this picture. With the baseline “closed” it sees nothing there and "
        "its attention spreads over the rest.",
    ),
    "baseline": Term(
        "baseline",
        "What a cut head sees in place of the picture: the mean over reference pictures at the same layer, head and position (mean), a uniform "
        "grey picture (blank), another picture (swap), or nothing (closed).",
    ),
    "mask": Term(
        "mask",
        "One choice of which heads are cut together. Fit masks are used to estimate attributions; held-out masks, drawn independently, only to judge them "
        "and to test pairs of heads.",
    ),
    "attribution": Term(
        "attribution",
        "How much a head adds to the target, averaged over what the other heads do: the coefficient of the head in a linear regression of the "
        "target on the masks, fitted for each example alone. Positive means that seeing the picture through this head raises the target.",
    ),
    "single": Term("effect when cut alone", "The target of the untouched model minus the target with this one head cut."),
    "interval": Term(
        "interval",
        "A confidence interval of a mean over examples, at the level that the parameters give. It tells how far the mean would move with other "
        "examples of the same kind; it says nothing of other models, questions or kinds of picture. Intervals are not corrected for the number "
        "of heads looked at.",
    ),
    "r": Term(
        "held-out r and R²",
        "Pearson correlation, and share of variance, between the target that the fit predicts and the one that the model gives, over masks that "
        "the fit never saw. r = 1 is perfect, 0 no better than a constant. What is missing is interaction between heads, which no sum can hold, "
        "and noise of the fit.",
    ),
    "agreement": Term(
        "split-half agreement",
        "The fit masks are dealt into two halves, attributions are fitted on each, and the two vectors of attributions are correlated. It tells "
        "how far attributions depend on the draw of masks. Halves of an orthogonal design with fewer than two masks a head have nothing in "
        "common by construction, and are not compared.",
    ),
    "attention": Term(
        "attention on the picture",
        "The share of a head's attention weight at the last prompt token that lies on the image span in the untouched model, mean over examples.",
    ),
    "rank": Term(
        "rank correlation",
        "Spearman's ρ over heads: 1 if both orders are the same, 0 if unrelated, −1 if opposite. Its interval uses Fisher's transform and treats "
        "heads as independent, so it is rather too narrow.",
    ),
    "rankings": Term(
        "orders of the heads",
        "What the heads can be ordered by, most important first (f is the target): "
        + "; ".join(f"{NAMES[ranking]} – {meaning.replace(' - ', ' − ').replace(' x ', ' × ')}" for ranking, meaning in MEANINGS.items())
        + ". A head that lowers the target comes after one that does nothing.",
    ),
    "faithfulness": Term(
        "faithfulness",
        "With only the first k heads of an order intact: how far the target has come from where it is with every head cut to where it is in the untouched "
        "model, as a share of that way. More than 1 is possible, as heads that lower the target come last. The area under the curve over the share of heads "
        "sums it up: 0.5 for a straight line, 1 if the first head did it all.",
    ),
    "completeness": Term(
        "completeness",
        "With only the first k heads of an order cut: how much of the same way is lost. An order can be faithful and not complete, if other heads stand in "
        "for those it names.",
    ),
    "interaction": Term(
        "interaction of two heads",
        "f(both intact) − f(only one) − f(only the other) + f(neither), averaged over the states of all other heads and over the examples. Below zero the two "
        "compensate for each other: either does what both do. Above zero they need each other: neither does alone what both do. A sum over heads has no "
        "place for it.",
    ),
    "q": Term(
        "false discoveries",
        "Of all findings that are called clear, the share expected to be nothing but chance is held at the level that the parameters give (Benjamini and "
        "Hochberg); q is the smallest such level at which a finding would still be called clear.",
    ),
    "alike": Term(
        "alike in the heads that serve them",
        "The cosine of the angle between the attribution vectors of two examples, 1 = the same heads in the same proportions. Only examples of different "
        "pictures are compared. Two show the same object if they have the same name, and look the same if at least half of their labels of looks agree. "
        "Intervals draw whole pictures anew (bootstrap).",
    ),
    "beyond": Term(
        "explained beyond the other kind",
        "The share of the variance of the attribution vectors that labels of one kind explain when the labels of the other are held constant. More labels "
        "explain more by chance, so what they explain with pictures shuffled stands beside it.",
    ),
    "partial": Term(
        "partial correlation",
        "The correlation, over pairs of examples, of the likeness of their attributions with another likeness, once the linear effect of the remaining "
        "likenesses is taken out of both.",
    ),
    "planted": Term(
        "planted circuit",
        "A small model whose weights are constructed, not trained, so that a known set of heads carries the picture to the answer. Its exact values come "
        "from going through every set of heads. It runs through the same code as any model. Heads that add up have each a share of their own; of two, either "
        "suffices, or both are needed; by way of the role token the picture takes two steps, in two layers; lookers that say nothing attend strongly to the "
        "picture and write nothing; what an early head adds may be taken back later; or which heads carry depends on the object's category.",
    ),
    "error": Term(
        "relative error",
        "The size of an example's attributions' error over the size of the attributions: root of the summed squares of each. Of a run it is estimated from "
        "standard errors and holds what another draw of masks would change; on planted circuits it is measured.",
    ),
    "stability": Term(
        "stability",
        "Pictures are drawn anew with replacement and the heads grouped again. The adjusted Rand index says how far two groupings agree (1 = the same, "
        "0 = as chance gives); a single cluster's stability is its largest overlap with a new cluster (Jaccard), 0 to 1, mean over draws.",
    ),
    "cluster": Term(
        "cluster of heads",
        "Heads whose mean attributions over object names (over answers where objects have no names) are in like proportion, sign included (cosine, "
        "average linkage): one that raises the target and one that lowers it are never alike. Only the strongest heads, which together hold most of "
        "the summed size of all attributions, are grouped; the number of clusters is the one with the best silhouette.",
    ),
    "silhouette": Term(
        "silhouette",
        "How much nearer a thing is to its own group than to the next one, from −1 to 1; a mean below 0.25 is usually read as no grouping. "
        "Examples are compared by cosine.",
    ),
    "purity": Term("nearest neighbours alike", "The share of an example's nearest neighbours, by attribution vector, that carry the same label."),
    "variance": Term(
        "variance explained",
        "The share of the variance of the attribution vectors (their directions) that lies between the groups of a label rather than inside "
        "them. More groups explain more by chance, so the same share under shuffled labels stands beside it.",
    ),
    "p": Term(
        "p-value",
        "The share of random shufflings of the labels that give at least as large a value. Sentences use Holm's correction for the number of "
        "labels tried, and so do figures where they tell what is below 0.05.",
    ),
    "labels": Term(
        "meaning and looks",
        "Labels of an example's main object that say what it is (meaning), and labels that say how it is drawn (looks). A category is a "
        "union of names, so what divides by name divides by category too.",
    ),
    "image_tokens": Term(
        "image token",
        "One of the positions at which the model reads the picture; it shows one part of it, of which later layers of the vision tower may "
        "know more. Its attribution is what the "
        "target gains when the text reads its real keys and values in place of the baseline's, averaged over states of the other image "
        "tokens. Where there are too many to be cut one by "
        "one, patches of neighbours are cut, smaller where more comes from, and a patch's attribution is spread evenly over its tokens.",
    ),
    "flow": Term(
        "way of the picture",
        "A set of edges of attention, from one group of tokens to another: from the picture to the question, from the picture to the role and"
        " final tokens, from the question to these. "
        "Its effect is the fall of the target when it is closed, in all layers or in some.",
    ),
    "knockout": Term(
        "closing a way",
        "Edges that are closed are read as if they were not there (or, from the picture, read the baseline). A model may then fall back on "
        "other ways, so what is lost is what it cannot do without "
        "the way, not all that it does by it.",
    ),
    "direct": Term(
        "direct contribution",
        "What a head adds to the logits by itself: the picture's part of its output, through the output projection, the last norm with its "
        "scale held fixed, and the unembedding (direct logit attribution: "
        "Elhage et al. 2021; logit lens: nostalgebraist 2020). The rest of its attribution goes through later layers that read what it wrote.",
    ),
    "judge": Term(
        "judge",
        "Who says which objects a description names: a vocabulary with synonyms (match), or a language model. F1 and every number that is made of it "
        "depend on the judge; two judges can be compared.",
    ),
    "f1": Term(
        "F1",
        "Of two sets of objects, those that a description names and those that it is held against: 2 TP / (2 TP + FN + FP), where TP are in both, FN missing "
        "from the description, FP only in it. 1 = the same objects, 0 = none in common; not defined where both are empty.",
    ),
    "spread": Term(
        "effective number of tokens",
        "The number of image tokens that an even map of the same entropy would have. A share of 100% is a map that looks everywhere alike; a few per cent, one "
        "that looks at a few places.",
    ),
    "localisation": Term(
        "localisation",
        "Whether a map over the image tokens is on an object: the share of it inside the object's mask, how well it tells the tokens inside from those outside "
        "(AUROC, 0.5 by chance), and whether its largest token lies inside (pointing game). The map is the attention of the token that names the object, or "
        "what each image token does to that word's logit (attribution). Where the image tokens have mixed in the vision tower, neither can be expected to lie "
        "inside alone.",
    ),
    "context": Term(
        "compressed context",
        "The keys and values that later tokens can read, of some tokens only: of the prompt's text (query tokens), of the K percent of image tokens that the "
        "description attends to most in each layer, or of both. All others are dropped from memory. Follow-up questions are answered behind what is left.",
    ),
}


def definitions(terms: Sequence[str] | None = None) -> Markup:
    """The section of definitions, with an anchor ``term-…`` each: of all terms, or of those named."""
    entries = [tag("dt", term.name, id=f"term-{key}") + tag("dd", term.meaning) for key, term in TERMS.items() if terms is None or key in terms]
    return tag("h2", "Definitions", id="definitions") + tag("dl", *entries, class_="definitions")
