"""The methods: one paper, one file. Importing this package registers them."""

from supermask.methods.bar import BAR
from supermask.methods.dense import Dense
from supermask.methods.dessilbi import DessiLBI
from supermask.methods.edge_popup import EdgePopup
from supermask.methods.fixed_mask import FixedMask
from supermask.methods.force import Force
from supermask.methods.gem_miner import GemMiner
from supermask.methods.grasp import Grasp
from supermask.methods.iterand import IteRand
from supermask.methods.l1_filters import L1Filters
from supermask.methods.lottery_ticket import LotteryTicket
from supermask.methods.magnitude import Magnitude
from supermask.methods.magnitude_channels import MagnitudeChannels
from supermask.methods.mask_conv_net import MaskConvNet
from supermask.methods.mpt import MPT
from supermask.methods.multicoated import MulticoatedSupermask
from supermask.methods.network_slimming import NetworkSlimming
from supermask.methods.random_channels import RandomChannels
from supermask.methods.random_mask import RandomMask
from supermask.methods.rigl import RigL
from supermask.methods.set import SET
from supermask.methods.signed_supermask import SignedSupermask
from supermask.methods.snip import Snip
from supermask.methods.synflow import SynFlow
from supermask.methods.zhou import ZhouSupermask

__all__ = [
    "BAR",
    "MPT",
    "SET",
    "Dense",
    "DessiLBI",
    "EdgePopup",
    "FixedMask",
    "Force",
    "GemMiner",
    "Grasp",
    "IteRand",
    "L1Filters",
    "LotteryTicket",
    "Magnitude",
    "MagnitudeChannels",
    "MaskConvNet",
    "MulticoatedSupermask",
    "NetworkSlimming",
    "RandomChannels",
    "RandomMask",
    "RigL",
    "SignedSupermask",
    "Snip",
    "SynFlow",
    "ZhouSupermask",
]
