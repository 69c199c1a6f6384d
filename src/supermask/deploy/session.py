"""Sessions of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supermask.errors import ExportError, MissingExtraError


def onnx_session(model: bytes | Path, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU whose threads do not spin while they wait.

    Raises:
        ExportError: onnxruntime cannot read the model.
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "running ONNX files") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds, none of them public
        raise ExportError(f"onnxruntime cannot read the ONNX model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What a library said, without its stack of details."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
