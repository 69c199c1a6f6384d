"""Every error that this package raises on purpose.

    SupermaskError
    ├── HyperparameterError    a field of a method, an initialiser or an optimizer is out of range   (also ValueError)
    ├── AttachError            a method cannot be put on this model                                  (also ValueError)
    │   ├── NoTargetsError         nothing to act on
    │   └── UnsupportedModuleError a module that the method or the core refuses, by name
    ├── BindError              an optimizer does not fit the sparsifier                              (also ValueError)
    ├── StateError             a saved state belongs to another method, model or version             (also ValueError)
    ├── StructureError         channel groups cannot be found, do not fit the model, or cannot be removed (also ValueError)
    ├── BudgetError            a budget cannot be met, or its cost is not known here                 (also ValueError)
    ├── MaskError              masks or initial arrays do not fit the model, or their file is damaged (also ValueError)
    ├── DataError              a data set cannot be used
    │   ├── MissingDataError       its files are not there; the message says what to put where       (also FileNotFoundError)
    │   └── DamagedDataError       a file is there but is not what it should be                      (also ValueError)
    ├── ConfigError            an experiment file or a command-line setting is wrong                 (also ValueError)
    ├── RunError               a run or its folder is in a state that needs a decision
    │   ├── CheckpointError        a checkpoint is damaged or belongs to something else
    │   ├── RunHeldError           another process trains the run, or has taken it over
    │   ├── RanksError             a process that trains a run together with others failed, was lost, or differs from them
    │   ├── StoreError             a store of runs elsewhere cannot be read or written
    │   └── DivergedError          the loss or a score is no longer finite
    ├── KernelError            a variant of the compiled kernels is unknown or cannot run here       (also ValueError)
    ├── ProgramError           steps of a sparse program do not fit each other or their input          (also ValueError)
    ├── GraphError             a network as data breaks a rule, or does not fit its tensors             (also ValueError)
    ├── EngineError            a model cannot be compiled, or an engine gets what it does not take       (also ValueError)
    ├── ExportError            a model cannot be written for other programs, or such a file not be read  (also ValueError)
    ├── PackError              a model cannot be packed as asked                                     (also ValueError)
    ├── PackedFileError        a packed file is damaged, of a newer format, or larger than allowed   (also ValueError)
    ├── HubError               the Hugging Face Hub cannot be reached or refuses, or a card lacks something
    ├── MissingExtraError      an optional dependency is not installed; the message has its pip line (also ImportError)
    └── ConformanceError       a method breaks a rule of the conformance suite                       (also AssertionError)

A message says what was wrong, shows the value, and names the way out.
"""


class SupermaskError(Exception):
    """Root of all errors raised on purpose by this package."""


class HyperparameterError(SupermaskError, ValueError):
    """A hyper-parameter is out of range or of the wrong type; the message names the field."""


class AttachError(SupermaskError, ValueError):
    """A method cannot be attached to a model."""


class NoTargetsError(AttachError):
    """The model has no weight the method could act on."""


class UnsupportedModuleError(AttachError):
    """A named module is not supported; the message says which, why, and what to do."""


class BindError(SupermaskError, ValueError):
    """An optimizer does not fit the sparsifier it is bound to."""


class StateError(SupermaskError, ValueError):
    """A saved state belongs to another method, another model or another version."""


class StructureError(SupermaskError, ValueError):
    """Channel groups that cannot be found, that do not fit the model, or whose channels cannot be removed; by name."""


class BudgetError(SupermaskError, ValueError):
    """A budget that no choice of channels meets, or whose cost is not known here; the message has the nearest feasible one."""


class MaskError(SupermaskError, ValueError):
    """Masks or initial arrays do not fit the model, or their file is damaged."""


class DataError(SupermaskError):
    """A data set cannot be used."""


class MissingDataError(DataError, FileNotFoundError):
    """The files of a data set are not there; the message says what to put where."""


class DamagedDataError(DataError, ValueError):
    """A data file exists but its content is not what it should be."""


class ConfigError(SupermaskError, ValueError):
    """An experiment file or a command-line setting is wrong; the message names the path to the key."""


class RunError(SupermaskError):
    """A run or its folder is in a state that needs the user's decision."""


class CheckpointError(RunError):
    """A checkpoint is damaged or belongs to another run."""


class RunHeldError(RunError):
    """Another process trains the run, or has taken it over; this one leaves its folder alone."""


class RanksError(RunError):
    """A process that trains a run together with others failed, was lost, or came to something else than they did."""


class StoreError(RunError):
    """A store of runs elsewhere cannot be read or written, or holds something damaged; the run folders are whole."""


class DivergedError(RunError):
    """Training produced a loss or a score that is not finite."""


class KernelError(SupermaskError, ValueError):
    """``SUPERMASK_KERNELS`` names a variant that is unknown or cannot run here."""


class ProgramError(SupermaskError, ValueError):
    """Steps of a sparse program do not fit each other or their input; the message names the step and the field."""


class GraphError(SupermaskError, ValueError):
    """A network as data breaks a rule of its format, or does not fit its tensors; the message names the place."""


class EngineError(SupermaskError, ValueError):
    """A model cannot be compiled into an engine, or an engine is given what it does not take."""


class ExportError(SupermaskError, ValueError):
    """A model cannot be written for other programs, or a file for them cannot be read."""


class PackError(SupermaskError, ValueError):
    """A model cannot be packed as asked; the message names the tensor or the field."""


class PackedFileError(SupermaskError, ValueError):
    """A packed file is damaged, truncated, of a newer format, or would decode to more than is allowed."""


class HubError(SupermaskError):
    """The Hugging Face Hub cannot be reached or refuses, or a card lacks something."""


class MissingExtraError(SupermaskError, ImportError):
    """An optional dependency is not installed; the message holds the pip line that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: python -m pip install 'supermask[{extra}]'")


class ConformanceError(SupermaskError, AssertionError):
    """A method breaks a rule of the conformance suite; the message lists each broken rule."""
