"""Channels, neurons and heads: which go together, and whole ones cut by an exact budget."""

from secateur.pruning.channels.coupling import channel_groups
from secateur.pruning.channels.cut import ChannelCut, select_channels
from secateur.pruning.channels.groups import Axis, Group, Groups, Part

__all__ = ["Axis", "ChannelCut", "Group", "Groups", "Part", "channel_groups", "select_channels"]
