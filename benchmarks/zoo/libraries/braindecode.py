"""braindecode: networks for EEG."""

from __future__ import annotations

import inspect

import torch
from braindecode import models

from ..subject import Subject
from ._inputs import Build, listed, table

NAMES = listed("""
    ATCNet AttentionBaseNet BDTCN BIOT ContraWR CTNet Deep4Net DeepSleepNet EEGConformer
    EEGInceptionERP EEGInceptionMI EEGITNet EEGMiner EEGNeX EEGNet EEGSimpleConv EEGTCNet
    FBCNet FBLightConvNet FBMSNet IFNet MSVTNet PBT SCCNet ShallowFBCSPNet
    SincShallowNet SleepStagerBlanco2020 SleepStagerChambon2018 SPARCNet
    SyncNet TCN TIDNet TSception USleep AttnSleep MEDFormer BrainModule
""")
TIMES = {"DeepSleepNet": 3000, "AttnSleep": 3000, "USleep": 3000, "SleepStagerBlanco2020": 3000}
TIMES |= {"SleepStagerChambon2018": 3000, "Labram": 400, "SignalJEPA_Contextual": 400}
RATES = {"EEGMiner": 128, "Labram": 200, "BIOT": 200}


def net(name: str) -> Subject:
    make, channels = getattr(models, name), 1 if "Sleep" in name and "Blanco" not in name else 8
    channels = (
        2 if name in ("USleep", "SleepStagerBlanco2020", "SleepStagerChambon2018") else channels
    )
    times = TIMES.get(name, 500)
    known = {"n_chans": channels, "n_outputs": 4, "n_times": times}
    known |= {"sfreq": RATES.get(name, 100 if times == 3000 else 125)}
    taken = inspect.signature(make).parameters
    return Subject(
        make(**{k: v for k, v in known.items() if k in taken}), torch.randn(2, channels, times)
    )


def cases() -> dict[str, Build]:
    """Those of the names that this version has."""
    return table([name for name in NAMES if hasattr(models, name)], net)
