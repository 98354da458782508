"""What the user sees: every node of the pack. A node is its schema and one call."""

from .conditioning import InbetweenEncodeKeyframes, InbetweenMiddleKeyframe
from .inspection import InbetweenContactSheet, InbetweenReport
from .loaders import InbetweenConvertBackwardMotion, InbetweenLoadBackwardMotion, InbetweenLoadSVD
from .matching import InbetweenMatchKeyframes
from .sampling import (
    InbetweenDualDirectionGuider,
    InbetweenDualDirectionKSampler,
    InbetweenReinjectionSampler,
    InbetweenSettings,
)
from .sequence import InbetweenKeyframe, InbetweenKeyframeSequence

NODES = [
    InbetweenLoadSVD,
    InbetweenLoadBackwardMotion,
    InbetweenConvertBackwardMotion,
    InbetweenEncodeKeyframes,
    InbetweenMiddleKeyframe,
    InbetweenDualDirectionKSampler,
    InbetweenSettings,
    InbetweenDualDirectionGuider,
    InbetweenReinjectionSampler,
    InbetweenKeyframe,
    InbetweenKeyframeSequence,
    InbetweenMatchKeyframes,
    InbetweenContactSheet,
    InbetweenReport,
]
