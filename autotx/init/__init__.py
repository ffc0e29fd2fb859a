# The names that users see: those of draws.py, without what it imports
from autotx.init import draws
from autotx.init.draws import kaiming_normal, kaiming_uniform, normal, uniform, xavier_normal, xavier_uniform

__doc__ = draws.__doc__
__all__ = ["kaiming_normal", "kaiming_uniform", "normal", "uniform", "xavier_normal", "xavier_uniform"]
