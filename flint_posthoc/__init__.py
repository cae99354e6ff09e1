"""flint_posthoc: explain any pretrained image classifier in learned, human-viewable attributes.

explain = FlintExplainer(model, layers=["layer3", "layer4.0"])
explain.fit(train_loader)
print(explain(images))
"""

from .classifier.adapter import ModelAdapter as ModelAdapter
from .classifier.adapter import Normalization as Normalization
from .classifier.preflight import preflight as preflight
from .errors import FlintError as FlintError
from .errors import NotFitted as NotFitted
from .evaluation.evaluation import Evaluation as Evaluation
from .explainer import FlintExplainer as FlintExplainer
from .interpretation.classes import GlobalInterpretation as GlobalInterpretation
from .interpretation.local import LocalInterpretation as LocalInterpretation
from .interpreter.attributes import AttributeNetworkConfig as AttributeNetworkConfig
from .interpreter.decoder import DecoderConfig as DecoderConfig
from .interpreter.interpreter import InterpreterConfig as InterpreterConfig
from .learning import presets as presets
from .learning.caching.cache import ActivationCache as ActivationCache
from .learning.history import FitHistory as FitHistory
from .learning.joint import JointSettings as JointSettings
from .learning.losses import LossWeights as LossWeights
from .learning.presets import FlintConfig as FlintConfig
from .learning.schedule import LossSchedule as LossSchedule
from .learning.settings import FitSettings as FitSettings
from .mixtures import WithMixtures as WithMixtures

__version__ = "0.1.0"
