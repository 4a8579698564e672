"""Constants propagated through a program: which channels are dead, and how to fold."""

from jaxprune.constants.judge import Judgement as Judgement
from jaxprune.constants.judge import dead_channels as dead_channels
from jaxprune.constants.judge import fold_constants as fold_constants
from jaxprune.constants.judge import judge as judge
from jaxprune.constants.sites import Verdict as Verdict
