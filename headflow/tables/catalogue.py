"""All tables under one name, for what deals with every one of them: reports and tests. A stage imports the group that it needs."""
# ruff: noqa: F401

from headflow.tables.ablations import ATTRIBUTIONS, EFFORT, FITS, GRADIENTS, GROWTH, HEAD_SUMMARY, MASKS, PREDICTIONS, TARGETS
from headflow.tables.baselines import (
    BASELINE_AGREEMENT,
    BASELINE_ATTRIBUTIONS,
    BASELINE_DIFFERENCES,
    BASELINE_FITS,
    BASELINE_GAPS,
    BASELINE_HEADS,
    BASELINE_SUMMARY,
)
from headflow.tables.clusters import (
    CLUSTER_EXAMPLES,
    CLUSTER_NAMES,
    CLUSTERS,
    EXAMPLE_MAP,
    HEAD_CLUSTERS,
    LOOK_CONTRASTS,
    LOOK_PAIRS,
    PROFILES,
    SEPARATION,
    SIMILARITIES,
)
from headflow.tables.compressing import COMPRESSED_ANSWERS, COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY, COMPRESSED_TIMES
from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT
from headflow.tables.examples import ATTENTION, EXAMPLES, FEATURES, SKIPPED
from headflow.tables.faithfulness import AREA_DIFFERENCES, AREA_SUMMARY, AREAS, CURVE_BANDS, CURVES, RANKINGS
from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS, HEAD_WORDS, HEAD_WRITING
from headflow.tables.image_tokens import IMAGE_BACKGROUND, IMAGE_CURVES, IMAGE_FITS, IMAGE_SHARE_MEANS, IMAGE_SHARES, IMAGE_SPARSITY, IMAGE_TOKENS
from headflow.tables.interactions import INTERACTION_FITS, INTERACTIONS, UNIQUE_EFFECTS
from headflow.tables.judgements import AGREEMENT, JUDGEMENTS
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY
from headflow.tables.knockouts import KNOCKOUT_BANDS, KNOCKOUT_DIFFERENCES, KNOCKOUT_LEVELS, KNOCKOUT_PLAN, KNOCKOUT_SUMMARY
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS
from headflow.tables.planted import PLANTED_SCORES, TRUTHS
from headflow.tables.schema import Table
from headflow.tables.sharing import ATTENTION_MAPS, SHARE_FRACTIONS, SHARE_HEADS, SHARE_MEANS, SHARE_PICTURES, SHARES, SPREAD, SPREAD_CONTRAST, SPREAD_MEANS
from headflow.tables.text_tokens import TEXT_CONTRASTS, TEXT_FITS, TEXT_ROLES, TEXT_SLOTS, TEXT_TOKENS

ALL_TABLES = tuple(found for found in globals().copy().values() if isinstance(found, Table))
