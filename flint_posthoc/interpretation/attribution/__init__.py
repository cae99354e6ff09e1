"""Which pixels speak for an attribute or a class logit: Captum's methods, where they hold, and whether their maps depend on the network."""

from .methods import METHODS as METHODS
from .pixels import Attribution as Attribution
from .pixels import attribute_pixels as attribute_pixels
from .sanity import SanityCheck as SanityCheck
from .sanity import check_sanity as check_sanity
from .sanity import compare_with as compare_with
from .settings import AttributionSettings as AttributionSettings
